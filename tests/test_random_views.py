"""Random views: what they change, and that each setting changes what it says."""

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor.defenses import _random_views
from keras_backdoor.defenses._random_views import random_views

SETTINGS = ("ROTATION", "SCALE", "SHIFT", "CONTRAST", "BRIGHTNESS")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Leave only one of the changes, and make it on all images."""
    monkeypatch.setattr(_random_views, "SHARE", 1.0)

    def leave(kept: str) -> None:
        for name in SETTINGS:
            if name != kept:
                monkeypatch.setattr(_random_views, name, 0.0)

    return leave


def images(number: int = 16) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.3, 0.7, (number, 21, 15, 3)).astype(np.float32)


def seen(pictures: np.ndarray, seed: int = 0) -> np.ndarray:
    return random_views(tf.constant(pictures), tf.constant([seed, 0])).numpy()


def test_without_changes_a_view_is_the_picture(only) -> None:
    only("")
    np.testing.assert_allclose(seen(images()), images(), atol=1e-6)


def test_brightness_is_added(only) -> None:
    only("BRIGHTNESS")
    difference = seen(images()) - images()
    assert difference.std(axis=(1, 2, 3)).max() < 1e-6
    means = difference.mean(axis=(1, 2, 3))
    assert np.abs(means).max() <= _random_views.BRIGHTNESS
    assert means.std() > 0.02


def test_contrast_scales_around_the_middle(only) -> None:
    only("CONTRAST")
    factors = (seen(images()) - 0.5).std(axis=(1, 2, 3)) / images().std(axis=(1, 2, 3))
    assert factors.min() >= 1 - _random_views.CONTRAST - 1e-4
    assert factors.max() <= 1 + _random_views.CONTRAST + 1e-4
    assert factors.std() > 0.03


@pytest.mark.parametrize("setting", ["ROTATION", "SCALE"])
def test_rotation_and_scale_keep_the_middle(only, setting: str) -> None:
    only(setting)
    views = seen(images())
    np.testing.assert_allclose(views[:, 10, 7], images()[:, 10, 7], atol=1e-4)
    assert np.abs(views - images()).mean() > 0.01


def test_a_shift_is_at_most_its_share_of_the_side(only) -> None:
    only("SHIFT")
    dot = np.zeros((64, 40, 40, 1), np.float32)
    dot[:, 20, 20] = 1.0
    views = seen(dot)[..., 0]
    weights = views / views.sum(axis=(1, 2), keepdims=True)
    for axis in (1, 2):
        center = (weights.sum(axis=3 - axis) * np.arange(40)).sum(axis=1) - 20
        assert np.abs(center).max() <= 0.12 * 40 + 0.01
        assert center.std() > 1.2


def test_some_images_are_seen_as_they_are() -> None:
    pictures = images(200)
    same = (seen(pictures) == pictures).all(axis=(1, 2, 3))
    assert same.mean() == pytest.approx(1 - _random_views.SHARE, abs=0.1)


def test_views_depend_on_the_seed_alone_and_stay_in_range() -> None:
    pictures = np.random.default_rng(0).uniform(0, 1, (8, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(seen(pictures, 3), seen(pictures, 3))
    assert np.abs(seen(pictures, 3) - seen(pictures, 4)).mean() > 0.01
    assert 0 <= seen(pictures).min() <= seen(pictures).max() <= 1
