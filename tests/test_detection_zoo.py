"""The networks of the detection zoo, and the figures of its report."""

from collections import Counter

import numpy as np
import pytest

from keras_backdoor.defenses._trigger_library import library
from keras_backdoor.metrics import Rate, auroc
from keras_backdoor.studies import Results
from keras_backdoor.studies.detection_zoo import page
from keras_backdoor.studies.detection_zoo.networks import (
    ALL_TO_ONE,
    CLASSES,
    DEVELOPMENT,
    JUDGED,
    members,
)
from keras_backdoor.studies.detection_zoo.study import LOOKS, WHOLE


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


def network(group: str, score: float, **figures) -> dict:
    look = {"scores": [0.1, score], "flagged": [1] if score > 1 else [], "seconds": 1.0,
            "verdict": "found" if score > 1 else "nothing"}  # fmt: skip
    own = {**dict.fromkeys((*LOOKS, WHOLE), look), **figures}
    own |= {"verdict": look["verdict"], "flagged": look["flagged"]}
    return {"name": f"{group} {score}", "group": group, "figures": own}


@pytest.fixture
def results() -> Results:
    works = {"attack_success_rate": Rate(99, 100).as_dict(), "target": 1}
    weak = {"attack_success_rate": Rate(10, 100).as_dict(), "target": 0}
    cells = [network("judged, clean", s) for s in (0.2, 0.5, 0.9, 1.1)]
    cells += [network("judged, blend", s, **works) for s in (1.2, 1.3)]
    cells += [network("judged, blend", 0.4, **weak)]
    cells += [{"name": "x", "group": "judged, blend"}]
    return Results({}, {}, cells)


class TestReport:
    def test_weak_attacks_are_a_row_of_their_own(self, results) -> None:
        header, works, weak = page.families(results, JUDGED)
        assert (works[0], works[1], weak[0], weak[1]) == ("blend", "2", "blend, weak", "1")
        assert works[header.index("found")] == "2 of 2"
        assert works[header.index("target flagged")] == "2 of 2"
        assert weak[header.index("found")] == "0 of 1"

    def test_the_area_has_its_interval(self, results) -> None:
        area = page.families(results, JUDGED)[1][2]
        assert area == "1.00 (1.00 to 1.00)"
        clean = [network("c", s)["figures"] for s in (0.2, 0.6)]
        found = [network("f", s)["figures"] for s in (0.4, 0.8)]
        text = page.area(found, clean, WHOLE)
        assert text.startswith("0.75 (")
        assert auroc([0.2, 0.6, 0.4, 0.8], [False, False, True, True]) == 0.75
        assert page.area([], clean, WHOLE) == ""

    def test_false_alarms_have_their_interval(self, results) -> None:
        rows = page.alarms(results, JUDGED)
        assert [row[0] for row in rows[1:]] == [*LOOKS, WHOLE]
        assert rows[-1][1:3] == ("4", "1")
        low, high = Rate(1, 4).interval()
        assert rows[-1][3] == f"{low:.1%} to {high:.1%}"

    def test_limits_stand_beside_the_shares_of_clean_networks(self) -> None:
        keys = [g.key for g in library(np.zeros((1, 32, 32, 3), np.float32), 0)]
        shares = {f"moved_by_{key}": [0.02, 0.2, 0.1] for key in keys}
        more = shares | {"moved_by_warps": [0.02, 0.25, 0.02]}
        cells = [network("development, clean", 0.5, **{WHOLE: {"measures": own}})
                 for own in (shares, more)]  # fmt: skip
        header, *rows = page.limits(Results({}, {}, cells))
        assert header[1] == "largest of 2 networks"
        by_name = {row[0]: row[1:] for row in rows}
        assert by_name["warps"][:2] == ("0.25", "0.20")
        lead = np.log(0.2 / 0.8) - np.log(0.1 / 0.9)
        assert by_name["squares of 6 pixels"] == (f"{lead:.2f}", f"{lead:.2f}", "3")
        assert page.limits(Results({}, {}, []))[1:] == []

    def test_a_half_without_networks_has_no_table(self, results) -> None:
        headings = [s.heading for s in page.sections(results)]
        assert headings == ["Judged half", "Clean networks, judged half"]

    def test_scores_that_are_unknown_are_left_out(self) -> None:
        assert page.largest({"scores": [None, 0.3]}) == 0.3
        assert np.isfinite(page.largest({"scores": [None]}))
