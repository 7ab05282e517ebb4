"""Images with labels and provenance, in memory or on disk, as `tf.data` batches."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_backdoor.errors import BadInput
from keras_backdoor.samples.arrays import as_images, as_labels, collect, stored_range, track_mask
from keras_backdoor.samples.images import ArrayImages, Joined, Mapped, Subset

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_backdoor.triggers.base import Trigger

COLUMNS = ("labels", "origin", "track", "row_numbers")
MEMORY_LIMIT = 2 * 2**30
"""Decoded bytes up to which a data set is held in memory."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled or unlabelled images with what is known of where they come from.

    Args:
        images: (n, h, w, c) or (n, h, w), uint8 or floating; an array or lazily read `Images`.
        labels: (n,) class numbers, or (n, classes) one-hot; None for unlabelled images.
        origin: (n,) provenance of each image (device, source), or None.
        track: (n,) number of the recording that a frame belongs to, within its class, or None.
        value_range: lowest and highest value that a STORED pixel can have. Left out, it is
            (0, 255) for integers and read off floating arrays in memory.
        class_names: names of the classes, or None.
        row_numbers: (n,) rows of the data file that the images are, from 0; left out, they are
            numbered in their order.

    Raises:
        BadInput: shapes, lengths, labels or values do not fit together.

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
        put = object.__setattr__
        put(self, "images", as_images(self.images))
        if len(self.images) == 0:
            raise BadInput("The data has no images: at least one is needed.")
        put(self, "value_range", self.value_range or stored_range(self.images))
        low, high = self.value_range or (0.0, 255.0)
        if not (np.isfinite([low, high]).all() and low < high):
            raise BadInput(f"value_range must be (lowest, highest). Received: {self.value_range}")
        put(self, "labels", as_labels(self.labels))
        if self.row_numbers is None:
            put(self, "row_numbers", np.arange(len(self.images)))
        for name in COLUMNS:
            values = getattr(self, name)
            if values is not None:
                put(self, name, np.asarray(values))
                if len(values) != len(self.images):
                    raise BadInput(
                        f"{name} must have one value an image. Received: {len(values)} {name} "
                        f"for {len(self.images)} images"
                    )

    @classmethod
    def wrap(cls, data: Any) -> "Samples":
        """Samples from what users hold: an array, (images, labels), or a `tf.data.Dataset`."""
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
        """The labels; raises where there are none."""
        if self.labels is None:
            raise BadInput("Labelled images are needed here, and these have no labels.")
        return self.labels

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The stored pixels of consecutive images, (m, h, w, c)."""
        return self.images.read(np.arange(start, len(self) if stop is None else stop))

    def subset(self, rows: np.ndarray) -> "Samples":
        """The samples at these positions (or of a boolean mask), as a view.

        They keep the row numbers that they have in the data file.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if len(rows) == 0:
            raise BadInput("This choice leaves no images.")
        chosen: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[rows]
            for name in COLUMNS
        }
        return replace(self, images=Subset(self.images, rows), **chosen)

    def of_class(self, label: int) -> "Samples":
        """The samples of one class."""
        mask = self.known_labels == label
        if not mask.any():
            raise BadInput(f"Class {label} is empty: the data has no image with this label.")
        return self.subset(mask)

    def take(self, amount: float, *, seed: int = 0) -> "Samples":
        """A random part: a number of images, or a share where `amount` is below 1."""
        number = round(amount * len(self)) if 0 < amount < 1 else int(amount)
        if not 1 <= number <= len(self):
            raise BadInput(
                f"take needs a share below 1 or a number from 1 to {len(self)}. "
                f"Received: take={amount}"
            )
        chosen = np.random.default_rng(seed).choice(len(self), number, replace=False)
        return self.subset(np.sort(chosen))

    def split(self, share: float, *, seed: int = 0, by_track: bool = False) -> tuple[Any, Any]:
        """Two parts, the second with about `share` of the images, both as views.

        With `by_track` no recording (pair of label and track) is in both, and every class that
        has two recordings or more has at least one in either part.
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
        """These samples followed by others of the same image shape, dtype and range.

        They are a new data set, whose rows are numbered from 0.
        """
        everything = (self, *others)
        kinds = {(s.image_shape, s.images.dtype.str, s.value_range) for s in everything}
        if len(kinds) > 1:
            raise BadInput(f"Only images of one shape, dtype and range can be joined: {kinds}.")
        joined: dict[str, Any] = {}
        for name in ("labels", "origin", "track"):
            parts = [getattr(s, name) for s in everything]
            joined[name] = None if any(p is None for p in parts) else np.concatenate(parts)
        images = Joined([s.images for s in everything])
        return replace(self, images=images, row_numbers=None, **joined)

    def stamped(self, trigger: "Trigger", *, seed: int = 0) -> "Samples":
        """The same samples with a trigger on every image, applied as they are read."""
        low, high = self.value_range  # type: ignore[misc]

        def change(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
            unit = (pixels.astype(np.float32) - low) / (high - low)
            values = trigger.stamp_rows(unit, rows, seed) * (high - low) + low
            if np.issubdtype(pixels.dtype, np.integer):
                values = np.round(values)
            return values.astype(pixels.dtype)

        return replace(self, images=Mapped(self.images, change, f"{trigger.fingerprint()}{seed}"))

    def relabelled(self, label: int) -> "Samples":
        """The same images, all with one label."""
        return replace(self, labels=np.full(len(self), label))

    def unlabelled(self) -> "Samples":
        """The same images without labels."""
        return replace(self, labels=None)

    def as_bytes(self) -> np.ndarray:
        """(n, h, w, c) uint8 pixels in 0..255, read into memory."""
        low, high = self.value_range  # type: ignore[misc]
        pixels = (self.read().astype(np.float32) - low) / (high - low)
        return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)

    def in_memory(self) -> "Samples":
        """The same samples, read once into memory."""
        return replace(self, images=ArrayImages(self.read()))

    def fingerprint(self) -> str:
        """SHA-256 of the pixels, labels, origins, tracks and range; computed once."""
        if not self._fingerprint:
            digest = hashlib.sha256(f"{self.images.fingerprint()}{self.value_range}".encode())
            for values in (self.labels, self.origin):
                digest.update(b"-" if values is None else np.asarray(values).astype("U").tobytes())
            if self.track is not None:
                digest.update(np.asarray(self.track).astype("U").tobytes())
            self._fingerprint.append(digest.hexdigest())
        return self._fingerprint[0]

    def batches(
        self, batch_size: int = 256, *, shuffle: tuple[int, int] | None = None
    ) -> "tf.data.Dataset":
        """Batches (images as stored, labels; -1 where there are none), prefetched.

        Args:
            batch_size: images in a batch; the last may be smaller.
            shuffle: (seed, epoch) of a random order that can be made again; None keeps the order.
        """
        from keras_backdoor._internals.backend import tf

        spec = (
            tf.TensorSpec((None, *self.image_shape), self.images.dtype),
            tf.TensorSpec((None,), tf.int64),
        )
        batches = tf.data.Dataset.from_generator(
            lambda: self._batches(batch_size, shuffle), output_signature=spec
        )
        number = -(-len(self) // batch_size)
        return batches.apply(tf.data.experimental.assert_cardinality(number)).prefetch(4)

    def feed(self, batch_size: int = 256) -> Iterable[tuple[Any, Any]]:
        """The batches in order, the fastest way: without `tf.data` where nothing would overlap.

        On a CPU slices of an array cost nothing, and the threads of `tf.data` would only take
        cores from the model; a single batch has nothing to overlap with. From files, for lazy
        views and for a GPU it is `batches`.
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
                rows = order[start : start + batch_size]
                yield self.images.read(rows), labels[rows]
            return
        waiting = np.empty((0, *self.image_shape), self.images.dtype), np.empty(0, np.int64)
        for rows in self.images.stretches(shuffle):
            pixels = self.images.read(rows)
            pixels = np.concatenate([waiting[0], pixels])
            marks = np.concatenate([waiting[1], labels[rows]])
            whole = len(pixels) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                yield pixels[start : start + batch_size], marks[start : start + batch_size]
            waiting = pixels[whole:], marks[whole:]
        if len(waiting[1]):
            yield waiting
