"""Studies that reproduce published tables. Each module is a study, found by its file name."""

import importlib
from typing import Any

from keras_backdoor._internals.discovery import attribute_loader

_HOMES = {
    "Results": "_engine.results",
    "load_results": "_engine.results",
    "run": "_engine.runner",
}
_get, _names = attribute_loader("studies")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_backdoor.studies.{_HOMES[name]}"), name)
    return _get(name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, *_names()])
