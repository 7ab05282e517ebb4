"""Base classes of attacks: attacks on the training data, and attacks that control the training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_backdoor._safe.files import existing
from keras_backdoor._safe.npz import Npz
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import Preprocess
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True, eq=False)
class Poisoned:
    """Poisoned samples and their ground truth.

    Attributes:
        samples: the training data that the victim receives.
        is_poison: (n,) bool ground truth, which is not available to defenses.
        rows: (m,) position of each poisoned image in the clean data.
    """

    samples: Samples
    is_poison: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Attack:
    """Base class of attacks: a frozen dataclass of settings, one file per attack.

    Attributes:
        paper: the publication.
        quick: settings that differ from the defaults in the contract test, `tests/test_attacks.py`.
    """

    paper: ClassVar[str] = ""
    quick: ClassVar[dict[str, Any]] = {}


@dataclass(frozen=True)
class DataAttack(Attack, ABC):
    """An attack that changes the training data of an unsuspecting victim.

    A subclass has these attributes, as settings or otherwise.

    Attributes:
        trigger: a trigger, the name of a preset or `name:key=value,…`.
        target: the target class of the backdoor, or "next", see `evaluate`.
        source: the class that is attacked, or None for all classes.
        count: the number of poisoned images, or None if it is given otherwise.
    """

    if TYPE_CHECKING:

        @property
        def trigger(self) -> Any: ...  # noqa: D102

        @property
        def target(self) -> Any: ...  # noqa: D102

        @property
        def source(self) -> int | None: ...  # noqa: D102

        @property
        def count(self) -> int | None: ...  # noqa: D102

    @property
    def stamp(self) -> Trigger:
        """The trigger as a `Trigger` object."""
        return self.trigger if isinstance(self.trigger, Trigger) else parse(str(self.trigger))

    @abstractmethod
    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """Poison training data.

        Args:
            samples: labeled clean training data.
            seed: seed of all random choices.

        Returns:
            The data that the victim receives, and the ground truth.
        """


def with_poison(
    samples: Samples, stamped: Samples, positions: np.ndarray, *, replace: bool
) -> Poisoned:
    """Append poisoned images to the clean ones, or put them in their place.

    Args:
        samples: the clean training data.
        stamped: (m,) the poisoned images with the labels that the victim receives.
        positions: (m,) the position of each of them in the clean data.
        replace: whether the images take the place of the clean ones.
    """
    is_poison, number = np.zeros(len(samples), bool), len(stamped)
    if not replace:
        return Poisoned(
            samples.concat(stamped), np.concatenate([is_poison, np.ones(number, bool)]), positions
        )
    is_poison[positions] = True
    order = np.arange(len(samples))
    order[positions] = len(samples) + np.arange(number)
    poisoned = replace_fields(samples.concat(stamped).subset(order), row_numbers=None)
    return Poisoned(poisoned, is_poison, positions)


def draw(eligible: np.ndarray, count: int | None, fraction: float | None, seed: int) -> np.ndarray:
    """Draw the images to poison without replacement.

    Args:
        eligible: (m,) the positions to draw from.
        count: the number of images; give either `count` or `fraction`.
        fraction: the fraction of the eligible images.
        seed: the seed of the choice.

    Returns:
        The drawn positions in increasing order.

    Raises:
        BadInput: not exactly one amount is given, or it is out of range.
    """
    if (count is None) == (fraction is None):
        raise BadInput(
            f"Exactly one of count and fraction must be given. Received: count={count}, "
            f"fraction={fraction}"
        )
    number = count if count is not None else round(float(fraction or 0) * len(eligible))
    check_number(number, eligible)
    return np.sort(np.random.default_rng(seed).choice(eligible, number, replace=False))


def check_number(number: int, eligible: np.ndarray) -> None:
    """Raise `BadInput` unless so many of the eligible images can be poisoned."""
    if not 1 <= number <= len(eligible):
        raise BadInput(
            f"The number of poisoned images must lie in 1..{len(eligible)}, the number of source "
            f"images. Received: {number}"
        )


def class_number(samples: Samples) -> int:
    """The number of classes of labeled data, from its labels and its class names."""
    return max(int(samples.known_labels.max()) + 1, len(samples.class_names or ()))


def check_target(target: int, samples: Samples) -> None:
    """Raise `BadInput` unless the target is a class of the data."""
    known = class_number(samples)
    if not 0 <= target < known:
        raise BadInput(f"target must be one of the {known} classes. Received: target={target}")


@dataclass(frozen=True, eq=False)
class Training:
    """Inputs of an attack that controls the training.

    Attributes:
        build: a built network, or a function without arguments that builds one.
        samples: the training data, including poison.
        recipe: epochs, optimizer and seed.
        is_poison: (n,) bool, which of the samples are poison, or None if unknown.
        preprocess: how pixels become the input of the network, see `Preprocessing.of`.
        checkpoint: `.npz` file to resume from, or None. Each training of the attack has its own
            file, whose name is derived from this one.
        start: a network that has already been trained on the clean data, or None.
    """

    build: Any
    samples: Samples
    recipe: Recipe
    is_poison: np.ndarray | None = None
    preprocess: Preprocess = (0.0, 1.0)
    checkpoint: Path | None = None
    start: Classifier | None = None

    @property
    def clean(self) -> Samples:
        """The samples that are not poison.

        Raises:
            BadInput: if `is_poison` is None.
        """
        if self.is_poison is None:
            raise BadInput("This attack needs to know which images are poison: pass --truth.")
        return self.samples.subset(~self.is_poison)

    def fit(
        self, samples: Samples, part: str, *, model: Any = None, recipe: Recipe | None = None
    ) -> tuple[Classifier, dict[str, list[float]]]:
        """Run one training of the attack with its own checkpoint.

        Args:
            samples: the training data.
            part: name of this training, which becomes part of the name of its checkpoint.
            model: the network to continue training; by default a new one is built.
            recipe: the recipe; by default the recipe of the attack.

        Returns:
            The trained classifier and its history, see `keras_backdoor.training.fit`.
        """
        path = self.checkpoint and self.checkpoint.with_name(f"{self.checkpoint.name}.{part}.npz")
        return fit(
            self.build if model is None else model,
            samples,
            recipe or self.recipe,
            preprocess=self.preprocess,
            checkpoint=path,
        )


def truth_arrays(truth: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a ground truth file written by the command 'poison'.

    Args:
        truth: path of the `.npz` file.

    Returns:
        (is_poison, labels): (n,) bool, and (n,) labels or None.

    Raises:
        BadInput: if the file does not exist or has no `is_poison`.
    """
    arrays = Npz(existing(truth, "ground truth file"))
    if "is_poison" not in arrays:
        raise BadInput(f"{truth} has no is_poison: pass a ground truth file written by 'poison'.")
    return arrays["is_poison"].astype(bool), arrays.get("labels")


def read_truth(truth: Path, poisoned: Samples) -> np.ndarray:
    """Read which images of poisoned data are poison.

    Args:
        truth: path of the `.npz` file written by the command 'poison'.
        poisoned: the poisoned data.

    Returns:
        (n,) bool.

    Raises:
        BadInput: if the file is not a ground truth file, or belongs to other data.
    """
    is_poison, labels = truth_arrays(truth)
    if is_poison.shape != (len(poisoned),) or (
        labels is not None and not np.array_equal(labels, poisoned.known_labels)
    ):
        raise BadInput(
            f"{truth} belongs to other data ({is_poison.size} images; the data has "
            f"{len(poisoned)}): pass the whole data set, without --take and of the same split."
        )
    return is_poison


@dataclass(frozen=True)
class TrainingAttack(Attack, ABC):
    """An attack by an attacker who trains the network of the victim.

    Attributes:
        needs_truth: whether the attack needs to know which of the training images are poison.
    """

    needs_truth: ClassVar[bool] = False

    @abstractmethod
    def train(self, training: Training) -> tuple[Classifier, dict[str, Any]]:
        """Train the network.

        Args:
            training: the inputs of the training.

        Returns:
            The trained network and its history for the model card.
        """
