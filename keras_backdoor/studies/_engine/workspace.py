"""Where a study finds data and keeps what is finished."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from keras_backdoor import bundled
from keras_backdoor._safe.files import sha256
from keras_backdoor.errors import BadInput


def default_cache() -> Path:
    """`KERAS_BACKDOOR_CACHE`, or a folder in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KERAS_BACKDOOR_CACHE") or Path(user) / "keras_backdoor")


@dataclass(frozen=True)
class Workspace:
    """Folders of a study.

    Args:
        data: folders with data files; then those of `KERAS_BACKDOOR_DATA` (separated as in
            PATH), `data/` here, and what comes with the package are looked through.
        cache: folder of finished cells and trained networks.
    """

    data: tuple[Path, ...] = ()
    cache: Path = field(default_factory=default_cache)

    def __post_init__(self) -> None:
        for folder in self.data:
            if not folder.is_dir():
                raise BadInput(f"There is no folder with data at {folder}.")

    @property
    def folders(self) -> list[Path]:
        """The folders that are looked through, whole paths."""
        environment = os.environ.get("KERAS_BACKDOOR_DATA", "").split(os.pathsep)
        named = [*self.data, *(Path(f) for f in environment if f), Path("data")]
        return [folder.resolve() for folder in named if folder.is_dir()]

    def file(self, name: str) -> Path:
        """The path of a data file.

        Raises:
            BadInput: it is nowhere.
        """
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        try:
            return bundled.path(f"data/{name}")
        except BadInput:
            raise BadInput(
                f"The study needs {name}, which does not come with keras_backdoor: pass --data DIR "
                "or set KERAS_BACKDOOR_DATA (data/README.md says where it is from)."
            ) from None

    def digest(self, name: str) -> str:
        """SHA-256 of a data file."""
        path = self.file(name)
        stat = path.stat()
        known = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        if known not in _DIGESTS:
            _DIGESTS[known] = sha256(path)
        return _DIGESTS[known]

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a lock of the cache, so that two processes do not make the same thing."""
        import fcntl

        self.cache.mkdir(parents=True, exist_ok=True)
        with (self.cache / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_DIGESTS: dict[tuple[str, int, int], str] = {}
