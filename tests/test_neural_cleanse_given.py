"""The study that judges Neural Cleanse: its figures by hand, and its page."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest

from keras_backdoor.answers import FlaggedClasses, RepairedModel
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan
from keras_backdoor.evaluation import Evaluation
from keras_backdoor.metrics import Rate
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.cleanse_figures import (
    mitigation_figures,
    scan_figures,
    true_mask,
)
from keras_backdoor.studies._networks.third_party import planted
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.neural_cleanse_given import page as page
from keras_backdoor.studies.neural_cleanse_given.study import DEEPID, NeuralCleanseGiven
from keras_backdoor.triggers.base import Stamp


@pytest.fixture
def answer() -> FlaggedClasses:
    mask = np.zeros((4, 4, 1), np.float32)
    mask[0, :2] = 1.0
    norms = np.array([8.0, 2.0, 9.0, 3.0])
    return FlaggedClasses(
        scores=np.array([0.1, 4.0, -1.0, 3.0]),
        flagged=np.array([False, True, False, False]),
        further=np.array([False, False, False, True]),
        triggers={1: Stamp(mask, mask)},
        measures={"l1_norm": norms, "anomaly_index": np.array([0.1, 4.0, -1.0, 3.0])},
        about={"seconds": 5.0, "median_norm": 5.5, "model_sha256": "abc"},
    )


def test_figures_of_a_scan(answer) -> None:
    true = np.zeros((4, 4), bool)
    true[0, 0] = True
    found = scan_figures(answer, 1, true)
    assert (found["flagged"], found["further"], found["verdict"]) == ([1], [3], "found")
    assert (found["rank"], found["l1"], found["index"], found["inside"]) == (1, 2.0, 4.0, 0.5)
    other = scan_figures(answer, 3, None)
    assert (other["rank"], other["l1"]) == (2, 3.0)
    assert "inside" not in other
    assert other["ahead"] == [1]
    assert (found["median"], found["model_sha256"]) == (5.5, "abc")
    assert (found["pairs"], found["low_cost"]) == (False, False)
    assert found["smallest"][:2] == [{"class": 1, "value": 2.0}, {"class": 3, "value": 3.0}]
    assert scan_figures(answer, None, None)["l1"] == 2.0


def test_figures_of_pairs(answer) -> None:
    pairs = np.full((4, 4), np.nan)
    pairs[2, 1], pairs[0, 3], pairs[1, 0] = 2.0, 3.0, np.inf
    part = {**answer.about, "reference_norms": [[2.0]]}
    scan = dataclasses.replace(
        answer, measures={**answer.measures, "pair_norms": pairs}, source={1: 2}, about=part
    )
    found = scan_figures(scan, 1, None)
    assert (found["pairs"], found["low_cost"]) == (True, True)
    assert found["smallest_pairs"][:2] == [[2, 1, 2.0], [0, 3, 3.0]]
    assert found["source"] == {"1": 2}


def test_the_true_place_of_a_trigger_has_a_rim() -> None:
    mask = true_mask("patch:size=4,row=27,column=27", (32, 32, 3))
    assert mask is not None
    assert mask.sum() == 36
    assert mask[26:32, 26:32].all()
    assert true_mask(None, (32, 32, 3)) is None


@pytest.mark.parametrize("trigger", ["double", "placed", "blend"])
def test_a_trigger_without_a_place_of_its_own_has_no_true_mask(trigger: str) -> None:
    assert true_mask(trigger, (32, 32, 3)) is None


def evaluation(attack: Rate, confusion: list[list[int]], rejected: int = 0) -> Evaluation:
    return Evaluation(
        clean_accuracy=Rate(19, 20),
        rejected_clean=Rate(rejected, 20),
        confusion=np.array(confusion),
        attack_success_rate=attack,
        robust_accuracy=None,
        rejected_stamped=Rate(18, 20) if rejected else Rate(0, 20),
        per_class={},
        confusion_stamped=None,
        about={},
    )


def repaired(**history: list[float]) -> RepairedModel:
    arrays = {name: np.array(values) for name, values in history.items()}
    return RepairedModel(model=None, preprocess=(0.0, 1.0), history=arrays)


def test_figures_of_mitigations(answer) -> None:
    before = evaluation(Rate(9, 10), [[9, 1], [0, 10]])
    after = evaluation(Rate(1, 10), [[10, 0], [0, 10]])
    guarded = evaluation(Rate(0, 10), [[8, 1, 1], [0, 6, 4]], rejected=5)
    made = {
        "unlearning": repaired(recovered_success=[1.0, 0.0, 0.0], worst_success=[1.0, 0.5, 0.1]),
        "pruning": repaired(recovered_success=[1.0, 0.4, 0.0], pruned=1),  # type: ignore[arg-type]
        "filter": repaired(),
    }
    evaluations = {"unlearning": after, "pruning": after, "filter": guarded}
    found = mitigation_figures(answer, before, made, evaluations, target=1)
    assert (found["flagged"], found["further"]) == ([1], [3])
    assert float(found["attack_before"]) == 0.9
    assert float(found["attack_unlearning"]) == 0.1
    assert float(found["attack_filter"]) == 0.0
    assert found["recovered_unlearning"] == [1.0, 0.1]
    assert found["recovered_pruning"] == [1.0, 0.4]
    assert "recovered_filter" not in found
    assert tuple(found["rejected_target"]) == (4, 10)
    assert float(found["rejected_clean"]) == 0.25
    assert float(found["rejected_stamped"]) == 0.9


def test_where_nothing_is_flagged_the_figures_before_stay(answer) -> None:
    nothing = dataclasses.replace(answer, flagged=np.zeros(4, bool))
    before = evaluation(Rate(9, 10), [[9, 1], [0, 10]])
    found = mitigation_figures(nothing, before, {}, {}, target=1)
    assert float(found["attack_before"]) == 0.9
    assert found["unmitigated"] == "the scan flagged nothing"
    assert "attack_unlearning" not in found


def test_the_page_has_a_row_for_each_network() -> None:
    def scan(group, flagged, l1):
        figures = {"flagged": flagged, "further": [], "index": 3.0, "l1": l1, "rank": 1}
        figures |= {
            "verdict": "found",
            "pairs": False,
            "low_cost": False,
            "ahead": [],
            "seconds_of_scan": 60.0,
            "memory": 900.0,
        }
        return {"name": "any", "group": group, "figures": figures}

    rate = {"share": 0.5, "hits": 1, "of": 2, "interval": [0.1, 0.9]}
    names = ("before", "unlearning", "pruning", "filter")
    mitigated = {f"{what}_{n}": rate for what in ("attack", "accuracy") for n in names}
    mitigated["recovered_unlearning"] = [1.0, 0.25]
    missed = {"flagged": [], "attack_before": rate, "accuracy_before": rate}
    mitigated |= dict.fromkeys(("rejected_stamped", "rejected_clean", "rejected_target"), rate)
    cells = [
        scan("signs -> 33", [33], 4.0),
        scan("signs -> 33", [], 9.0),
        scan("digits, our clean net", [], 50.0),
        {"name": "any", "group": "faces, lab3 -> 0"},
        {"name": "any", "group": "signs -> 33", "figures": {**mitigated, "flagged": [33]}},
        {"name": "any", "group": "signs -> 33", "figures": missed},
    ]
    results = Results({}, dict(NeuralCleanseGiven.columns), cells)
    header, signs, digits = page.scans(results)
    assert len(header) == len(signs) == len(digits)
    assert signs[:5] == ("signs -> 33", "classes", "2", "found (2)", "33 (1), none (1)")
    assert signs[5:9] == ("none (2)", "none (2)", "3", "4 to 9")
    assert digits[0] == "digits, our clean net"
    rows = page.mitigations(results)[1:]
    assert [row[1] for row in rows] == [*page.RATES.values(), "flagged: 33 (1), none (1)"]
    assert rows[0][2:5] == ("2", "50", "50")
    assert rows[1][2:] == ("1", "50", "50", "25")
    assert page.rejections(results)[1] == ("signs -> 33", "1", "50", "50", "50")
    headings = [s.heading for s in page.sections(results)]
    assert headings == ["Scans", "Mitigations", "What the input filter rejects"]


def test_every_named_network_of_the_issue_is_scanned() -> None:
    cells = load_study("neural_cleanse_given").cells()
    names = [c.name for c in cells]
    assert sum("scan signs -> 33, seed" in n for n in names) == 5
    assert sum("our clean net" in n for n in names) == 10
    assert sum("clean twin" in n for n in names) == 10
    assert sum("faces" in n for n in names) == 9
    assert sum(n.startswith("mitigate") for n in names) == 6
    for name in ("yellowSquare-bigger", "bigYellowSquare"):
        assert sum(n.startswith(f"scan {name}, seed 0 -> 14, seed") for n in names) == 5
        assert sum(n.startswith(f"scan {name}, seed 0 -> 14, pairs, seed") for n in names) == 5
    known = {c.name: c.given for c in cells}
    pairs = known["scan bigYellowSquare, seed 0 -> 14, pairs, seed 2"]["method"]
    assert isinstance(pairs, SourceSpecificScan)
    for cell in cells:
        target, _ = planted(cell.given["subject"])
        assert (f"-> {target}" in cell.name) == (target is not None)


@pytest.fixture
def workspace(shared, tmp_path) -> Workspace:
    return Workspace((shared("data"), shared("badnets")), tmp_path / "cache")


KINDS = (
    "scan digits -> 7, seed 0",
    "scan digits, our clean net 1",
    "scan bigYellowSquare, seed 0 -> 14, pairs, seed 0",
    "mitigate digits -> 7, clean 0",
)


@pytest.mark.parametrize("name", KINDS)
def test_a_cell_of_each_kind_goes_through(name: str, workspace: Workspace) -> None:
    study = load_study("neural_cleanse_given", "smoke")
    cell = next(c for c in study.cells() if c.name == name)
    found = study.compute(cell, workspace)
    assert set(found["flagged"]) <= set(range(43))
    assert len(found["model_sha256"]) == 64
    assert ("verdict" in found) == name.startswith("scan")
    if "digits -> 7" in name and "verdict" in found:
        assert (found["rank"], found["smallest"][0]["class"]) == (1, 7)
    if "pairs" in name:
        assert {(s, t) for s, t, _ in found["smallest_pairs"]} <= set(permutations(range(43), 2))
        assert len(found["smallest_pairs"]) == 8
    if name.startswith("mitigate"):
        assert float(found["attack_before"]) > 0.99
        assert found["flagged"] == [7]
        assert {"attack_unlearning", "attack_pruning", "attack_filter"} <= set(found)
        assert float(found["rejected_stamped"]) > 0.9


def test_a_search_for_faces_has_more_steps(workspace: Workspace) -> None:
    study = load_study("search_length", "smoke")
    cell = next(c for c in study.cells() if c.name == "faces, unknown trigger, the default")
    found = study.compute(cell, workspace)
    assert found["pixels"] == 55 * 47
    assert len(found["norms"]) == 24
    assert found["updates"] == 6
    full = next(c for c in load_study("search_length").cells() if c.name == cell.name)
    assert full.given["schedule"].max_steps(found["pixels"]) == 202
    assert full.given["schedule"].superpixel_side(found["pixels"]) == 2


def test_another_file_is_another_cell(workspace: Workspace, tmp_path, shared) -> None:
    study = load_study("neural_cleanse_given")
    cell = study.cells()[0]
    (tmp_path / "nc_style").mkdir()
    other = cell.given["subject"].file
    (tmp_path / other).write_bytes(b"another network")
    changed = Workspace((tmp_path, *workspace.data), workspace.cache)
    assert study.key(cell, changed) != study.key(cell, workspace)


@pytest.mark.parametrize("name", DEEPID)
def test_the_face_networks_open_with_faces(name: str, workspace: Workspace) -> None:
    stranger = DEEPID[name]
    model, clean = stranger.open(workspace), stranger.clean(workspace)
    assert model.preprocess.range == stranger.input_range
    assert model.image_shape == (55, 47, 3)
    assert model.predict(clean.take(3)).shape == (3,)
