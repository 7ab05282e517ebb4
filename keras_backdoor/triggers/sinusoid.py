"""A trigger that adds a faint sinusoidal signal."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Sinusoid(Trigger):
    """x -> clip(x + delta sin(2 pi j f / w)) in column j of an image of width w.

    Barni, Kallas and Tondi, A new backdoor attack in CNNs by training set corruption without label
    poisoning, ICIP 2019 (SIG), which stamps it on images of the target class alone: see the attack
    `clean-label`.

    Args:
        delta: the amplitude of the signal, in 0..1.
        frequency: the number of periods f across the image.

    >>> Sinusoid(delta=0.5, frequency=1).apply(np.full((1, 1, 4, 1), 0.5)).ravel().tolist()
    [0.5, 1.0, 0.5, 0.0]
    """

    delta: float = 20 / 255
    frequency: float = 6.0

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1 or self.frequency <= 0:
            raise BadInput(
                "delta must be above 0 and at most 1, and frequency above 0. Received: "
                f"delta={self.delta}, frequency={self.frequency}"
            )

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        width = images.shape[2]
        wave = np.sin(2 * np.pi * self.frequency * np.arange(width) / width)
        return images + np.float32(self.delta) * wave.astype(np.float32)[:, None]
