"""The networks of the detection zoo, and the figures of its report."""

from collections import Counter

import numpy as np
import pytest

from keras_backdoor import bundled, datasets, studies
from keras_backdoor.defenses._trigger_library import library
from keras_backdoor.metrics import Rate, auroc
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies.detection_zoo import page
from keras_backdoor.studies.detection_zoo.networks import (
    ALL_TO_ONE,
    CLASSES,
    DEVELOPMENT,
    JUDGED,
    members,
)
from keras_backdoor.studies.detection_zoo.page import WHOLE
from keras_backdoor.studies.detection_zoo.study import LOOKS, QUICK, SEARCH


class TestNetworks:
    def test_both_halves_are_large_enough_and_alike(self) -> None:
        kinds = Counter((m.half, m.data, m.family) for m in members().values())
        for half in (DEVELOPMENT, JUDGED):
            clean = sum(n for (h, _, family), n in kinds.items() if h == half and family == "clean")
            assert clean == 30
        backdoored = sum(m.family != "clean" for m in members().values())
        assert backdoored >= 60
        for (half, data, family), number in kinds.items():
            other = JUDGED if half == DEVELOPMENT else DEVELOPMENT
            assert kinds[other, data, family] == number

    def test_no_network_is_in_both_halves(self) -> None:
        seeds = Counter(m.net.recipe.seed for m in members().values())
        assert set(seeds.values()) == {1}
        attacks = [repr(m.net.attack) for m in members().values() if m.net.attack]
        attacks = [text for text in attacks if "sinusoid" not in text]  # of five frequencies
        assert len(set(attacks)) == len(attacks)

    def test_families_architectures_and_rates_vary(self) -> None:
        own = [m for m in members().values() if m.half == JUDGED]
        assert len({m.family for m in own}) == 8
        assert len({m.net.architecture for m in own}) == 4
        rates = {m.net.attack.fraction for m in own if m.family == ALL_TO_ONE}
        assert min(rates) == 0.001 and max(rates) == 0.1

    def test_targets_are_classes_other_than_the_source(self) -> None:
        for m in members().values():
            attack = m.net.attack
            if attack is not None and attack.target != "next":
                assert 0 <= attack.target < CLASSES[m.data]
                assert attack.source != attack.target

    def test_the_grid_does_not_change_from_call_to_call(self) -> None:
        assert members() == members()


def look(score: float, *, verdict: str = "", triggers: tuple[int, ...] = (1,), **more) -> dict:
    """What a look says of two classes, of which the second is suspicious."""
    found = [1] if score > 1 else []
    return {"scores": [0.1, score], "flagged": found, "suspects": [], "triggers": list(triggers),
            "verdict": verdict or ("found" if found else "nothing"),
            "inconclusive": "too little" if verdict == "inconclusive" else "",
            "seconds": 1.0, "measures": {}} | more  # fmt: skip


def network(group: str, name: str, score: float, **figures) -> list[dict]:
    """The two cells of a network whose triggers look has a score."""
    own = {"weights": look(0.1, triggers=()), "triggers": look(score), "attack": "a blend"}
    own |= {k: v for k, v in figures.items() if k != "search"}
    search = {"search": figures.get("search", look(0.2))}
    return [
        {"name": f"judged, {name}, {QUICK}", "group": group, "figures": own},
        {"name": f"judged, {name}, {SEARCH}", "group": group, "figures": search},
    ]


@pytest.fixture
def results() -> Results:
    works = {"attack_success_rate": Rate(99, 100).as_dict(), "target": 1}
    weak = {"attack_success_rate": Rate(10, 100).as_dict(), "target": 0}
    cells = []
    for number, score in enumerate((0.2, 0.5, 0.9, 1.1)):
        cells += network("judged, clean", f"clean {number}", score)
    for number, score in enumerate((1.2, 1.3)):
        cells += network("judged, blend", f"blend {number}", score, **works)
    cells += network("judged, blend", "blend 2", 0.4, **weak)
    cells += network("judged, blend", "blend 3", 0.4, **works)[:1]  # not scanned in full yet
    cells += [{"name": f"judged, blend 4, {QUICK}", "group": "judged, blend", "error": "no"}]
    return Results({}, {}, cells)


class TestWhole:
    """The whole scan follows from the looks."""

    def figures(self, **looks) -> dict:
        return {
            "weights": look(0.1, triggers=()),
            "triggers": look(0.5),
            "search": look(0.2),
        } | looks

    def test_a_flagged_class_with_a_trigger_settles_it(self) -> None:
        found = page.whole(self.figures(triggers=look(1.5), search=look(3.0)))
        assert found == {"scores": [0.1, 1.5], "flagged": [1], "verdict": "found"}

    def test_a_flagged_class_without_a_trigger_does_not(self) -> None:
        found = page.whole(self.figures(triggers=look(1.5, triggers=()), search=look(3.0)))
        assert found["scores"] == [0.1, 3.0]

    def test_a_search_that_cannot_decide_makes_it_inconclusive(self) -> None:
        found = page.whole(self.figures(search=look(0.9, verdict="inconclusive")))
        assert found["verdict"] == "inconclusive"
        assert page.whole(self.figures())["verdict"] == "nothing"

    def test_unknown_scores_are_those_of_the_other_looks(self) -> None:
        unknown = look(0.1, scores=[None, None], triggers=(), verdict="inconclusive")
        found = page.whole(self.figures(weights=unknown))
        assert found["scores"] == [0.1, 0.5]


