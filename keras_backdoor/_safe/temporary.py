"""Temporary folders that are removed also when the program is interrupted."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_in_use: set[Path] = set()


@contextmanager
def scratch(prefix: str | None = None, folder: Path | None = None) -> Iterator[Path]:
    """Create a temporary folder, which is removed when the block ends or by `discard`."""
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    _in_use.add(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _in_use.discard(temporary)


def discard() -> None:
    """Remove all temporary folders, for a program that exits without leaving its blocks."""
    for temporary in list(_in_use):
        shutil.rmtree(temporary, ignore_errors=True)
