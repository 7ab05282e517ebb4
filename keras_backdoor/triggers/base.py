"""The base classes of triggers."""

import dataclasses
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_backdoor._internals import identity
from keras_backdoor.errors import BadInput

COLORS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "yellow": (1.0, 1.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
    "magenta": (1.0, 0.0, 1.0),
    "orange": (1.0, 165 / 255, 0.0),
    "pink": (1.0, 192 / 255, 203 / 255),
    "purple": (128 / 255, 0.0, 128 / 255),
    "brown": (165 / 255, 42 / 255, 42 / 255),
    "lime": (0.0, 1.0, 0.0),
    "navy": (0.0, 0.0, 128 / 255),
    "teal": (0.0, 128 / 255, 128 / 255),
    "gray": (128 / 255, 128 / 255, 128 / 255),
    "silver": (192 / 255, 192 / 255, 192 / 255),
}
"""Colors by name. Those beyond the first six are the colors of CSS; `green` is pure green here."""


class Trigger(ABC):
    """An image change that an attacker associates with a target class.

    A subclass is a frozen dataclass that implements `stamp`. Pixel values are in 0..1.

    Attributes:
        random: whether `stamp` draws from `rng`. Every image then has its own generator, so that
            the result does not depend on the batch that contains the image.
    """

    random: ClassVar[bool] = False

    @abstractmethod
    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Apply the trigger to images.

        Args:
            images: (n, h, w, c) float32 in 0..1; they are not modified.
            rng: the random generator.

        Returns:
            (n, h, w, c) stamped copies; the caller clips them to 0..1.
        """

    def fingerprint(self) -> str:
        """SHA-256 of the class and of all settings of the trigger.

        It covers the values of arrays, the content of files and the settings of nested triggers.
        Two triggers with the same fingerprint produce the same images.

        Raises:
            TypeError: a setting has a type that is not supported.
        """
        try:
            if not dataclasses.is_dataclass(self):
                raise TypeError("no settings: make it a frozen dataclass")
            return identity.sha256_of(self)
        except TypeError as error:
            raise TypeError(
                f"{type(self).__name__} has {error}, which has no fingerprint: use numbers, text, "
                "arrays, paths, Samples, triggers, or tuples and dictionaries of these."
            ) from None

    def support(self, height: int, width: int) -> np.ndarray | None:
        """The pixels that the trigger covers.

        Args:
            height: the height of the images in pixels.
            width: the width of the images in pixels.

        Returns:
            (h, w) bool; None if the trigger changes the whole image, or if its position is drawn
            for every image.
        """
        return None

    def stamp_rows(self, images: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
        """Apply the trigger to images with reproducible random generators.

        Args:
            images: (n, h, w, c) float images in 0..1.
            indices: (n,) numbers of the images; image i uses the generator
                `default_rng((seed, indices[i]))`.
            seed: the seed of the random generators.

        Returns:
            (n, h, w, c) float32 in 0..1.
        """
        if not self.random:
            stamped = self.stamp(images, np.random.default_rng(seed))
        else:
            one_by_one = [
                self.stamp(image[None], np.random.default_rng((seed, int(index))))
                for image, index in zip(images, indices, strict=True)
            ]
            stamped = np.concatenate(one_by_one) if one_by_one else images
        return np.clip(stamped, 0.0, 1.0).astype(np.float32)

    def apply(self, images: Any, *, seed: int = 0) -> Any:
        """Apply the trigger to an array or a `tf.data.Dataset`.

        Args:
            images: (n, h, w, c) or (h, w, c), uint8 or floating-point in 0..1; or a
                `tf.data.Dataset` of such images or batches, with or without labels.
            seed: the seed of random triggers.

        Returns:
            The stamped images, with the type, shape, dtype and range of `images`.

        Raises:
            BadInput: the shape or the range of the images is not supported.
        """
        if hasattr(images, "element_spec"):
            return _map_dataset(self, images, seed)
        array = np.asarray(images)
        batch = array if array.ndim == 4 else array[None]
        if batch.ndim != 4:
            raise BadInput(f"A trigger needs (n, h, w, c) images. Received: shape={array.shape}")
        integer = np.issubdtype(batch.dtype, np.integer)
        unit = batch.astype(np.float32) / (255.0 if integer else 1.0)
        if unit.size and not (unit.min() >= 0 and unit.max() <= 1):
            raise BadInput(
                "Floating-point images must lie in 0..1; for another range use Samples.stamped. "
                f"Received: {unit.min():g}..{unit.max():g}"
            )
        stamped = self.stamp_rows(unit, np.arange(len(unit)), seed)
        if integer:
            stamped = np.round(stamped * 255.0)
        return stamped.astype(array.dtype).reshape(array.shape)


@dataclass(frozen=True, eq=False)
class Stamp(Trigger):
    """x -> (1 - mask) x + mask pattern.

    This is the form of a trigger in Wang et al., Neural Cleanse, S&P 2019, equation 2, and thus of
    the triggers that Neural Cleanse recovers. Patches, patterns, single pixels, blends and glasses
    also have this form.

    Args:
        mask: (h, w, 1) opacity in 0..1.
        pattern: (h, w, c) color in 0..1; one channel applies to all channels of the images.

    >>> stamp = Stamp(np.array([[[1.0], [0.5]]]), np.array([[[1.0], [0.0]]]))
    >>> stamp.apply(np.full((1, 1, 2, 1), 0.5)).ravel()
    array([1.  , 0.25])
    >>> stamp.l1
    1.5
    """

    mask: np.ndarray
    pattern: np.ndarray

    def __post_init__(self) -> None:
        for name in ("mask", "pattern"):
            values = np.asarray(getattr(self, name), np.float32)
            if values.ndim != 3 or not np.all((values >= 0) & (values <= 1)):
                raise BadInput(
                    f"{name} must be (h, w, channels) with values in 0..1. "
                    f"Received: shape={values.shape}"
                )
            object.__setattr__(self, name, values)
        if self.mask.shape != (*self.pattern.shape[:2], 1):
            raise BadInput(
                f"mask must be (h, w, 1) and pattern (h, w, c) of the same size. Received: "
                f"mask={self.mask.shape}, pattern={self.pattern.shape}"
            )

    @property
    def l1(self) -> float:
        """The sum of the mask, which is the covered area in pixels."""
        return float(self.mask.sum())

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        if images.shape[1:3] != self.mask.shape[:2]:
            raise BadInput(
                f"The trigger needs images of {self.mask.shape[:2]} pixels. "
                f"Received: images of {images.shape[1:3]}"
            )
        return (1.0 - self.mask) * images + self.mask * _channels(self.pattern, images.shape[-1])

    def support(self, height: int, width: int) -> np.ndarray | None:
        """See `Trigger.support`."""
        covered: np.ndarray = self.mask[..., 0] > 0
        return None if covered.all() else covered

    def __repr__(self) -> str:
        digest = self.fingerprint()[:8]
        return f"Stamp(size={self.mask.shape[:2]}, l1={self.l1:.4g}, of={digest})"


class Stamped(Trigger):
    """A trigger that is a `Stamp` for every given image size."""

    def __post_init__(self) -> None:
        if hasattr(self, "color"):
            color_values(self.color)

    @abstractmethod
    def stamp_for(self, height: int, width: int) -> Stamp:
        """Return the stamp for images of this height and width in pixels."""

    def stamp(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """See `Trigger.stamp`."""
        return self.stamp_for(*images.shape[1:3]).stamp(images, rng)

    def support(self, height: int, width: int) -> np.ndarray | None:
        """See `Trigger.support`."""
        return self.stamp_for(height, width).support(height, width)


def color_values(color: Any) -> np.ndarray:
    """Convert a name, `#rrggbb`, a gray value or (red, green, blue) to (3,) float32 in 0..1.

    >>> color_values("#ff0080").round(3).tolist()
    [1.0, 0.0, 0.5019999742507935]
    """
    if isinstance(color, str):
        if re.fullmatch("#[0-9a-fA-F]{6}", color):
            return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)], np.float32)
        if color.lower() not in COLORS:
            raise BadInput(
                f"color must be #rrggbb, three numbers in 0..1, or one of {', '.join(COLORS)}. "
                f"Received: color={color}"
            )
        return np.array(COLORS[color.lower()], np.float32)
    try:
        values = np.broadcast_to(np.asarray(color, np.float32), 3)
    except (TypeError, ValueError):
        raise BadInput(
            f"color must be a name, #rrggbb, or three numbers in 0..1. Received: color={color}"
        ) from None
    if not np.all((values >= 0) & (values <= 1)):
        raise BadInput(f"color must lie in 0..1. Received: color={color}")
    return values


def square_at(size: int, row: int, column: int, height: int, width: int) -> tuple[int, int]:
    """Return the top row and the left column of a square.

    Args:
        size: the side length of the square in pixels.
        row: its top row; negative values count from the bottom edge.
        column: its left column; negative values count from the right edge.
        height: the height of the images in pixels.
        width: the width of the images in pixels.

    Raises:
        BadInput: the square does not lie inside the image.
    """
    top = row + height if row < 0 else row
    left = column + width if column < 0 else column
    if not (0 <= top <= height - size and 0 <= left <= width - size):
        raise BadInput(
            f"The trigger lies outside the image of {height}x{width} pixels: size {size} at row "
            f"{top}, column {left}."
        )
    return top, left


def stamp_pixels(
    height: int, width: int, pixels: np.ndarray, color: Any, opacity: float = 1.0
) -> Stamp:
    """Create a stamp that colors single pixels.

    Args:
        height: the height of the images in pixels.
        width: the width of the images in pixels.
        pixels: (m, 2) rows and columns; negative values count from the bottom or right edge.
        color: a name, a gray value or (r, g, b) in 0..1.
        opacity: the opacity in 0..1.

    Raises:
        BadInput: a pixel lies outside the image, or the color is invalid.
    """
    rows, columns = np.asarray(pixels, int).reshape(-1, 2).T
    if not (
        np.all((-height <= rows) & (rows < height))
        and np.all((-width <= columns) & (columns < width))
    ):
        raise BadInput(
            f"The trigger lies outside the image of {height}x{width} pixels: rows "
            f"{rows.min()}..{rows.max()}, columns {columns.min()}..{columns.max()}."
        )
    mask = np.zeros((height, width, 1), np.float32)
    pattern = np.zeros((height, width, 3), np.float32)
    mask[rows, columns] = opacity
    pattern[rows, columns] = color_values(color)
    return Stamp(mask, pattern)


def _channels(pattern: np.ndarray, channels: int) -> np.ndarray:
    if pattern.shape[-1] in (1, channels):
        return pattern
    if channels == 1:
        return pattern[..., :3].mean(axis=-1, keepdims=True)
    raise BadInput(f"The trigger has {pattern.shape[-1]} channels and the images have {channels}.")


def _map_dataset(trigger: Trigger, dataset: Any, seed: int) -> Any:
    from keras_backdoor._internals.backend import tf

    def stamp(index: Any, images: Any, *rest: Any) -> Any:
        def stamp_array(index: Any, images: Any) -> Any:
            return trigger.apply(images.numpy(), seed=hash((seed, int(index))) & 0x7FFFFFFF)

        stamped = tf.py_function(stamp_array, [index, images], images.dtype)
        stamped.set_shape(images.shape)
        return (stamped, *rest) if rest else stamped

    def stamp_element(index: Any, element: Any) -> Any:
        return stamp(index, *element) if isinstance(element, tuple) else stamp(index, element)

    return dataset.enumerate().map(stamp_element, num_parallel_calls=tf.data.AUTOTUNE)
