"""Images with labels and provenance, in memory or on disk, as `tf.data` batches."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples.arrays import (
    as_images,
    as_labels,
    check_range,
    collect,
    stored_range,
    track_mask,
)
from keras_backdoor.samples.images import (
    ArrayImages,
    Converted,
    Cropped,
    Joined,
    Mapped,
    Subset,
)

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_backdoor.triggers.base import Trigger

COLUMNS = ("labels", "origin", "track", "row_numbers")
MEMORY_LIMIT = 2 * 2**30
"""Limit of the decoded size of a data set that is read into memory, in bytes."""
BLOCK = 1024
"""The number of images that are read at once where each is looked at by itself."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Images with optional labels and provenance.

    Args:
        images: (n, h, w, c) or (n, h, w), uint8 or floating-point; an array, or `Images` that are
            read lazily.
        labels: (n,) class numbers or (n, classes) one-hot vectors; None for unlabeled images.
        origin: (n,) the provenance of each image, such as its device or source, or None.
        track: (n,) the number of the recording that contains the frame, within its class, or
            None.
        value_range: the lowest and highest possible value of a stored pixel. The default is
            (0, 255) for integers, and is inferred from the values of floating-point arrays.
        class_names: the names of the classes, or None.
        row_numbers: (n,) the row of each image in its data file, from 0; the default is the order
            of the images.

    Raises:
        BadInput: shapes, lengths, labels or values are invalid or do not match.

    >>> samples = Samples(np.zeros((4, 2, 2), np.uint8), np.array([0, 1, 1, 0]))
    >>> samples.image_shape, samples.value_range
    ((2, 2, 1), (0.0, 255.0))
    >>> len(samples.of_class(1))
    2
    """

    images: Any
    labels: np.ndarray | None = None
    origin: np.ndarray | None = None
    track: np.ndarray | None = None
    value_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] | None = None
    row_numbers: np.ndarray | None = None
    _fingerprint: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "images", as_images(self.images))
        if len(self.images) == 0:
            raise BadInput("The data has no images: at least one is needed.")
        set_field(self, "value_range", self.value_range or stored_range(self.images))
        low, high = self.value_range or (0.0, 255.0)
        if not (np.isfinite([low, high]).all() and low < high):
            raise BadInput(f"value_range must be (lowest, highest). Received: {self.value_range}")
        if isinstance(self.images, ArrayImages) and self.images.dtype.kind == "f":
            check_range(self.images.array, (low, high))
        set_field(self, "labels", as_labels(self.labels))
        if self.row_numbers is None:
            set_field(self, "row_numbers", np.arange(len(self.images)))
        for name in COLUMNS:
            values = getattr(self, name)
            if values is not None:
                set_field(self, name, np.asarray(values))
                if len(values) != len(self.images):
                    raise BadInput(
                        f"{name} must have one value per image. Received: {len(values)} {name} "
                        f"for {len(self.images)} images"
                    )

    @classmethod
    def wrap(cls, data: Any) -> "Samples":
        """Create samples from images, a pair (images, labels), or a `tf.data.Dataset`."""
        if isinstance(data, Samples):
            return data
        if hasattr(data, "element_spec"):
            return cls(*collect(data))
        if isinstance(data, tuple | list) and len(data) == 2:
            return cls(np.asarray(data[0]), np.asarray(data[1]))
        if isinstance(data, np.ndarray):
            return cls(data)
        raise BadInput(
            "Data must be Samples, an array of images, a pair (images, labels) or a "
            f"tf.data.Dataset. Received: {type(data).__name__}"
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def known_labels(self) -> np.ndarray:
        """(n,) int64 labels; raises `BadInput` if the samples have no labels."""
        if self.labels is None:
            raise BadInput("Labeled images are needed, but these samples have no labels.")
        return self.labels

    def description(self) -> str:
        """The number of images, and the number and the name of each class, as text.

        >>> pixels = np.zeros((3, 2, 2), np.uint8)
        >>> Samples(pixels, [0, 1, 1], class_names=("cat", "dog")).description()
        '3 images: 0 = cat (1), 1 = dog (2)'
        >>> Samples(pixels, [0, 2, 2]).description()
        '3 images of 2 classes, 1 to 2 each; none of class 1'
        """
        number = f"{len(self):,} image{'' if len(self) == 1 else 's'}"
        if self.labels is None:
            return f"{number} without labels"
        counts = np.bincount(self.labels, minlength=len(self.class_names or ()))
        names = self.class_names
        if names and any(name != str(n) for n, name in enumerate(names)):
            listed = [f"{n} = {name} ({counts[n]})" for n, name in enumerate(names)]
            return f"{number}: {', '.join(listed)}"
        seen, missing = counts[counts > 0], np.flatnonzero(counts == 0)
        each = f"{seen.min()} to {seen.max()} each" if len(seen) > 1 else f"class {counts.argmax()}"
        text = f"{number} of {len(seen)} class{'' if len(seen) == 1 else 'es'}, {each}"
        shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        return f"{text}; none of class {shown}" if len(missing) else text

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read the stored pixels of consecutive images as (m, h, w, c)."""
        return self.images.read(np.arange(start, len(self) if stop is None else stop))

    def subset(self, indices: np.ndarray) -> "Samples":
        """Select samples by position or by a boolean mask, as a view.

        The samples keep their row numbers in the data file.

        Args:
            indices: (m,) positions, or an (n,) bool mask.

        Raises:
            BadInput: the selection is empty.
        """
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        if len(indices) == 0:
            raise BadInput("The selection contains no images: select at least one.")
        chosen: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[indices]
            for name in COLUMNS
        }
        return replace(self, images=Subset(self.images, indices), **chosen)

    def of_class(self, label: int) -> "Samples":
        """Select the samples of one class."""
        mask = self.known_labels == label
        if not mask.any():
            raise BadInput(f"Class {label} is empty: the data has no image with this label.")
        return self.subset(mask)

    def take(self, amount: float, *, seed: int = 0) -> "Samples":
        """Select images at random: a number of them, or a share if `amount` is below 1."""
        number = 0
        if np.isfinite(amount):
            number = round(amount * len(self)) if 0 < amount < 1 else int(amount)
        if not 1 <= number <= len(self):
            raise BadInput(
                f"take needs a share below 1 or a number from 1 to {len(self)}. "
                f"Received: take={amount}"
            )
        chosen = np.random.default_rng(seed).choice(len(self), number, replace=False)
        return self.subset(np.sort(chosen))

    def split(self, share: float, *, seed: int = 0, by_track: bool = False) -> tuple[Any, Any]:
        """Split the samples at random into two views.

        Args:
            share: the approximate share of the second view, between 0 and 1.
            seed: the seed of the random generator.
            by_track: whether to keep each recording (a pair of label and track) in one view.
                Every class with two or more recordings has at least one in each view.

        Returns:
            The first and the second view.
        """
        if not 0 < share < 1:
            raise BadInput(f"share must lie between 0 and 1. Received: share={share}")
        rng = np.random.default_rng(seed)
        if by_track:
            if self.track is None:
                raise BadInput("These samples have no tracks: split at random (by_track=False).")
            second = track_mask(self.known_labels, self.track, share, rng)
        else:
            second = np.zeros(len(self), bool)
            second[rng.choice(len(self), max(1, round(share * len(self))), replace=False)] = True
        return self.subset(~second), self.subset(second)

    def concat(self, *others: "Samples") -> "Samples":
        """Concatenate samples of the same image shape, dtype and range.

        The result is a new data set with row numbers from 0.
        """
        all_samples = (self, *others)
        kinds = {(s.image_shape, s.images.dtype.str, s.value_range) for s in all_samples}
        if len(kinds) > 1:
            raise BadInput(
                f"concat needs images of the same shape, dtype and range. Received: {kinds}"
            )
        joined: dict[str, Any] = {}
        for name in ("labels", "origin", "track"):
            parts = [getattr(s, name) for s in all_samples]
            joined[name] = None if any(p is None for p in parts) else np.concatenate(parts)
        images = Joined([s.images for s in all_samples])
        return replace(self, images=images, row_numbers=None, **joined)

    def stamped(self, trigger: "Trigger", *, seed: int = 0) -> "Samples":
        """Return the samples with a trigger on every image, which is applied on reading."""
        low, high = self.value_range  # type: ignore[misc]

        def change(pixels: np.ndarray, indices: np.ndarray) -> np.ndarray:
            unit = (pixels.astype(np.float32) - low) / (high - low)
            values = trigger.stamp_rows(unit, indices, seed) * (high - low) + low
            if np.issubdtype(pixels.dtype, np.integer):
                values = np.round(values)
            return values.astype(pixels.dtype)

        return replace(self, images=Mapped(self.images, change, f"{trigger.fingerprint()}{seed}"))

    def converted(
        self, size: tuple[int, int] | None = None, channels: int | None = None
    ) -> "Samples":
        """Return the samples with another size or other channels, which are converted on reading.

        Args:
            size: (height, width); None keeps the size.
            channels: 1 (gray, the luma of Rec. 601), 3 (RGB) or 4 (RGBA); None keeps them.

        Raises:
            BadInput: the size or the number of channels is out of range.
        """
        height, width = size or self.image_shape[:2]
        channels = channels or self.image_shape[-1]
        if (height, width, channels) == self.image_shape:
            return self
        if channels not in (1, 3, 4) or not (0 < height <= 4096 and 0 < width <= 4096):
            raise BadInput(
                "size must lie in 1..4096 and channels must be 1, 3 or 4. Received: "
                f"{height}x{width}, channels={channels}"
            )
        return replace(self, images=Converted(self.images, (height, width), channels))

    def cropped(self, size: tuple[int, int]) -> "Samples":
        """Return the samples with the middle of each image, which is cut out on reading.

        Args:
            size: (height, width) of the middle.

        Raises:
            BadInput: the size is larger than the images, or not positive.
        """
        rows, columns, _ = self.image_shape
        if not (0 < size[0] <= rows and 0 < size[1] <= columns):
            raise BadInput(
                f"size must lie inside the images of {rows}x{columns}. Received: "
                f"{size[0]}x{size[1]}"
            )
        return replace(self, images=Cropped(self.images, size))

    def relabelled(self, label: int) -> "Samples":
        """Return the samples with one label for all images."""
        return replace(self, labels=np.full(len(self), label))

    def labelled(self, labels: np.ndarray) -> "Samples":
        """Return the samples with other labels."""
        return replace(self, labels=labels)

    def unlabelled(self) -> "Samples":
        """Return the samples without labels."""
        return replace(self, labels=None)

    def as_bytes(self) -> np.ndarray:
        """Read all images as (n, h, w, c) uint8 pixels in 0..255."""
        low, high = self.value_range  # type: ignore[misc]
        pixels = (self.read().astype(np.float32) - low) / (high - low)
        return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)

    def in_memory(self) -> "Samples":
        """Read all images into memory and return the samples."""
        return replace(self, images=ArrayImages(self.read()))

    def fingerprint(self) -> str:
        """SHA-256 of the pixels, range, labels, origins and tracks; computed once and cached."""
        if not self._fingerprint:
            digest = hashlib.sha256(f"{self.images.fingerprint()}{self.value_range}".encode())
            for values in (self.labels, self.origin):
                digest.update(b"-" if values is None else np.asarray(values).astype("U").tobytes())
            if self.track is not None:
                digest.update(np.asarray(self.track).astype("U").tobytes())
            self._fingerprint.append(digest.hexdigest())
        return self._fingerprint[0]

    def image_digests(self) -> Iterator[bytes]:
        """The SHA-256 of the stored pixels of each image, read in blocks."""
        for start in range(0, len(self), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(self)))
            for image in self.subset(rows).read():
                yield hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()

    def batches(
        self,
        batch_size: int = 256,
        *,
        shuffle: tuple[int, int] | None = None,
        epochs: int = 1,
    ) -> "tf.data.Dataset":
        """Prefetched batches (images, labels) of the stored pixels and int64 labels.

        The labels of unlabeled samples are -1.

        Args:
            batch_size: the number of images in a batch; the last batch may be smaller.
            shuffle: (seed, epoch) of a reproducible random order; None keeps the order.
            epochs: the number of passes. The order of the i-th one is that of (seed, epoch + i).
        """
        from keras_backdoor._internals.backend import tf

        def passes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for number in range(epochs):
                order = shuffle and (shuffle[0], shuffle[1] + number)
                yield from self._batches(batch_size, order)

        spec = (
            tf.TensorSpec((None, *self.image_shape), self.images.dtype),
            tf.TensorSpec((None,), tf.int64),
        )
        batches = tf.data.Dataset.from_generator(passes, output_signature=spec)
        number = epochs * -(-len(self) // batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(number)).prefetch(4)
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread has nothing to tune here
        return batches.with_options(options)

    def feed(self, batch_size: int = 256) -> Iterable[tuple[Any, Any]]:
        """Batches in order, without `tf.data` where prefetching has no benefit.

        A single batch has nothing to overlap with. On a CPU, slices of an array in memory cost
        nothing, and the threads of `tf.data` would take cores from the model. In all other cases
        this method returns `batches(batch_size)`.
        """
        from keras_backdoor._internals.backend import tf

        in_memory = isinstance(self.images, ArrayImages)
        on_cpu = not tf.config.list_physical_devices("GPU")
        if len(self) <= batch_size or (in_memory and on_cpu):
            return self._batches(batch_size, None)
        return self.batches(batch_size)

    def _batches(
        self, batch_size: int, shuffle: tuple[int, int] | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        labels = np.full(len(self), -1) if self.labels is None else self.labels
        if self.images.block == 1:
            order = np.arange(len(self))
            if shuffle is not None:
                order = np.random.default_rng(shuffle).permutation(order)
            for start in range(0, len(order), batch_size):
                indices = order[start : start + batch_size]
                yield self.images.read(indices), labels[indices]
            return
        remainder = np.empty((0, *self.image_shape), self.images.dtype), np.empty(0, np.int64)
        for indices in self.images.stretches(shuffle):
            pixels = self.images.read(indices)
            pixels = np.concatenate([remainder[0], pixels])
            batch_labels = np.concatenate([remainder[1], labels[indices]])
            complete = len(pixels) // batch_size * batch_size
            for start in range(0, complete, batch_size):
                yield pixels[start : start + batch_size], batch_labels[start : start + batch_size]
            remainder = pixels[complete:], batch_labels[complete:]
        if len(remainder[1]):
            yield remainder
