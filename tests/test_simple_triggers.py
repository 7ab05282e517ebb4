"""The scan with a library of simple triggers."""

import dataclasses

import numpy as np
import pytest
from planted import TARGET

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses import SimpleTriggers, simple_triggers
from keras_backdoor.defenses._trigger_library import Group, library
from keras_backdoor.defenses.simple_triggers import (
    SHOWN,
    Confirmation,
    balanced,
    best_of,
    confirmed,
    leads,
    most_suspicious,
    moved,
    scores_of,
    strongest,
)
from keras_backdoor.samples import Samples
from keras_backdoor.triggers import Patch, Warp


@pytest.fixture(scope="module")
def answer(task):
    return SimpleTriggers()(task.model, clean=task.clean.unlabelled())


def test_the_planted_class_and_a_trigger_that_works(answer, task) -> None:
    assert np.flatnonzero(answer.flagged).tolist() == [TARGET]
    trigger = answer.triggers[TARGET]
    others = task.test.subset(task.test.known_labels != TARGET)
    rate = np.mean(task.model.predict(others.stamped(trigger)) == TARGET)
    assert rate > 0.5
    assert answer.figures["trigger"]["class"] == TARGET
    assert answer.figures["smallest_trigger"]["success"] == pytest.approx(rate, abs=0.1)


def test_the_clean_twin_has_nothing(task) -> None:
    clean = SimpleTriggers()(task.twin, clean=task.clean)
    assert clean.verdict == "nothing"
    assert not clean.suspects.any()


def test_few_images_are_no_decision(task) -> None:
    twin = SimpleTriggers()(task.twin, clean=task.clean.take(12))
    assert twin.verdict == "inconclusive"
    assert "12 clean images" in twin.inconclusive


def test_images_of_one_class_measure_nothing_that_leads_to_it(task) -> None:
    own = np.where(np.arange(700) % 20 == 0, 5, 3)
    lacking = Confirmation.on_others(
        task.model, task.clean.take(700), own, np.arange(40), 0
    ).lacking
    assert "of 500 clean images are of one class" in lacking
    own = np.arange(700) % 10
    assert not Confirmation.on_others(
        task.model, task.clean.take(700), own, np.arange(40), 0
    ).lacking


@pytest.mark.parametrize(
    ("name", "number", "classes"), [("FEW", 11, "fewer than 11"), ("MANY", 9, "more than 9")]
)
def test_among_few_and_many_classes_it_is_a_suspicion(
    task, monkeypatch, name: str, number: int, classes: str
) -> None:
    monkeypatch.setattr(simple_triggers, name, number)
    found = SimpleTriggers()(task.model, clean=task.clean.unlabelled())
    assert np.flatnonzero(found.suspects).tolist() == [TARGET]
    assert (found.verdict, found.flagged.any()) == ("inconclusive", False)
    assert f"among {classes} classes is only a suspicion" in found.inconclusive


def test_a_guard_and_bad_settings_are_refused(task) -> None:
    guard = dataclasses.replace(task.model, reject_class=9)
    with pytest.raises(ValueError, match="is a guard already"):
        SimpleTriggers()(guard, clean=task.clean.unlabelled())
    with pytest.raises(ValueError, match="images must be 10 or more"):
        SimpleTriggers(images=3)


def test_ties_are_broken_among_the_classes_above_the_limit() -> None:
    values = np.array([[1.004, 0.996, 0.1], [0.0, 0.5, 0.1]])
    assert most_suspicious(values) == 0


def test_what_leads_after_a_confirmation_is_measured_too() -> None:
    group = Group("large", "", [Patch(size=1), Patch(size=2), Patch(size=3)], 2.0, 3.0)
    share = np.array([0.98, 0.6, 0.02])
    asked: list[int] = []

    def confirm(_, number: int) -> float:
        asked.append(number)
        return 0.02

    (again,) = confirmed([share], [np.arange(3)], [group], confirm)
    assert asked == [0, 1]
    assert (scores_of(again, group) <= 1).all()


