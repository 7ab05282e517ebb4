"""Random triggers on batches of images, as TensorFlow operations for a `tf.data` pipeline."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.defenses._random_numbers import Draw
from keras_backdoor.errors import BadInput
from keras_backdoor.triggers.base import Stamp

LOCAL: dict[str, tuple[float, float, float]] = {
    "patch": (3.0, 1 / 32, 6 / 32),
    "pattern": (3.0, 2 / 32, 7 / 32),
    "noise-patch": (1.0, 2 / 32, 6 / 32),
    "checkerboard": (1.0, 3 / 32, 8 / 32),
}
"""Family -> (weight, smallest side, largest side), the sides as shares of the image's side."""
WHOLE: dict[str, float] = {"blend": 1.0, "glasses": 1.0, "warp": 1.0}
"""Families that change a large part of the image -> weight."""
FAMILIES = (*LOCAL, *WHOLE)
WINDOW = 8 / 32
"""The side of the window that a local trigger lies in, as a share of the image's side."""
SMALL_SHARE = 0.7
"""The share of the images that get small triggers."""
PASSES = (1.0, 0.75, 0.5, 0.25)
"""Of these images, the shares that get a first, a second, a third and a fourth trigger."""
WHOLE_SHARE = 0.06
"""The share of the images that get a trigger of a large part of the image instead."""
RECOVERED_SHARE = 0.2
"""The share of the images that get a recovered trigger of a scan, where there is one."""
OPACITY = (0.05, 0.3)
"""The opacity of blends."""
STRENGTH = (0.5, 2.0)
"""The strength of warps, see `triggers.Warp`."""


@dataclass(frozen=True, eq=False)
class RandomTriggers:
    """Stamps random triggers on images and keeps their labels.

    Most images get one to four small triggers: squares of one color, figures of single pixels,
    squares of noise and checkerboards, at random positions and in random colors. A few are blended
    with noise or with another image, get glasses, or are warped instead.

    Args:
        families: the families to draw from, of `FAMILIES`.
        recovered: triggers that a scan recovered, each with the class that it is not stamped on.

    Raises:
        BadInput: a family does not exist, or there is none.
    """

    families: tuple[str, ...] = FAMILIES
    recovered: Sequence[tuple[Stamp, int]] = ()

    def __post_init__(self) -> None:
        if unknown := [name for name in self.families if name not in FAMILIES]:
            raise BadInput(
                f"families must be of {', '.join(FAMILIES)}. Received: {', '.join(unknown)}"
            )
        if not self.families and not self.recovered:
            raise BadInput("families must name at least one family of triggers.")

    def __call__(self, images: Any, labels: Any, seed: Any) -> Any:
        """Stamp a batch.

        Args:
            images: (b, h, w, c) float32 in 0..1.
            labels: (b,) int64; they decide where recovered triggers are not stamped.
            seed: (2,) int32, the seed of the batch.

        Returns:
            (b, h, w, c) float32 in 0..1.
        """
        if self.recovered:
            return self.stamped(images, labels, seed)
        return _traced(self.families, tuple(images.shape[1:]))(images, labels, seed)

    def stamped(self, images: Any, labels: Any, seed: Any) -> Any:
        """Stamp a batch as `__call__` does, by single operations."""
        draw = Draw(seed, tf.shape(images)[0])
        local = [name for name in LOCAL if name in self.families]
        whole = [name for name in WHOLE if name in self.families]
        kind = draw.uniform(1)
        whole_share = WHOLE_SHARE if local else SMALL_SHARE
        is_whole = (kind < whole_share) if whole else tf.zeros_like(kind, bool)
        is_small = ~is_whole & (kind < (whole_share if whole else 0.0) + SMALL_SHARE)
        stamped = images
        for number, part in enumerate(PASSES if local else ()):
            chosen = is_small & (draw.uniform(2 + number) < part)
            stamped = _with_local(stamped, chosen, local, Draw(seed + (number + 1) * 1_000_003))
        if whole:
            stamped = _with_whole(stamped, is_whole, whole, draw)
        if self.recovered:
            stamped = self._with_recovered(stamped, labels, draw)
        return tf.clip_by_value(stamped, 0.0, 1.0)

    def _with_recovered(self, images: Any, labels: Any, draw: "Draw") -> Any:
        """Stamp a recovered trigger on some of the images that are not of its target."""
        targets = tf.constant([target for _, target in self.recovered], tf.int64)
        number = tf.cast(draw.uniform(20) * len(self.recovered), tf.int32)
        chosen = (draw.uniform(21) < RECOVERED_SHARE) & (tf.gather(targets, number) != labels)
        rows = tf.where(chosen)[:, 0]
        number = tf.gather(number, rows)
        mask = tf.gather(np.stack([s.mask for s, _ in self.recovered]), number)
        pattern = tf.gather(np.stack([s.pattern for s, _ in self.recovered]), number)
        before = tf.gather(images, rows)
        return tf.tensor_scatter_nd_update(
            images, rows[:, None], (1.0 - mask) * before + mask * pattern
        )


