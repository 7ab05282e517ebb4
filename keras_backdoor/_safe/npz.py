"""Read `.npz` archives: numbers and text of limited size, without pickled objects."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.archives import read_member
from keras_backdoor.errors import UnreadableFile, one_line

MAX_BYTES = 8 * 2**30
"""Limit of the declared size of an archive, in bytes."""


class Npz(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` archive; each is read when it is accessed.

    The header of an array is compared with its stored size before memory is allocated.

    Args:
        path: the path of the archive.
        max_bytes: the limit of the declared size of all arrays, in bytes.

    Raises:
        UnreadableFile: the file is not an archive of arrays, is damaged or too large, or contains
            objects.
    """

    def __init__(self, path: Path | str, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self.members = {
                    info.filename.removesuffix(".npy"): info
                    for info in archive.infolist()
                    if info.filename.endswith(".npy")
                }
        except Exception as error:  # zipfile raises many types for a damaged archive
            raise UnreadableFile(f"{self.path} is not an archive of arrays.") from error
        declared = sum(info.file_size for info in self.members.values())
        if declared > max_bytes:
            raise UnreadableFile(
                f"{self.path} declares {declared} bytes; at most {max_bytes} are read."
            )

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.members:
            raise KeyError(name)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return parse_npy(read_member(archive, self.members[name]))
        except Exception as error:  # zipfile and NumPy raise many types
            raise UnreadableFile(
                f"{self.path} cannot be read as arrays of numbers: '{name}' ({one_line(error)})."
            ) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of an array -> its shape; only the headers are read."""
        return {name: self._shape(name) for name in self}

    def _shape(self, name: str) -> tuple[int, ...]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as file:
                return _header(file)[0]
        except Exception as error:  # zipfile and NumPy raise many types
            raise UnreadableFile(
                f"{self.path} cannot be read as arrays of numbers: '{name}' ({one_line(error)})."
            ) from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) from the header of an `.npy` file."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is not supported")
    headers = {(1, 0): np.lib.format.read_array_header_1_0,
               (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
    return headers[version](file)


def parse_npy(content: bytes) -> np.ndarray:
    """Parse the content of an `.npy` file.

    Raises:
        ValueError: the header does not match the content, or the dtype is not supported.
    """
    file, size = io.BytesIO(content), len(content)
    shape, fortran, dtype = _header(file)
    if dtype.kind not in "biufUS":
        raise ValueError(f"dtype {dtype} is neither numbers nor text")
    expected = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or expected != size - file.tell():
        raise ValueError(f"shape {shape} does not fit its {size} bytes")
    flat = np.frombuffer(bytearray(content[-expected:] if expected else b""), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
