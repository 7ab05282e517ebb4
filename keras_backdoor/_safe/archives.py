"""Bounded reading of the members of an untrusted zip archive."""

import zipfile

from keras_backdoor.errors import UnreadableFile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
PIECE = 2**20


def read_member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> bytes:
    """Read a member, at most up to the length that the archive declares.

    The declared length can be wrong, so the member is read in pieces and never past it. Only
    compression methods that Python decompresses incrementally are supported.

    Raises:
        UnreadableFile: the compression method is not supported, or the member is longer than
            declared.
    """
    info = archive.getinfo(name) if isinstance(name, str) else name
    if info.compress_type not in METHODS:
        raise UnreadableFile(f"The member {info.filename!r} has an unsupported compression method.")
    pieces, left = [], info.file_size
    with archive.open(info) as file:
        while piece := file.read(min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise UnreadableFile(f"The member {info.filename!r} is longer than declared.")
            pieces.append(piece)
    return b"".join(pieces)
