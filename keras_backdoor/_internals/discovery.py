"""Discover methods, triggers, layouts, architectures and studies by their file names.

The module `good_net.py`, or the package `good_net/`, defines the class `GoodNet` or the function
`good_net`. Its key is `good_net`, and its name on the command line is `good-net`. There is no
registry: adding a file adds an entry.
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
    """The sorted names of the modules of a folder, without private modules and `base`."""
    modules = pkgutil.iter_modules(package(folder).__path__)
    return sorted(m.name for m in modules if not m.name.startswith("_") and m.name not in HIDDEN)


def module(folder: str, key: str) -> ModuleType:
    """Import the module of a key; dashes and underscores are equivalent.

    Raises:
        BadInput: there is no such module.
    """
    name = key.replace("-", "_").lower()
    if name not in keys(folder):
        known = ", ".join(word(k) for k in keys(folder)) or "none is installed"
        raise BadInput(f"There is no '{key}' among the {folder}; known: {known}.")
    return importlib.import_module(f"keras_backdoor.{folder}.{name}")


def load(folder: str, key: str) -> Any:
    """Load the class or function that has the name of its module; a class takes precedence.

    Raises:
        BadInput: there is no such module, class or function.
    """
    loaded = module(folder, key)
    name = loaded.__name__.rpartition(".")[2]
    own = [
        value
        for attribute, value in vars(loaded).items()
        if attribute.lower() == name.replace("_", "") or attribute == name
        if f"{getattr(value, '__module__', None)}.".startswith(f"{loaded.__name__}.")
    ]
    if not own:
        raise BadInput(
            f"{loaded.__name__} must define a class or a function with the name of the module."
        )
    return next((value for value in own if isinstance(value, type)), own[0])


def key_of(cls: type) -> str:
    """The key of a class, which is the name of its module or package."""
    return cls.__module__.split(".")[2]


def word(key: str) -> str:
    """The name of a key on the command line."""
    return key.replace("_", "-")


def attribute_loader(folder: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package whose members are imported lazily."""

    def get(name: str) -> Any:
        matches = [k for k in keys(folder) if name.lower() == k.replace("_", "") or name == k]
        if not matches or name.startswith("_"):
            raise AttributeError(f"module 'keras_backdoor.{folder}' has no attribute '{name}'")
        loaded = module(folder, matches[0])
        if not hasattr(loaded, name):
            raise AttributeError(f"module '{loaded.__name__}' has no attribute '{name}'")
        return getattr(loaded, name)

    def names() -> list[str]:
        return [load(folder, key).__name__ for key in keys(folder)]

    return get, names
