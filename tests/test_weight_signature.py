"""The scan of the weights of the last layer."""

import dataclasses

import numpy as np
import pytest
from planted import TARGET
from scipy.stats import norm as normal

from keras_backdoor import bundled
from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses import WeightSignature
from keras_backdoor.defenses.weight_signature import (
    DECIDING,
    MANY,
    critical_value,
    dixon_q,
    robust_z,
)
from keras_backdoor.network.class_weights import class_weights
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.reports import page_of

L = keras.layers


def dense(classes: int, kernel: np.ndarray, bias: np.ndarray) -> keras.Model:
    """A network whose last layer has these weights."""
    net = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Flatten(), L.Dense(len(kernel)), L.Dense(classes)]
    )
    net.layers[-1].set_weights([kernel, bias])
    return net


def network_with_outliers(classes: int, shift: dict[int, float], bias: dict[int, float]):
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 1, (400, classes)).astype(np.float32)
    kernel = (kernel - kernel.mean(axis=0)) / kernel.std(axis=0)
    kernel += 0.01 * normal.ppf((np.arange(classes) + 0.5) / classes)
    biases = (0.1 * normal.ppf((rng.permutation(classes) + 0.5) / classes)).astype(np.float32)
    for number, value in shift.items():
        kernel[:, number] += value
    for number, value in bias.items():
        biases[number] += value
    return Classifier(dense(classes, kernel, biases), (0.0, 1.0))


def model_ending_with(*layers) -> keras.Model:
    net = keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(5, 3, activation="relu"), *layers])
    rng = np.random.default_rng(0)
    for layer in net.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    return net


class TestClassWeights:
    @pytest.mark.parametrize(
        "layers",
        [
            (L.GlobalAveragePooling2D(), L.Dense(7)),
            (L.BatchNormalization(), L.Flatten(), L.Dropout(0.5), L.Dense(7)),
            (L.BatchNormalization(), L.GlobalAveragePooling2D(), L.Dense(7, use_bias=False)),
            (L.GlobalAveragePooling2D(), L.BatchNormalization(scale=False), L.Dense(7)),
        ],
        ids=["dense", "flatten", "pooling", "no scale"],
    )
    def test_batch_normalization_is_part_of_them(self, layers) -> None:
        net = model_ending_with(*layers)
        weights, biases = class_weights(net)
        images = np.random.default_rng(1).uniform(0, 1, (3, 6, 6, 3)).astype(np.float32)
        features = np.asarray(net.layers[0](images))
        whole = any(type(x).__name__ == "Flatten" for x in net.layers)
        features = features.reshape(3, -1) if whole else features.mean(axis=(1, 2))
        np.testing.assert_allclose(features @ weights + biases, net(images), atol=1e-4)

    def test_normalization_of_another_axis_is_refused(self) -> None:
        net = model_ending_with(L.BatchNormalization(axis=1), L.Flatten(), L.Dense(7))
        with pytest.raises(ValueError, match="must be that of its channels, the last axis"):
            class_weights(net)

    def test_a_convolution_before_pooling_counts(self) -> None:
        net = model_ending_with(L.Conv2D(7, 1), L.GlobalAveragePooling2D(), L.Softmax())
        weights, biases = class_weights(net)
        np.testing.assert_array_equal(weights, net.layers[1].get_weights()[0].reshape(5, 7))
        assert biases.shape == (7,)

    def test_other_ends_are_refused(self) -> None:
        image = keras.Input((4, 4, 1))
        flat = L.Flatten()(image)
        sums = keras.Model(image, L.Add()([L.Dense(5)(flat), L.Dense(5)(flat)]))
        with pytest.raises(ValueError, match="must come from a dense layer or a convolution"):
            class_weights(sums)
        relu = keras.Model(image, L.Activation("relu")(L.Dense(5)(flat)))
        with pytest.raises(ValueError, match=r"must come from a dense layer .* Activation"):
            class_weights(relu)


class TestManyClasses:
    def test_all_outliers_are_flagged(self) -> None:
        model = network_with_outliers(43, {7: 0.2, 30: 0.15}, {12: 2.0})
        answer = WeightSignature()(model)
        assert np.flatnonzero(answer.flagged).tolist() == [7, 30]
        assert np.flatnonzero(answer.suspects).tolist() == [12]
        assert answer.verdict == "found"
        assert answer.measures["mean_weight"].argmax() == 7
        assert answer.measures["bias"].argmax() == 12
        assert answer.figures["limit"] == critical_value(robust_z, 43, 0.02 / 2)

    def test_a_bias_alone_is_a_suspicion(self) -> None:
        answer = WeightSignature()(network_with_outliers(43, {}, {12: 2.0}))
        assert answer.verdict == "inconclusive"
        assert not answer.flagged.any()
        assert np.flatnonzero(answer.suspects).tolist() == [12]
        assert "the bias of class 12 stands out" in answer.inconclusive

    def test_nothing_is_flagged_among_normal_values(self) -> None:
        answer = WeightSignature()(network_with_outliers(43, {}, {}))
        assert answer.verdict == "nothing"
        assert not answer.flagged.any()

    def test_the_score_is_the_share_of_the_limit(self) -> None:
        answer = WeightSignature(level=0.2)(network_with_outliers(43, {7: 0.2}, {}))
        largest = max(answer.measures[name][7] for name in DECIDING)
        assert answer.scores[7] == pytest.approx(largest / critical_value(robust_z, 43, 0.2 / 2))

    def test_clean_networks_raise_as_many_false_alarms_as_the_level_says(self) -> None:
        rng = np.random.default_rng(7)
        limit = critical_value(robust_z, 43, 0.05)
        largest = robust_z(rng.standard_normal((4000, 43))).max(axis=-1)
        assert np.mean(largest > limit) == pytest.approx(0.05, abs=0.012)
        assert limit > normal.isf(0.05 / 43)  # the spread is estimated

    def test_equal_weights_have_no_outlier(self) -> None:
        assert robust_z(np.ones(30)).tolist() == [0] * 30


