"""BadNets: training images with a trigger and the label of the target class."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import (
    DataAttack,
    Poisoned,
    check_number,
    check_target,
    with_poison,
)
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class BadNets(DataAttack):
    """Stamp images of the source class and give them the label of the target class.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017.

    Args:
        trigger: a trigger, the name of a preset or `name:key=value,…`.
        target: the target class of the backdoor.
        source: the class whose images are poisoned; by default all classes except the target.
        count: the number of poisoned images; give exactly one of `count`, `fraction` and
            `target_fraction`.
        fraction: the fraction of the source images that is poisoned.
        target_fraction: the fraction p of the target class that is poison after stamped copies are
            appended; their number is round(p n_target / (1 - p)).
        replace: whether images are stamped in place; by default stamped copies are appended.
    """

    trigger: Any
    target: int
    source: int | None = None
    count: int | None = None
    fraction: float | None = None
    target_fraction: float | None = None
    replace: bool = False

    paper: ClassVar[str] = "Gu, Dolan-Gavitt and Garg, BadNets, 2017"
    quick: ClassVar[dict[str, Any]] = {
        "trigger": "patch:size=3,row=1,column=1",
        "target": 2,
        "fraction": 0.1,
    }

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        return poison(
            samples,
            self.stamp,
            target=self.target,
            source=self.source,
            count=self.count,
            fraction=self.fraction,
            target_fraction=self.target_fraction,
            replace=self.replace,
            seed=seed,
        )


def number_for_share(p: float, n_target: int) -> int:
    """Number of stamped copies that make up the fraction p of the target class.

    It is round(p n_target / (1 - p)).

    Args:
        p: fraction of the target class that is poison after the copies are appended.
        n_target: number of clean images of the target class.

    Raises:
        BadInput: if p is not between 0 and 1.

    >>> number_for_share(0.07, 697), number_for_share(0.27, 697)
    (52, 258)
    """
    if not 0 < p < 1:
        raise BadInput(f"target_fraction must lie between 0 and 1. Received: {p}")
    return round(p * n_target / (1 - p))


def poison(
    samples: Samples,
    trigger: Trigger,
    *,
    target: int,
    count: int | None = None,
    fraction: float | None = None,
    target_fraction: float | None = None,
    source: int | None = None,
    replace: bool = False,
    seed: int = 0,
) -> Poisoned:
    """Stamp images of the source class and give them the label of the target class.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017. The images are drawn without replacement.

    Args:
        samples: labeled clean training data.
        trigger: the trigger.
        target: the target class of the backdoor.
        count: the number of poisoned images; give exactly one of `count`, `fraction` and
            `target_fraction`.
        fraction: the fraction of the source images that is poisoned.
        target_fraction: the fraction p of the target class that is poison after stamped copies are
            appended; their number is round(p n_target / (1 - p)).
        source: the class whose images are poisoned; by default all classes except the target.
        replace: whether images are stamped in place; by default stamped copies are appended.
        seed: seed of the choice of images and of the random part of the trigger.

    Returns:
        The poisoned samples and the ground truth.

    Raises:
        BadInput: if not exactly one amount is given, the source class is empty, or it has too few
            images.

    >>> clean = Samples(np.zeros((6, 8, 8), np.uint8), np.array([0, 0, 0, 1, 1, 1]))
    >>> from keras_backdoor.triggers.patch import Patch
    >>> poisoned = poison(clean, Patch(), target=1, source=0, count=2)
    >>> poisoned.samples.labels, poisoned.is_poison.astype(int)
    (array([0, 0, 0, 1, 1, 1, 1, 1]), array([0, 0, 0, 0, 0, 0, 1, 1]))
    """
    labels = samples.known_labels
    if target < 0 or (source is not None and source == target):
        raise BadInput(
            f"target must be a class other than the source. Received: target={target}, "
            f"source={source}"
        )
    check_target(target, samples)
    eligible = np.flatnonzero(labels != target if source is None else labels == source)
    if len(eligible) == 0:
        missing = f"an image with label {source}" if source is not None else "another class"
        raise BadInput(f"There is nothing to poison for target {target}: the data lacks {missing}.")
    number = _number_of_poisoned(labels, eligible, target, count, fraction, target_fraction)
    positions = np.sort(np.random.default_rng(seed).choice(eligible, number, replace=False))
    stamped = samples.subset(positions).stamped(trigger, seed=seed).relabelled(target)
    return with_poison(samples, stamped, positions, replace=replace)


def _number_of_poisoned(
    labels: np.ndarray,
    eligible: np.ndarray,
    target: int,
    count: int | None,
    fraction: float | None,
    target_fraction: float | None,
) -> int:
    if sum(amount is not None for amount in (count, fraction, target_fraction)) != 1:
        raise BadInput(
            "Exactly one of count, fraction and target_fraction must be given. Received: "
            f"count={count}, fraction={fraction}, target_fraction={target_fraction}"
        )
    if count is not None:
        number = count
    elif fraction is not None:
        number = round(fraction * len(eligible))
    else:
        number = number_for_share(float(target_fraction or 0), int((labels == target).sum()))
    check_number(number, eligible)
    return number
