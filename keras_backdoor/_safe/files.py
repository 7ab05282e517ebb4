"""Atomic file and folder writes, bounded JSON, and checksums."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.temporary import scratch
from keras_backdoor.errors import BadInput, HostileFile, UnreadableFile

MAX_JSON = 16 * 2**20
MAX_JSON_DEPTH = 64
MARKER = ".keras_backdoor"
"""Empty file in every folder that is written, so that --force never replaces another folder."""


def check_output(path: Path | str, *, force: bool = False, folder: bool | None = None) -> Path:
    """Check that a path can be written, before a long computation starts.

    Args:
        path: the file or folder to write.
        force: whether an existing file or folder may be replaced.
        folder: whether a folder or a file is written, which never replaces the other kind; None
            if either may be written.

    Returns:
        The path.

    Raises:
        BadInput: the path exists and `force` is not set, is a folder of another program, or lies
            in a folder that is not writable.
    """
    path = Path(path)
    if not path.name:
        raise BadInput(f"{path} is not a valid name for a file or folder.")
    if path.exists() and not force:
        raise BadInput(f"{path} exists already; pass --force (force=True) to replace it.")
    if path.exists() and folder is not None and path.is_dir() != folder:
        kinds = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise BadInput("{} is {} and is not replaced by {}.".format(path, *kinds))
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if path.is_dir() and any(path.iterdir()) and not (path / MARKER).exists():
        raise BadInput(
            f"{path} is a folder that was not written by keras_backdoor and is not replaced; "
            "choose another path."
        )
    try:
        with scratch(".", parent):
            return path
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {parent} is not a writable folder.") from error


def check_apart(paths: Mapping[str, Path]) -> None:
    """Check that no path that is written is another one, or lies inside another one.

    Args:
        paths: the option that names it -> the path.

    Raises:
        BadInput: one of them would replace another, or be replaced with it.
    """
    for (first, one), (second, other) in combinations(paths.items(), 2):
        a, b = one.resolve(), other.resolve()
        if a.is_relative_to(b) or b.is_relative_to(a):
            raise BadInput(
                f"{first} and {second} need different paths, neither inside the other. "
                f"Received: {one} and {other}"
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path | str, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path with the same suffix; move it to `path` when the block succeeds.

    Args:
        path: the file or folder to write.
        force: whether to replace an existing file or folder.

    Yields:
        The temporary path.

    Raises:
        BadInput: `path` exists and `force` is not set, or its folder is not writable.
    """
    path = check_output(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch(f".{path.name}.", path.parent) as folder:
        partial = folder / path.name
        yield partial
        check_output(path, force=force, folder=partial.is_dir())
        if partial.is_dir():
            (partial / MARKER).touch()
        if path.is_dir() or partial.is_dir():
            _remove(path)
        partial.replace(path)


def write_json(path: Path | str, content: Any, *, force: bool = True) -> None:
    """Write indented JSON; NumPy scalars and arrays become numbers and lists, NaN becomes null."""
    with writing(path, force=force) as partial:
        partial.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n")


def parse_json(text: str, name: str) -> Any:
    """Parse JSON text of limited length and nesting depth.

    Args:
        text: the JSON text.
        name: the name of the file in error messages.

    Raises:
        HostileFile: the text is longer or nested deeper than the limits.
        UnreadableFile: the text is not JSON.
    """
    if len(text) > MAX_JSON:
        raise HostileFile(f"{name}: the configuration is longer than 16 MiB.")
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    if deepest > MAX_JSON_DEPTH:
        raise HostileFile(f"{name}: the configuration is nested deeper than {MAX_JSON_DEPTH}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{name}: the configuration is not JSON: {error}.") from error


def read_json(path: Path) -> Any:
    """Read a JSON file of limited size and nesting depth."""
    if path.stat().st_size > MAX_JSON:
        raise UnreadableFile(f"{path} is longer than 16 MiB.")
    try:
        return parse_json(path.read_text(), str(path))
    except (UnicodeDecodeError, HostileFile) as error:
        raise UnreadableFile(f"{path} is not JSON: {error}.") from error


def write_npz(
    path: Path | str, arrays: Mapping[str, Any], *, force: bool = False, compress: bool = True
) -> None:
    """Write arrays as an `.npz` archive; no file ending is appended to the path."""
    save: Any = np.savez_compressed if compress else np.savez
    with writing(path, force=force) as partial, partial.open("wb") as file:
        save(file, **arrays)


def plain(value: Any) -> Any:
    """Convert nested containers with NumPy values to types that JSON supports."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def sha256(path: Path | str) -> str:
    """SHA-256 of the content of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def existing(path: Path | str, what: str) -> Path:
    """Return the path if it exists; `what` describes the file in the error message."""
    path = Path(path)
    if not path.exists():
        raise BadInput(f"There is no {what} at {path}.")
    return path
