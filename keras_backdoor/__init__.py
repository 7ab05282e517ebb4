"""keras_backdoor: find, measure and repair backdoors in Keras image classifiers.

All public names can be imported from this package. They are loaded on first access, so that
`import keras_backdoor` is fast and does not import TensorFlow.
"""

import importlib
from typing import Any

from keras_backdoor._internals import discovery
from keras_backdoor._internals.public import FOLDERS, HOMES

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in HOMES:
        home = HOMES[name]
        module = importlib.import_module(f"keras_backdoor.{home or name}")
        return getattr(module, name) if home else module
    if not name.startswith("_"):
        for folder in FOLDERS:
            if any(name.lower() == key.replace("_", "") for key in discovery.keys(folder)):
                return getattr(discovery.package(folder), name)
    raise AttributeError(f"module 'keras_backdoor' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*HOMES, *(k for f in FOLDERS for k in dir(discovery.package(f)))])
