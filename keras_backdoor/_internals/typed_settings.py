"""Parse `key=value` settings of frozen dataclasses, using the types of the fields."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._internals import identity
from keras_backdoor._safe.files import existing
from keras_backdoor._safe.npz import parse_npy
from keras_backdoor.errors import BadInput, one_line


def fields(cls: type) -> dict[str, Any]:
    """The names and types of the settings of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def parse_pairs(pairs: typing.Iterable[str]) -> dict[str, str]:
    """Parse settings such as `["a=1", "b.c=x"]` into a dictionary.

    Raises:
        BadInput: a setting does not have the form `key=value`.
    """
    out = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BadInput(f"A setting must have the form key=value. Received: {pair}")
        out[key.strip()] = value.strip()
    return out


def build(cls: Any, values: Mapping[str, Any]) -> Any:
    """Create an instance of a dataclass from settings given as text.

    The key `a.b` sets the field `b` of the dataclass that is the default value of the field `a`.

    Args:
        cls: the dataclass.
        values: the settings; values that are not text are used unchanged.

    Raises:
        BadInput: a key is unknown, a value does not have the type of its field, or a required
            setting is missing.
    """
    plain = _converted(cls, lambda name: _default(cls, name), values, cls)
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init
        and field.name not in plain
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise BadInput(f"{cls.__name__} needs a value for {', '.join(missing)}.")
    return cls(**plain)


def _converted(
    cls: Any, current: Callable[[str], Any], values: Mapping[str, Any], root: Any, prefix: str = ""
) -> dict[str, Any]:
    """The values of the fields that settings given as text change.

    Args:
        cls: the dataclass.
        current: a function that returns the present value of a field.
        values: the settings.
        root: the outermost dataclass, whose settings are suggested for a misspelled one.
        prefix: the name of this dataclass within the outermost one, with a dot at the end.
    """
    known = fields(cls)
    plain: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        head, _, tail = key.replace("-", "_").partition(".")
        if head not in known:
            meant = _meant(root, prefix + key)
            raise BadInput(
                f"{cls.__name__} has no setting '{head}'{meant}; its settings: {', '.join(known)}."
            )
        if tail:
            nested.setdefault(head, {})[tail] = value
        else:
            plain[head] = convert(value, known[head], f"{cls.__name__}.{head}")
    for head, inner in nested.items():
        part = plain.get(head, current(head))
        part = _dataclass_of(known[head])() if part is None and _dataclass_of(known[head]) else part
        if not dataclasses.is_dataclass(part):
            raise BadInput(f"The setting '{head}' of {cls.__name__} has no nested settings.")
        path = f"{prefix}{head}."
        changed = _converted(type(part), partial(getattr, part), inner, root, path)
        plain[head] = dataclasses.replace(part, **changed)  # type: ignore[type-var]
    return plain


def _dataclass_of(kind: Any) -> Any:
    """The dataclass in an optional type, or None."""
    return next((o for o in typing.get_args(kind) if dataclasses.is_dataclass(o)), None)


def _meant(cls: Any, key: str) -> str:
    """The most similar settings, also nested ones, as a question; empty if there are none."""
    names = _all_names(cls)
    last = key.replace("-", "_").rpartition(".")[2]
    same = [name for name in names if name.rpartition(".")[2] == last]
    found = same or difflib.get_close_matches(key.replace("-", "_"), names, n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def _all_names(cls: Any, prefix: str = "") -> list[str]:
    names = []
    for name in fields(cls):
        names.append(f"{prefix}{name}")
        part = _default(cls, name)
        if dataclasses.is_dataclass(part):
            names += _all_names(type(part), f"{prefix}{name}.")
    return names


def convert(value: Any, kind: Any, name: str) -> Any:
    """Convert text to a value of a type; other values are returned unchanged.

    Args:
        value: the text.
        kind: the type.
        name: the name of the setting in error messages.

    Raises:
        BadInput: the text cannot be converted.
    """
    if not isinstance(value, str):
        return value
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value.lower() == "none" and type(None) in options:
            return None
        return convert(value, next(o for o in options if o is not type(None)), name)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise BadInput(
                f"{name} must be one of {', '.join(map(str, typing.get_args(kind)))}. "
                f"Received: {value}"
            )
        return value
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(convert(part, inner, name) for part in value.split(":"))
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise BadInput(f"{name} must be true or false. Received: {value}")
        return value.lower() == "true"
    if kind in (int, float, Path):
        try:
            return kind(value)
        except ValueError:
            raise BadInput(f"{name} must be a {kind.__name__}. Received: {value}") from None
    if hasattr(kind, "from_text"):
        return kind.from_text(value)
    if kind is Any:
        return _number_or_text(value)
    if kind is np.ndarray:
        return _array(value, name)
    return value


def as_dict(settings: Any) -> dict[str, Any]:
    """The settings of a dataclass, including nested dataclasses, as JSON values."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
        out[field.name] = (
            {"name": type(value).__name__, **as_dict(value)} if nested else _simple(value)
        )
    return out


def named_dict(settings: Any) -> dict[str, Any]:
    """The name and the settings of a dataclass, as JSON values."""
    return {"name": type(settings).__name__, **as_dict(settings)}


def _simple(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype} {identity.sha256_of(value)[:16]}"
    return list(map(_simple, value)) if isinstance(value, tuple | list) else str(value)


def _default(cls: Any, name: str) -> Any:
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _array(value: str, name: str) -> np.ndarray:
    """Parse an array from numbers separated by colons, or read it from an `.npy` file."""
    if value.endswith(".npy"):
        try:
            return parse_npy(existing(value, "array").read_bytes())
        except ValueError as error:
            raise BadInput(f"{name}: {value} is not an array: {one_line(error)}.") from error
    numbers = _number_or_text(value)
    if isinstance(numbers, str):
        raise BadInput(
            f"{name} must be numbers separated by colons (a:b:c) or an .npy file. Received: {value}"
        )
    return np.atleast_1d(np.array(numbers))


def _number_or_text(value: str) -> Any:
    parts = value.split(":")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        return value
    return numbers if len(numbers) > 1 else numbers[0]
