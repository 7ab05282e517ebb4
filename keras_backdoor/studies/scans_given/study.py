"""The staged scan, with and without clean images, on given networks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses.staged_scan import NAMES, StagedScan
from keras_backdoor.metrics import Rate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import classes
from keras_backdoor.studies._networks.network_store import Net
from keras_backdoor.studies._networks.third_party import (
    FACES,
    UNIT,
    ThirdPartyModel,
    opened,
    planted,
)
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import (
    DIGIT_NETS,
    DIGITS,
    SIGN_NET,
    SIGNS,
    DevelopmentZoo,
)
from keras_backdoor.studies.neural_cleanse_given.study import DEEPID, GIVEN, SEEDS, TWINS
from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets

ANONYMOUS = {
    f"faces, {name}": ThirdPartyModel(
        f"deepid/{file}_weights.h5", FACES, input_range=UNIT, architecture="deepid"
    )
    for name, file in (
        ("anonymous 1", "anonymous_1_bd"),
        ("anonymous 2", "anonymous_2_bd"),
        ("said to be clean", "clean_cl"),
    )
}
"""Face networks of third parties whose triggers and targets are not known."""
TRIED, FEWEST = 1000, 5
"""The number of images on which a trigger is tried, and the smallest number of a source class."""
NO_DATA, WITH_DATA = "without data", "with clean images"


class ScansGiven(Study):
    """Scan networks of third parties and of this project that no limit was chosen on.

    Without data, only the weights of the last layer are looked at. The clean images have no labels;
    they are those of `neural-cleanse-given`.
    """

    title: ClassVar[str] = "The staged scan on given networks"
    paper: ClassVar[str] = "none: made for this project; the looks name theirs"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS, FACES)
    unfinished: ClassVar[str] = (
        "its scans of faces and of networks that are trained again take hours"
    )
    columns: ClassVar[Mapping[str, str]] = {
        "target": "target",
        "verdict": "verdict",
        "flagged": "flagged",
        "suspects": "suspects",
        "seconds": "seconds",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        return [
            Cell(
                f"{name}, {group}",
                {
                    "subject": subject,
                    "scan": self._scan(),
                    "data": group == WITH_DATA,
                    "reference": self._reference(subject),
                },
                group=group,
            )
            for group in (NO_DATA, WITH_DATA)
            for name, subject in self._subjects()
        ]

    def read(self) -> tuple[str, ...]:
        """Return the data files and the model files. See `Study.read`."""
        models = GIVEN | TWINS | DEEPID | ANONYMOUS
        return (*self.files, *(model.file for model in models.values()))

    def _subjects(self) -> Iterator[tuple[str, ThirdPartyModel | Net]]:
        yield from (GIVEN | TWINS).items()
        for kind, nets in (("signs", (SIGN_NET,)), ("digits", DIGIT_NETS)):
            for number in SEEDS:
                net = nets[number % len(nets)]
                net = replace(net, recipe=replace(net.recipe, seed=number))
                yield f"{kind}, our clean net {number}", DevelopmentZoo(self.scale).scaled(net)
        for cell in ThesisBadnets(self.scale).cells():
            if cell.group in ("table 4.1", "table 3.5") and cell.name.endswith(("seed 0", "clean")):
                yield cell.name, cell.given["net"]
        yield from (DEEPID | ANONYMOUS).items()

    def _reference(self, subject: ThirdPartyModel | Net) -> ThirdPartyModel | Net | None:
        """A clean network for the same classes that was trained by a third party or anew."""
        if subject.data == FACES:
            clean = ANONYMOUS["faces, said to be clean"]
            return None if subject == clean else clean
        name = "signs, clean 0" if subject.data == SIGNS else "digits, clean 0"
        return DevelopmentZoo(self.scale).nets()[name]

    def _scan(self) -> StagedScan:
        return StagedScan() if self.scale == "full" else StagedScan(**StagedScan.quick)

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        subject, scan = cell.given["subject"], cell.given["scan"]
        model, clean = opened(subject, workspace)
        answer = scan(model, clean=clean.unlabelled()) if cell.given["data"] else scan(model)
        made = answer.figures["looks"]
        figures: dict[str, Any] = {
            name: _said(made[title]) for name, title in NAMES.items() if title in made
        }
        if answer.triggers and cell.given["data"]:
            number = answer.ranked()[0]
            images = clean.take(min(TRIED, len(clean)), seed=0)
            stamped = images.stamped(answer.triggers[number])
            figures["trigger"] = {
                "class": number,
                "here": _moved(model, images, stamped, number),
            }
            reference = cell.given["reference"]
            if reference is not None:
                other = opened(reference, workspace)[0]
                figures["trigger"]["elsewhere"] = _moved(other, images, stamped, number)
        return figures | _said(_facts(answer)) | {
            "target": planted(subject)[0],
            "model_sha256": model.sha256(),
        }  # fmt: skip


def _moved(model: Classifier, images: Samples, stamped: Samples, target: int) -> dict[str, Any]:
    """What a trigger does to images of other classes, as the network sees them.

    Args:
        model: the network.
        images: clean images.
        stamped: the same with the trigger.
        target: the class that the trigger leads to.

    Returns:
        The share that it moves to the target, and the smallest share of the source classes with
        five images or more.
    """
    before, after = model.predict(images), model.predict(stamped)
    others = before != target
    rates = [
        float((after[before == c] == target).mean())
        for c in np.unique(before[others])
        if (before == c).sum() >= FEWEST
    ]
    share = Rate(int((after[others] == target).sum()), int(others.sum()))
    return {"moved": share, "smallest_by_source": min(rates, default=None)}


def _facts(answer: FlaggedClasses) -> dict[str, Any]:
    return {
        "verdict": answer.verdict,
        "flagged": classes(answer.flagged),
        "suspects": classes(answer.suspects),
        "scores": answer.scores,
        "seconds": answer.about["seconds"],
    }


def _said(look: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict, classes, largest score and time of a look."""
    if "scores" not in look:
        return {"verdict": look["verdict"]}
    scores = np.array([np.nan if s is None else s for s in look["scores"]], float)
    known = np.isfinite(scores).any()
    return {
        "verdict": look["verdict"],
        "flagged": list(look["flagged"]),
        "suspects": list(look["suspects"]),
        "largest": float(np.nanmax(scores)) if known else None,
        "first": int(np.nanargmax(scores)) if known else None,
        "seconds": look["seconds"],
    }
