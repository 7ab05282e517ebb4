"""All-to-all attack: every class is mapped to the next one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor.attacks.base import DataAttack, Poisoned, class_number, draw, with_poison
from keras_backdoor.evaluation import NEXT
from keras_backdoor.samples import Samples


@dataclass(frozen=True)
class AllToAll(DataAttack):
    """Stamp images of all classes and give each the label of the next class, y -> (y + 1) mod k.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017, section 4.1.

    Args:
        trigger: a trigger, the name of a preset or `name:key=value,…`.
        count: the number of poisoned images; give either `count` or `fraction`.
        fraction: the fraction of all images that is poisoned.
        replace: whether images are stamped in place; by default stamped copies are appended.

    Notes:
        The number of classes k is that of the labels and class names of the data. The success of
        the attack is the share of stamped images that are classified as the class after their own
        (`evaluate(…, target="next")`).
    """

    trigger: Any
    count: int | None = None
    fraction: float | None = None
    replace: bool = False

    target: ClassVar[str] = NEXT
    source: ClassVar[None] = None
    paper: ClassVar[str] = "Gu, Dolan-Gavitt and Garg, BadNets, 2017, section 4.1"
    quick: ClassVar[dict[str, Any]] = {"trigger": "patch:size=4,row=0,column=0", "fraction": 0.9}

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        labels = samples.known_labels
        positions = draw(np.arange(len(samples)), self.count, self.fraction, seed)
        stamped = samples.subset(positions).stamped(self.stamp, seed=seed)
        stamped = stamped.labelled((labels[positions] + 1) % class_number(samples))
        return with_poison(samples, stamped, positions, replace=self.replace)
