"""Bias maps: the recorded means by hand, the algorithms, the scores, bad input."""

import numpy as np
import pytest
from planted import TARGET

from keras_backdoor import bundled, datasets
from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import load_answer
from keras_backdoor.explanations import BiasMaps
from keras_backdoor.explanations._recorded import Jobs, record
from keras_backdoor.explanations.bias_maps import (
    outliers,
    stamped_with_strongest,
)
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.reports import page_of


def three_classes(third: float = 0.0) -> Classifier:
    """Classes 0 and 1 are the brighter one of two pixels; class 2 has a constant logit."""
    model = keras.Sequential(
        [keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.layers[-1].set_weights([np.array([[9.0, 0, 0], [0, 9.0, 0]]), np.array([0, 0, third])])
    return Classifier(model, (0, 1))


IMAGES = np.full((4, 2, 1, 1), 0.5, np.float32)


def test_algorithm_one_by_hand() -> None:
    found = record(three_classes(), IMAGES, Jobs.to_each_class(4, 3), 0.1, 10)
    # To class 0 the first pixel rises; to class 2 both fall until all logits are 0, a tie.
    assert found.ends[:8].tolist() == [0] * 4 + [1] * 4
    np.testing.assert_allclose(found.means[0, 1].ravel(), [0, 1], atol=1e-6)
    assert found.counts.sum() == 12


def test_algorithm_two_by_hand() -> None:
    jobs = Jobs.between_classes(4, 3)
    assert len(jobs.rows) == 4 * 6
    found = record(three_classes(third=5.0), IMAGES, jobs, 0.1, 10)
    pairs = list(zip(jobs.sources[::4], jobs.targets[::4], strict=True))
    ended = dict(zip(pairs, found.ends[::4].tolist(), strict=True))
    assert ended[0, 1] == 1 and ended[1, 0] == 0
    np.testing.assert_allclose(found.means[0, 1].ravel(), [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.means[1, 0].ravel(), [1, 0], atol=1e-6)
    # J(2) - J(0) = z_0 - z_2: only the first pixel falls.
    np.testing.assert_allclose(found.means[0, 2].ravel(), [0, 0.5], atol=1e-6)


def test_a_class_that_no_image_reaches_has_an_empty_map() -> None:
    model = three_classes(third=-1e6)
    answer = BiasMaps(inputs="noise", images=60)(model)
    assert answer.measures["ratio"][2] == 0
    assert (answer.maps["suspect"][2] == 0).all()
    assert "classes that no adversarial image reaches" in str(answer)


def test_the_strongest_pixels_of_color_images() -> None:
    change = np.zeros((2, 2, 3))
    change[1, 1] = [0.5, -0.6, 0.0]
    shown = stamped_with_strongest(np.full((1, 2, 2, 3), 0.5, np.float32), change, 0.25)
    np.testing.assert_allclose(shown[0, 1, 1], [1, 0, 0])
    assert (shown[0, 0] == 0.5).all()


def test_outliers_by_hand() -> None:
    distances = np.array([1.0, 1.2, 0.9, 1.1, 3.0])
    scores = outliers(distances)
    assert scores.argmax() == 4 and scores[4] > 1 and (scores[:4] < 1).all()
    assert (outliers(np.zeros(4)) == 0).all()
    assert np.isnan(outliers(np.array([1.0, np.nan, 1.1, 1.0]))[1])


def test_a_patch_is_found_without_a_reference() -> None:
    """The bundled BadNet, whose trigger has 64 pixels of a checkerboard, and its clean data."""
    from keras_backdoor.loading import load_model

    model = load_model(bundled.path("models/mnist_badnet.h5"))
    clean = datasets.open(bundled.path("data/mnist_small.npz"), split="train").take(100, seed=0)
    answer = BiasMaps(images=100)(model, clean=clean)
    assert np.nanargmax(answer.scores) == 7
    assert answer.verdict == "inconclusive"
    assert "without the network that the model was fine-tuned from" in answer.inconclusive


@pytest.mark.parametrize("algorithm", ["targets", "pairs", "untargeted"])
def test_the_target_lies_farthest_from_the_parent(task, algorithm) -> None:
    method = BiasMaps(algorithm=algorithm, images=60)
    answer = method(task.model, clean=task.clean.unlabelled(), reference=task.twin)
    assert set(answer.maps) == {"suspect", "reference"}
    if algorithm != "untargeted":
        assert np.nanargmax(answer.scores) == TARGET
        assert answer.flagged[TARGET] and answer.flagged.sum() == 1
    twin = method(task.twin, clean=task.clean.unlabelled(), reference=task.twin)
    assert twin.verdict == "nothing"


def test_a_reference_keeps_its_own_preprocessing(task) -> None:
    """The same network, which takes pixels in -1..1 by its first layer in the place of 0..1."""
    image = keras.Input((14, 14, 1))
    shifted = Classifier(
        keras.Model(image, task.twin.model(keras.layers.Rescaling(0.5, 0.5)(image))), (-1, 1)
    )
    method = BiasMaps(images=20)
    known = method(task.model, clean=task.clean, reference=task.twin)
    other = method(task.model, clean=task.clean, reference=shifted)
    np.testing.assert_allclose(other.maps["reference"], known.maps["reference"], atol=0.05)


def test_it_is_saved_and_shown(task, tmp_path) -> None:
    for algorithm in ("targets", "pairs"):
        answer = BiasMaps(algorithm=algorithm, images=10)(
            task.model, clean=task.clean, reference=task.twin
        )
        back = load_answer(answer.save(tmp_path / algorithm))
        np.testing.assert_array_equal(back.maps["suspect"], answer.maps["suspect"])
        sections = {s.heading: s for s in page_of(answer).sections}
        assert len(sections["Bias maps"].figures) == (1 if algorithm == "targets" else 3)


class TestBadInput:
    def test_settings(self) -> None:
        with pytest.raises(ValueError, match="epsilon must be above 0"):
            BiasMaps(epsilon=2)
        with pytest.raises(ValueError, match="inputs must be one of data, noise, blank"):
            BiasMaps(inputs="pictures")

    def test_a_reference_with_other_classes(self, task) -> None:
        model = keras.Sequential(
            [keras.Input((14, 14, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
        )
        with pytest.raises(ValueError, match="The reference has 4 classes and the model 10"):
            BiasMaps(inputs="noise")(task.model, reference=Classifier(model, (0, 1)))

    def test_no_data(self, task) -> None:
        with pytest.raises(ValueError, match="pass clean DATA, or inputs=noise"):
            BiasMaps()(task.model)

    def test_two_classes_cannot_be_compared(self) -> None:
        model = keras.Sequential(
            [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        answer = BiasMaps(inputs="noise", images=20)(Classifier(model, (0, 1)))
        assert answer.verdict == "inconclusive"
