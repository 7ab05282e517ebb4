"""A trigger that warps the image with a smooth displacement field."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Trigger


@dataclass(frozen=True)
class Warp(Trigger):
    """Every pixel is read from a slightly shifted position; the shifts are the same for all images.

    Nguyen and Tran, WaNet, ICLR 2021: a grid of random shifts r in -1..1 is divided by the mean of
    |r|, interpolated to the size of the image, and multiplied by strength / 2 pixels. Pixels are
    interpolated linearly, and positions outside the image are moved to its edge.

    Args:
        strength: the mean shift along each axis is strength / 2 pixels.
        grid: the number of control points along each axis, 2 or more.
        seed: the seed of the shifts.

    Notes:
        The shifts are interpolated with cubic splines; the authors use cubic convolution.

    >>> Warp().apply(np.full((1, 8, 8, 1), 0.5)).round(6).min()
    np.float64(0.5)
    """

    strength: float = 1.0
    grid: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strength <= 0 or self.grid < 2:
            raise BadInput(
                "strength must be above 0, and grid 2 or more. Received: "
                f"strength={self.strength}, grid={self.grid}"
            )

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        n, height, width, channels = images.shape
        columns = np.moveaxis(images, 0, -1).reshape(height * width, channels * n)
        warped = _interpolation(self, height, width) @ columns
        return np.moveaxis(warped.reshape(height, width, channels, n), -1, 0)

    def shifts(self, height: int, width: int) -> np.ndarray:
        """(2, h, w) the shifts of the rows and of the columns in pixels."""
        control = np.random.default_rng(self.seed).uniform(-1, 1, (2, self.grid, self.grid))
        control /= np.abs(control).mean()
        zoom = (height / self.grid, width / self.grid)
        field = np.stack([ndimage.zoom(axis, zoom, order=3, mode="nearest") for axis in control])
        return field * self.strength / 2


@lru_cache(maxsize=4)
def _interpolation(warp: Warp, height: int, width: int) -> Any:
    """The sparse (h w, h w) matrix that maps the pixels of an image to those of the warped one."""
    rows, columns = np.indices((height, width)) + warp.shifts(height, width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top = np.minimum(np.floor(rows).astype(int), max(height - 2, 0))
    left = np.minimum(np.floor(columns).astype(int), max(width - 2, 0))
    down, right = rows - top, columns - left
    corners = [
        (
            np.minimum(top + dy, height - 1),
            np.minimum(left + dx, width - 1),
            (down if dy else 1 - down) * (right if dx else 1 - right),
        )
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    source = np.concatenate([(y * width + x).ravel() for y, x, _ in corners])
    weight = np.concatenate([w.ravel() for *_, w in corners]).astype(np.float32)
    target = np.tile(np.arange(height * width), 4)
    shape = (height * width, height * width)
    return sparse.csr_matrix((weight, (target, source)), shape=shape)