class TestLibrary:
    def groups(self, height: int = 32, width: int = 32, channels: int = 3) -> dict[str, Group]:
        return {g.name: g for g in library(height, width, channels, 0)}

    def test_triggers_reach_all_corners_in_all_colors(self) -> None:
        squares = self.groups()["squares of 4 pixels"].triggers
        places = {(t.row, t.column) for t in squares}
        assert {(0, 0), (0, 28), (28, 0), (28, 28)} <= places
        assert {t.color for t in squares} == {
            (float(r), float(g), float(b)) for r in (0, 1) for g in (0, 1) for b in (0, 1)
        }
        rows = sorted({row for row, _ in places})
        assert max(np.diff(rows)) <= 3
        assert sum(len(g.triggers) for g in self.groups().values()) < 4000

    def test_gray_images_have_two_colors(self) -> None:
        squares = self.groups(channels=1)["squares of 4 pixels"].triggers
        assert len({t.color for t in squares}) == 2

    def test_sizes_and_limits_follow_the_images(self) -> None:
        large = self.groups(64, 96)
        for small, name in ((2, 4), (4, 8), (6, 12)):
            own = self.groups()[f"squares of {small} pixels"]
            assert large[f"squares of {name} pixels"].limit == own.limit
            assert large[f"squares of {name} pixels"].lead_limit == own.lead_limit
        tiny = self.groups(14, 14, 1)
        assert {"checkerboards of 3 pixels", "checkerboards of 4 pixels"} <= set(tiny)

    def test_checkerboards_come_in_both_phases(self) -> None:
        boards = self.groups()["checkerboards of 3 pixels"].triggers
        first, inverse = boards[0], boards[len(boards) // 2]
        np.testing.assert_array_equal(first.mask, inverse.mask)
        np.testing.assert_array_equal(first.pattern + inverse.pattern, first.mask)

    def test_all_can_be_stamped(self) -> None:
        images = np.random.default_rng(0).random((20, 32, 32, 3), np.float32)
        for group in self.groups().values():
            stamped = group.triggers[-1].stamp_rows(images, np.arange(20), 0)
            assert stamped.shape == images.shape
            assert not np.array_equal(stamped, images)


class TestRule:
    def test_shares_are_of_images_of_other_classes(self, task) -> None:
        images = task.clean.take(40).read().astype(np.float32) / 255
        own = task.model.predict(task.clean.take(40))
        first = Group("a", "a", [Patch(size=1, row=0, column=0)], 0.2, 9.0)
        groups = [first, Group("b", "b", [Warp(), Warp(strength=9.0)], 0.2, 9.0)]
        shares = moved(task.model, images, own, groups)
        assert shares.shape == (3, 10)
        stamped = np.clip(Warp(strength=9.0).stamp(images, None), 0, 1).astype(np.float32)
        answers = task.model.predict(Samples(stamped, value_range=(0.0, 1.0)))
        expected = np.mean(answers[own != 1] == 1)
        assert shares[2, 1] == pytest.approx(expected)
        best, where = best_of(shares, groups)
        np.testing.assert_array_equal(best[1], shares[1:].max(axis=0))
        np.testing.assert_array_equal(where[1], shares[1:].argmax(axis=0))

    def test_a_share_counts_in_units_of_its_limit(self) -> None:
        scores = scores_of(np.array([0.3, 0.25, 0.1, 0.0]), Group("", "", [], 0.2, 9.0))
        np.testing.assert_allclose(scores, [1.5, 1.25, 0.5, 0.0], atol=1e-9)

    def test_a_class_that_stands_out_counts_by_its_lead(self) -> None:
        scores = scores_of(np.array([0.8, 0.16, 0.1]), Group("", "", [], 2.0, 3.0))
        lead = np.log(0.8 / 0.2) - np.log(0.16 / 0.84)
        assert scores[0] == pytest.approx(lead / 3)
        assert scores[1:].tolist() == pytest.approx([0.08, 0.05])  # by their shares

    def test_small_shares_do_not_stand_out(self) -> None:
        assert leads(np.array([0.09, 0.0, 0.01])).max() == 0
        assert leads(np.array([1.0, 0.0, 0.0])).max() == pytest.approx(6.09, abs=0.01)

    def test_what_is_above_the_limit_is_measured_again(self) -> None:
        group = Group(
            "squares", "squares", [Patch(size=2), Patch(size=2, row=0, column=0)], 0.2, 9.0
        )
        asked = []

        def confirm(trigger, target):
            asked.append((trigger.row, target))
            return 0.15

        share, best = np.array([0.3, 0.1, 0.25]), np.array([1, 0, 0])
        (found,) = confirmed([share], [best], [group], confirm)
        assert asked == [(0, 0), (-5, 2)]
        assert found.tolist() == [0.15, 0.1, 0.15]
        assert share.tolist() == [0.3, 0.1, 0.25]

    def test_the_first_trigger_that_works_is_kept(self) -> None:
        small, large = Patch(size=2), Patch(size=6)
        groups = [Group("small", "", [small], 0.2, 2.0), Group("large", "", [large], 2.0, 3.0)]
        best = [np.zeros(1, int)] * 2

        def kept(first, second, deciding=0):
            shares = [np.array([first]), np.array([second])]
            return strongest(0, shares, best, groups, deciding)

        assert kept(0.95, 1.0) is small
        assert kept(0.5, 0.8) is large
        assert kept(0.0, 0.0, deciding=1) is large


def test_images_are_drawn_from_all_classes() -> None:
    predicted = np.repeat([0, 1, 2], [500, 30, 5])
    drawn = predicted[balanced(predicted, 30, seed=1)]
    assert sorted(np.bincount(drawn).tolist()) == [5, 12, 13]
    many = np.repeat(np.arange(200), 3)
    chosen = many[balanced(many, 48, seed=0)]
    assert len(chosen) == len(set(chosen)) == 96
    np.testing.assert_array_equal(balanced(many, 48, 0), balanced(many, 48, 0))


def test_a_network_that_no_trigger_moves_has_no_suspect() -> None:
    """All classes score alike, more of them than triggers are kept."""
    inputs = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(12, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(scores))
    images = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), dtype=np.uint8)
    answer = SimpleTriggers(images=10)(model, clean=images, preprocess=(0, 1))
    assert not answer.flagged.any() and not answer.suspects.any()
    assert (answer.scores == 0).all()
    assert len(answer.triggers) <= SHOWN
