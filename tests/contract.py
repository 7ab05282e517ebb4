"""What the tests of all methods share: the methods, their evidence and a run of each."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from planted import PlantedTask

from keras_backdoor._internals import discovery
from keras_backdoor._internals.public import FOLDERS
from keras_backdoor.answers import Answer, Heatmaps
from keras_backdoor.methods import Method
from keras_backdoor.samples import Samples

METHODS = [(folder, key) for folder in FOLDERS for key in discovery.keys(folder)]
IMAGES = ("train", "clean", "incoming")


def load(method: tuple[str, str]) -> type[Method]:
    return discovery.load(*method)


def quick(cls: type[Method]) -> Method:
    """The method with settings under which it runs in seconds."""
    return cls(**cls.quick)


def is_nested(cls: type[Method]) -> bool:
    """Whether a setting of the method is another method, which it runs."""
    return any(isinstance(value, Method) for value in vars(cls()).values())


def evidence(cls: type[Method], task: PlantedTask) -> dict:
    """Everything that a method needs, and clean images and a reference if it can use them.

    The reference of a repair is the network that was fine-tuned; the planted network has none.
    """
    usable = ("clean",) if "repair" in cls.commands else ("clean", "reference")
    needed = [n for n in cls.needs if not n.optional or n.name in usable]
    given: dict = {n.name: task.evidence(n.name) for n in needed if n.name != "found"}
    for need in cls.needs:
        if need.name == "incoming" and not need.labelled:
            given["incoming"] = given["incoming"].unlabelled()
    if cls.answer is Heatmaps and "incoming" in given:
        given["incoming"] = given["incoming"].take(30)
    for need in needed:
        if need.name == "found":
            given["found"] = task.found(need.answer)
    return given


def weights_hash(model) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


def pixels_hash(samples: Samples) -> str:
    return hashlib.sha256(np.ascontiguousarray(samples.read()).tobytes()).hexdigest()


@dataclass(frozen=True)
class FirstRun:
    """A run on the planted task, and the state of the model and the images before and after it."""

    answer: Answer
    folder: Path
    before: tuple
    after: tuple


def first_runs(
    task: PlantedTask, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, str]], FirstRun]:
    """A function that runs a method on the planted task, once."""

    @functools.cache
    def run(method: tuple[str, str]) -> FirstRun:
        cls, given = load(method), evidence(load(method), task)
        images = [given[n] for n in IMAGES if n in given]

        def state() -> tuple:
            hashes = [pixels_hash(s) for s in images]
            return weights_hash(task.model.model), task.model.model.to_json(), hashes

        folder, before = tmp_path_factory.mktemp(method[1]), state()
        answer = quick(cls)(task.model, **given, workdir=folder)
        return FirstRun(answer, folder, before, state())

    return run
