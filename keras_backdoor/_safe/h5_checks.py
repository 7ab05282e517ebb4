"""What an HDF5 file may hold: only numbers that are stored in the file itself."""

from typing import Any

import numpy as np

from keras_backdoor.errors import HostileFile

MAX_DECLARED_BYTES = 8 * 2**30
"""Declared bytes of all arrays of a file above which it is refused."""
MAX_OBJECTS = 100_000
"""Groups and arrays of a file above which it is refused."""
MAX_DEPTH = 32
FILTERS = frozenset({1, 2, 3, 32000})
"""Deflate, shuffle, Fletcher32 and LZF."""
MAX_CHUNK = 2**28
MAX_EXPANSION = 200
"""Times that stored bytes may expand, beyond 16 MiB."""


def check_tree(file: Any, name: str) -> None:
    """Raise where a file holds anything but numbers that are stored in it."""
    import h5py

    declared, stored, seen, visited = 0, 0, 0, set()
    waiting = [("", file, 0)]
    while waiting:
        path, group, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise HostileFile(f"{name}: groups are nested deeper than {MAX_DEPTH} at '{path}'.")
        for key in group:
            here = f"{path}/{key}"
            seen += 1
            if seen > MAX_OBJECTS:
                raise HostileFile(f"{name} has more than {MAX_OBJECTS} objects.")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise HostileFile(f"{name}: '{here}' is a link; a model has no need of one.")
            child = group[key]
            identity = h5py.h5o.get_info(child.id).addr
            if identity in visited:
                raise HostileFile(f"{name}: '{here}' is linked twice.")
            visited.add(identity)
            if isinstance(child, h5py.Dataset):
                declared += _check_dataset(child, here, name)
                stored += child.id.get_storage_size()
            elif isinstance(child, h5py.Group):
                waiting.append((here, child, depth + 1))
            else:
                raise HostileFile(f"{name}: '{here}' is neither a group nor an array.")
        if declared > MAX_DECLARED_BYTES:
            raise HostileFile(f"{name} declares more than 8 GiB of arrays.")
    if declared > 2**24 + MAX_EXPANSION * stored:
        raise HostileFile(f"{name} expands from {stored} to {declared} bytes.")


def _check_dataset(data: Any, here: str, name: str) -> int:
    if data.is_virtual or data.external:
        raise HostileFile(f"{name}: '{here}' is stored outside the file.")
    if data.dtype.kind not in "uifb" and not here.startswith("/optimizer_weights"):
        kind = "text" if data.dtype.kind in "SU" else "objects"
        raise HostileFile(f"{name}: '{here}' holds {kind} ({data.dtype}), not numbers.")
    _check_filters(data, here, name)
    stored = data.id.get_storage_size()
    size = int(np.prod(data.shape, dtype=np.float64)) * data.dtype.itemsize
    if size > 2**24 + MAX_EXPANSION * stored:
        raise HostileFile(
            f"{name}: '{here}' expands from {stored} to {size} bytes (a decompression bomb)."
        )
    return size


def _check_filters(data: Any, here: str, name: str) -> None:
    """Only the filters that HDF5 itself brings, and no chunk that is larger than it need be."""
    properties = data.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code = properties.get_filter(number)[0]
        if code not in FILTERS:
            raise HostileFile(f"{name}: '{here}' needs the foreign HDF5 filter {code}.")
    chunk = int(np.prod(data.chunks or (0,), dtype=np.float64)) * data.dtype.itemsize
    if chunk > MAX_CHUNK:
        raise HostileFile(f"{name}: '{here}' is stored in chunks of {chunk} bytes.")
