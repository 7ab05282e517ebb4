"""Temporary folders that no interrupt leaves behind."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_in_use: set[Path] = set()


@contextmanager
def scratch(prefix: str | None = None, folder: Path | None = None) -> Iterator[Path]:
    """A temporary folder that is gone with the block, or with `discard`."""
    made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    _in_use.add(made)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _in_use.discard(made)


def discard() -> None:
    """Remove the folders in use, for a program that ends where it is."""
    for made in list(_in_use):
        shutil.rmtree(made, ignore_errors=True)
