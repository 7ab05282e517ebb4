"""The face networks of the thesis in its own setting, for those who have the data."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.activation_clustering import ActivationClustering
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.provenance import Provenance
from keras_backdoor.defenses.spectral_signatures import SpectralSignatures
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.face_nets import (
    CLEAN_DEEPID,
    FaceNet,
    Kind,
    Setting,
)
from keras_backdoor.studies._networks.faces import Faces
from keras_backdoor.studies._networks.network_store import obtain
from keras_backdoor.studies._networks.stored_pictures import described, stored
from keras_backdoor.studies._networks.thesis_defenses import (
    Subject,
    clustered,
    fine_pruned,
    of_origins,
    removed,
)
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.thesis_audits.study import (
    FIRST_CLUSTERING,
    FIRST_PRUNING,
    PROVENANCE,
    SPECTRAL,
    combined_figures,
)
from keras_backdoor.studies.thesis_faces.published import (
    BLACK,
    CLEAN,
    GREEN,
    TABLE_4_1,
    TABLE_4_2,
    TABLE_4_3,
    TABLE_4_5,
    TABLE_4_6,
    TABLE_4_7,
    TABLE_4_8,
    TABLE_4_9,
    TABLE_A_1,
)
from keras_backdoor.training import PRESETS, Recipe
from keras_backdoor.triggers._parse import parse

FIGURE_4_19 = ("YT-greenGlasses", "LFW-greenGlasses")
ACTIVITY = {
    ("YT-greenGlasses", "second-last"): "4.16",
    ("YT-greenGlasses", "last"): "4.17",
    ("LFW-greenGlasses", "last"): "4.18",
}
"""(model, layer) -> figure with the activations of its channels."""
DROPS = (0.02, 0.06)
PRUNED_LAYER = "second-last"
"""The layer of the combined defenses."""
CLUSTERS = {"YT-greenGlasses": "4.8", "LFW-greenGlasses": "4.9"}
"""Network -> figure with images of its clusters."""
DATA, EXAMPLES = "figures 3.3 to 3.6", "figures 4.3 and 4.4"
REPAIRED, AUDITED = "repaired", "audited and trained again"
GIVEN = {"clean": "clean images", "train alone": "training data"}
"""What a repair is given."""
SURE = 0.9
"""The probability from which on the clean network is sure of a face."""
RECIPES: dict[tuple[Kind, Setting], Recipe] = {
    ("deepid", "published"): PRESETS["thesis-deepid"],
    ("vgg16_face", "published"): PRESETS["thesis-vgg16-face"],
    ("deepid", "stand-in"): Recipe(epochs=10, batch_size=32, learning_rate=1e-4),
    ("vgg16_face", "stand-in"): Recipe(epochs=50, batch_size=32, learning_rate=1e-3),
}
SMALL_RATES: dict[tuple[Kind, Setting], float] = {
    ("deepid", "published"): 3e-3,
    ("vgg16_face", "published"): 1e-2,
    ("deepid", "stand-in"): 1e-4,
    ("vgg16_face", "stand-in"): 1e-2,
}
"""Learning rates at small scale, with which the networks learn something in a few steps."""
SHORT = Recipe(epochs=1, batch_size=32, learning_rate=1e-3)
"""A recipe for the trainings without each origin."""


class ThesisFaces(Study):
    """Attack the face networks of the thesis with glasses, and defend them.

    Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021: DeepID on YouTube Faces, and the
    last layer of VGG16-Face on LFW. The data and the weights of VGG-Face are not public; cells
    whose files are not there fail with a message that names them. `face-stand-ins` takes the same
    steps with other data.

    Attributes:
        setting: `published` or `stand-in`.

    Notes:
        The thesis does not say how it crops the faces. Both data sets hold the box of a face
        detector, expanded by 2.2, and here the box itself is taken. The glasses are drawn over the
        eyes, and not placed by hand. The thesis splits YouTube Faces at random, so that frames of
        one video are in all parts; the cell `YT, clean, by video` keeps videos together.
    """

    setting: ClassVar[Setting] = "published"

    title: ClassVar[str] = "Face networks of the thesis"
    unfinished: ClassVar[str] = "it needs data that is not public"
    paper: ClassVar[str] = "Milakovic, Backdoor defenses, diploma thesis, TU Wien 2021"
    columns: ClassVar[Mapping[str, str]] = {
        "poisoned": "poison",
        "clean_accuracy": "accuracy",
        "clean_accuracy_where_sure": "accuracy where sure",
        "attack_success_rate": "attack",
        "control": "on the clean network",
        "removed_poison": "removed poison",
        "removed": "removed in all",
        "of": "of",
        "retrained_accuracy": "accuracy, trained again",
        "retrained_attack": "attack, trained again",
        "pruned": "pruned channels",
        "pruned_accuracy": "accuracy, pruned",
        "pruned_attack": "attack, pruned",
        "flagged": "flagged origins",
        "repaired_accuracy": "accuracy, repaired",
        "repaired_attack": "attack, repaired",
        "seconds_of_repair": "seconds",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [cell for group in self.groups() for cell in group]

    def groups(self) -> tuple[Iterator[Cell], ...]:
        """Return the cells of each part of the study."""
        return (
            self._data(),
            self._networks(),
            self._by_video(),
            self._clustering(),
            self._spectral(),
            self._provenance(),
            self._pruning(),
            self._repairs(),
        )

    def net(
        self, kind: Kind, trigger: str | None = None, count: int = 0, **changes: Any
    ) -> FaceNet:
        """Return a network of the study, at its scale."""
        recipe = RECIPES[kind, self.setting]
        net = FaceNet(kind, self.setting, recipe, trigger, count, **changes)
        if self.scale == "full":
            return net
        rate = SMALL_RATES[kind, self.setting]
        return net.smaller(Recipe(epochs=3, batch_size=16, learning_rate=rate))

    def models(self) -> dict[str, FaceNet]:
        """Return the networks of table 4.1 by name."""
        return {
            name: self.net(kind, trigger, count)
            for name, (kind, trigger, count, *_) in TABLE_4_1.items()
        }

    def _data(self) -> Iterator[Cell]:
        for name, (kind, _) in CLEAN.items():
            net = self.net(kind)
            short = name.split(",")[0]
            yield Cell(f"{short}, the data", {"net": net, "described": True}, group=DATA)
            given = {"net": net, "pictures": (GREEN, BLACK)}
            yield Cell(f"{short}, glasses", given, group=EXAMPLES)

    def _networks(self) -> Iterator[Cell]:
        for name, (kind, accuracy) in CLEAN.items():
            published = {"clean_accuracy": accuracy}
            yield Cell(name, {"net": self.net(kind)}, published, group="table 3.5")
        for name, (*_, accuracy, _, success) in TABLE_4_1.items():
            published = {"clean_accuracy": accuracy, "attack_success_rate": success}
            yield Cell(name, {"net": self.models()[name]}, published, group="table 4.1")
        for name, kind, count, accuracy, success in TABLE_A_1:
            published = {"clean_accuracy": accuracy, "attack_success_rate": success}
            yield Cell(name, {"net": self.net(kind, GREEN, count)}, published, group="table A.1")

    def _by_video(self) -> Iterator[Cell]:
        if self.setting == "published":
            yield Cell("YT, clean, by video", {"net": self.net("deepid", split="video")})

    def _clustering(self) -> Iterator[Cell]:
        method = ActivationClustering.preset("thesis")
        for name, net in self.models().items():
            published = combined_figures(TABLE_4_2[name], TABLE_4_3[name], TABLE_4_7[name])
            given: dict[str, Any] = {
                "net": net,
                "method": method,
                "then": self._fine_pruning(PRUNED_LAYER),
            }
            if name in CLUSTERS:
                given["shown"] = True
            yield Cell(f"{name}, {FIRST_CLUSTERING}", given, published, group=FIRST_CLUSTERING)
        for name, net in self.models().items():
            published = combined_figures(TABLE_4_8[name], TABLE_4_9[name])
            given = {"net": net, "method": method, "before": self._fine_pruning(PRUNED_LAYER)}
            yield Cell(f"{name}, {FIRST_PRUNING}", given, published, group=FIRST_PRUNING)

    def _spectral(self) -> Iterator[Cell]:
        methods = {
            "spectral signatures": SpectralSignatures.preset("thesis"),
            "spectral signatures, whitened": SpectralSignatures(),
        }
        for word, method in methods.items():
            for name, net in self.models().items():
                yield Cell(f"{name}, {word}", {"net": net, "method": method}, group=SPECTRAL)

    def _provenance(self) -> Iterator[Cell]:
        paper = Provenance.preset("paper", recipe=SHORT)
        methods = {"trusted": paper, "untrusted": paper, "ours": Provenance(audit=self._audit())}
        for name in FIGURE_4_19:
            for word, method in methods.items():
                given = {"net": self.models()[name], "method": method, "trusted": word == "trusted"}
                published = {} if word == "ours" else {"flagged": 0}
                yield Cell(f"{name}, provenance, {word}", given, published, group=PROVENANCE)

    def _pruning(self) -> Iterator[Cell]:
        for layer, table in (("second-last", TABLE_4_5), ("last", TABLE_4_6)):
            group = "table 4.5" if layer == "second-last" else "table 4.6"
            for name, (number, channels, accuracy, success) in table.items():
                published = {
                    "removed": number,
                    "of": channels,
                    "clean_accuracy": accuracy,
                    "attack_success_rate": success,
                }
                given: dict[str, Any] = {
                    "net": self.models()[name],
                    "method": self._fine_pruning(layer),
                    "activity": (name, layer) in ACTIVITY,
                }
                yield Cell(f"{name}, {layer}", given, published, group=group)
        for name in FIGURE_4_19:
            for drop in DROPS:
                method = replace(self._fine_pruning("last"), max_drop=drop)
                given = {"net": self.models()[name], "method": method, "activity": False}
                yield Cell(f"{name}, last, {drop:.0%}", given, group="figure 4.19")

    def _repairs(self) -> Iterator[Cell]:
        for evidence, words in GIVEN.items():
            for name, net in self.models().items():
                given = {"net": net, "method": self._auto(), "from": evidence}
                yield Cell(f"{name}, {REPAIRED}, {words}", given, group=REPAIRED)
        for name, net in self.models().items():
            given = {"net": net, "method": self._audit(), "again": True}
            yield Cell(f"{name}, {AUDITED}", given, group=AUDITED)

    def _fine_pruning(self, layer: str) -> FinePruning:
        if self.scale == "full":
            return FinePruning(layer=layer, max_drop=0.04)
        return FinePruning(layer=layer, max_drop=0.04, tuning=Tuning(steps=5, averaged=0.0))

    def _augmentation(self, usual: TriggerAugmentation) -> TriggerAugmentation:
        return usual if self.scale == "full" else TriggerAugmentation(tuning=Tuning(steps=5))

    def _audit(self) -> LabelDisagreement:
        return LabelDisagreement(augmentation=self._augmentation(LabelDisagreement().augmentation))

    def _auto(self) -> Auto:
        return Auto(augmentation=self._augmentation(Auto().augmentation))

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        given, net = cell.given, cell.given["net"]
        data = net.data(workspace)
        if "described" in given:
            return described(data.train)
        if "pictures" in given:
            return {"pictures": stored(_with_glasses(data, given["pictures"]))}
        subject = self._subject(net, data, workspace)
        method = given.get("method")
        if method is None:
            return self._attacked(net, subject, workspace)
        if isinstance(method, FinePruning):
            return fine_pruned(subject, method, activity=given["activity"])
        if isinstance(method, Provenance):
            return of_origins(subject, method, trusted=given["trusted"])
        if isinstance(method, Auto):
            start = CLEAN_DEEPID.open(workspace) if _keeps_answers(net) else None
            return self._repaired(subject, given, start)
        if "then" in given or "before" in given or given.get("again"):
            options = {name: given.get(name) for name in ("before", "then")}
            return clustered(subject, method, shown=bool(given.get("shown")), **options)
        return removed(method(subject.model, train=subject.train), subject)

    def _subject(self, net: FaceNet, data: Faces, workspace: Workspace) -> Subject:
        model = self._network(net, workspace)
        poisoned = net.poisoned(data)

        def again(other: Classifier, samples: Samples) -> Classifier:
            pruned = None if other is model else other
            return net.trained(workspace, samples, data, pruned=pruned)[0]

        attack = net.attack(data) if net.trigger else replace(net, trigger=GREEN).attack(data)
        sure = None
        if _keeps_answers(net):
            sure = CLEAN_DEEPID.open(workspace).scores(data.test).max(axis=1) >= SURE
        tuning = data.tuning if self.scale == "full" else data.tuning.unlabelled()
        return Subject(
            model,
            poisoned.samples,
            poisoned.is_poison,
            tuning,
            data.test,
            attack,
            data.source,
            again,
            sure,
        )

    def _network(self, net: FaceNet, workspace: Workspace) -> Classifier:
        if net.trigger is None and _keeps_answers(net):
            return CLEAN_DEEPID.open(workspace)
        return obtain(net, workspace).classifier

    def _attacked(self, net: FaceNet, subject: Subject, workspace: Workspace) -> dict[str, Any]:
        figures = subject.evaluated(subject.model, "")
        figures |= {
            "poisoned": net.count,
            "model_sha256": subject.model.sha256(),
            "people": subject.model.classes,
            "images": [len(subject.train), len(subject.tuning), len(subject.test)],
            "classes": [subject.source, subject.attack.target],
        }
        if net.trigger is None:
            figures["poisoned"] = 0
            figures["controls"] = {
                trigger: replace(subject, attack=replace(subject.attack, trigger=trigger)).success(
                    subject.model
                )
                for trigger in (GREEN, BLACK)
            }
            del figures["attack_success_rate"]
        return figures

    def _repaired(
        self, subject: Subject, given: Mapping[str, Any], start: Classifier | None
    ) -> dict[str, Any]:
        """Repair with the tuning images alone, or with the training data alone.

        Args:
            subject: the network.
            given: the inputs of the cell.
            start: the network that was fine-tuned, or None.
        """
        method: Auto = given["method"]
        if given["from"] == "clean":
            answer = method(subject.model, clean=subject.tuning)
        else:
            answer = method(subject.model, train=subject.train, reference=start)
        return {
            **subject.evaluated(subject.model, "before"),
            **subject.evaluated(answer.classifier, "repaired"),
            "decision": answer.summary.get("decision", ""),
            "inconclusive": answer.inconclusive,
            "seconds_of_repair": answer.about["seconds"],
        }

    def derive(self, figures: dict[str, dict[str, Any]]) -> None:
        """Add what the triggers do to the clean networks."""
        nets = {c.name: c.given["net"] for c in self.cells() if c.group[:5] == "table"}
        clean = {nets[name].kind: figures.get(name) for name in CLEAN}
        for name, found in figures.items():
            if name in nets and nets[name].trigger and "poisoned" in found:
                control = clean[nets[name].kind]
                if control is not None:
                    found["control"] = control["controls"][nets[name].trigger]


def _with_glasses(data: Faces, triggers: tuple[str, ...]) -> Samples:
    """A face of the source class, as it is and with each trigger."""
    face = data.test.of_class(data.source).take(1, seed=0)
    return face.concat(*(face.stamped(parse(trigger)) for trigger in triggers))


def _keeps_answers(net: FaceNet) -> bool:
    return net.setting == "stand-in" and net.kind == "deepid"
