"""The study of audits at small scale, and the tables that are made of its results."""

import numpy as np
import pytest

from keras_backdoor import studies
from keras_backdoor.samples import Samples
from keras_backdoor.studies.audits import page
from keras_backdoor.studies.audits.cameras import with_cameras
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.thesis_audits import page as thesis_page


def test_audits_at_small_scale(small_signs, in_this_process) -> None:
    for name in load_study("audits").read():
        path = small_signs.data[0] / name
        path.parent.mkdir(exist_ok=True)
        if name != "mnist.npz" and not path.exists():
            path.write_bytes(b"not used by these cells")
    network = "yellowSquare-bigger, seed 0"
    words = ("retrained", "spectral signatures, whitened")
    only = [f"{network}, {word}" for word in words]
    results = studies.run("audits", scale="smoke", workspace=small_signs, only=only)
    assert [c["error"] for c in results.cells if "error" in c] == []
    figures = results.figures()
    for name in only:
        assert figures[name]["removed_poison"]["of"] == 20
        assert 0 <= figures[name]["area"] <= 1
    assert figures[only[0]]["attack_after"]["of"] > 300
    tables = {section.heading: section.table for section in page.sections(results)}
    (row,) = tables["Trained again without the flagged images"][1:]
    assert row[0] == network and all(row)
    assert tables["Published methods"][1][:2] == (words[1], network)


def test_the_cells_are_those_of_the_issue() -> None:
    cells = load_study("audits").cells()
    groups = {c.group for c in cells}
    assert {"this package", "retrained", "cameras", "published methods", "development zoo",
            "incoming images", "poison is most of its class"} == groups  # fmt: skip
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


@pytest.mark.filterwarnings("ignore::keras_backdoor.errors.Doubt")  # a network of one epoch
def test_the_data_defenses_of_the_thesis_at_small_scale(small_signs, in_this_process) -> None:
    only = ["yellowSquare-smaller, spectral signatures", "provenance, 60%, trusted"]
    results = studies.run("thesis-audits", scale="smoke", workspace=small_signs, only=only)
    assert [c["error"] for c in results.cells if "error" in c] == []
    spectral, provenance = (results.figures()[name] for name in only)
    assert spectral["removed_clean"]["share"] == 1.0
    assert provenance["flagged"] in range(5)
    parts = {section.heading: section for section in thesis_page.sections(results)}
    assert parts["Provenance (section 4.2.3)"].table[1][:2] == ("60%", "trusted")
    assert parts["Spectral signatures (table 4.4)"].table[1][0] == "yellowSquare-smaller"


def test_the_curves_of_the_thesis_are_drawn() -> None:
    rate = {"hits": 7, "of": 14, "share": 0.5, "interval": [0.3, 0.7]}
    keys = ("removed_poison", "removed_clean", "ours_removed_poison", "ours_removed_clean",
            "attack", "retrained_attack")  # fmt: skip
    others = ("retrained_accuracy", "pruned_accuracy", "pruned_attack")
    cells = [
        {
            "name": c.name,
            "group": c.group,
            "figures": dict.fromkeys(keys + others, rate) | {"removed": 14, "pruned": 1},
            "published": dict(c.published),
        }
        for c in load_study("thesis-audits").cells()
        if "ours" in c.given
    ]
    assert len(cells) == 8
    section = thesis_page.sections(studies.Results({}, {}, cells))[-1]
    assert section.figures[0].png.startswith(b"\x89PNG")


def test_the_tables_of_the_thesis_by_hand() -> None:
    def rate(hits: int, of: int) -> dict:
        return {"hits": hits, "of": of, "share": hits / of, "interval": [0.0, 1.0]}

    study = load_study("thesis-audits")
    cells = []
    for cell in study.cells():
        if cell.name == "whiteSquare, clustering first":
            figures = {
                "removed_poison": rate(200, 258),
                "removed_clean": rate(10000, 35288),
                "removed": 10200,
                "retrained_accuracy": rate(95, 100),
                "retrained_attack": rate(90, 100),
                "pruned": 99,
                "pruned_accuracy": rate(94, 100),
                "pruned_attack": rate(80, 100),
            }
            cells.append({"name": cell.name, "group": cell.group, "figures": figures,
                          "published": dict(cell.published)})  # fmt: skip
    results = studies.Results({}, {}, cells)
    tables = {s.heading: s.table for s in thesis_page.sections(results)}
    assert tables["Activation clustering (table 4.2)"][1] == (
        "whiteSquare", "258", "200", "194", "10200", "11163", "28.34",
    )  # fmt: skip
    assert tables["Then fine-pruning (table 4.7)"][1] == (
        "whiteSquare", "99", "99", "94.00", "96.17", "80.00", "78.89",
    )  # fmt: skip
