"""The fast gradient sign method against hand values and against ART."""

import numpy as np
import pytest

from keras_backdoor import fgsm
from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses import _art
from keras_backdoor.network.adversarial import NONE, sign_steps
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples


def linear(weights: np.ndarray) -> keras.Model:
    """A model whose logits are linear in the pixels (2, 1, 1)."""
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([weights, np.zeros(2)])
    return model


IMAGE = np.array([[[[0.5]], [[0.95]]]], np.float32)


def test_one_step_by_hand() -> None:
    model = linear(np.array([[1.0, -1.0], [0.0, 2.0]]))
    # To class 0: the first pixel raises it, the second one lowers it.
    moved = fgsm(model, IMAGE, 0.1, target=0, preprocess=(0, 1))
    np.testing.assert_allclose(moved.ravel(), [0.6, 0.85], atol=1e-6)
    away = fgsm(model, (IMAGE, np.array([0])), 0.1, preprocess=(0, 1))
    np.testing.assert_allclose(away.ravel(), [0.4, 1.0], atol=1e-6)  # clipped


def test_several_steps_leave_the_radius_only_without_one() -> None:
    model = linear(np.array([[1.0, -1.0], [0.0, 2.0]]))
    free = fgsm(model, IMAGE, 0.1, 7, target=0, preprocess=(0, 1))
    np.testing.assert_allclose(free.ravel(), [1.0, 0.25], atol=1e-6)
    near = fgsm(model, IMAGE, 0.1, 7, target=0, radius=0.25, preprocess=(0, 1))
    np.testing.assert_allclose(near.ravel(), [0.75, 0.7], atol=1e-6)


def test_a_target_and_a_source_by_hand() -> None:
    """J(t) - J(s) = z_s - z_t: the gradient is that of the difference of two logits."""
    weights = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 3.0]])
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.layers[-1].set_weights([weights, np.zeros(3)])
    move = sign_steps(Classifier(model, (0, 1)), 0.1, 1)
    moved, ended = move(np.full((2, 2, 1, 1), 0.5, np.float32), np.array([1, 2]), np.array([0, 1]))
    np.testing.assert_allclose(moved.numpy().reshape(2, 2), [[0.6, 0.4], [0.4, 0.6]], atol=1e-6)
    assert ended.numpy().tolist() == [1, 2]
    assert NONE == -1


def test_a_saturated_softmax_still_has_a_direction() -> None:
    """The probability of the other class underflows to 0; its logit still has a gradient."""
    inner = linear(np.array([[500.0, -500.0], [0.0, 0.0]]))
    model = keras.Sequential([inner, keras.layers.Softmax()])
    moved = fgsm(model, np.full((1, 2, 1, 1), 0.5, np.float32), 0.1, target=1, preprocess=(0, 1))
    assert moved.ravel()[0] == pytest.approx(0.4)


@pytest.mark.parametrize("target", [None, 3])
def test_the_images_are_those_of_art(task, target) -> None:
    with _art._quietly():
        from art.attacks.evasion import BasicIterativeMethod, FastGradientMethod
        from art.estimators.classification import TensorFlowV2Classifier
    samples = task.test.take(40)
    images = samples.read().astype(np.float32) / 255
    network = TensorFlowV2Classifier(
        task.model.model, nb_classes=10, input_shape=(14, 14, 1), clip_values=(0, 1),
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    labels = np.eye(10)[samples.known_labels if target is None else np.full(40, target)]
    one = FastGradientMethod(network, eps=0.1, targeted=target is not None)
    ours = fgsm(task.model, samples, 0.1, target=target)
    np.testing.assert_allclose(ours, one.generate(images, labels), atol=1e-6)
    several = BasicIterativeMethod(
        network, eps=0.15, eps_step=0.03, max_iter=10, targeted=target is not None, verbose=False
    )
    ours = fgsm(task.model, samples, 0.03, 10, target, radius=0.15)
    np.testing.assert_allclose(ours, several.generate(images, labels), atol=1e-6)
    assert (task.model.predict(Samples(ours, value_range=(0, 1))) != samples.labels).mean() > 0.5


def test_without_labels_the_predictions_are_left(task) -> None:
    samples = task.test.take(20)
    own = fgsm(task.model, samples.unlabelled(), 0.1)
    named = fgsm(task.model, samples.labelled(task.model.predict(samples)), 0.1)
    np.testing.assert_array_equal(own, named)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0}, "epsilon must be above 0 and at most 1"),
        ({"epsilon": 1.5}, "epsilon must be above 0 and at most 1"),
        ({"epsilon": 0.1, "steps": 0}, "steps must be 1 or more"),
        ({"epsilon": 0.1, "target": 10}, "target must be one of the 10 classes"),
        ({"epsilon": 0.1, "radius": 0}, "radius must be above 0"),
    ],
)
def test_bad_input(task, wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        fgsm(task.model, task.test.take(2), **wrong)
