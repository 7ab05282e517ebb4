"""Sunglasses, or another image with an alpha channel, pasted onto the image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples import picture_files
from keras_backdoor.triggers.base import Stamp, Stamped, color_values


@dataclass(frozen=True)
class Glasses(Stamped):
    """An RGBA image at a fixed position; its alpha channel is the mask.

    Chen et al., Targeted Backdoor Attacks Using Data Poisoning, 2017 (accessory injection).

    Args:
        picture: the path of an RGBA image file; None draws a pair of sunglasses.
        row: the top row of the picture; None is the height of the eyes, 27 % from the top.
        column: the left column of the picture.
        width: the width of the picture in pixels; None keeps the size of an image file, and draws
            sunglasses as wide as the image.
        color: the color of drawn sunglasses: a name, #rrggbb, a gray value or (r, g, b) in 0..1.
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
    """Draw a pair of sunglasses: two elliptic lenses, a bridge and temples.

    Args:
        width: the width in pixels. The lenses have semi-axes of 0.22 and 0.17 widths, and their
            centers are at 0.26 and 0.74 widths.
        color: (3,) color in 0..1.

    Returns:
        (round(0.4 width), width, 4) float32 RGBA in 0..1.
    """
    height = max(1, round(0.4 * width))
    y, x = np.mgrid[:height, :width]
    x, y = (x + 0.5) / width, (y + 0.5) / width
    lenses = [((x - center) / 0.22) ** 2 + ((y - 0.2) / 0.17) ** 2 <= 1 for center in (0.26, 0.74)]
    bar = abs(y - 0.1) <= max(0.03, 0.5 / width)
    rgba = np.zeros((height, width, 4), np.float32)
    rgba[..., :3] = color
    rgba[..., 3] = lenses[0] | lenses[1] | bar
    return rgba
