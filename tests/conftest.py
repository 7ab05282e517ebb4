"""Fixtures: small real data, the bundled BadNet, and the shared material where it exists."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: more threads only wait
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest
from contract import FirstRun, first_runs
from planted import PlantedTask, make_task

from keras_backdoor import bundled, datasets
from keras_backdoor._safe.files import plain
from keras_backdoor.commands import app, console
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine import executors
from keras_backdoor.studies._engine.worker import Task, work
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.triggers._parse import parse
from keras_backdoor.triggers.base import Trigger

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("KERAS_BACKDOOR_SHARED", ROOT.parent / "shared"))


LONG = ("methods", "notebooks", "model_kinds", "studies", "auto", "shared", "unlearning")
"""The files that take longest. They come first, so that no process waits for another at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    order = {f"test_{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the shared material; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"{name} is not there (KERAS_BACKDOOR_SHARED names the shared material)")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def clean() -> Samples:
    return datasets.open(bundled.path("data/mnist_small.npz"), split="train").take(2000, seed=0)


@pytest.fixture(scope="session")
def test_images() -> Samples:
    return datasets.open(bundled.path("data/mnist_small.npz"), split="test").take(1000, seed=0)


@pytest.fixture(scope="session")
def badnet() -> Classifier:
    return load_model(bundled.path("models/mnist_badnet.h5"))


@pytest.fixture(scope="session")
def trigger() -> Trigger:
    return parse("checkerboard:size=8,row=19,column=19")


@pytest.fixture(scope="session")
def task() -> PlantedTask:
    """A small network with a planted backdoor, its clean twin, and all evidence."""
    return make_task()


@pytest.fixture(scope="session")
def first_run(task, tmp_path_factory) -> Callable[[tuple[str, str]], FirstRun]:
    """The first run of a method on the planted task, which most tests of the contract look at."""
    return first_runs(task, tmp_path_factory)


@pytest.fixture(scope="session")
def small_signs(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Noise in the layout of the traffic signs, and a cache that all processes of a run share."""
    folder = tmp_path_factory.mktemp("signs")
    rng = np.random.default_rng(0)
    with h5py.File(folder / "gtsrb_dataset_int.h5", "w") as file:
        for split, number in (("train", 2500), ("test", 600)):
            labels = np.arange(number) % 43
            images = rng.integers(0, 60, (number, 32, 32, 3), dtype=np.uint8)
            file[f"X_{split}"] = images + (4 * labels).astype(np.uint8)[:, None, None, None]
            file[f"Y_{split}"] = labels
        file["track_train"] = np.arange(2500) // 43 // 5
    base = tmp_path_factory.getbasetemp()
    whole_run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Workspace(data=(folder,), cache=whole_run / "cache-of-small-signs")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of studies are computed in this process, which saves each of them a start."""

    def local(tasks: Sequence[Task], jobs: int) -> executors.Ended:
        return ((task, work(task)) for task in tasks)

    monkeypatch.setattr(executors, "local", local)


@cache
def results_schema() -> jsonschema.Draft202012Validator:
    """The schema that `keras-backdoor schema` prints."""
    schema = json.loads((ROOT / "keras_backdoor/commands/results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check_results(content: Any) -> None:
    """Fail unless the JSON output of a command follows the schema, which has all of its keys."""
    results_schema().validate(content)
    definitions = results_schema().schema["$defs"]
    kind = definitions[content["kind"]]
    parts = [kind, *(definitions[p["$ref"].split("/")[-1]] for p in kind.get("allOf", ()))]
    known = {key for part in parts for key in part["properties"]}
    patterns = tuple(p.removeprefix("^") for p in kind.get("patternProperties", ()))
    unknown = {k for k in content if k not in known and not k.startswith(patterns)}
    assert not unknown, f"results.schema.json does not describe {unknown} of {content['kind']}"


@pytest.fixture(autouse=True)
def checked_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command of a test writes with --json follows the schema."""
    write = console.write_results

    def checked(path: Path | None, content: Any, *, schema: int) -> None:
        check_results(json.loads(json.dumps(plain({"schema": schema, **content}))))
        write(path, content, schema=schema)

    monkeypatch.setattr(console, "write_results", checked)


@pytest.fixture
def noise() -> Samples:
    """40 random color images of 4 classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 12, 10, 3), dtype=np.uint8)
    return Samples(images, np.arange(40) % 4, track=np.arange(40) // 4 % 5)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keras-backdoor", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run
