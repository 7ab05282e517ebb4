"""Folders of a study: data files and the cache."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from keras_backdoor import bundled
from keras_backdoor._safe.files import sha256
from keras_backdoor.errors import BadInput
from keras_backdoor.studies._engine.store import Store, is_url

CACHE = "KERAS_BACKDOOR_CACHE"


def default_cache() -> Path:
    """Return `KERAS_BACKDOOR_CACHE`, or `keras_backdoor` in the cache folder of the user."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    named = os.environ.get(CACHE) or ""
    return Path(named) if named and not is_url(named) else Path(user) / "keras_backdoor"


def default_store() -> str:
    """Return `KERAS_BACKDOOR_CACHE` if it is a URL, or an empty string."""
    named = os.environ.get(CACHE) or ""
    return named if is_url(named) else ""


@dataclass(frozen=True)
class Workspace:
    """The folders of a study.

    Args:
        data: folders that are searched for data files first, or prefixes of object stores, whose
            files are copied to the cache when they are needed. The folders in
            `KERAS_BACKDOOR_DATA` (separated as in `PATH`), `data/` in the working directory, and
            the files of the package follow.
        cache: the folder of finished cells and trained networks.
        store: the prefix of an object store with which the cache is shared, or an empty string.
    """

    data: tuple[Path | str, ...] = ()
    cache: Path = field(default_factory=default_cache)
    store: str = field(default_factory=default_store)

    def __post_init__(self) -> None:
        for folder in self.data:
            if not is_url(folder) and not Path(folder).is_dir():
                raise BadInput(f"There is no folder with data at {folder}.")
        if self.store and not is_url(self.store):
            raise BadInput(
                f"The shared cache is a URL such as s3://bucket/prefix. Received: {self.store}"
            )

    @property
    def shared(self) -> Store | None:
        """The object store with which the cache is shared, or None."""
        return Store(self.store) if self.store else None

    @property
    def folders(self) -> list[Path]:
        """The existing folders to search, as absolute paths."""
        named_folders = os.environ.get("KERAS_BACKDOOR_DATA", "")
        if is_url(named_folders):
            raise BadInput(
                f"KERAS_BACKDOOR_DATA names folders: pass --data URL instead. Received: "
                f"{named_folders}"
            )
        environment = named_folders.split(os.pathsep)
        own = [Path(folder) for folder in self.data if not is_url(folder)]
        named = [*own, *(Path(f) for f in environment if f), Path("data")]
        return [folder.resolve() for folder in named if folder.is_dir()]

    @property
    def places(self) -> tuple[str, ...]:
        """The folders to search, and the URLs of object stores."""
        return (*map(str, self.folders), *(str(url) for url in self.data if is_url(url)))

    def _downloaded(self, name: str) -> Path | None:
        """The local copy of a file of an object store, or None if no store has the file."""
        for url in self.data:
            if not is_url(url):
                continue
            store = Store(str(url))
            version = store.version(name)
            if version is None:
                continue
            path = store.folder(self.cache) / version / name
            with self.alone(f"download-{version}"):
                if path.is_file() or store.fetch(name, path):
                    return path
        return None

    def file(self, name: str) -> Path:
        """Return the path of a data file, or of a model file `models/NAME` of the package.

        Raises:
            BadInput: if no folder contains the file.
        """
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        if (copy := self._downloaded(name)) is not None:
            return copy
        try:
            return bundled.path(name if name.startswith("models/") else f"data/{name}")
        except BadInput:
            raise BadInput(
                f"The study needs {name}, which does not come with keras_backdoor: pass --data DIR "
                "or set KERAS_BACKDOOR_DATA (data/README.md describes where to get the file)."
            ) from None

    def find(self, names: tuple[str, ...]) -> Path | None:
        """Return the first file or folder with one of several names, or None.

        Args:
            names: the names, in the order of preference.
        """
        for name in names:
            found = [folder / name for folder in self.folders if (folder / name).exists()]
            if found:
                return found[0]
            if (copy := self._downloaded(name)) is not None:
                return copy
        return None

    def digest(self, name: str) -> str:
        """Return the SHA-256 hash of a data file."""
        return digest_of(self.file(name))

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a lock in the cache, so that two processes do not compute the same result."""
        import fcntl

        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def digest_of(path: Path) -> str:
    """Return the SHA-256 hash of a file, or of the names and the sizes of the files of a folder."""
    stat = path.stat()
    known = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if known not in _DIGESTS:
        _DIGESTS[known] = _listing_hash(path) if path.is_dir() else sha256(path)
    return _DIGESTS[known]


def _listing_hash(folder: Path) -> str:
    listing = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        listing.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
    return listing.hexdigest()


_DIGESTS: dict[tuple[str, int, int], str] = {}
