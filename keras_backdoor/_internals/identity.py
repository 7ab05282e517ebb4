"""Hash settings by their values, so that two objects with equal hashes do the same."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = (str, bytes, bool, int, float, np.generic, Path, type(None))


def sha256_of(value: Any) -> str:
    """The SHA-256 of a value, as a hexadecimal string; see `add_value`."""
    digest = hashlib.sha256()
    add_value(digest, value)
    return digest.hexdigest()


def add_value(digest: Any, value: Any) -> None:
    """Add a value and all nested values to a hash.

    A dataclass adds its class, all its fields and, if it has one, its `revision`. Arrays add all
    their values, and paths of files the content of the file.

    Args:
        digest: the hash object of `hashlib`.
        value: a number, text, an array, a path, a dataclass, an object with a method
            `fingerprint` or `sha256`, or a tuple, list or mapping of these.

    Raises:
        TypeError: the value has another type.
    """
    kind = type(value)
    digest.update(f"<{kind.__module__}.{kind.__qualname__}>".encode())
    if dataclasses.is_dataclass(value) and not hasattr(value, "read"):
        if (revision := getattr(value, "revision", 1)) != 1:
            digest.update(f"revision={revision}".encode())
        for field in dataclasses.fields(value):
            digest.update(f"{field.name}=".encode())
            add_value(digest, getattr(value, field.name))
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.shape}{value.dtype.str}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, tuple | list):
        for item in value:
            add_value(digest, item)
            if not isinstance(item, PLAIN):
                digest.update(b";")
    elif isinstance(value, Path) and value.is_file():
        digest.update(value.read_bytes())
    elif isinstance(value, Mapping):
        add_value(digest, sorted(value.items()))
    elif isinstance(value, Path) and value.is_dir():
        raise TypeError("a folder")
    elif isinstance(value, PLAIN):
        digest.update(repr(value).encode())
    elif hasattr(value, "fingerprint"):
        digest.update(value.fingerprint().encode())
    elif hasattr(value, "sha256"):
        digest.update(value.sha256().encode())
    else:
        raise TypeError(f"a value of the type {kind.__name__}")
