"""BadNets: stamped images with the label of the target class."""

from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import DataAttack, Poisoned
from keras_backdoor.errors import BadInput
from keras_backdoor.samples import Samples
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class BadNets(DataAttack):
    """Stamp images of the source class and give them the label of the target class.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017.

    Args:
        trigger: what is put on the images: a trigger, a preset or `name:key=value,…`.
        target: the class that the backdoor leads to.
        source: the class that images are taken from; by default all classes but the target.
        count: the number of poisoned images; or
        fraction: the share of the source images that is poisoned; or
        target_fraction: the share p of poison in the target class afterwards, for appended copies
            n = round(p n_target / (1 - p)).
        replace: whether the images themselves are stamped; otherwise stamped copies are appended.
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

    @property
    def stamp(self) -> Trigger:
        """The trigger itself."""
        return self.trigger if isinstance(self.trigger, Trigger) else parse(str(self.trigger))

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
    """Stamped copies that make up the share p of the target class: round(p n / (1 - p)).

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
    """Stamp images of the source class and give them the target's label.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017. The images are drawn without replacement.

    Args:
        samples: labelled clean training data.
        trigger: what is put on the images.
        target: the class that the backdoor serves.
        count: number of poisoned images; or
        fraction: share of the source images that is poisoned; or
        target_fraction: share p of poison in the target class afterwards; for appended copies
            n = round(p n_target / (1 - p)).
        source: the class that images are taken from; None takes all classes but the target.
        replace: stamp the images themselves; otherwise stamped copies are appended.
        seed: of the choice and of the trigger's random part.

    Raises:
        BadInput: not exactly one amount, an empty class, or too few source images.

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
    eligible = np.flatnonzero(labels != target if source is None else labels == source)
    if len(eligible) == 0:
        raise BadInput(f"Source class {source} is empty: the data has no image with this label.")
    number = _number(labels, eligible, target, count, fraction, target_fraction)
    rows = np.sort(np.random.default_rng(seed).choice(eligible, number, replace=False))
    stamped = samples.subset(rows).stamped(trigger, seed=seed).relabelled(target)
    is_poison = np.zeros(len(samples), bool)
    if not replace:
        return Poisoned(
            samples.concat(stamped), np.concatenate([is_poison, np.ones(number, bool)]), rows
        )
    is_poison[rows] = True
    order = np.arange(len(samples))
    order[rows] = len(samples) + np.arange(number)
    changed = replace_fields(samples.concat(stamped).subset(order), row_numbers=None)
    return Poisoned(changed, is_poison, rows)


def _number(
    labels: np.ndarray,
    eligible: np.ndarray,
    target: int,
    count: int | None,
    fraction: float | None,
    target_fraction: float | None,
) -> int:
    if sum(amount is not None for amount in (count, fraction, target_fraction)) != 1:
        raise BadInput(
            "Exactly one of count, fraction and target_fraction is needed. Received: "
            f"count={count}, fraction={fraction}, target_fraction={target_fraction}"
        )
    if count is not None:
        number = count
    elif fraction is not None:
        number = round(fraction * len(eligible))
    else:
        number = number_for_share(float(target_fraction or 0), int((labels == target).sum()))
    if not 1 <= number <= len(eligible):
        raise BadInput(
            f"{number} images are to be poisoned, and the source has {len(eligible)} "
            "(at least 1 is needed)."
        )
    return number
