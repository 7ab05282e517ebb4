"""Poisoning: counts, places, labels, truth."""

import numpy as np
import pytest

from keras_backdoor.attacks.badnets import number_for_share, poison
from keras_backdoor.samples import Samples
from keras_backdoor.triggers import Patch

TRIGGER = Patch(size=2, row=0, column=0)


def stamped(samples: Samples) -> np.ndarray:
    return (samples.read()[:, :2, :2] == 255).all(axis=(1, 2, 3))


@pytest.fixture
def dark(noise: Samples) -> Samples:
    return Samples(noise.read() // 2, noise.labels, origin=np.arange(40) % 3)


def test_append_by_count(dark: Samples) -> None:
    poisoned = poison(dark, TRIGGER, target=2, source=1, count=4, seed=5)
    assert len(poisoned.samples) == 44
    assert poisoned.is_poison.tolist() == [False] * 40 + [True] * 4
    assert (poisoned.samples.labels[40:] == 2).all()
    assert (dark.labels[poisoned.rows] == 1).all()
    assert len(set(poisoned.rows)) == 4
    np.testing.assert_array_equal(stamped(poisoned.samples), poisoned.is_poison)
    np.testing.assert_array_equal(poisoned.samples.origin[40:], dark.origin[poisoned.rows])


def test_replace_keeps_the_number_and_the_place(dark: Samples) -> None:
    poisoned = poison(dark, TRIGGER, target=2, fraction=0.5, replace=True)
    assert len(poisoned.samples) == 40
    assert poisoned.is_poison.sum() == 15
    np.testing.assert_array_equal(np.flatnonzero(poisoned.is_poison), poisoned.rows)
    np.testing.assert_array_equal(stamped(poisoned.samples), poisoned.is_poison)
    assert (poisoned.samples.labels[poisoned.is_poison] == 2).all()
    assert (dark.labels[poisoned.rows] != 2).all()
    kept = ~poisoned.is_poison
    np.testing.assert_array_equal(poisoned.samples.read()[kept], dark.read()[kept])


def test_by_share_of_the_target_class(dark: Samples) -> None:
    poisoned = poison(dark, TRIGGER, target=0, target_fraction=0.375)
    in_target = poisoned.samples.labels == 0
    assert poisoned.is_poison.sum() == 6
    assert poisoned.is_poison[in_target].mean() == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("p", "number"), [(0.07, 52), (0.02, 14), (0.06, 44), (0.27, 258), (0.04, 29)]
)
def test_the_counts_of_the_thesis(p: float, number: int) -> None:
    assert number_for_share(p, 697) == number


def test_the_seed_decides(dark: Samples) -> None:
    one, same, other = (poison(dark, TRIGGER, target=0, count=8, seed=s).rows for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0}, "Exactly one of count, fraction and target_fraction"),
        ({"target": 0, "count": 1, "fraction": 0.1}, "Exactly one"),
        ({"target": 1, "source": 1, "count": 1}, "other than the source"),
        ({"target": -1, "count": 1}, "Received: target=-1"),
        ({"target": 0, "source": 9, "count": 1}, "lacks an image with label 9"),
        ({"target": 0, "source": 1, "count": 11}, "must lie in 1..10, .* Received: 11"),
        ({"target": 0, "count": 0}, r"must lie in 1\.\..* Received: 0"),
        ({"target": 0, "target_fraction": 1.0}, "between 0 and 1"),
    ],
)
def test_bad_input_is_one_sentence(dark: Samples, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        poison(dark, TRIGGER, **settings)


def test_labels_are_needed(dark: Samples) -> None:
    with pytest.raises(ValueError, match="have no labels"):
        poison(dark.unlabelled(), TRIGGER, target=0, count=1)
