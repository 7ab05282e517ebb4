"""A trigger that reduces the number of brightness levels."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Quantize(Trigger):
    """x -> round((levels - 1) x) / (levels - 1).

    Wang, Zhai and Ma, BppAttack, CVPR 2022, without its dithering.

    Args:
        levels: the number of levels of each channel, 2 or more.

    >>> Quantize(levels=3).apply(np.array([[[[0.2], [0.3], [0.9]]]])).ravel()
    array([0. , 0.5, 1. ])
    """

    levels: int = 8

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise BadInput(f"levels must be 2 or more. Received: levels={self.levels}")

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        quantized: np.ndarray = np.round(images * (self.levels - 1)) / (self.levels - 1)
        return quantized
