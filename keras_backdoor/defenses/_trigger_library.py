"""Simple triggers at many positions, in many sizes and colors."""

import itertools
from dataclasses import dataclass

import numpy as np

from keras_backdoor.triggers import Checkerboard, Patch, Quantize, Sinusoid, Warp
from keras_backdoor.triggers.base import Stamp, Trigger

SQUARES = {"small_squares": 2 / 32, "squares": 4 / 32, "large_squares": 6 / 32}
"""Key -> side of squares of one color, as a share of the image's side."""
BOARDS = {
    "small_checkerboards": (3, 3 / 32),
    "checkerboards": (4, 5 / 32),
    "large_checkerboards": (5, 8 / 32),
}
"""Key -> smallest side in pixels, and side as a share of the image's side, of checkerboards."""
LIMITS: dict[str, tuple[float, float]] = {
    "small_squares": (0.25, 2.2),
    "squares": (1.0, 2.2),
    "large_squares": (2.05, 3.1),
    "small_checkerboards": (0.35, 2.2),
    "checkerboards": (0.6, 2.2),
    "large_checkerboards": (0.9, 2.2),
    "warps": (0.25, 2.2),
    "sinusoids": (2.85, 5.4),
    "levels": (0.8, 5.0),
}
"""Key -> limits of the share and of its lead, see `Group`.

They follow from `studies.detection_zoo.page.limit_from` on the 30 clean networks of the development
half of the detection zoo, rounded up to 0.05 and 0.1. A lead counts from 2.2, which is half of the
images against a tenth. Blends with noise and with other images are not in the library: one kind of
noise moves all digits to one class in a clean residual network.
"""
STRIDE = 3 / 32
"""The largest distance of neighboring positions, as a share of the image's side."""
WARPED, STRENGTHS = 12, (1.0, 2.0)
"""The number of warps of each strength."""
WAVES = tuple(itertools.product((0.1, 0.2), (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)))
"""The amplitudes and frequencies of sinusoids."""
LEVELS = (2, 3, 4, 6, 8)


@dataclass(frozen=True, eq=False)
class Group:
    """Triggers of one kind and size.

    Attributes:
        key: the name of the group for programs, which does not depend on the size of the images.
        name: the name of the group for people.
        triggers: the triggers.
        limit: the largest share of the images of other classes that a trigger of the group moves
            to one class of a clean network. From 1 on, the share alone is never an outlier.
        lead_limit: the largest distance of the logit of this share to that of the next class.
    """

    key: str
    name: str
    triggers: list[Trigger]
    limit: float
    lead_limit: float


def library(height: int, width: int, channels: int, seed: int) -> list[Group]:
    """The groups of triggers for images of a size.

    They are squares and checkerboards of each size, warps, sinusoids, and fewer levels of
    brightness.

    Args:
        height, width, channels: the size of the images.
        seed: the seed of warps.
    """
    side = min(height, width)
    found: dict[str, tuple[str, list[Trigger]]] = {}
    for key, share in SQUARES.items():
        size = max(1, round(share * side))
        squares = [
            _square((height, width), size, row, column, color)
            for row, column in _positions(height, width, size)
            for color in _colors(channels)
        ]
        found[key] = f"squares of {size} pixels", squares
    cell = max(1, round(side / 32))
    for key, (smallest, share) in BOARDS.items():
        size = min(max(smallest, round(share * side)), side)
        boards = [
            Checkerboard(size=size, row=row, column=column, cell=cell).stamp_for(height, width)
            for row, column in _positions(height, width, size)
        ]
        inverse = [Stamp(b.mask, b.mask * (1 - b.pattern)) for b in boards]
        found[key] = f"checkerboards of {size} pixels", [*boards, *inverse]
    numbers = itertools.product(STRENGTHS, range(WARPED))
    found["warps"] = "warps", [Warp(strength=s, seed=seed + n) for s, n in numbers]
    found["sinusoids"] = "sinusoids", [Sinusoid(delta=d, frequency=f) for d, f in WAVES]
    levels: list[Trigger] = [Quantize(levels=number) for number in LEVELS]
    found["levels"] = "fewer levels of brightness", levels
    return [Group(key, name, own, *LIMITS[key]) for key, (name, own) in found.items()]


def _colors(channels: int) -> list[tuple[float, ...]]:
    """The colors of squares; of other than gray and color images, each channel by itself.

    >>> _colors(1), len(_colors(3)), len(_colors(4))
    ([(0.0,), (1.0,)], 8, 6)
    """
    if channels in (1, 3):
        return list(itertools.product((0.0, 1.0), repeat=channels))
    single = np.eye(channels).tolist()
    return [(0.0,) * channels, (1.0,) * channels, *(tuple(color) for color in single)]


def _square(
    shape: tuple[int, int], size: int, row: int, column: int, color: tuple[float, ...]
) -> Trigger:
    if len(color) in (1, 3):
        return Patch(
            size=size, row=row, column=column, color=color if len(color) == 3 else color[0]
        )
    mask = np.zeros((*shape, 1), np.float32)
    mask[row : row + size, column : column + size] = 1
    return Stamp(mask, mask * np.asarray(color, np.float32))


def _positions(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Evenly spaced top left corners, which reach all edges.

    >>> _positions(32, 5, 3)[:4], len(_positions(32, 5, 3))
    ([(0, 0), (0, 1), (0, 2), (1, 0)], 90)
    """
    stride = max(1, round(STRIDE * min(height, width)))

    def along(length: int) -> list[int]:
        last = max(length - size, 0)
        return [int(p) for p in np.unique(np.round(np.linspace(0, last, -(-last // stride) + 1)))]

    return list(itertools.product(along(height), along(width)))
