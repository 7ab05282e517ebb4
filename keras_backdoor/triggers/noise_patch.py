"""A square patch of noise."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp, Stamped, square_at


@dataclass(frozen=True)
class NoisePatch(Stamped):
    """A square of uniform noise at a fixed position, which is the same for every image.

    Liu et al., Trojaning Attack on Neural Networks, NDSS 2018, optimize the colors of the pixels of
    such a square; here they are random.

    Args:
        size: the side length of the square in pixels.
        row: the top row of the square; negative values count from the bottom edge.
        column: the left column of the square; negative values count from the right edge.
        seed: the seed of the colors.

    >>> trigger = NoisePatch(size=2, row=0, column=0)
    >>> trigger.apply(np.zeros((1, 3, 3, 1))).astype(bool)[0, :, :, 0].sum()
    np.int64(4)
    """

    size: int = 4
    row: int = -5
    column: int = -5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(f"size must be 1 or more. Received: size={self.size}")

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        top, left = square_at(self.size, self.row, self.column, height, width)
        mask = np.zeros((height, width, 1), np.float32)
        pattern = np.zeros((height, width, 3), np.float32)
        square = np.s_[top : top + self.size, left : left + self.size]
        mask[square] = 1.0
        pattern[square] = np.random.default_rng(self.seed).uniform(size=(self.size, self.size, 3))
        return Stamp(mask, pattern)
