"""The study that judges Neural Cleanse: its figures by hand, and its page."""

import numpy as np
import pytest

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.evaluation import Evaluation
from keras_backdoor.metrics import Rate
from keras_backdoor.reports import neural_cleanse_given_page as page
from keras_backdoor.studies import Results
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.neural_cleanse_given import (
    NeuralCleanseGiven,
    mitigation_figures,
    scan_figures,
)
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
        about={"seconds": 5.0},
    )


def test_figures_of_a_scan(answer) -> None:
    true = np.zeros((4, 4), bool)
    true[0, 0] = True
    found = scan_figures(answer, 1, true)
    assert (found["flagged"], found["further"], found["verdict"]) == ("1", "3", "found")
    assert (found["rank"], found["l1"], found["index"], found["inside"]) == (1, 2.0, 4.0, 0.5)
    other = scan_figures(answer, 3, None)
    assert (other["rank"], other["l1"]) == (2, 3.0)
    assert "inside" not in other
    assert scan_figures(answer, None, None)["l1"] == 2.0


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


def test_figures_of_mitigations() -> None:
    before = evaluation(Rate(9, 10), [[9, 1], [0, 10]])
    after = evaluation(Rate(1, 10), [[10, 0], [0, 10]])
    guarded = evaluation(Rate(0, 10), [[8, 1, 1], [0, 6, 4]], rejected=5)
    found = mitigation_figures(before, {"unlearning": after, "filter": guarded}, target=1)
    assert float(found["attack_before"]) == 0.9
    assert float(found["attack_unlearning"]) == 0.1
    assert float(found["attack_filter"]) == 0.0
    assert tuple(found["rejected_target"]) == (4, 10)
    assert float(found["rejected_clean"]) == 0.25
    assert float(found["rejected_stamped"]) == 0.9


def test_the_page_has_a_row_a_network() -> None:
    def scan(name, flagged, l1):
        figures = {"flagged": flagged, "further": "none", "index": 3.0, "l1": l1, "rank": 1}
        return {"name": name, "figures": {**figures, "seconds_of_scan": 60.0, "memory": 900.0}}

    rate = {"share": 0.5, "hits": 1, "of": 2, "interval": [0.1, 0.9]}
    names = ("before", "unlearning", "pruning", "filter")
    mitigated = {f"{what}_{n}": rate for what in ("attack", "accuracy") for n in names}
    mitigated |= dict.fromkeys(("rejected_stamped", "rejected_clean", "rejected_target"), rate)
    cells = [
        scan("scan signs -> 33, seed 0", "33", 4.0),
        scan("scan signs -> 33, seed 1", "none", 9.0),
        scan("scan digits, our clean net 3", "none", 50.0),
        {"name": "scan faces, lab3 -> 0, seed 0"},
        {"name": "mitigate signs -> 33, clean 0", "figures": mitigated},
    ]
    results = Results({}, dict(NeuralCleanseGiven.columns), cells)
    header, signs, digits = page.scans(results)
    assert len(header) == len(signs) == len(digits)
    assert signs[:5] == ("signs -> 33", "2", "33 (1), none (1)", "none (2)", "3")
    assert signs[5] == "4 to 9"
    assert digits[0] == "digits, our clean net"
    assert [row[1] for row in page.mitigations(results)[1:]] == list(page.RATES.values())
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
    assert all("scan" in c.given or "method" in c.given for c in cells)
