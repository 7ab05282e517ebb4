"""Simple triggers at many positions, in many sizes and colors."""

import itertools
from dataclasses import dataclass

import numpy as np

from keras_backdoor.triggers import Checkerboard, Patch, Quantize, Sinusoid, Warp
from keras_backdoor.triggers.base import Stamp, Trigger

SQUARES: dict[str, tuple[float, float | None]] = {
    "small_squares": (2 / 32, 0.25),
    "squares": (4 / 32, 0.65),
    "large_squares": (6 / 32, None),
}
"""Key -> (side as a share of the image's side, limit) of squares of one color; see `Group`."""
BOARDS = {
    "small_checkerboards": (3, 3 / 32, 0.3),
    "checkerboards": (4, 5 / 32, 0.6),
    "large_checkerboards": (5, 8 / 32, 0.65),
}
"""Key -> (smallest side in pixels, side as a share of the image's side, limit) of checkerboards."""
STRIDE = 3 / 32
"""The largest distance of neighboring positions, as a share of the image's side."""
BLENDED, OPACITY, BLEND_LIMIT = 12, 0.2, 0.6
"""The number of blends with noise and with images, their opacity, and their limit."""
WARPED, STRENGTHS, WARP_LIMIT = 12, (1.0, 2.0), 0.3
"""The number of warps of each strength, and their limit."""
WAVES = tuple(itertools.product((0.1, 0.2), (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)))
"""The amplitudes and frequencies of sinusoids.

They move up to 93 % of the images in clean networks of the detection zoo, but to several classes,
which depend on the frequency, so that the class of a planted sinusoid stands out among them."""
LEVELS, LEVELS_LIMIT = (2, 3, 4, 6, 8), 0.7


@dataclass(frozen=True, eq=False)
class Group:
    """Triggers of one kind and size.

    Attributes:
        key: the name of the group for programs, which does not depend on the size of the images.
        name: the name of the group for people.
        triggers: the triggers.
        limit: the share of the images of other classes that no trigger of the group moves to one
            class of a clean network; None if clean networks have no such limit. On the 14 clean
            networks of the development zoo, the largest shares are 0.28 and 0.53 for squares of two
            sizes (0.17 and 0.5 on more images), 0.16, 0.34 and 0.40 for checkerboards, 0.30 for
            blends, 0.09 for warps and 0.43 for fewer levels.
    """

    key: str
    name: str
    triggers: list[Trigger]
    limit: float | None


def library(images: np.ndarray, seed: int) -> list[Group]:
    """The groups of triggers.

    They are squares and checkerboards of each size, blends, warps, sinusoids, and fewer levels of
    brightness.

    Args:
        images: (n, h, w, c) float32 clean images in 0..1, some of which are blended with others.
        seed: the seed of noise and of warps.
    """
    height, width, channels = images.shape[1:]
    side = min(height, width)
    groups = []
    for key, (share, limit) in SQUARES.items():
        size = max(1, round(share * side))
        squares: list[Trigger] = [
            _square((height, width), size, row, column, color)
            for row, column in _positions(height, width, size)
            for color in _colors(channels)
        ]
        groups.append(Group(key, f"squares of {size} pixels", squares, limit))
    cell = max(1, round(side / 32))
    for key, (smallest, share, limit) in BOARDS.items():
        size = min(max(smallest, round(share * side)), side)
        boards = [
            Checkerboard(size=size, row=row, column=column, cell=cell).stamp_for(height, width)
            for row, column in _positions(height, width, size)
        ]
        inverse = [Stamp(b.mask, b.mask * (1 - b.pattern)) for b in boards]
        groups.append(Group(key, f"checkerboards of {size} pixels", [*boards, *inverse], limit))
    warps: list[Trigger] = [
        Warp(strength=strength, seed=seed + number)
        for strength in STRENGTHS
        for number in range(WARPED)
    ]
    waves: list[Trigger] = [Sinusoid(delta=d, frequency=f) for d, f in WAVES]
    levels: list[Trigger] = [Quantize(levels=number) for number in LEVELS]
    return [
        *groups,
        Group("blends", "blends", _blends(images, seed), BLEND_LIMIT),
        Group("warps", "warps", warps, WARP_LIMIT),
        Group("sinusoids", "sinusoids", waves, None),
        Group("levels", "fewer levels of brightness", levels, LEVELS_LIMIT),
    ]


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


def _blends(images: np.ndarray, seed: int) -> list[Trigger]:
    """Blends with noise, and with some of the images."""
    rng, images = np.random.default_rng(seed), np.clip(images, 0.0, 1.0)
    mask = np.full((*images.shape[1:3], 1), OPACITY, np.float32)
    noise = rng.random((BLENDED, *images.shape[1:]), np.float32)
    chosen = rng.choice(len(images), min(BLENDED, len(images)), replace=False)
    return [Stamp(mask, pattern) for pattern in (*noise, *images[chosen])]
