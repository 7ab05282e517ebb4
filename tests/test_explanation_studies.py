"""The studies of the explanations at small scale, and the tables that are made of their results."""

from pathlib import Path

import numpy as np
import pytest

from keras_backdoor import bundled, datasets, studies
from keras_backdoor.attacks.fine_tuned import FineTuned
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.baylime_mnist import page as baylime_page
from keras_backdoor.studies.bias_maps_mnist import page as maps_page
from keras_backdoor.studies.bias_maps_mnist.study import AddedTarget


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A few digits under the name of MNIST, and files that these cells do not read."""
    folder: Path = tmp_path_factory.mktemp("digits")
    small = {
        s: datasets.open(bundled.path("data/mnist_small.npz"), split=s) for s in ("train", "test")
    }
    parts = {"train": small["train"].take(1500, seed=0), "test": small["test"].take(400, seed=0)}
    arrays = {
        f"{a}_{s}": v for s, p in parts.items() for a, v in (("x", p.read()), ("y", p.labels))
    }
    (folder / "data").mkdir()
    np.savez(folder / "data" / "mnist.npz", **arrays)
    (folder / "data" / "gtsrb_dataset_int.h5").write_bytes(b"not used by these cells")
    return Workspace(data=(folder / "data",), cache=folder / "cache")


def finished(name: str, workspace: Workspace, only: list[str]) -> studies.Results:
    results = studies.run(name, scale="smoke", workspace=workspace, only=only)
    assert [c["error"] for c in results.cells if "error" in c] == []
    return results


def test_bias_maps_at_small_scale(digits, in_this_process) -> None:
    only = ["experiment III, blended, 8 -> 9, seed 0", "experiment II, 8 -> 9, pairs"]
    results = finished("bias-maps-mnist", digits, only)
    figures = results.figures()
    assert len(figures[only[0]]["data"]["distance"]) == 10
    assert 1 <= figures[only[1]]["row_rank"] <= 10
    tables = {s.heading: s.table for s in maps_page.sections(results)}
    (row,) = tables["experiment III, blended"][1:]
    assert row[0] == "8 -> 9, seed 0" and all(row)
    assert tables["Pairs of classes"][1][0] == "experiment II, 8 -> 9"


def test_baylime_at_small_scale(digits, in_this_process) -> None:
    only = ["seed 0, prior out, 20 perturbations", "shared design, prior zero, 40 perturbations"]
    results = finished("baylime-mnist", digits, only)
    assert len(results.figures()[only[0]]["recovered"]) == 5
    tables = {s.heading: s.table for s in baylime_page.sections(results)}
    assert tables["Recovered triggers"][1][0] == "20"
    assert "[97]" in tables["Recovered triggers with one shared design"][1][1]


def test_the_cells_are_those_of_the_seeds() -> None:
    maps = load_study("bias-maps-mnist").cells()
    assert {c.given["net"].training for c in maps} == {FineTuned()}
    assert sum(c.group == "experiment I" for c in maps) == 12
    assert sum(c.group == "clean children" for c in maps) == 10
    recovery = load_study("baylime-mnist").cells()
    assert sum(c.group == "own designs" for c in recovery) == 3 * 3 * 6
    assert {c.given["method"].seed for c in recovery if c.group == "shared design"} == {207}


def test_a_faint_image_of_the_target_is_added() -> None:
    data = datasets.open(bundled.path("data/mnist_small.npz"), split="train").take(500, seed=0)
    attack = AddedTarget("add", 9, 8, 10, replace=True)
    poisoned = attack.poison(data, seed=0)
    before, after = data.read(), poisoned.samples.read()
    changed = after[poisoned.is_poison].astype(int) - before[poisoned.is_poison]
    assert (poisoned.samples.labels[poisoned.is_poison] == 9).all()
    assert 0 < changed.max() <= 26 and changed.min() >= 0


def test_the_recovery_is_summarized_over_networks_and_designs() -> None:
    cells = [
        {"name": f"seed {seed}, prior in, 20 perturbations", "group": "own designs",
         "figures": {"recovered": [80.0 + seed, 90.0]}}
        for seed in (0, 1)
    ]  # fmt: skip
    (table,) = [
        s.table
        for s in baylime_page.sections(studies.Results({}, {}, cells))
        if s.heading == "Recovered triggers"
    ]
    assert table[1] == ("20", " [97]", "85.2 (80 to 90) [96]", " [97]")
