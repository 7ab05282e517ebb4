"""Read untrusted HDF5 files that contain only numbers, all stored in the file itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.h5_checks import BFLOAT16, MAX_EXPANSION, check_tree
from keras_backdoor._safe.h5_helper import HELPER
from keras_backdoor._safe.temporary import scratch
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line


@contextmanager
def checked(source: Path | bytes, name: str) -> Iterator[Any]:
    """Open an HDF5 file after a helper process has read it, and check every object in it.

    Args:
        source: the path of a file, or its content.
        name: the name of the file in error messages.

    Yields:
        The open `h5py.File`.

    Raises:
        UnreadableFile: the file is not HDF5, or is damaged.
        HostileFile: the file has links, external or virtual storage, object dtypes, or arrays
            or groups beyond the limits of `h5_checks`.
    """
    if isinstance(source, bytes):
        with scratch() as folder:
            path = folder / "content.h5"
            path.write_bytes(source)
            with checked(path, name) as file:
                yield file
        return
    with opened(source, name, arrays=True) as file:
        check_tree(file, name)
        yield file


@contextmanager
def opened(path: Path, name: str, *, arrays: bool = False) -> Iterator[Any]:
    """Open an HDF5 file after a helper process has read it; see `h5_helper`."""
    import h5py

    if not h5py.is_hdf5(path):
        raise UnreadableFile(f"{name} is not an HDF5 file.")
    try:
        HELPER.ask(path, arrays=arrays)
    except BadInput as error:
        raise type(error)(str(error).replace(str(path), name)) from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except Exception as error:  # h5py raises many types for a damaged file
        raise UnreadableFile(f"{name} is damaged: {one_line(error)}.") from error


def numbers(file: Any) -> int:
    """The largest number of values that the arrays of a checked file can contain."""
    import h5py

    total, pending = 0, [file]
    while pending:
        for child in pending.pop().values():
            if isinstance(child, h5py.Dataset):
                size = int(np.prod(child.shape, dtype=np.float64))
                stored = MAX_EXPANSION * child.id.get_storage_size() // child.dtype.itemsize
                total += min(size, stored)
            else:
                pending.append(child)
    return total


def text(value: Any, name: str) -> str:
    """Return an attribute as text."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str):
        raise UnreadableFile(f"{name} has an attribute that must be text but has another type.")
    return value


def names(group: Any, attribute: str) -> list[str]:
    """A list of names stored in an attribute, or split into `attribute0`, `attribute1`, …"""
    if attribute in group.attrs:
        return [text(n, attribute) for n in np.ravel(group.attrs[attribute])]
    out: list[str] = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        out += [text(n, attribute) for n in np.ravel(group.attrs[f"{attribute}{number}"])]
        number += 1
    return out


def array(data: Any, name: str) -> np.ndarray:
    """Read an array of finite numbers as float32."""
    if data.dtype == BFLOAT16:  # the upper half of a float32
        bits = np.frombuffer(data[()].tobytes(), np.uint16).astype(np.uint32)
        values = (bits << 16).view(np.float32).reshape(data.shape)
    else:
        values = np.asarray(data[()], np.float32)
    if not np.isfinite(values).all():
        raise HostileFile(f"{name}: '{data.name}' has NaN or infinite weights.")
    return values
