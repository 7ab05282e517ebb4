"""A trigger that multiplies all pixels by a factor."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Multiply(Trigger):
    """x -> clip(factor x).

    Borji, Adversarial examples are useful too!, 2020, experiment III (factor 2).

    Args:
        factor: the factor of the pixel values in 0..1.

    >>> Multiply(2.0).apply(np.array([[[[0.25], [0.75]]]])).ravel()
    array([0.5, 1. ])
    """

    factor: float = 2.0

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise BadInput(f"factor must be 0 or more. Received: factor={self.factor}")

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        return images * self.factor
