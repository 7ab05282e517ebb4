"""Where in the images the decision comes from."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_backdoor.answers.base import Answer


@dataclass(frozen=True, eq=False, kw_only=True)
class Heatmaps(Answer):
    """Where in the images the decision comes from.

    Attributes:
        maps: (n, h, w) or (n, h, w, c) importance of every pixel.
        labels: (n,) the class that each map speaks of.
        spread: (n, h, w) standard deviation of the importance, or None.
    """

    maps: np.ndarray
    labels: np.ndarray
    spread: np.ndarray | None = None
    _arrays: ClassVar[tuple[str, ...]] = ("maps", "labels", "spread")

    def rows(self) -> list[tuple[str, str]]:
        """See `Answer.rows`."""
        return [("maps", f"{len(self.maps)} of {self.maps.shape[1]}x{self.maps.shape[2]} pixels")]