@functools.cache
def _traced(families: tuple[str, ...], shape: tuple[int, int, int]) -> Any:
    """The triggers without recovered ones as a graph, which all trainings of a process share."""
    batch = (
        tf.TensorSpec((None, *shape), tf.float32),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((2,), tf.int32),
    )
    with tf.init_scope():
        stamped = tf.function(RandomTriggers(families).stamped, autograph=False)
        return stamped.get_concrete_function(*batch)


def _with_local(images: Any, chosen: Any, names: list[str], draw: Draw) -> Any:
    """Stamp a small trigger on the chosen images."""
    rows = tf.where(chosen)[:, 0]
    draw.number = tf.shape(rows)[0]
    _, height, width, channels = images.shape
    side = min(height, width)
    window = max(2, round(WINDOW * side))
    family = draw.choice(0, [LOCAL[name][0] for name in names])
    low, high = (
        tf.gather(
            tf.constant([max(1.0, round(LOCAL[n][i] * side)) for n in names], tf.float32), family
        )
        for i in (1, 2)
    )
    size = tf.minimum(draw.whole_number(1, low, high), float(window))
    y, top = _window(draw.uniform(2), size, height, window)
    x, left = _window(draw.uniform(3), size, width, window)
    mask, pattern = _local_trigger(y, x, size, family, names, channels, draw)
    vertical = (top[:, None] + tf.range(window))[:, :, None]
    horizontal = (left[:, None] + tf.range(window))[:, None, :]
    pixel = (tf.cast(rows, tf.int32)[:, None, None] * height + vertical) * width + horizontal
    flat = tf.reshape(images, (-1, channels))
    where = tf.boolean_mask(pixel, mask)
    stamped = tf.tensor_scatter_nd_update(flat, where[:, None], tf.boolean_mask(pattern, mask))
    return tf.reshape(stamped, tf.shape(images))


def _local_trigger(
    y: Any, x: Any, size: Any, family: Any, names: list[str], channels: int, draw: Draw
) -> tuple[Any, Any]:
    """Draw small triggers.

    Args:
        y: (m, w) the distance of each row of the window from the first one of the trigger.
        x: (m, w) the same for the columns.
        size: (m,) the side of the trigger in pixels.
        family: (m,) positions in `names`.
        names: the families to draw from.
        channels: the number of channels.
        draw: the random numbers.

    Returns:
        (m, w, w) bool, the pixels of the trigger; and (m, w, w, c), their colors.
    """
    window = y.shape[-1]
    mask = (
        (((y >= 0) & (y < size[:, None]))[:, :, None])
        & (((x >= 0) & (x < size[:, None]))[:, None, :])
    )
    color = _color(draw, 4, channels)[:, None, None, :]
    pattern = tf.broadcast_to(color, (draw.number, window, window, channels))
    if "pattern" in names:
        density = draw.uniform(7, low=0.2, high=0.8)[:, None, None]
        pixels = draw.uniform(8, window, window) < density
        mask &= pixels | (family != names.index("pattern"))[:, None, None]
    if "noise-patch" in names:
        noise = draw.uniform(9, window, window, channels)
        pattern = tf.where(_is(family, names, "noise-patch"), noise, pattern)
    if "checkerboard" in names:
        cell = draw.whole_number(10, 1.0, 2.0)[:, None, None]
        cells = tf.floor(y[:, :, None] / cell) + tf.floor(x[:, None, :] / cell)
        even = (tf.math.floormod(cells, 2.0) == 0.0)[..., None]
        contrast = draw.uniform(11)[:, None, None, None] < 0.5
        other = tf.where(contrast, 1.0 - tf.round(color), _color(draw, 12, channels)[:, None, None])
        first = tf.where(contrast, tf.round(color), color)
        board = tf.where(even, first, other)
        pattern = tf.where(_is(family, names, "checkerboard"), board, pattern)
    return mask, pattern


def _is(family: Any, names: list[str], name: str) -> Any:
    return (family == names.index(name))[:, None, None, None]


def _window(position: Any, size: Any, length: int, window: int) -> tuple[Any, Any]:
    """Choose a window around a trigger along one axis.

    Args:
        position: (m,) in 0..1, the position of the trigger.
        size: (m,) the side of the trigger in pixels.
        length: the length of the axis.
        window: the side of the window.

    Returns:
        The distance (m, window) of each pixel of the window from the first one of the trigger, and
        the first pixel (m,) of the window.
    """
    first = tf.floor(position * (float(length) - size + 1.0))
    start = tf.minimum(first, float(length - window))
    distance = tf.range(window, dtype=tf.float32) + (start - first)[:, None]
    return distance, tf.cast(start, tf.int32)


