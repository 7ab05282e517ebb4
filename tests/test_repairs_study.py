"""The studies of repairs at small scale, and the tables that are made of their results."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from keras_backdoor import studies
from keras_backdoor.studies.base import load_study
from keras_backdoor.studies.repairs import page


def rate(share: float) -> dict[str, float]:
    return {"share": share}


def test_repairs_at_small_scale(small_signs, in_this_process) -> None:
    for name in load_study("repairs").read():
        path = small_signs.data[0] / name
        path.parent.mkdir(exist_ok=True)
        if name != "mnist.npz" and not path.exists():
            path.write_bytes(b"not used by these cells")
    only = ["yellowSquare-bigger, seed 0, clean 0", "yellowSquare-bigger, seed 0, fine-tuning"]
    results = studies.run("repairs", scale="smoke", workspace=small_signs, only=only)
    assert [c["error"] for c in results.cells if "error" in c] == []
    figures = results.figures()
    ours, plain = (figures[name] for name in only)
    for found in (ours, plain):
        assert found["attack_before"]["of"] > 300
        assert 0 <= found["guarded"]["share"] <= 1
    assert ours["tolerant"]["0.05"]["clean"]["of"] == ours["accuracy_before"]["of"]
    assert {"changed_before", "changed_after"} <= set(ours)
    tables = {section.heading: section.table for section in page.sections(results)}
    (row,) = tables["Beside the literature"][1:]
    assert row[0] == "yellowSquare-bigger, seed 0" and row[2] and row[-1]


def test_fine_pruning_at_small_scale(small_signs, in_this_process) -> None:
    only = ["yellowSquare-bigger, second-last"]
    results = studies.run("thesis-fine-pruning", scale="smoke", workspace=small_signs, only=only)
    assert [c["error"] for c in results.cells if "error" in c] == []
    figures = results.figures()[only[0]]
    assert figures["of"] == 128
    assert figures["parameters"] <= 1 and figures["operations"] <= 1
    assert set(figures["numbers"]) == {"0.02", "0.04", "0.06", "0.1"}
    for key in ("before", "pruned"):
        assert {f"accuracy_{key}", f"attack_{key}"} <= set(figures)


def test_every_network_is_judged_on_three_subsets() -> None:
    cells = load_study("repairs").cells()
    names = [c.name for c in cells]
    for name in ("signs -> 33", "digits -> 7", "digits, demo -> 7", "clean", "signs, clean twin",
                 "whitePattern, seed 0", "bigYellowSquare, seed 2"):  # fmt: skip
        assert sum(n.startswith(f"{name}, clean ") for n in names) == 3
    left_out = [c.given["method"].families for c in cells if c.group == "a family left out"]
    assert len(left_out) == 7 and all(len(f) == 6 for f in left_out)
    zoo = [c for c in cells if c.group == "development zoo"]
    assert len(zoo) >= 18


def test_the_tables_have_ranges_over_the_subsets() -> None:
    def run(name: str, group: str, **figures: Any) -> dict[str, Any]:
        return {"name": name, "group": group, "figures": figures}

    first = {"accuracy_before": rate(0.97), "accuracy_after": rate(0.96), "attack_before": rate(1),
             "attack_after": rate(0.01), "guarded": rate(0.99)}  # fmt: skip
    second = {**first, "attack_after": rate(0.02), "accuracy_after": rate(0.975)}
    cells = [
        run("net, clean 0", "net", **first, unseen_before=rate(0.9), unseen_after=rate(0.95)),
        run("net, clean 1", "net", **second),
        run("net, NAD", "NAD", **second),
        run("signs, family 3", "development zoo", **first),
        run("signs, family 3, without warp", "a family left out", **second),
        run("a face", "faces", attack_before=rate(1), attack_after=rate(0.5), agreement=rate(0.9),
            agreement_where_sure=rate(0.95)),
    ]  # fmt: skip

    def groups(key: str) -> dict[str, list]:
        found: dict[str, list] = {}
        for cell in cells:
            if key in cell["figures"]:
                found.setdefault(cell["group"], []).append(cell["figures"])
        return found

    results: Any = SimpleNamespace(cells=cells, groups=groups)
    (row,) = page.repaired(results)[1:]
    assert row[:4] == ("net", "2", "100.00", "1.00 to 2.00")
    assert row[7] == "-1.00 to +0.50"
    assert page.unseen(results)[1:] == [("net", "97.00", "96.00", "90.00", "95.00")]
    assert page.literature(results)[1] == ("net", "100.00", "", "2.00 (+0.50)", "", "1.00 (-1.00)")
    assert page.families(results)[1] == ("warp", "100.00", "1.00", "2.00")
    assert page.faces(results)[1] == ("a face", "100.00", "50.00", "90.00", "95.00")


def test_a_tolerant_guard_by_hand() -> None:
    from keras_backdoor.samples import Samples
    from keras_backdoor.studies.repairs.measures import tolerant_guards

    class Fixed:
        def __init__(self, scores: list) -> None:
            self.values = np.array(scores)

        def predict(self, samples: Samples) -> np.ndarray:
            return self.values.argmax(axis=1)

        def scores(self, samples: Samples) -> np.ndarray:
            return self.values

    test = Samples(np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 0]))
    b: Any = Fixed([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    b_prime: Any = Fixed([[0.6, 0.4], [0.97, 0.03], [0.995, 0.005]])
    found = tolerant_guards(b, b_prime, test, None)
    assert found["0.01"]["clean"] == pytest.approx((1, 3))
    assert found["0.05"]["clean"] == pytest.approx((2, 3))
