"""A prefix of an object store, in which the machines of a cluster share data and results."""

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_backdoor.errors import BadInput, MissingPackage, one_line


def is_url(text: str | Path) -> bool:
    """Whether a text is a URL and not the path of a folder.

    >>> is_url("s3://bucket/prefix"), is_url("/data/faces"), is_url(Path("data"))
    (True, False, False)
    """
    return isinstance(text, str) and "://" in text


@dataclass(frozen=True)
class Store:
    """Files below a URL such as `s3://bucket/prefix` or `gs://bucket/prefix`.

    Args:
        url: the URL. Credentials are those of the driver (`s3fs`, `gcsfs`, `adlfs`, …), which
            reads them from its usual environment variables and files.
    """

    url: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system of fsspec, and the path of the prefix in it."""
        try:
            import fsspec
        except ImportError as error:
            raise MissingPackage(
                f"{self.url} needs fsspec: pip install 'keras-backdoor[store]', and the driver of "
                "the store, such as s3fs or gcsfs."
            ) from error
        try:
            system, path = fsspec.core.url_to_fs(self.url)
        except Exception as error:  # every driver raises errors of its own
            raise BadInput(f"{self.url} cannot be opened: {one_line(error)}.") from error
        return system, path.rstrip("/")

    def folder(self, cache: Path) -> Path:
        """The local folder for files of this store that are only read."""
        return cache / "downloads" / hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def has(self, name: str) -> bool:
        """Whether the store has a file with this name."""
        system, prefix = self._opened
        try:
            return bool(system.isfile(f"{prefix}/{name}"))
        except Exception as error:  # every driver raises errors of its own
            raise self._unreachable(error) from error

    def version(self, name: str) -> str | None:
        """A text that changes with the content of a file, or None if there is no such file."""
        if not self.has(name):
            return None
        system, prefix = self._opened
        try:
            facts = system.info(f"{prefix}/{name}")
        except Exception as error:
            raise self._unreachable(error) from error
        keys = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "size")
        text = repr([(key, str(facts[key])) for key in keys if key in facts])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file of the store to a local path.

        Returns:
            Whether the store has the file.
        """
        if not self.has(name):
            return False
        system, prefix = self._opened
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            system.get_file(f"{prefix}/{name}", str(partial))
        except Exception as error:
            partial.unlink(missing_ok=True)
            raise self._unreachable(error) from error
        partial.replace(path)
        return True

    def send(self, path: Path, name: str) -> None:
        """Copy a local file to the store; no other machine sees a part of it."""
        system, prefix = self._opened
        partial = f"{prefix}/{name}.{socket.gethostname()}-{os.getpid()}.part"
        try:
            system.makedirs(partial.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), partial)
            system.mv(partial, f"{prefix}/{name}")
        except Exception as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> BadInput:
        return BadInput(f"{self.url} cannot be read or written: {one_line(error)}.")
