"""Reading a stranger's HDF5: only numbers that are stored in the file itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.h5_checks import MAX_EXPANSION, check_tree
from keras_backdoor._safe.h5_helper import HELPER
from keras_backdoor._safe.temporary import scratch
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line


@contextmanager
def checked(source: Path | bytes, name: str) -> Iterator[Any]:
    """An open HDF5 file that a helper process has survived, every object of which is checked.

    Args:
        source: a path, or the content of a file.
        name: what the file is called in messages.

    Raises:
        UnreadableFile: not HDF5, or damaged.
        HostileFile: links, external or virtual storage, object dtypes, absurd sizes.
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
    """An open HDF5 file that a helper process has survived; see `_h5_probe`."""
    import h5py

    if not h5py.is_hdf5(path):
        raise UnreadableFile(f"{name} is not an HDF5 file that can be read.")
    try:
        HELPER.ask(path, arrays=arrays)
    except BadInput as error:
        raise type(error)(str(error).replace(str(path), name)) from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except Exception as error:  # whatever h5py makes of a damaged file
        raise UnreadableFile(f"{name} is damaged: {one_line(error)}.") from error


def numbers(file: Any) -> int:
    """How many numbers the arrays of a checked file can hold."""
    import h5py

    total, waiting = 0, [file]
    while waiting:
        for child in waiting.pop().values():
            if isinstance(child, h5py.Dataset):
                size = int(np.prod(child.shape, dtype=np.float64))
                held = MAX_EXPANSION * child.id.get_storage_size() // child.dtype.itemsize
                total += min(size, held)
            else:
                waiting.append(child)
    return total


def text(value: Any, name: str) -> str:
    """An attribute as text."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not isinstance(value, str):
        raise UnreadableFile(f"{name} has an attribute that should be text and is not.")
    return value


def names(group: Any, attribute: str) -> list[str]:
    """A list of names that HDF5 keeps as an attribute, in pieces (`attribute0`…) when long."""
    if attribute in group.attrs:
        return [text(n, attribute) for n in np.ravel(group.attrs[attribute])]
    out: list[str] = []
    piece = 0
    while f"{attribute}{piece}" in group.attrs:
        out += [text(n, attribute) for n in np.ravel(group.attrs[f"{attribute}{piece}"])]
        piece += 1
    return out


def array(data: Any, name: str) -> np.ndarray:
    """An array of finite float32 numbers."""
    values = np.asarray(data[()], np.float32)
    if not np.isfinite(values).all():
        raise HostileFile(f"{name}: '{data.name}' has NaN or infinite weights.")
    return values
