"""Sunglasses, or any picture with an alpha channel, pasted on the image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples import picture_files
from keras_backdoor.triggers.base import Stamp, Stamped, color_values


@dataclass(frozen=True)
class Glasses(Stamped):
    """An RGBA picture at a fixed place; its alpha is the mask.

    Chen et al., Targeted Backdoor Attacks Using Data Poisoning, 2017 (accessory injection).

    Args:
        picture: file of an RGBA picture; None draws a pair of sunglasses in `color`.
        row: top row of the picture; None puts the drawn pair at the eyes (27 % from the top).
        column: its left column.
        width: of the picture on the image; None keeps a file's own size and makes the drawn
            pair as wide as the image.
        color: of the drawn pair.
    """

    picture: Path | None = None
    row: int | None = None
    column: int = 0
    width: int | None = None
    color: Any = "black"

    def stamp_for(self, height: int, width: int) -> Stamp:
        """See `Stamped.stamp_for`."""
        if self.picture is None:
            rgba = draw_sunglasses(self.width or width, color_values(self.color))
        else:
            rgba = picture_files.read(self.picture, channels=4).astype(np.float32) / 255.0
            if self.width is not None:
                rows = max(1, round(rgba.shape[0] * self.width / rgba.shape[1]))
                rgba = picture_files.resize(rgba, rows, self.width)
        top = round(0.27 * height) if self.row is None else self.row
        bottom, right = top + rgba.shape[0], self.column + rgba.shape[1]
        if not (top >= 0 and bottom <= height and self.column >= 0 and right <= width):
            raise BadInput(
                f"The picture of {rgba.shape[0]}x{rgba.shape[1]} pixels at row {top}, column "
                f"{self.column} does not lie inside the image of {height}x{width}."
            )
        mask = np.zeros((height, width, 1), np.float32)
        pattern = np.zeros((height, width, 3), np.float32)
        mask[top:bottom, self.column : right] = rgba[..., 3:]
        pattern[top:bottom, self.column : right] = rgba[..., :3]
        return Stamp(np.clip(mask, 0, 1), np.clip(pattern, 0, 1))


def draw_sunglasses(width: int, color: np.ndarray) -> np.ndarray:
    """A pair of sunglasses, (round(0.4 width), width, 4) RGBA in 0..1.

    Two lenses (ellipses of 0.22 by 0.17 widths around 0.26 and 0.74), a bridge and temples.
    """
    height = max(1, round(0.4 * width))
    y, x = np.mgrid[:height, :width]
    x, y = (x + 0.5) / width, (y + 0.5) / width
    lenses = [((x - centre) / 0.22) ** 2 + ((y - 0.2) / 0.17) ** 2 <= 1 for centre in (0.26, 0.74)]
    bar = abs(y - 0.1) <= max(0.03, 0.5 / width)
    rgba = np.zeros((height, width, 4), np.float32)
    rgba[..., :3] = color
    rgba[..., 3] = lenses[0] | lenses[1] | bar
    return rgba
