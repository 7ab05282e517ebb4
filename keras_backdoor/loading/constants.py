"""Plain values in an untrusted configuration: numbers, arrays of numbers and slices."""

import math
from typing import Any

import numpy as np

from keras_backdoor.errors import HostileFile, UnreadableFile, UnsupportedFile

MAX_NUMBER = 2**20
"""Largest absolute value of an integer in a setting; a file that exceeds it is rejected."""
MAX_CONSTANT = 1e30
"""Largest absolute value of a number that an operation computes with."""
MAX_VALUES = 4096
"""Largest number of values of a constant."""
WRAPPED = ("__numpy__", "__tensor__", "__tuple__")
"""Classes of the dictionaries that Keras 3 wraps arrays and tuples in."""


def unwrapped(value: Any) -> Any:
    """Remove the dictionary around a value.

    Keras 3 writes `{"class_name": "__numpy__", "config": {"value": …}}` and
    `{"class_name": "__tuple__", "items": …}`, and older versions `{"type": "ndarray", "value": …}`.
    """
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in WRAPPED:
        config = value.get("config")
        return config.get("value") if isinstance(config, dict) else value.get("items")
    if "value" in value and set(value) <= {"type", "value", "dtype"}:
        return value["value"]
    return value


def plain(key: str, value: Any, context: str) -> Any:
    """A setting that is a number, a short string, None, or a list of these.

    Raises:
        HostileFile: the value is something else, or a number that is too large or not finite.
    """
    value = unwrapped(value)
    if isinstance(value, list) and len(value) <= MAX_VALUES:
        return [plain(key, v, context) for v in value]
    if isinstance(value, bool | None) or (isinstance(value, str) and len(value) <= 64):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) <= MAX_NUMBER:
        return value
    raise HostileFile(
        f"{context} has the setting {key!r}, which is not a plain value: {str(value)[:60]}"
    )


def is_constant(value: Any) -> bool:
    """Whether a value is a number or a list of numbers, perhaps wrapped."""
    value = unwrapped(value)
    if isinstance(value, list):
        return bool(value) and all(map(is_constant, value))
    return isinstance(value, bool | int | float)


def constant(value: Any, context: str) -> np.ndarray:
    """A number, or a vector with one number for each channel, as float64.

    Args:
        value: a number or nested lists of numbers, whose dimensions but the last are 1.
        context: the name of the file and of the operation for error messages.

    Returns:
        () or (channels,) array.

    Raises:
        HostileFile: a number is not finite or too large, or there are too many.
        UnreadableFile: the lists have another shape.
    """
    numbers = _numbers(value, context, depth=0)
    try:
        array = np.asarray(numbers, np.float64)
    except ValueError:
        raise UnreadableFile(f"{context} has a constant whose rows differ in length.") from None
    if not np.isfinite(array).all() or np.abs(array).max(initial=0) > MAX_CONSTANT:
        raise HostileFile(f"{context} has a constant that is not finite or above {MAX_CONSTANT:g}.")
    if array.ndim and array.shape[:-1] != (1,) * (array.ndim - 1):
        raise UnsupportedFile(
            f"{context} has a constant of shape {array.shape}; only numbers and one number for "
            "each channel are supported yet."
        )
    array = array.reshape(array.shape[-1:])
    return array.reshape(()) if array.size == 1 else array


def _numbers(value: Any, context: str, depth: int) -> Any:
    value = unwrapped(value)
    if isinstance(value, list):
        if depth > 4 or len(value) > MAX_VALUES:
            raise HostileFile(f"{context} has a constant with too many values or dimensions.")
        return [_numbers(v, context, depth + 1) for v in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise HostileFile(f"{context} has a constant that is not finite.") from None
    raise HostileFile(f"{context} has the constant {str(value)[:60]!r}, which is not a number.")


def index(value: Any, context: str) -> int | None:
    """An integer of a slice or an axis, or None.

    Raises:
        HostileFile: the value is neither None nor an integer of limited size.
    """
    value = unwrapped(value)
    if value is None or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    ):
        return value
    raise HostileFile(f"{context} has the index {str(value)[:60]!r}, which is not an integer.")


def indices(value: Any, context: str) -> list[int]:
    """One integer or a list of integers, such as axes; see `index`."""
    value = unwrapped(value)
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_VALUES:
        raise HostileFile(f"{context} has more than {MAX_VALUES} indices.")
    found = [index(v, context) for v in values]
    if any(n is None for n in found):
        raise UnreadableFile(f"{context} has no axis, which is not supported yet.")
    return [n for n in found if n is not None]


def selection(value: Any, context: str) -> list[Any]:
    """The parts of `x[...]`: slices, integers, and Ellipsis.

    Raises:
        HostileFile: a part is something else.
    """
    value = unwrapped(value)
    parts = value if isinstance(value, list) else [value]
    if len(parts) > 8:
        raise HostileFile(f"{context} selects along more than 8 dimensions.")
    return [_part(p, context) for p in parts]


def _part(part: Any, context: str) -> Any:
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return Ellipsis
    if isinstance(part, dict):
        bounds = part.get("config") if part.get("class_name") == "__slice__" else part
        if isinstance(bounds, dict) and set(bounds) <= {"start", "stop", "step"}:
            values = [index(bounds.get(key), context) for key in ("start", "stop", "step")]
            if values[2] == 0:
                raise UnreadableFile(f"{context} has a slice with step 0.")
            return slice(*values)
    number = index(part, context)
    if number is None:
        raise UnreadableFile(f"{context} adds a dimension, which is not supported yet.")
    return number
