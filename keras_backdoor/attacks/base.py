"""Two kinds of attacks: those that change training data, and those that control the training."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._safe.files import existing
from keras_backdoor._safe.npz import Npz
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.units import Range
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit


@dataclass(frozen=True, eq=False)
class Poisoned:
    """Poisoned samples, and which of them are poison.

    Attributes:
        samples: the training data as the victim gets it.
        is_poison: (n,) bool, the truth, which no defense is shown.
        rows: (m,) position of each poisoned image in the clean data.
    """

    samples: Samples
    is_poison: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Attack:
    """A frozen dataclass of settings in a file of its own.

    Attributes:
        paper: where it is published.
        quick: settings for the contract test, `tests/test_attacks.py`, beside the defaults.
    """

    paper: ClassVar[str] = ""
    quick: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True)
class DataAttack(Attack, ABC):
    """An attack that changes training data; the victim trains on it in good faith."""

    @abstractmethod
    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """The data as the victim gets it, and the truth.

        Args:
            samples: labelled clean training data.
            seed: of what is drawn at random.
        """


@dataclass(frozen=True, eq=False)
class Training:
    """What somebody who controls the training works with.

    Attributes:
        build: makes an untrained network.
        samples: the training data, poison included.
        recipe: epochs, optimizer and seed.
        is_poison: (n,) bool, which of the samples are poison, or None where nobody says it.
        input_range: lowest and highest pixel value that the network is to expect.
        checkpoint: `.npz` file; each training has one of its own beside it, to resume from.
        start: a network that was trained on the clean data already, or None.
    """

    build: Callable[[], Any]
    samples: Samples
    recipe: Recipe
    is_poison: np.ndarray | None = None
    input_range: Range = (0.0, 1.0)
    checkpoint: Path | None = None
    start: Classifier | None = None

    @property
    def clean(self) -> Samples:
        """The samples that are not poison.

        Raises:
            BadInput: nobody says which they are.
        """
        if self.is_poison is None:
            raise BadInput("This attack needs to know which images are poison: pass --truth.")
        return self.samples.subset(~self.is_poison)

    def fit(
        self, samples: Samples, part: str, *, model: Any = None, recipe: Recipe | None = None
    ) -> tuple[Classifier, dict[str, list[float]]]:
        """One training of several, which resumes from a checkpoint of its own.

        Args:
            samples: the training data.
            part: name of this training, for its checkpoint.
            model: the network that is trained on; None builds a new one.
            recipe: None takes the recipe of the whole.
        """
        path = self.checkpoint and self.checkpoint.with_name(f"{self.checkpoint.name}.{part}.npz")
        return fit(
            self.build if model is None else model,
            samples,
            recipe or self.recipe,
            input_range=self.input_range,
            checkpoint=path,
        )


def truth_arrays(truth: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """(is_poison (n,) bool, labels (n,) or None) from a truth that 'poison' wrote.

    Raises:
        BadInput: not such a file.
    """
    stored = Npz(existing(truth, "file with the truth"))
    if "is_poison" not in stored:
        raise BadInput(f"{truth} has no is_poison: it is not a truth that 'poison' wrote.")
    return stored["is_poison"].astype(bool), stored.get("labels")


def read_truth(truth: Path, poisoned: Samples) -> np.ndarray:
    """(n,) bool, which images of poisoned data are poison.

    Raises:
        BadInput: not a truth that 'poison' wrote, or it is about other data.
    """
    is_poison, labels = truth_arrays(truth)
    if is_poison.shape != (len(poisoned),) or (
        labels is not None and not np.array_equal(labels, poisoned.known_labels)
    ):
        raise BadInput(
            f"{truth} is about other data ({is_poison.size} images; the data has "
            f"{len(poisoned)}): pass the whole data, neither --take nor another split."
        )
    return is_poison


@dataclass(frozen=True)
class TrainingAttack(Attack, ABC):
    """An attack by somebody who trains the network for the victim.

    Attributes:
        needs_truth: whether it must know which of the training images are poison.
    """

    needs_truth: ClassVar[bool] = False

    @abstractmethod
    def train(self, training: Training) -> tuple[Classifier, dict[str, Any]]:
        """The trained network, and its history for the model card."""
