"""Stacks of images: arrays, HDF5 files, encoded image files, and lazy views of these."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import sha256
from keras_backdoor.errors import BadInput, UnreadableFile, one_line
from keras_backdoor.samples import picture_files

WINDOW_BYTES = 64 * 2**20
"""Limit of the pixels that a pass over a file keeps in memory, in bytes."""


class Images(ABC):
    """A stack of images that is read by index.

    Attributes:
        shape: (n, height, width, channels).
        dtype: the dtype of the stored pixels.
        block: the number of images that are stored, and best read, together; 1 for random access.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    block: int = 1

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read images.

        Args:
            indices: (m,) indices of the images.

        Returns:
            (m, height, width, channels) stored pixels, in the order of the indices.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content."""

    def stretches(self, shuffle: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """Yield the indices of a pass over all images, in arrays that are read at once.

        Args:
            shuffle: (seed, epoch) of a reproducible random order; None keeps the order. Blocks
                are shuffled, and images are shuffled within a window of `WINDOW_BYTES`.
        """
        n = len(self)
        per_image = max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize)
        blocks = np.arange(-(-n // self.block))
        rng = None if shuffle is None else np.random.default_rng(shuffle)
        if rng is not None:
            rng.shuffle(blocks)
        step = max(1, WINDOW_BYTES // (per_image * self.block))
        for start in range(0, len(blocks), step):
            window = blocks[start : start + step, None] * self.block + np.arange(self.block)
            indices = window.ravel()
            indices = indices[indices < n]
            yield indices if rng is None else rng.permutation(indices)


class ArrayImages(Images):
    """Images in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`; for consecutive indices the result is a view."""
        if (
            len(indices)
            and indices[-1] - indices[0] + 1 == len(indices)
            and np.all(np.diff(indices) == 1)
        ):
            return self.array[indices[0] : indices[-1] + 1]
        return self.array[indices]

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        head = f"{self.shape}{self.dtype.str}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()


class HDF5Images(Images):
    """Images in a dataset of an HDF5 file, read chunk by chunk.

    Args:
        path: the path of the file.
        key: the name of the dataset of shape (n, h, w, c).
        channels_first: whether the shape of the dataset is (n, c, h, w).
    """

    def __init__(self, path: Path, key: str, *, channels_first: bool = False) -> None:
        self.path, self.key, self.channels_first = Path(path), key, channels_first
        shape = self._data.shape
        self.shape = (shape[0], *shape[2:], shape[1]) if channels_first else shape
        integer = self._data.dtype.kind in "iu"
        self.dtype = np.dtype(np.uint8) if integer else self._data.dtype
        self.block = self._data.chunks[0] if self._data.chunks else 256

    @cached_property
    def _data(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")[self.key]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`; every chunk is decompressed once."""
        indices = np.asarray(indices)
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        chunk = indices // self.block
        for number in np.unique(chunk):
            selected = np.flatnonzero(chunk == number)
            first, last = indices[selected].min(), indices[selected].max()
            pixels = self._read(first, last + 1)
            if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
                _check_bytes(pixels)
            if self.channels_first:
                pixels = np.moveaxis(pixels, 1, -1)
            out[selected] = pixels[indices[selected] - first]
        return out

    def _read(self, first: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._data[first:stop])
        except (OSError, RuntimeError) as error:
            raise UnreadableFile(
                f"{self.path}: '{self.key}' is damaged: {one_line(error)}."
            ) from error

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{sha256(self.path)}/{self.key}".encode()).hexdigest()


def _check_bytes(pixels: np.ndarray) -> None:
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
        raise BadInput(f"Integer pixels must lie in 0..255. Received: maximum={pixels.max()}")


class Converted(Images):
    """Images that are resized and whose channels are converted on reading.

    Args:
        base: the original images.
        size: (height, width) of the converted images.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
    """

    def __init__(self, base: Images, size: tuple[int, int], channels: int) -> None:
        self.base, self.size, self.channels = base, size, channels
        self.shape = (len(base), *size, channels)
        self.dtype, self.block = base.dtype, base.block

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for position, picture in enumerate(self.base.read(indices)):
            colored = picture_files.with_channels(picture, self.channels)
            out[position] = picture_files.resize(colored, *self.size)
        return out

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        text = f"{self.base.fingerprint()}{self.size}{self.channels}"
        return hashlib.sha256(text.encode()).hexdigest()


class Cropped(Images):
    """The middle of images, which is cut out on reading.

    Args:
        base: the original images.
        size: (height, width) of the middle.
    """

    def __init__(self, base: Images, size: tuple[int, int]) -> None:
        self.base, self.size = base, size
        self.shape = (len(base), *size, base.shape[-1])
        self.dtype, self.block = base.dtype, base.block

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        (height, width), (top, left) = self.size, self._corner()
        return self.base.read(indices)[:, top : top + height, left : left + width]

    def _corner(self) -> tuple[int, int]:
        _, rows, columns, _ = self.base.shape
        return (rows - self.size[0]) // 2, (columns - self.size[1]) // 2

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{self.base.fingerprint()}{self.size}".encode()).hexdigest()


class EncodedImages(Images):
    """Image files that are decoded when they are read.

    Args:
        names: the names of the image files.
        decode: a function that maps a name to (height, width, channels) uint8 pixels.
        shape: (height, width, channels) of every image.
        content: a function that returns a hash of all files.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        names: Sequence[str],
        decode: Callable[[str], np.ndarray],
        shape: tuple[int, int, int],
        content: Callable[[], str],
    ) -> None:
        self.names, self.decode, self.content = names, decode, content
        self.shape = (len(names), *shape)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for position, index in enumerate(indices):
            out[position] = self.decode(self.names[index])
        return out

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{self.content()}{self.shape}".encode()).hexdigest()


class Subset(Images):
    """A selection of other images, in a given order."""

    base: Images
    rows: np.ndarray

    def __init__(self, base: Images, indices: np.ndarray) -> None:
        if isinstance(base, Subset):
            indices = base.rows[indices]
            base = base.base
        self.base, self.rows = base, np.asarray(indices)
        self.shape = (len(self.rows), *base.shape[1:])
        self.dtype, self.block = base.dtype, base.block

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        return self.base.read(self.rows[indices])

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(self.base.fingerprint().encode() + self.rows.tobytes()).hexdigest()


class Joined(Images):
    """A concatenation of stacks of images."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.block = max(part.block for part in self.parts)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        indices = np.asarray(indices)
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        for number in np.unique(owner):
            selected = owner == number
            out[selected] = self.parts[number].read(indices[selected] - self.starts[number])
        return out

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256("".join(p.fingerprint() for p in self.parts).encode()).hexdigest()


class Mapped(Images):
    """Images that are transformed on reading.

    Args:
        base: the original images.
        change: a function of the pixels and the indices that returns pixels of the same dtype.
        name: a text that identifies the function in the fingerprint.
    """

    def __init__(
        self, base: Images, change: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str
    ) -> None:
        self.base, self.change, self.name = base, change, name
        self.shape, self.dtype, self.block = base.shape, base.dtype, base.block

    def read(self, indices: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        return self.change(self.base.read(indices), np.asarray(indices))

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{self.base.fingerprint()}{self.name}".encode()).hexdigest()