def _color(draw: Draw, stream: int, channels: int) -> Any:
    """(m, channels): half of the colors have channels of 0 and 1, the others are arbitrary."""
    arbitrary = draw.uniform(stream, channels)
    saturated = draw.uniform(stream + 1)[:, None] < 0.5
    return tf.where(saturated, tf.round(arbitrary), arbitrary)


def _with_whole(images: Any, chosen: Any, names: list[str], draw: Draw) -> Any:
    """Stamp a trigger that changes a large part of the image on the chosen images."""
    family = draw.choice(6, [WHOLE[name] for name in names])
    changes = {"blend": _blended, "glasses": _with_glasses, "warp": _warped}
    for number, name in enumerate(names):
        rows = tf.where(chosen & (family == number))[:, 0]
        own = Draw(draw.seed + (number + 7) * 1_000_003, tf.shape(rows)[0])
        others = tf.gather(images, (rows + 1) % tf.cast(tf.shape(images)[0], tf.int64))
        changed = changes[name](tf.gather(images, rows), others, own)
        images = tf.tensor_scatter_nd_update(images, rows[:, None], changed)
    return images


def _blended(images: Any, others: Any, draw: Draw) -> Any:
    """Blend images with noise or with other images."""
    _, height, width, channels = images.shape
    opacity = draw.uniform(0, low=OPACITY[0], high=OPACITY[1])[:, None, None, None]
    noisy = draw.uniform(1)[:, None, None, None] < 0.5
    picture = tf.where(noisy, draw.uniform(2, height, width, channels), others)
    return (1.0 - opacity) * images + opacity * picture


def _with_glasses(images: Any, others: Any, draw: Draw) -> Any:
    """Draw glasses of a random size, position and color, shaped as `triggers.Glasses`."""
    _, height, width, channels = images.shape
    size = draw.uniform(0, low=0.4, high=1.0) * width
    left = draw.uniform(1) * (width - size)
    top = draw.uniform(2) * tf.maximum(height - 0.4 * size, 0.0)
    y = (tf.range(height, dtype=tf.float32)[:, None] + 0.5 - top[:, None, None]) / size[
        :, None, None
    ]
    x = (tf.range(width, dtype=tf.float32)[None, :] + 0.5 - left[:, None, None]) / size[
        :, None, None
    ]
    across = tf.minimum(tf.square((x - 0.26) / 0.22), tf.square((x - 0.74) / 0.22))
    lenses = across + tf.square((y - 0.2) / 0.17) <= 1.0
    thickness = tf.maximum(0.03, 0.5 / size)[:, None, None]
    bar = (tf.abs(y - 0.1) <= thickness) & (x >= 0.0) & (x <= 1.0)
    color = _color(draw, 3, channels)[:, None, None, :]
    return tf.where((lenses | bar)[..., None], color, images)


def _warped(images: Any, others: Any, draw: Draw) -> Any:
    """Warp images with random smooth shifts, as `triggers.Warp`."""
    _, height, width, channels = images.shape
    grid = 4
    control = draw.uniform(0, grid, grid, 2, low=-1.0)
    control /= tf.reduce_mean(tf.abs(control), axis=(1, 2, 3), keepdims=True)
    strength = draw.uniform(1, low=STRENGTH[0], high=STRENGTH[1])[:, None, None, None]
    shifts = tf.image.resize(control, (height, width), method="bicubic") * strength / 2.0
    y = tf.range(height, dtype=tf.float32)[:, None] + shifts[..., 0]
    x = tf.range(width, dtype=tf.float32)[None, :] + shifts[..., 1]
    y = tf.clip_by_value(y, 0.0, height - 1.0)
    x = tf.clip_by_value(x, 0.0, width - 1.0)
    top, left = tf.floor(y), tf.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    flat = tf.reshape(images, (-1, height * width, channels))

    def corner(dy: float, dx: float) -> Any:
        row = tf.minimum(top + dy, height - 1.0)
        pixel = tf.cast(row * width + tf.minimum(left + dx, width - 1.0), tf.int32)
        found = tf.gather(flat, tf.reshape(pixel, (-1, height * width)), batch_dims=1)
        return tf.reshape(found, (-1, height, width, channels))

    upper = (1.0 - right) * corner(0, 0) + right * corner(0, 1)
    lower = (1.0 - right) * corner(1, 0) + right * corner(1, 1)
    return (1.0 - down) * upper + down * lower
