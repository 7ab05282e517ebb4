"""Check that an HDF5 file contains only numbers that are stored in the file itself."""

from typing import Any

import numpy as np

from keras_backdoor.errors import HostileFile

BFLOAT16 = np.dtype("V2")
"""The dtype under which Keras stores bfloat16 numbers."""
MAX_DECLARED_BYTES = 8 * 2**30
"""Limit of the declared size of all arrays of a file, in bytes."""
MAX_OBJECTS = 100_000
"""Limit of the number of groups and arrays of a file."""
MAX_DEPTH = 32
"""Limit of the nesting depth of groups."""
FILTERS = frozenset({1, 2, 3, 32000})
"""The accepted HDF5 filters: deflate, shuffle, Fletcher32 and LZF."""
MAX_CHUNK = 2**28
"""Limit of the size of a chunk, in bytes."""
MAX_EXPANSION = 200
"""Limit of the ratio of declared to stored bytes; 16 MiB are always allowed."""


def check_tree(file: Any, name: str) -> None:
    """Check every group and array of an open file.

    Args:
        file: an open `h5py.File`.
        name: the name of the file in error messages.

    Raises:
        HostileFile: the file contains links, external or virtual storage, dtypes other than
            numbers, unsupported filters, or exceeds a limit of this module.
    """
    import h5py

    declared, stored, seen, visited = 0, 0, 0, set()
    pending = [("", file, 0)]
    while pending:
        path, group, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise HostileFile(f"{name}: groups are nested deeper than {MAX_DEPTH} at '{path}'.")
        for key in group:
            location = f"{path}/{key}"
            seen += 1
            if seen > MAX_OBJECTS:
                raise HostileFile(f"{name} has more than {MAX_OBJECTS} objects.")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise HostileFile(
                    f"{name}: '{location}' is a link, which is not allowed in a model file."
                )
            child = group[key]
            identity = h5py.h5o.get_info(child.id).addr
            if identity in visited:
                raise HostileFile(f"{name}: '{location}' is linked twice.")
            visited.add(identity)
            if isinstance(child, h5py.Dataset):
                declared += _check_dataset(child, location, name)
                stored += child.id.get_storage_size()
            elif isinstance(child, h5py.Group):
                pending.append((location, child, depth + 1))
            else:
                raise HostileFile(f"{name}: '{location}' is neither a group nor an array.")
        if declared > MAX_DECLARED_BYTES:
            raise HostileFile(f"{name} declares more than 8 GiB of arrays.")
    if declared > 2**24 + MAX_EXPANSION * stored:
        raise HostileFile(f"{name} expands from {stored} to {declared} bytes.")


def _check_dataset(data: Any, location: str, name: str) -> int:
    if data.is_virtual or data.external:
        raise HostileFile(f"{name}: '{location}' is stored outside the file.")
    numeric = data.dtype.kind in "uifb" or data.dtype == BFLOAT16
    if not numeric and not location.startswith("/optimizer_weights"):
        kind = "text" if data.dtype.kind in "SU" else "objects"
        raise HostileFile(f"{name}: '{location}' holds {kind} ({data.dtype}), not numbers.")
    _check_filters(data, location, name)
    stored = data.id.get_storage_size()
    size = int(np.prod(data.shape, dtype=np.float64)) * data.dtype.itemsize
    if size > 2**24 + MAX_EXPANSION * stored:
        raise HostileFile(
            f"{name}: '{location}' expands from {stored} to {size} bytes (a decompression bomb)."
        )
    return size


def _check_filters(data: Any, location: str, name: str) -> None:
    """Allow only the filters that ship with HDF5 and h5py, and chunks of limited size."""
    properties = data.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code = properties.get_filter(number)[0]
        if code not in FILTERS:
            raise HostileFile(f"{name}: '{location}' needs the unsupported HDF5 filter {code}.")
    chunk = int(np.prod(data.chunks or (0,), dtype=np.float64)) * data.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise HostileFile(f"{name}: '{location}' is stored in chunks of {chunk} bytes.")
