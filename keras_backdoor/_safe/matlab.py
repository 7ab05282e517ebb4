"""Read untrusted MATLAB files (versions 4 to 7) that contain arrays, text, cells and structs."""

import struct
import zlib
from pathlib import Path
from typing import Any

from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile, one_line

MAX_FILE = 2 * 2**30
"""Limit of the size of a file, and of its content after decompression, in bytes."""
HEADER, TAG, COMPRESSED = 128, 8, 15
"""Bytes of the header of a file and of the tag of an element; the type of a compressed element."""
BLOCK = 2**20


def variables(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file by name.

    Structs are objects with their fields as attributes, and cells are object arrays. Nothing in
    the file is run: SciPy reads function handles and objects of classes as plain data.

    Raises:
        UnreadableFile: the file is not a MATLAB file of these versions, or is damaged.
        HostileFile: the file is larger than `MAX_FILE`, or becomes so by decompression.
    """
    from scipy.io import loadmat

    if path.stat().st_size > MAX_FILE:
        raise HostileFile(f"{path} is larger than {MAX_FILE // 2**30} GiB.")
    try:
        _check_expansion(path)
        content: dict[str, Any] = loadmat(path, struct_as_record=False, squeeze_me=True)
    except BadInput:
        raise
    except NotImplementedError as error:
        raise UnreadableFile(
            f"{path} is a MATLAB file of version 7.3: save it with the option -v7."
        ) from error
    except Exception as error:  # SciPy raises many types for a damaged file
        raise UnreadableFile(f"{path} is not a MATLAB file, or damaged: {one_line(error)}.") from (
            error
        )
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _check_expansion(path: Path) -> None:
    """Raise if the compressed elements of a file are larger than `MAX_FILE` in all."""
    with path.open("rb") as file:
        header = file.read(HEADER)
        if len(header) < HEADER or header[126:128] not in (b"IM", b"MI"):
            return  # not of version 5 to 7; these have no compression
        order = "<" if header[126:128] == b"IM" else ">"
        total = 0
        while len(tag := file.read(TAG)) == TAG:
            kind, size = struct.unpack(f"{order}II", tag)
            end = file.tell() + size
            if kind == COMPRESSED:
                inflate = zlib.decompressobj()
                while file.tell() < end and (block := file.read(min(BLOCK, end - file.tell()))):
                    while block:
                        total += len(inflate.decompress(block, BLOCK))
                        block = inflate.unconsumed_tail
                        if total > MAX_FILE:
                            raise HostileFile(
                                f"{path} is larger than {MAX_FILE // 2**30} GiB when it is "
                                "decompressed."
                            )
            file.seek(end)
