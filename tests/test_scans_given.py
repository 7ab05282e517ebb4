"""The staged scan on given networks."""

import pytest

from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.worker import _plain
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.detection_zoo.study import LOOKS
from keras_backdoor.studies.scans_given import page
from keras_backdoor.studies.scans_given.study import NO_DATA, WITH_DATA


def test_every_network_is_scanned_without_and_with_images() -> None:
    names = [cell.name for cell in load_study("scans_given").cells()]
    without = {n.removesuffix(f", {NO_DATA}") for n in names if n.endswith(NO_DATA)}
    with_data = {n.removesuffix(f", {WITH_DATA}") for n in names if n.endswith(WITH_DATA)}
    assert without == with_data
    assert {"signs -> 33", "signs, clean twin", "faces, anonymous 1", "clean"} <= without
    assert sum("yellow" in n or "white" in n or "bigYellow" in n for n in without) == 6


@pytest.fixture
def workspace(shared, tmp_path) -> Workspace:
    return Workspace((shared("data"), shared("badnets")), tmp_path / "cache")


def test_digits_of_a_third_party(workspace: Workspace) -> None:
    study = load_study("scans_given", "smoke")
    cells = {c.name: c for c in study.cells() if c.name.startswith("digits -> 7")}
    assert len(cells) == 2
    found = {name: study.compute(cell, workspace) for name, cell in cells.items()}
    without, with_data = found.values()
    assert (without["verdict"], set(without) & set(LOOKS)) == ("inconclusive", {"weights"})
    assert (with_data["verdict"], with_data["flagged"]) == ("found", [7])
    assert with_data["target"] == 7
    stored = [
        {"name": name, "group": cells[name].group, "figures": figures}
        for name, figures in found.items()
    ]
    first, second, third = page.sections(Results({}, {}, _plain(stored)))
    assert third.table[1][:2] == ("digits -> 7", "7")
    assert float(third.table[1][2]) > 90 > 20 > float(third.table[1][4])
    assert first.table[1][:4] == ("digits -> 7", "7", "inconclusive", "none")
    assert second.table[1][:4] == ("digits -> 7", "7", "found", "7")
    assert second.table[1][6].startswith("found (7: ")


def test_neural_cleanse_alone_stands_beside_the_whole_scan() -> None:
    """The same model file was scanned five times before; scans of pairs do not count."""
    scan = {"verdict": "found", "flagged": [3], "model_sha256": "a", "seconds_of_scan": 1.0}
    runs = [
        {"pairs": False, **scan},
        {"pairs": False, **scan, "verdict": "nothing", "flagged": []},
        {"pairs": False, **scan},
        {"pairs": True, **scan, "flagged": [9]},
        {"pairs": False, **scan, "model_sha256": "b"},
    ]
    earlier = [
        {"name": f"scan digits, seed {i}", "group": "digits", "figures": figures}
        for i, figures in enumerate(runs)
    ]
    whole = {"verdict": "inconclusive", "flagged": [], "suspects": [3], "target": None}
    cells = [
        {
            "name": f"{name}, {WITH_DATA}",
            "group": WITH_DATA,
            "figures": {**whole, "model_sha256": h},
        }
        for name, h in (("clean twin", "a"), ("another", "c"))
    ]
    header, *rows = page.beside(Results({}, {}, _plain(cells)), Results({}, {}, _plain(earlier)))
    assert rows == [
        ("clean twin", "", "found (2), nothing (1)", "3 (2), none (1)", "inconclusive", "none", "3")
    ]
    assert len(header) == len(rows[0])
