"""How many clean images, of how many classes, a scan and a repair need."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._recovered_triggers import Refinement
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.errors import BadInput
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import SMOKE, classes
from keras_backdoor.studies._networks.network_store import Net, obtain
from keras_backdoor.studies.base import Cell, Study
from keras_backdoor.studies.development_zoo import DIGITS, SIGNS, DevelopmentZoo
from keras_backdoor.triggers.base import Stamp

NETS = (
    *(f"signs, clean {number}" for number in (0, 1)),
    *(f"signs, backdoored {number}" for number in (0, 1, 3)),
    *(f"digits, clean {number}" for number in range(4)),
    *(f"digits, backdoored {number}" for number in range(6)),
    *(f"digits, strong {number}" for number in range(3)),
)
IMAGES = (2, 5, 10, 30, 100, 300)
"""Numbers of clean images of all classes."""
CLASSES = {SIGNS: (1, 3, 21), DIGITS: (1, 3, 5)}
"""Numbers of classes that `MOST` clean images are drawn from, by data file."""
MOST = 300
LOST = 0.5
"""A class is lost if less than this fraction of its correct predictions is left."""


class ImagesNeeded(Study):
    """Scan and repair networks of the development zoo with few clean images, or of few classes.

    The backdoors map all classes to the target. Fine-pruning has its default settings. Unlearning
    receives the planted trigger, so that only the effect of few images on the accuracy is measured.
    The images are drawn from the tuning set, and the accuracy is measured on the test images.
    """

    title: ClassVar[str] = "How many clean images a scan and a repair need"
    paper: ClassVar[str] = "none: made for this project"
    files: ClassVar[tuple[str, ...]] = (SIGNS, DIGITS)
    columns: ClassVar[Mapping[str, str]] = {
        "images": "images",
        "seen": "classes",
        "flagged": "flagged",
        "rank": "rank of the target",
        "ratio": "target / median",
        "accuracy_before": "accuracy %",
        "accuracy_fine_pruning": "accuracy, fine-pruned",
        "lost_fine_pruning": "classes lost, fine-pruned",
        "accuracy_unlearning": "accuracy, unlearned",
        "lost_unlearning": "classes lost, unlearned",
    }

    def cells(self) -> list[Cell]:
        """See `Study.cells`."""
        quick = self.scale != "full"
        scan = NeuralCleanse(**(SMOKE[NeuralCleanse] if quick else {"runs": 1}))
        alone = Refinement(searches=0)
        changes = {"max_epochs": 1, "averaged": 0} if quick else {}
        given = {
            "scan": scan,
            "fine_pruning": FinePruning(tuning=NO_TUNING),
            "unlearning": Unlearning(**{**changes, "rounds": 1, "refinement": alone}),  # type: ignore[arg-type]
        }
        nets = DevelopmentZoo(self.scale).nets()
        return [
            Cell(
                f"{name}, {images} images of {number or 'all'} classes",
                {"net": nets[name], "images": images, "classes": number, **given},
                group=name,
            )
            for name in NETS
            for images, number in [
                *((images, None) for images in IMAGES),
                *((MOST, number) for number in CLASSES[nets[name].data]),
            ]
        ]

    def compute(self, cell: Cell, workspace: Workspace) -> dict[str, Any]:
        """See `Study.compute`."""
        given = cell.given
        net: Net = given["net"]
        model = obtain(net, workspace).classifier
        tuning = net.clean_data(workspace)[1]
        clean = drawn(tuning, given["images"], given["classes"], model.classes)
        test = net.open(workspace, "test")
        test = test if self.scale == "full" else test.take(500, seed=0)
        target = None if net.attack is None else net.attack.target
        answer = given["scan"](model, clean=clean.unlabelled())
        norms = answer.measures["l1_norm"]
        right = _correct(model, test)
        figures: dict[str, Any] = {
            "images": len(clean),
            "seen": len(np.unique(clean.known_labels)),
            "flagged": classes(answer.flagged),
            "scan_inconclusive": answer.inconclusive,
            "accuracy_before": clean_accuracy(model.predict(test), test.known_labels),
        }
        repairs: dict[str, dict[str, Any]] = {"fine_pruning": {}}
        if target is not None and net.attack is not None:
            figures["rank"] = 1 + int((norms < norms[target]).sum())
            figures["ratio"] = float(norms[target] / answer.about["median_norm"])
            shape = [int(side or 0) for side in model.image_shape]
            repairs["unlearning"] = {"found": _scan_of(net.attack.stamp, shape, model, target)}
        for name, evidence in repairs.items():
            try:
                repair = given[name](model, clean=clean, **evidence)
            except BadInput as error:
                figures[f"refused_{name}"] = str(error)
                continue
            predicted = repair.classifier.predict(test)
            figures[f"accuracy_{name}"] = clean_accuracy(predicted, test.known_labels)
            left = _correct(repair.classifier, test)
            figures[f"lost_{name}"] = int((left < LOST * right).sum())
        return figures


def summary(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The results by number of images and classes, as the rows of a table.

    Args:
        cells: the cells of the results file.

    Returns:
        The header and one row for each data set and each number of images and classes.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        net, amount = cell["name"].rsplit(", ", 1)
        groups.setdefault((net.split(",")[0], amount), []).append(cell)
    header = ("networks", "clean images", "only the target flagged", "another class flagged",
              "clean networks flagged", "points lost by fine-pruning", "classes lost",
              "points lost by unlearning", "classes lost")  # fmt: skip
    return [header, *(_row(data, amount, group) for (data, amount), group in groups.items())]


def _row(data: str, amount: str, cells: list[Mapping[str, Any]]) -> tuple[str, ...]:
    attacks = [(c["settings"]["net"]["attack"], c["figures"]) for c in cells]
    attacked = [(a["target"], f["flagged"]) for a, f in attacks if a is not None]
    clean = [f for a, f in attacks if a is None]
    alone = sum(flagged == [target] for target, flagged in attacked)
    others = sum(flagged not in ([], [target]) for target, flagged in attacked)
    row = [data, amount, f"{alone} of {len(attacked)}", f"{others} of {len(attacked)}",
           f"{sum(bool(f['flagged']) for f in clean)} of {len(clean)}"]  # fmt: skip
    for name in ("fine_pruning", "unlearning"):
        done = [f for _, f in attacks if f"accuracy_{name}" in f]
        lost = [
            100 * (f["accuracy_before"]["share"] - f[f"accuracy_{name}"]["share"]) for f in done
        ]
        classes_lost = [f[f"lost_{name}"] for f in done]
        row.append(f"{min(lost):.1f} to {max(lost):.1f}" if done else "refused")
        row.append(f"{min(classes_lost)} to {max(classes_lost)}" if done else "")
    return tuple(row)


def drawn(samples: Samples, images: int, number: int | None, classes: int) -> Samples:
    """Draw images of some of the classes.

    Args:
        samples: the labeled samples.
        images: the number of images.
        number: the number of classes that are drawn at random; None selects all.
        classes: the number of classes of the model.
    """
    if number is not None:
        selected = np.random.default_rng(0).permutation(classes)[:number]
        samples = samples.subset(np.isin(samples.known_labels, selected))
    return samples.take(min(images, len(samples)), seed=0)


def _correct(model: Classifier, test: Samples) -> np.ndarray:
    """(k,) the number of correct predictions of each class."""
    labels = test.known_labels
    return np.bincount(labels[model.predict(test) == labels], minlength=model.classes)


def _scan_of(trigger: Any, shape: list[int], model: Classifier, target: int) -> FlaggedClasses:
    """The answer of a scan that has recovered the planted trigger."""
    zeros, ones = (np.full((1, *shape), value, np.float32) for value in (0.0, 1.0))
    low, high = (trigger.stamp_rows(image, np.arange(1), 0)[0] for image in (zeros, ones))
    mask = (np.abs(high - low).max(axis=-1, keepdims=True) < 0.5).astype(np.float32)
    flagged = np.arange(model.classes) == target
    return FlaggedClasses(
        scores=flagged.astype(float), flagged=flagged, triggers={target: Stamp(mask, low)}
    )