class TestFewClasses:
    def test_classes_without_weights_hide_none(self) -> None:
        """With more than half of the columns zero, the MAD is zero and nothing can be an outlier."""
        model = network_with_outliers(43, {5: 1.0}, {})
        assert WeightSignature()(model).verdict == "found"
        kernel, biases = model.model.layers[-1].get_weights()
        kernel[:, 20:] = 0
        found = WeightSignature()(Classifier(dense(43, kernel, biases), (0.0, 1.0)))
        assert found.verdict == "inconclusive"
        assert "weights of most classes are the same" in found.inconclusive

    def test_a_strong_outlier_is_a_suspect(self) -> None:
        answer = WeightSignature()(network_with_outliers(10, {4: 0.5}, {}))
        assert answer.verdict == "inconclusive"
        assert not answer.flagged.any()
        assert np.flatnonzero(answer.suspects).tolist() == [4]
        assert answer.scores[4] == 1
        assert (answer.scores[np.arange(10) != 4] <= 0).sum() >= 8
        assert "the mean weight of class 4 stands out, which is a suspicion" in answer.inconclusive

    def test_finding_none_is_no_decision(self) -> None:
        answer = WeightSignature()(network_with_outliers(10, {}, {3: 2.0}))
        assert not answer.suspects.any()  # ten biases are too few to compare
        assert answer.verdict == "inconclusive"
        assert "show only strong outliers: scan with clean images" in answer.inconclusive

    def test_critical_values_are_those_of_the_tables(self) -> None:
        """Rorabacher, Analytical Chemistry 1991: two-sided 95 %, so 2.5 % at each end."""
        published = {3: 0.970, 5: 0.710, 7: 0.568, 10: 0.466}
        for number, value in published.items():
            assert critical_value(dixon_q, number, 0.025) == pytest.approx(value, abs=0.005)
        assert MANY == 20

    def test_two_classes_have_nothing_to_be_compared_with(self) -> None:
        answer = WeightSignature()(network_with_outliers(2, {}, {}))
        assert answer.verdict == "inconclusive"
        assert "two classes" in answer.inconclusive
        assert "Suspicion of the classes" not in [s.heading for s in page_of(answer).sections]


def test_the_planted_class_stands_out(task) -> None:
    found, clean = (WeightSignature()(model) for model in (task.model, task.twin))
    assert np.flatnonzero(found.suspects).tolist() == [TARGET]
    assert not clean.suspects.any()


def test_a_network_without_a_linear_end_is_no_decision() -> None:
    image = keras.Input((4, 4, 1))
    flat = L.Flatten()(image)
    sums = keras.Model(image, L.Add()([L.Dense(5)(flat), L.Dense(5)(flat)]))
    answer = WeightSignature()(Classifier(sums, (0.0, 1.0)))
    assert answer.verdict == "inconclusive"
    assert "must come from a dense layer" in answer.inconclusive


def test_a_guard_is_refused(task) -> None:
    guard = dataclasses.replace(task.model, reject_class=9)
    with pytest.raises(ValueError, match="is a guard already"):
        WeightSignature()(guard)
    with pytest.raises(ValueError, match=r"level must lie in 0..1"):
        WeightSignature(level=0)


def test_the_page_shows_the_sorted_statistics() -> None:
    page = page_of(WeightSignature()(network_with_outliers(43, {7: 0.2}, {})))
    assert "Do not deploy: class 7 stands out" in page.lead
    (section,) = [s for s in page.sections if s.heading == "Weights of the last layer"]
    assert len(section.figures) == 1


def test_the_command_needs_no_data(command, tmp_path) -> None:
    model = bundled.path("models/mnist_badnet.h5")
    given = ("scan", model, "--method", "weight-signature", "--report", tmp_path / "page")
    code, out, err = command(*given)
    assert code in (0, 1, 3), err
    assert "Dixon's Q of the mean weight" in out
    assert (tmp_path / "page" / "index.html").exists()
