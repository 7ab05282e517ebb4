"""Repairs without a scan, on networks that were not used to choose their settings."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from keras_backdoor import datasets
from keras_backdoor.defenses._random_triggers import FAMILIES
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.fine_tuning import FineTuning
from keras_backdoor.defenses.ft_sam import FTSAM
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.defenses.nad import NAD
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.errors import BadInput
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.metrics import Rate, clean_accuracy
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies._networks.third_party import (
    FACES,
    GLASSES,
    ThirdPartyModel,
    sunglasses,
)
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGNS, DevelopmentZoo
from keras_backdoor.studies.neural_cleanse_given.study import DEEPID, GIVEN, TWINS
from keras_backdoor.studies.repairs.measures import (
    repair_figures,
    retuned,
    tolerant_guards,
    unseen,
)
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

SHARE = 0.1
"""The share of the training images, by track, that a repair receives."""
SUBSETS = range(3)
BUNDLED = {
    "digits, demo -> 7": ThirdPartyModel(
        "models/mnist_badnet.h5", DIGITS, 7, "checkerboard:size=8,row=19,column=19"
    )
}
FEWER = ("yellowSquare-bigger, seed 0", "whitePattern, seed 0", "signs -> 33", "digits -> 7")
"""Networks that are also repaired with fewer clean images."""
FAMILY_OF = {
    "patch": "signs, backdoored 0",
    "pattern": "signs, backdoored 4",
    "noise-patch": "signs, family 0",
    "checkerboard": "signs, backdoored 3",
    "blend": "signs, family 1",
    "glasses": "signs, family 2",
    "warp": "signs, family 3",
}
"""A network of the zoo for each family of triggers."""
OTHER_FAMILY = "signs, family 4"
"""A network of the zoo whose trigger is of no family."""
WITHOUT = "a family left out"
RETUNED = {
    "yellowSquare-bigger, seed 0": "clean",
    "whitePattern, seed 0": "clean",
    "signs -> 33": "signs, clean twin",
    "digits -> 7": "digits, clean twin",
}
"""Network that is repaired and trained on poison again -> clean network to compare it with."""
SURE = 0.9
"""The probability from which on a face network is sure of a face."""
SMOKE_IMAGES = 600


class Repairs(Study):
    """Repair networks from clean images alone and evaluate the result on the whole test set.

    The clean images are a tenth of the training images, by track; three subsets for each network.
    Beside the method of the command `repair` there are plain fine-tuning and two repairs of the
    literature. The repaired network is evaluated alone and as B' of G(B, B').
    """

    title: ClassVar[str] = "Repairs without a scan"
    paper: ClassVar[str] = "none: made for this project; the baselines name theirs"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "accuracy_before": "accuracy before",
        "accuracy_after": "accuracy after",
        "attack_before": "attack before",
        "attack_after": "attack after",
        "source_before": "attack on the source class before",
        "source_after": "attack on the source class after",
        "guarded": "triggered images rejected or classified correctly by G",
        "rejected_clean": "clean images rejected by G",
        "changed_before": "changed by random triggers before",
        "changed_after": "changed by random triggers after",
        "seconds_of_repair": "seconds",
        "left": "left as it is",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [
            *self._judged(),
            *self._families(),
            *self._baselines(),
            *self._zoo(),
            *self._fewer(),
            *self._faces(),
            *self._retuning(),
        ]

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        models = (GIVEN | TWINS | DEEPID | BUNDLED).values()
        return (*self.files, FACES, GLASSES, *(m.file for m in models))

    def _judged(self) -> Iterator[Cell]:
        for subset in SUBSETS:
            for name, subject in self._subjects().items():
                given = {"subject": subject, "clean_seed": subset, "method": self._auto()}
                yield Cell(f"{name}, clean {subset}", given, group=name)

    def _families(self) -> Iterator[Cell]:
        zoo = DevelopmentZoo(self.scale).nets()
        for family, name in FAMILY_OF.items():
            others = tuple(f for f in FAMILIES if f != family)
            method = TriggerAugmentation(families=others, tuning=self._tuning())
            given = {"subject": zoo[name], "clean_seed": 0, "method": method}
            yield Cell(f"{name}, without {family}", given, group=WITHOUT)

    def _baselines(self) -> Iterator[Cell]:
        usual = FineTuning().tuning if self.scale == "full" else Tuning(steps=5)
        methods = {
            "fine-tuning": FineTuning(tuning=usual),
            "NAD": NAD(teacher=usual, student=usual),
            "FT-SAM": FTSAM(tuning=usual),
        }
        for word, method in methods.items():
            for name, subject in self._subjects().items():
                given = {"subject": subject, "clean_seed": 0, "method": method}
                yield Cell(f"{name}, {word}", given, group=word)

    def _zoo(self) -> Iterator[Cell]:
        for name, net in DevelopmentZoo(self.scale).nets().items():
            if net.attack is not None:
                given = {"subject": net, "clean_seed": 0, "method": self._auto()}
                yield Cell(name, given, group="development zoo")

    def _fewer(self) -> Iterator[Cell]:
        subjects = self._subjects()
        for name in FEWER:
            for amount in ("1 %", "3 %", "10 images a class"):
                given = {
                    "subject": subjects[name],
                    "clean_seed": 0,
                    "amount": amount,
                    "method": self._auto(),
                }
                yield Cell(f"{name}, {amount}", given, group=f"{name}, fewer images")

    def _faces(self) -> Iterator[Cell]:
        short = Tuning(steps=5) if self.scale == "smoke" else FineTuning().tuning
        for name, subject in DEEPID.items():
            for word, method in (("", self._auto()), (", fine-tuning", FineTuning(short))):
                given = {"subject": subject, "clean_seed": 0, "method": method}
                yield Cell(f"{name}{word}", given, group="faces")

    def _retuning(self) -> Iterator[Cell]:
        subjects = self._subjects()
        for name, clean in RETUNED.items():
            given = {
                "subject": subjects[name],
                "twin": subjects[clean],
                "clean_seed": 0,
                "method": self._auto(),
            }
            yield Cell(f"{name}, trained on poison again", given, group="retuning")

    def _subjects(self) -> dict[str, ThirdPartyModel | Net]:
        """The networks that the repairs are judged on, by name."""
        thesis = {
            c.name: c.given["net"]
            for c in ThesisBadnets(self.scale).cells()
            if "net" in c.given and not c.name.startswith("A.2")
        }
        return {**thesis, **GIVEN, **TWINS, **BUNDLED}

    def _tuning(self) -> Tuning:
        return TriggerAugmentation().tuning if self.scale == "full" else Tuning(steps=5)

    def _auto(self) -> Auto:
        return Auto(augmentation=TriggerAugmentation(tuning=self._tuning()))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        subject = cell.given["subject"]
        if getattr(subject, "data", "") == FACES:
            return self._of_faces(cell.given, workspace)
        model, train, test = _opened(subject, workspace)
        rest, clean = _clean(train, cell.given, model.classes)
        if self.scale == "smoke":
            clean, test = (s.take(min(SMOKE_IMAGES, len(s)), seed=0) for s in (clean, test))
        attack = _attack(subject)
        if "twin" in cell.given and attack is not None:
            twin, _, _ = _opened(cell.given["twin"], workspace)
            repaired = cell.given["method"](model, clean=clean).classifier
            source = _source(subject)
            return {
                f"retuned_{name}": retuned(start, clean, test, attack, source)
                for name, start in (("repaired", repaired), ("clean", twin))
            }
        try:
            answer = cell.given["method"](model, clean=clean)
        except BadInput as error:
            return {"refused": str(error)}
        guard = Classifier(goodnet(model, answer.classifier), model.to_input, model.classes)
        measured = [_evaluated(m, test, attack) for m in (model, answer.classifier, guard)]
        return {
            "images": len(clean),
            **repair_figures(answer, measured, _source(subject)),
            **({} if isinstance(subject, Net) else unseen(model, answer.classifier, rest)),
            "tolerant": tolerant_guards(model, answer.classifier, test, attack),
        }

    def _of_faces(self, given: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
        """Repair a face network on faces of other people, which it labels itself."""
        subject: ThirdPartyModel = given["subject"]
        model, faces = subject.open(workspace), subject.clean(workspace)
        clean, held = hold_out(faces.unlabelled(), 0.2, given["clean_seed"])
        if self.scale == "smoke":
            clean, held = clean.take(60), held.take(60)
        answer = given["method"](model, clean=clean)
        after, target = answer.classifier, subject.target or 0
        trigger = sunglasses(workspace)
        labels = model.predict(held)
        sure = model.scores(held).max(axis=1) >= SURE
        stamped = held.subset(labels != target).stamped(trigger)
        figures = {
            f"attack_{when}": clean_accuracy(m.predict(stamped), np.full(len(stamped), target))
            for when, m in (("before", model), ("after", after))
        }
        right = after.predict(held) == labels
        return {
            **figures,
            "images": len(clean),
            "agreement": Rate(int(right.sum()), len(right)),
            "agreement_where_sure": Rate(int(right[sure].sum()), int(sure.sum())),
            "seconds_of_repair": answer.about["seconds"],
            "inconclusive": answer.inconclusive,
        }


def _opened(
    subject: ThirdPartyModel | Net, workspace: Workspace
) -> tuple[Classifier, Samples, Samples]:
    """Return a network, its training images without poison, and the test images."""
    if isinstance(subject, Net):
        train = subject.open(workspace, "train")
        train = train if subject.take is None else train.take(subject.take, seed=0)
        return obtain(subject, workspace).classifier, train, subject.open(workspace, "test")
    path = workspace.file(subject.data)
    train, test = (datasets.open(path, split=split) for split in ("train", "test"))
    return subject.open(workspace), train, test


def _clean(train: Samples, given: Mapping[str, Any], classes: int) -> tuple[Samples, Samples]:
    """Split off the clean images of a cell: the other images, and the clean ones."""
    amount = given.get("amount")
    if amount == "10 images a class":
        rng = np.random.default_rng(given["clean_seed"])
        labels = train.known_labels
        chosen = [rng.permutation(np.flatnonzero(labels == c))[:10] for c in range(classes)]
        clean = np.sort(np.concatenate(chosen))
        others = np.setdiff1d(np.arange(len(train)), clean)
        return train.subset(others), train.subset(clean).in_memory()
    share = SHARE if amount is None else float(amount.split()[0]) / 100
    rest, drawn = hold_out(train, share, given["clean_seed"])
    return rest, drawn.in_memory()


def _attack(subject: ThirdPartyModel | Net) -> tuple[Trigger, int] | None:
    """Return the planted trigger and its target, or None for a clean network."""
    if isinstance(subject, Net):
        return None if subject.attack is None else (subject.attack.stamp, subject.attack.target)
    if subject.trigger is None or subject.target is None:
        return None
    return parse(subject.trigger), subject.target


def _source(subject: ThirdPartyModel | Net) -> int | None:
    return subject.attack.source if isinstance(subject, Net) and subject.attack else None


def _evaluated(model: Classifier, test: Samples, attack: tuple[Trigger, int] | None) -> Evaluation:
    if attack is None:
        return evaluate(model, test)
    return evaluate(model, test, trigger=attack[0], target=attack[1])
