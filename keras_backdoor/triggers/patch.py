"""A square patch of one color."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp, Stamped, square_at, stamp_pixels


@dataclass(frozen=True)
class Patch(Stamped):
    """A square of one color at a fixed position.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017.

    Args:
        size: the side length of the square in pixels.
        row: the top row of the square; negative values count from the bottom edge.
        column: the left column of the square; negative values count from the right edge.
        color: a name, #rrggbb, a gray value, or (r, g, b) in 0..1.
        opacity: the opacity in 0..1; 1 covers the image.

    >>> int(Patch(size=2, row=-3, column=-3).apply(np.zeros((1, 8, 8, 1), np.uint8)).sum() / 255)
    4
    """

    size: int = 4
    row: int = -5
    column: int = -5
    color: Any = "white"
    opacity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise BadInput(f"size must be 1 or more. Received: size={self.size}")

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        row, column = square_at(self.size, self.row, self.column, height, width)
        square = np.argwhere(np.ones((self.size, self.size))) + np.array((row, column))
        return stamp_pixels(height, width, square, self.color, self.opacity)