@pytest.mark.parametrize("name", ["all to one 0", "all to one 1"])
def test_a_network_at_small_scale(name, tmp_path, in_this_process) -> None:
    """The second has an architecture for larger images with colors and more classes."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "gtsrb_dataset_int.h5").write_bytes(b"not used by these cells")
    path = bundled.path("data/mnist_small.npz")
    parts = {s: datasets.open(path, split=s).take(1000, seed=0) for s in ("train", "test")}
    arrays = {f"x_{s}": p.read() for s, p in parts.items()}
    np.savez(folder / "mnist.npz", **arrays, **{f"y_{s}": p.labels for s, p in parts.items()})
    workspace = Workspace(data=(folder,), cache=tmp_path / "cache")
    name = f"development, digits, {name}"
    found = studies.run("detection-zoo", scale="smoke", workspace=workspace, only=[name])
    assert [c["error"] for c in found.cells if "error" in c] == []
    figures = page.networks(found, DEVELOPMENT)[name]
    assert figures["target"] in range(10) and figures["attack"].startswith("BadNets Patch")
    assert figures["attack_success_rate"]["of"] > 100
    for look_at in (*LOOKS, WHOLE):
        assert len(figures[look_at]["scores"]) == 10
    assert set(figures["search"]["measures"]) >= {"l1_norm"}
    assert "moved_by_squares" in figures["triggers"]["measures"]


class TestReport:
    def test_weak_attacks_are_a_row_of_their_own(self, results) -> None:
        header, together, others, works, weak = page.families(results, JUDGED)
        assert together == ("from all classes to one", *works[1:])
        assert others == ("of these, other triggers", *works[1:])
        assert (works[0], works[1], weak[0], weak[1]) == ("blend", "2", "blend, weak", "1")
        assert works[header.index("found")] == "2 of 2"
        assert works[header.index("target flagged")] == "2 of 2"
        assert works[header.index("no decision")] == "0"
        assert weak[header.index("found")] == "0 of 1"

    def test_the_area_has_its_interval(self, results) -> None:
        header, _, _, works, _ = page.families(results, JUDGED)
        assert works[header.index(f"AUROC, {WHOLE}")] == "1.00 (1.00 to 1.00)"
        clean, found = ([{WHOLE: look(s)} for s in own] for own in ((0.2, 0.6), (0.4, 0.8)))
        text = page.area(found, clean, WHOLE)
        assert text.startswith("0.75 (")
        assert auroc([0.2, 0.6, 0.4, 0.8], [False, False, True, True]) == 0.75
        assert page.area([], clean, WHOLE) == ""

    def test_triggers_of_the_library_s_kinds_are_told_apart(self, results) -> None:
        for cell in results.cells:
            if "blend 0" in cell["name"] and "attack" in cell["figures"]:
                cell["figures"]["attack"] = "BadNets Patch(size=4) (all -> 1)"
        _, together, others, *_ = page.families(results, JUDGED)
        assert (together[1], others[1]) == ("2", "1")

    def test_false_alarms_have_their_interval(self, results) -> None:
        rows = page.alarms(results, JUDGED)
        assert [row[0] for row in rows[1:]] == [*LOOKS, WHOLE]
        assert rows[-1][1:3] == ("4", "1")
        low, high = Rate(1, 4).interval()
        assert rows[-1][3] == f"{low:.1%} to {high:.1%}"

    def test_limits_stand_beside_the_shares_of_clean_networks(self) -> None:
        groups = library(32, 32, 3, 0)
        shares = {f"moved_by_{g.key}": [0.02, 0.2, 0.1] for g in groups}
        more = shares | {"moved_by_warps": [0.02, 0.26, 0.02]}
        cells = []
        for number, measures in enumerate((shares, more)):
            own = look(0.5, measures=measures)
            cells += network("development, clean", f"clean {number}", 0.5, triggers=own)
        header, *rows = page.limits(Results({}, {}, cells))
        assert header[2] == "largest of 2 networks"
        assert len(rows) == 2 * len(groups)
        by_name = {row[:2]: row[2:] for row in rows}
        rule = 0.23 + 0.03 * np.log(0.5 / page.ALARMS)  # the median, and the mean distance to it
        assert by_name["warps", "share"] == ("0.26", "0.20", f"{rule:.2f}", "0.25")
        lead = np.log(0.2 / 0.8) - np.log(0.1 / 0.9)
        limit = next(g.lead_limit for g in groups if g.key == "large_squares")
        assert by_name["squares of 6 pixels", "lead"] == (*[f"{lead:.2f}"] * 3, f"{limit:.2f}")
        assert page.limits(Results({}, {}, []))[1:] == []

    def test_a_half_without_networks_has_no_table(self, results) -> None:
        headings = [s.heading for s in page.sections(results)]
        assert headings == ["Judged half", "Clean networks, judged half", "Errors, judged half"]

    def test_networks_that_it_is_wrong_about_are_named(self, results) -> None:
        header, *rows = page.errors(results, JUDGED)
        assert [row[0] for row in rows] == ["clean 3", "blend 2"]
        alarm, missed = (dict(zip(header, row, strict=True)) for row in rows)
        assert (alarm["verdict"], alarm["flagged"], alarm["score, triggers"]) == (
            "found",
            "1",
            "1.10",
        )
        assert (missed["attack %"], missed["verdict"], missed["flagged"]) == (
            "10.00",
            "nothing",
            "none",
        )

    def test_scores_that_are_unknown_are_left_out(self) -> None:
        assert page.largest({"scores": [None, 0.3]}) == 0.3
        assert np.isfinite(page.largest({"scores": [None]}))
