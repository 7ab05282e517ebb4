"""Figures by hand."""

import numpy as np
import pytest

from keras_backdoor import metrics
from keras_backdoor.metrics import Rate

LABELS = np.array([0, 0, 1, 1, 2, 2])
STAMPED = np.array([2, 0, 2, 2, 2, 3])


def test_attack_success_leaves_out_the_target_class() -> None:
    assert metrics.attack_success_rate(STAMPED, LABELS, target=2) == Rate(3, 4)
    assert metrics.attack_success_rate(STAMPED, LABELS, target=2, source=0) == Rate(1, 2)
    assert metrics.attack_success_per_class(STAMPED, LABELS, 2) == {0: Rate(1, 2), 1: Rate(2, 2)}


def test_a_rejection_is_neither_right_nor_a_success() -> None:
    answers = np.array([3, 3, 3, 3, 3, 3])
    assert metrics.attack_success_rate(answers, LABELS, target=2) == Rate(0, 4)
    assert metrics.robust_accuracy(answers, LABELS) == Rate(0, 6)
    assert metrics.rejected(answers, 3) == Rate(6, 6)
    assert metrics.rejected(answers, None) == Rate(0, 6)


def test_removed_overall_and_per_class() -> None:
    flagged = np.array([True, True, False, False, True, False])
    poison = np.array([True, False, True, False, False, False])
    assert metrics.removed_poison(flagged, poison) == Rate(1, 2)
    assert metrics.removed_clean(flagged, poison) == Rate(2, 4)
    per_class = metrics.removed_per_class(flagged, poison, LABELS)
    assert per_class[0] == {"removed_poison": Rate(1, 1), "removed_clean": Rate(1, 1)}
    assert per_class[2] == {"removed_poison": Rate(0, 0), "removed_clean": Rate(1, 2)}


def test_confusion_has_rows_for_labels_and_room_for_rejection() -> None:
    matrix = metrics.confusion_matrix(STAMPED, LABELS, classes=4)
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 0, 2, 0], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_wilson_by_hand() -> None:
    # Wilson, 8 of 10, z = 1.959964: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    z, p, n = 1.959964, 0.8, 10
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    assert Rate(8, 10).interval() == pytest.approx(expected, abs=1e-6)
    assert np.isnan(float(Rate(0, 0)))
    assert np.isnan(Rate(0, 0).interval()).all()


def test_auroc() -> None:
    assert metrics.auroc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert metrics.auroc([4, 3, 2, 1], [False, False, True, True]) == 0.0
    assert np.isnan(metrics.auroc([1, 2], [True, True]))


def test_rates_as_json() -> None:
    assert Rate(1, 2).as_dict()["share"] == 0.5


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="arrays of the same length"):
        metrics.clean_accuracy([0, 1], [0])
