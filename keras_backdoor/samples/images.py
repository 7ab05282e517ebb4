"""Where pixels come from: an array, an HDF5 file, encoded pictures, or a lazy view of these."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.files import sha256
from keras_backdoor.errors import BadInput, UnreadableFile, one_line

WINDOW_BYTES = 64 * 2**20
"""Pixels that a pass over a file holds in memory at a time."""


class Images(ABC):
    """A stack of images (n, height, width, channels) that is read by row numbers.

    Attributes:
        shape: (n, height, width, channels).
        dtype: of the stored pixels.
        block: rows that are stored, and so best read, together; 1 where every row is as cheap.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    block: int = 1

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of these row numbers, in this order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content."""

    def stretches(self, shuffle: tuple[int, int] | None) -> Iterator[np.ndarray]:
        """Row numbers of a whole pass, in stretches that are read at once.

        Args:
            shuffle: (seed, epoch) of a random order: all rows where `block` is 1, else whole
                blocks in random order, their rows mixed within a window of `WINDOW_BYTES`.
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
            rows = window.ravel()
            rows = rows[rows < n]
            yield rows if rng is None else rng.permutation(rows)


class ArrayImages(Images):
    """Images in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`; consecutive rows are a view."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and np.all(np.diff(rows) == 1):
            return self.array[rows[0] : rows[-1] + 1]
        return self.array[rows]

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        head = f"{self.shape}{self.dtype.str}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()


class HDF5Images(Images):
    """A data set of an HDF5 file, read chunk by chunk.

    Args:
        path: the file.
        key: name of the data set, (n, h, w, c), or (n, c, h, w) with `channels_first`.
        channels_first: whether the file stores (n, c, h, w).
    """

    def __init__(self, path: Path, key: str, *, channels_first: bool = False) -> None:
        self.path, self.key, self.channels_first = Path(path), key, channels_first
        shape = self._data.shape
        self.shape = (shape[0], *shape[2:], shape[1]) if channels_first else shape
        whole = self._data.dtype.kind in "iu"
        self.dtype = np.dtype(np.uint8) if whole else self._data.dtype
        self.block = self._data.chunks[0] if self._data.chunks else 256

    @cached_property
    def _data(self) -> Any:
        import h5py

        return h5py.File(self.path, "r")[self.key]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`; a chunk is decompressed once however many of its rows are asked."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        chunk = rows // self.block
        for number in np.unique(chunk):
            here = np.flatnonzero(chunk == number)
            first, last = rows[here].min(), rows[here].max()
            pixels = self._read(first, last + 1)
            if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
                _check_bytes(pixels)
            if self.channels_first:
                pixels = np.moveaxis(pixels, 1, -1)
            out[here] = pixels[rows[here] - first]
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


class EncodedImages(Images):
    """Pictures that are decoded when they are read.

    Args:
        names: one name a picture.
        decode: name -> (height, width, channels) uint8.
        shape: (height, width, channels) of every picture.
        content: a hash of all the files.
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

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            out[place] = self.decode(self.names[row])
        return out

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{self.content()}{self.shape}".encode()).hexdigest()


class Subset(Images):
    """Some rows of other images, in a given order."""

    base: Images
    rows: np.ndarray

    def __init__(self, base: Images, rows: np.ndarray) -> None:
        if isinstance(base, Subset):
            rows = base.rows[rows]
            base = base.base
        self.base, self.rows = base, np.asarray(rows)
        self.shape = (len(self.rows), *base.shape[1:])
        self.dtype, self.block = base.dtype, base.block

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        return self.base.read(self.rows[rows])

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(self.base.fingerprint().encode() + self.rows.tobytes()).hexdigest()


class Joined(Images):
    """Several stacks of images, one after the other."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, self.parts)])
        self.shape = (int(self.starts[-1]), *self.parts[0].shape[1:])
        self.dtype = self.parts[0].dtype
        self.block = max(part.block for part in self.parts)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owner):
            here = owner == number
            out[here] = self.parts[number].read(rows[here] - self.starts[number])
        return out

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256("".join(p.fingerprint() for p in self.parts).encode()).hexdigest()


class Mapped(Images):
    """Images changed as they are read: `change(pixels, rows) -> pixels` of the same dtype."""

    def __init__(
        self, base: Images, change: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str
    ) -> None:
        self.base, self.change, self.name = base, change, name
        self.shape, self.dtype, self.block = base.shape, base.dtype, base.block

    def read(self, rows: np.ndarray) -> np.ndarray:
        """See `Images.read`."""
        return self.change(self.base.read(rows), np.asarray(rows))

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return hashlib.sha256(f"{self.base.fingerprint()}{self.name}".encode()).hexdigest()
