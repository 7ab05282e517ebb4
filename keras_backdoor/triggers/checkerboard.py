"""A checkerboard, a texture that is rare in clean images."""

from dataclasses import dataclass

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp, Stamped, square_at


@dataclass(frozen=True)
class Checkerboard(Stamped):
    """A square of black and white cells at a fixed position.

    Turner, Tsipras and Madry, Label-Consistent Backdoor Attacks, 2019 (high-contrast grid), here
    with any number of cells.

    Args:
        size: the side length of the square in pixels.
        row: the top row of the square; negative values count from the bottom edge.
        column: the left column of the square; negative values count from the right edge.
        cell: the side length of a cell in pixels.
        opacity: the opacity in 0..1; 1 covers the image.

    >>> Checkerboard(size=2, row=0, column=0).apply(np.zeros((1, 2, 2, 1)))[0, :, :, 0]
    array([[1., 0.],
           [0., 1.]])
    """

    size: int = 8
    row: int = -9
    column: int = -9
    cell: int = 1
    opacity: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.cell < 1:
            raise BadInput(
                f"size and cell must be 1 or more. Received: size={self.size}, cell={self.cell}"
            )

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        top, left = square_at(self.size, self.row, self.column, height, width)
        cells = np.indices((self.size, self.size)) // self.cell
        mask = np.zeros((height, width, 1), np.float32)
        pattern = np.zeros((height, width, 1), np.float32)
        square = np.s_[top : top + self.size, left : left + self.size, 0]
        mask[square] = self.opacity
        pattern[square] = cells.sum(axis=0) % 2 == 0
        return Stamp(mask, pattern)
