"""keras_backdoor: find, measure and repair backdoors in Keras image classifiers.

Everything public can be imported from here and is loaded when it is first named, so that
`import keras_backdoor` is fast and does not load TensorFlow.
"""

import importlib
from typing import Any

from keras_backdoor import _discovery

__version__ = "0.1.0"

_HOMES = {
    "Classifier": "classifier",
    "Evaluation": "evaluation",
    "FlaggedClasses": "answers",
    "FlaggedSamples": "answers",
    "Heatmaps": "answers",
    "Recipe": "training",
    "RepairedModel": "answers",
    "Samples": "samples",
    "bundled": "",
    "datasets": "",
    "evaluate": "evaluation",
    "export": "serving",
    "fit": "training",
    "goodnet": "defenses.goodnet",
    "inspect_model": "inspection",
    "load_answer": "answers",
    "load_model": "loading",
    "metrics": "",
    "poison": "poisoning",
    "split": "activations",
    "studies": "",
    "triggers": "",
}
_FOLDERS = ("defenses", "explanations")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = _HOMES[name]
        module = importlib.import_module(f"keras_backdoor.{home or name}")
        return getattr(module, name) if home else module
    if not name.startswith("_"):
        for folder in _FOLDERS:
            if any(name.lower() == key.replace("_", "") for key in _discovery.keys(folder)):
                return getattr(_discovery.package(folder), name)
    raise AttributeError(f"module 'keras_backdoor' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*_HOMES, *(k for f in _FOLDERS for k in dir(_discovery.package(f)))])
