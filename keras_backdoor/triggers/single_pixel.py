"""A single pixel of one color."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.triggers.base import Stamp, Stamped, stamp_pixels


@dataclass(frozen=True)
class SinglePixel(Stamped):
    """A single pixel of one color at a fixed position.

    Gu, Dolan-Gavitt and Garg, BadNets, 2017; Tran, Li and Madry, Spectral Signatures, 2018.

    Args:
        row: the row of the pixel; negative values count from the bottom edge.
        column: the column of the pixel; negative values count from the right edge.
        color: a name, #rrggbb, a gray value or (r, g, b) in 0..1.
    """

    row: int = -2
    column: int = -2
    color: Any = "white"

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        return stamp_pixels(height, width, np.array([(self.row, self.column)]), self.color)
