"""A pattern of single pixels of one color."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor.triggers.base import Stamp, Stamped, stamp_pixels


@dataclass(frozen=True)
class Pattern(Stamped):
    """A pattern of single pixels at a fixed position.

    Chen et al., Detecting Backdoor Attacks by Activation Clustering, 2018, as implemented in the
    Adversarial Robustness Toolbox (ART).

    Args:
        pixels: (row, column) pairs, on the command line `15.15/15.17/16.16/17.15`; negative
            values count from the bottom or right edge.
        color: a name, #rrggbb, a gray value or (r, g, b) in 0..1.

    >>> Pattern(((0, 0), (1, 1))).apply(np.zeros((1, 2, 2, 1)))[0, :, :, 0]
    array([[1., 0.],
           [0., 1.]])
    """

    pixels: tuple[tuple[int, int], ...] = ((-2, -2), (-3, -3), (-2, -4), (-4, -2))
    color: Any = "white"

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        return stamp_pixels(height, width, np.array(self.pixels), self.color)
