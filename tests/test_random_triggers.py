"""Random triggers: each family does what it says, on every kind of image, from a seed."""

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor.defenses import _random_triggers as module
from keras_backdoor.defenses._random_triggers import FAMILIES, LOCAL, WHOLE, RandomTriggers
from keras_backdoor.triggers.base import Stamp

SHAPES = [(32, 32, 3), (28, 28, 1), (55, 47, 3), (8, 8, 1)]


def stamped(triggers: RandomTriggers, images: np.ndarray, seed: int = 0, label: int = 0):
    labels = tf.fill([len(images)], tf.constant(label, tf.int64))
    return triggers.stamped(tf.constant(images), labels, tf.constant([seed, 7])).numpy()


def pictures(number: int, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (number, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_on_every_kind_of_image(family: str, shape) -> None:
    images = pictures(200, shape)
    changed = stamped(RandomTriggers((family,)), images)
    assert changed.shape == images.shape and changed.dtype == np.float32
    assert changed.min() >= 0 and changed.max() <= 1
    pixels = (np.abs(changed - images) > 1e-6).any(axis=-1)
    share = pixels.reshape(200, -1).any(axis=1).mean()
    assert share == pytest.approx(module.SMALL_SHARE, abs=0.12)
    if family in LOCAL:
        largest = (LOCAL[family][2] * min(shape[:2]) + 1) ** 2
        assert pixels.reshape(200, -1).sum(axis=1).max() <= len(module.PASSES) * largest


def test_the_same_seed_gives_the_same_images() -> None:
    images = pictures(50, (16, 16, 3))
    first, again, other = (stamped(RandomTriggers(), images, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_graph_gives_the_same_images() -> None:
    images, labels = tf.constant(pictures(50, (16, 16, 3))), tf.zeros(50, tf.int64)
    triggers, seed = RandomTriggers(), tf.constant([1, 7])
    np.testing.assert_allclose(
        triggers(images, labels, seed), triggers.stamped(images, labels, seed), atol=1e-6
    )
    compiled = tf.function(triggers, autograph=False)(images[:20], labels[:20], seed)
    np.testing.assert_array_equal(compiled, triggers(images[:20], labels[:20], seed))


def test_small_triggers_reach_every_pixel_and_stay_small() -> None:
    images = np.full((3000, 12, 12, 1), 0.5, np.float32)
    changed = stamped(RandomTriggers(("patch", "pattern")), images) != 0.5
    assert changed.any(axis=(0, 3)).all()
    middle = changed[:, 3:9, 3:9].mean()
    assert changed[:, 0, 0].mean() > 0.01
    assert middle < 0.2


def test_most_images_get_several_and_some_none() -> None:
    images = np.full((4000, 64, 64, 1), 0.5, np.float32)
    changed = stamped(RandomTriggers(("patch",)), images)[..., 0] != 0.5
    untouched = 1 - changed.any(axis=(1, 2)).mean()
    assert untouched == pytest.approx(1 - module.SMALL_SHARE, abs=0.03)


def test_a_checkerboard_has_two_colors_and_a_patch_one() -> None:
    images = np.full((300, 32, 32, 3), 0.5, np.float32)
    for family, most in (("patch", 1), ("checkerboard", 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "PASSES", (1.0,))
            changed = stamped(RandomTriggers((family,)), images)
        for image in changed:
            colors = np.unique(image.reshape(-1, 3), axis=0)
            assert len(colors) <= most + 1


def test_a_warp_moves_pixels_and_keeps_a_constant_image() -> None:
    plain = np.full((20, 16, 16, 1), 0.3, np.float32)
    np.testing.assert_allclose(stamped(RandomTriggers(("warp",)), plain), plain, atol=1e-6)
    ramp = np.broadcast_to(np.linspace(0, 1, 16)[None, :, None], (20, 16, 16, 1))
    moved = np.abs(stamped(RandomTriggers(("warp",)), ramp.astype(np.float32)) - ramp) * 15
    assert 0.05 < moved.mean() < 1.0
    assert moved.max() < 6


def test_a_blend_keeps_most_of_the_image() -> None:
    images = pictures(100, (16, 16, 3))
    changed = stamped(RandomTriggers(("blend",)), images)
    assert np.abs(changed - images).max() <= module.OPACITY[1]


def test_recovered_triggers_are_not_stamped_on_their_target(monkeypatch) -> None:
    monkeypatch.setattr(module, "RECOVERED_SHARE", 1.0)
    mask = np.zeros((8, 8, 1), np.float32)
    mask[2, 3] = 1.0
    recovered = [(Stamp(mask, np.ones((8, 8, 1), np.float32)), 4)]
    images = np.zeros((30, 8, 8, 1), np.float32)
    triggers = RandomTriggers((), recovered)
    assert (stamped(triggers, images, label=1)[:, 2, 3] == 1).all()
    np.testing.assert_array_equal(stamped(triggers, images, label=4), images)


def test_families_are_checked() -> None:
    with pytest.raises(ValueError, match="families must be of patch, pattern.*Received: sticker"):
        RandomTriggers(("patch", "sticker"))
    with pytest.raises(ValueError, match="at least one family"):
        RandomTriggers(())
    assert {*LOCAL, *WHOLE} == set(FAMILIES)
