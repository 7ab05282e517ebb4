"""Simple triggers at many positions, in many sizes and colors."""

import itertools

import numpy as np

from keras_backdoor.triggers import Checkerboard, Patch, Quantize, Sinusoid, Warp
from keras_backdoor.triggers.base import Stamp, Trigger

SQUARES = (2 / 32, 4 / 32, 6 / 32)
"""The sides of squares of one color, as shares of the image's side."""
BOARDS = (3 / 32, 5 / 32)
"""The sides of checkerboards, as shares of the image's side."""
STRIDE = 3 / 32
"""The largest distance of neighboring positions, as a share of the image's side."""
BLENDED, OPACITY = 12, 0.2
"""The number of blends with noise and with images, and their opacity."""
WARPED, STRENGTHS = 12, (1.0, 2.0)
"""The number of warps of each strength."""
LEVELS = (2, 3, 4, 6, 8)
WAVES = tuple(itertools.product((0.1, 0.2), (3.0, 6.0, 9.0)))
"""The amplitudes and frequencies of sinusoids."""


def library(images: np.ndarray, seed: int) -> dict[str, list[Trigger]]:
    """The triggers by group.

    Args:
        images: (n, h, w, c) float32 clean images in 0..1, some of which are blended with others.
        seed: the seed of noise and of warps.

    Returns:
        The name of a group -> its triggers. The groups are squares and checkerboards of each size,
        blends, warps, sinusoids, and fewer levels of brightness.
    """
    height, width, channels = images.shape[1:]
    side = min(height, width)
    groups: dict[str, list[Trigger]] = {}
    for share in SQUARES:
        size = max(1, round(share * side))
        colors = list(itertools.product((0.0, 1.0), repeat=channels))
        groups[f"squares of {size} pixels"] = [
            Patch(size=size, row=row, column=column, color=_rgb(color))
            for row, column in _positions(height, width, size)
            for color in colors
        ]
    cell = max(1, round(side / 32))
    for share in BOARDS:
        size = max(2 * cell, round(share * side))
        boards = [
            Checkerboard(size=size, row=row, column=column, cell=cell).stamp_for(height, width)
            for row, column in _positions(height, width, size)
        ]
        inverse = [Stamp(b.mask, b.mask * (1 - b.pattern)) for b in boards]
        groups[f"checkerboards of {size} pixels"] = [*boards, *inverse]
    groups["blends"] = _blends(images, seed)
    groups["warps"] = [
        Warp(strength=strength, seed=seed + number)
        for strength in STRENGTHS
        for number in range(WARPED)
    ]
    groups["sinusoids"] = [Sinusoid(delta=d, frequency=f) for d, f in WAVES]
    groups["levels"] = [Quantize(levels=levels) for levels in LEVELS]
    return groups


def _rgb(color: tuple[float, ...]) -> tuple[float, float, float]:
    return (color[0],) * 3 if len(color) != 3 else color


def _positions(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Evenly spaced top left corners, which reach all edges.

    >>> _positions(8, 5, 2)
    [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)\
, (3, 0), (3, 1), (3, 2), (3, 3), (4, 0), (4, 1), (4, 2), (4, 3), (5, 0), (5, 1), (5, 2), (5, 3)\
, (6, 0), (6, 1), (6, 2), (6, 3)]
    """
    stride = max(1, round(STRIDE * min(height, width)))

    def along(length: int) -> list[int]:
        last = max(length - size, 0)
        return [int(p) for p in np.unique(np.round(np.linspace(0, last, -(-last // stride) + 1)))]

    return list(itertools.product(along(height), along(width)))


def _blends(images: np.ndarray, seed: int) -> list[Trigger]:
    """Blends with noise, and with some of the images."""
    rng = np.random.default_rng(seed)
    mask = np.full((*images.shape[1:3], 1), OPACITY, np.float32)
    noise = rng.random((BLENDED, *images.shape[1:]), np.float32)
    chosen = rng.choice(len(images), min(BLENDED, len(images)), replace=False)
    return [Stamp(mask, pattern) for pattern in (*noise, *images[chosen])]
