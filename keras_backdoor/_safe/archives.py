"""Members of a stranger's zip archive, within bounds."""

import zipfile

from keras_backdoor.errors import UnreadableFile

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
PIECE = 2**20


def read_member(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo) -> bytes:
    """The content of a member, at most as long as the archive declares it.

    The directory of an archive may lie: the member is read in pieces, and never past its length.
    Only the methods that Python decompresses piece by piece are read.
    """
    info = archive.getinfo(name) if isinstance(name, str) else name
    if info.compress_type not in METHODS:
        raise UnreadableFile(f"The member {info.filename!r} is compressed in an unusual way.")
    pieces, left = [], info.file_size
    with archive.open(info) as file:
        while piece := file.read(min(PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise UnreadableFile(f"The member {info.filename!r} is longer than declared.")
            pieces.append(piece)
    return b"".join(pieces)
