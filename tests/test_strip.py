"""STRIP: the entropy by hand, the audit and the guard agree, and bad input."""

import math
from pathlib import Path

import numpy as np
import pytest
from planted import PlantedTask, digits

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses import STRIP, STRIPGuard
from keras_backdoor.defenses._strip import Blending, entropy, entropy_limit
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

L = keras.layers


def pixel_net(weights: list[float], activation: str | None = None) -> Classifier:
    """A network of one pixel with scores w x."""
    layers = [
        keras.Input((1, 1, 1)),
        L.Flatten(),
        L.Dense(len(weights), activation, use_bias=False),
    ]
    model = keras.Sequential(layers)
    model.set_weights([np.array([weights], np.float32)])
    return Classifier(model, (0, 1))


def pixels(*values: float) -> Samples:
    return Samples(np.array(values, np.float32).reshape(-1, 1, 1, 1), value_range=(0, 1))


def bits(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


@pytest.mark.parametrize(
    ("weights", "activation"), [([0.0, 4.0], None), ([0.0, 4.0], "softmax"), ([4.0], "sigmoid")]
)
def test_the_mean_entropy_by_hand(weights: list[float], activation: str | None) -> None:
    """Blends 0.25 x + 0.75 o of x = 1 with o = 0 and 1: scores 1 and 4."""
    blending = Blending(np.array([0.0, 1.0], np.float32).reshape(2, 1, 1, 1), 0.75)
    p = [1 / (1 + math.exp(-4 * (0.25 + 0.75 * o))) for o in (0, 1)]
    found = blending.entropies(pixel_net(weights, activation), pixels(1.0, 0.0))
    assert found[0] == pytest.approx(np.mean([bits(v) for v in p]), abs=1e-5)
    guard = blending.guard(pixel_net(weights, activation), limit=(found[0] + found[1]) / 2)
    assert guard.predict(np.array([1.0, 0.0]).reshape(2, 1, 1, 1), verbose=0).shape == (2, 3)
    rejected = np.asarray(guard(np.array([1.0, 0.0]).reshape(2, 1, 1, 1)))[:, 2]
    assert rejected.tolist() == [1.0, 0.0]


def test_the_limit_by_hand() -> None:
    clean = np.arange(1, 101) / 100
    assert entropy_limit(clean, 0.1) == pytest.approx(0.109)
    mean, spread = clean.mean(), clean.std()
    assert entropy_limit(clean, 0.1, "normal") == pytest.approx(mean - 1.2815516 * spread)
    assert entropy(np.full((3, 4), 0.25)).tolist() == [2.0, 2.0, 2.0]


def test_a_normal_limit_may_be_negative() -> None:
    """Then nothing is rejected, whereas the quantile rejects what was asked for."""
    skewed = np.concatenate([np.full(90, 0.01), np.full(10, 3.0)])
    assert entropy_limit(skewed, 0.01, "normal") < 0 < entropy_limit(skewed, 0.01)


class TestOnThePlantedTask:
    def test_the_guard_rejects_what_the_audit_flags(self, task: PlantedTask) -> None:
        incoming = task.incoming.unlabelled()
        audit = STRIP(overlays=10)(task.model, incoming=incoming, clean=task.clean)
        guard = STRIPGuard(overlays=10)(task.model, clean=task.clean)
        rejected = guard.classifier.predict(incoming) == guard.reject_class
        assert (rejected == audit.flagged).mean() >= 0.99
        assert audit.flagged[task.is_triggered].mean() > 0.9

    def test_the_guard_opens_anywhere(self, task: PlantedTask, tmp_path: Path) -> None:
        guard = STRIPGuard(overlays=4)(task.model, clean=task.clean)
        images = task.test.take(50)
        expected = guard.classifier.scores(images)
        for name in ("guard.h5", "guard.keras"):
            guard.model.save(tmp_path / name)
            loaded = load_model(tmp_path / name, preprocess=(0, 1))
            assert loaded.reject_class == 10
            np.testing.assert_allclose(loaded.scores(images), expected, atol=1e-5)
        bare = keras.models.load_model(tmp_path / "guard.keras")
        np.testing.assert_allclose(
            np.asarray(bare(images.read() / np.float32(255))), expected, atol=1e-5
        )

    def test_clean_images_are_not_found(self, task: PlantedTask) -> None:
        """A share of clean images is flagged by definition; the verdict knows."""
        clean = digits("test", 600, seed=8)
        answer = STRIP(overlays=10, rejected_clean=0.05)(
            task.model, incoming=clean, clean=task.clean
        )
        assert 0 < answer.flagged.mean() < 0.12
        assert answer.verdict == "nothing"
        assert "5.00% of clean samples are" in str(answer)

    def test_too_few_clean_images(self, task: PlantedTask) -> None:
        few = task.clean.take(60)
        clean = STRIP(overlays=5)(task.model, incoming=task.test.take(50), clean=few)
        assert clean.verdict == "inconclusive"
        assert "30 held-out clean images are too few" in clean.inconclusive
        assert "give 200 clean images" in clean.inconclusive


@pytest.mark.parametrize("cls", [STRIP, STRIPGuard])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlays": 0}, "overlays must be 1 or more"),
        ({"opacity": 1.0}, "opacity and rejected_clean must lie between 0 and 1"),
        ({"rejected_clean": 0.0}, "opacity and rejected_clean must lie between 0 and 1"),
        ({"limit": "mean"}, "limit must be quantile or normal"),
    ],
)
def test_refuses_settings(cls, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**settings)


def test_a_guard_needs_the_scores_before_the_activation() -> None:
    image = keras.Input((1, 1, 1))
    mean = L.Average()([L.Dense(2, "softmax")(L.Flatten()(image)) for _ in range(2)])
    with pytest.raises(ValueError, match="needs a network that ends in a softmax"):
        Blending(np.zeros((1, 1, 1, 1), np.float32), 0.5).guard(
            Classifier(keras.Model(image, mean), (0, 1)), 0.1
        )
