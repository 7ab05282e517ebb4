"""The study of audits at small scale, and the tables that are made of its results."""

import numpy as np
import pytest
from test_studies import small_signs  # noqa: F401

from keras_backdoor import studies
from keras_backdoor.samples import Samples
from keras_backdoor.studies.audits import page
from keras_backdoor.studies.audits.cameras import with_cameras
from keras_backdoor.studies.base import load_study


def test_audits_at_small_scale(small_signs) -> None:  # noqa: F811
    for name in load_study("audits").read():
        path = small_signs.data[0] / name
        path.parent.mkdir(exist_ok=True)
        if name != "mnist.npz" and not path.exists():
            path.write_bytes(b"not used by these cells")
    network = "yellowSquare-bigger, seed 0"
    words = ("retrained", "cameras")
    only = [f"{network}, {word}" for word in words]
    results = studies.run("audits", scale="smoke", workspace=small_signs, only=only, jobs=2)
    assert [c["error"] for c in results.cells if "error" in c] == []
    figures = results.figures()
    for name in only:
        assert figures[name]["removed_poison"]["of"] == 20
        assert 0 <= figures[name]["area"] <= 1
    assert figures[only[0]]["attack_after"]["of"] > 300
    tables = {section.heading: section.table for section in page.sections(results)}
    (row,) = tables["Trained again without the flagged images"][1:]
    assert row[0] == network and all(row)
    assert tables["Cameras"][1][0] == network


def test_the_cells_are_those_of_the_issue() -> None:
    cells = load_study("audits").cells()
    groups = {c.group for c in cells}
    assert {"this package", "retrained", "cameras", "published methods", "development zoo",
            "incoming images"} == groups  # fmt: skip
    assert sum(c.group == "retrained" for c in cells) == 6
    assert sum(c.group == "cameras" for c in cells) == 6
    assert sum(c.group == "this package" for c in cells) == 11


@pytest.mark.parametrize("seed", [0, 1])
def test_cameras_by_recording(seed: int) -> None:
    labels = np.repeat(np.arange(12), 40)
    track = np.tile(np.repeat(np.arange(8), 5), 12)
    pixels = np.full((480, 4, 4, 3), 200, np.uint8)
    poison = np.arange(480) >= 470
    marked = with_cameras(Samples(pixels, labels, track=track), poison, seed)
    origin = np.asarray(marked.origin)
    assert (origin[poison] == "camera 3").all()
    pairs = np.stack([labels, track])[:, ~poison]
    for pair in np.unique(pairs, axis=1).T:
        assert len(set(origin[~poison][(pairs == pair[:, None]).all(axis=0)])) == 1
    odd = origin == "camera 4"
    assert 1 <= len(np.unique(labels[odd])) <= 6
    shown = marked.read()
    assert (shown[odd] == 100).all() and (shown[~odd] == 200).all()
    assert 0.1 < (origin[~poison] == "camera 3").mean() < 0.4
