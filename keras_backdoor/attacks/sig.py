"""SIG: a sinusoid over images of the target class, which keep their labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

from keras_backdoor.attacks.base import DataAttack, Poisoned
from keras_backdoor.attacks.clean_label import CleanLabel
from keras_backdoor.samples import Samples
from keras_backdoor.triggers import Sinusoid


@dataclass(frozen=True)
class SIG(DataAttack):
    """Add a horizontal sinusoid to images of the target class and keep their labels.

    Barni, Kallas and Tondi, A new backdoor attack in CNNs by training set corruption without label
    poisoning, ICIP 2019: v(i, j) = delta sin(2 pi j frequency / width) is added to the pixels of
    row i and column j. The images need no other change, because the network learns the sinusoid
    beside the features of the class.

    Args:
        target: the target class of the backdoor.
        count: the number of changed images; give either `count` or `fraction`.
        fraction: the fraction of the images of the target class that is changed.
        delta: the amplitude, as a share of the range of the pixels; 20/255 in the paper for traffic
            signs.
        frequency: the number of periods along the width, 6 in the paper.

    Notes:
        The images are changed in place, so that the number of images does not change. The paper
        attacks with a sinusoid that may be stronger than the one in the training data.
    """

    target: int
    count: int | None = None
    fraction: float | None = None
    delta: float = 20 / 255
    frequency: float = 6.0

    source: ClassVar[None] = None
    paper: ClassVar[str] = "Barni, Kallas and Tondi, SIG, ICIP 2019"
    quick: ClassVar[dict[str, Any]] = {"target": 2, "fraction": 0.9, "delta": 0.6, "frequency": 3.0}

    @property
    def trigger(self) -> Sinusoid:
        """The sinusoid."""
        return Sinusoid(delta=self.delta, frequency=self.frequency)

    def poison(self, samples: Samples, *, seed: int = 0) -> Poisoned:
        """See `DataAttack.poison`."""
        stamped = CleanLabel(self.trigger, self.target, count=self.count, fraction=self.fraction)
        return stamped.poison(samples, seed=seed)
