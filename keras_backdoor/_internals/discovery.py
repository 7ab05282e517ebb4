"""Methods, triggers, layouts and architectures are found by their file names.

`good_net.py`, or a folder `good_net/`, holds `GoodNet` or `good_net`; its key is `good_net` and its
word on the command line `good-net`. Nothing is registered: a new file is a new entry.
"""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from keras_backdoor.errors import BadInput

HIDDEN = ("base",)


def package(name: str) -> ModuleType:
    """The package `keras_backdoor.<name>`."""
    return importlib.import_module(f"keras_backdoor.{name}")


def keys(folder: str) -> list[str]:
    """File names without `.py`, sorted; private modules and `base` are left out."""
    modules = pkgutil.iter_modules(package(folder).__path__)
    return sorted(m.name for m in modules if not m.name.startswith("_") and m.name not in HIDDEN)


def module(folder: str, key: str) -> ModuleType:
    """The module of a key; dashes and underscores are the same."""
    name = key.replace("-", "_").lower()
    if name not in keys(folder):
        known = ", ".join(word(k) for k in keys(folder)) or "none is installed"
        raise BadInput(f"There is no '{key}' among the {folder}; known: {known}.")
    return importlib.import_module(f"keras_backdoor.{folder}.{name}")


def load(folder: str, key: str) -> Any:
    """The object that a file is named after: a class where there is one, else a function."""
    found = module(folder, key)
    name = found.__name__.rpartition(".")[2]
    own = [
        value
        for attribute, value in vars(found).items()
        if attribute.lower() == name.replace("_", "") or attribute == name
        if f"{getattr(value, '__module__', None)}.".startswith(f"{found.__name__}.")
    ]
    if not own:
        raise BadInput(f"{found.__name__} defines neither a class nor a function of its own name.")
    return next((value for value in own if isinstance(value, type)), own[0])


def key_of(cls: type) -> str:
    """The key of a class: the name of the file or folder that it was found in."""
    return cls.__module__.split(".")[2]


def word(key: str) -> str:
    """The word of a key on the command line."""
    return key.replace("_", "-")


def attribute_loader(folder: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose members are loaded when first named."""

    def get(name: str) -> Any:
        matches = [k for k in keys(folder) if name.lower() == k.replace("_", "") or name == k]
        if not matches or name.startswith("_"):
            raise AttributeError(f"module 'keras_backdoor.{folder}' has no attribute '{name}'")
        found = module(folder, matches[0])
        if not hasattr(found, name):
            raise AttributeError(f"module '{found.__name__}' has no attribute '{name}'")
        return getattr(found, name)

    def names() -> list[str]:
        return [load(folder, key).__name__ for key in keys(folder)]

    return get, names
