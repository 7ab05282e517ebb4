"""Pruning: the sweep is the brute force, the order is the published one, the attack falls."""

import json

import numpy as np
import pytest
from test_activations import MODELS, SHAPE, behind, images, normalised, randomise

from keras_backdoor import datasets
from keras_backdoor._internals.backend import keras
from keras_backdoor.architectures import DeepID
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.network import activations, channels, graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.pruning import number_to_prune, sweep
from keras_backdoor.samples import Samples

L = keras.layers


def soft() -> keras.Model:
    """A net whose nonlinearity does not map 0 to 0."""
    return keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            L.Conv2D(6, 3, activation="sigmoid", name="conv"),
            L.Flatten(),
            L.Dense(4),
        ]
    )


@pytest.mark.parametrize(
    ("make", "layer", "rank"),
    [
        (MODELS["sequential"], "conv", "activation"),
        (MODELS["sequential"], "conv", "pool"),
        (MODELS["nested"], "backbone/deep/conv", "activation"),
        (MODELS["residual"], "stem", "activation"),
        (soft, "conv", "activation"),
    ],
)
def test_the_sweep_is_the_brute_force(make, layer: str, rank: str) -> None:
    model = randomise(make(), seed=2)
    classifier = Classifier(model, preprocess=(0, 1))
    samples = Samples(images(60), np.arange(60) % 4)
    cut = channels.after_activation(model, layer, pool=rank == "pool")
    found = sweep(classifier, samples, layer, cut)
    assert sorted(found["order"]) == list(range(len(found["order"])))
    assert (np.diff(found["activation"][found["order"]]) >= 0).all()
    for number, accuracy in enumerate(found["accuracy"]):
        twin = graph.copy(model)
        channels.silence(twin, layer, found["order"][:number])
        right = Classifier(twin, preprocess=(0, 1)).predict(samples) == samples.labels
        assert accuracy == pytest.approx(right.mean())


def test_the_repaired_model_is_what_the_sweep_measured(badnet, clean) -> None:
    answer = FinePruning(layer="conv_1", max_drop=0.02, tuning=NO_TUNING)(badnet, clean=clean)
    fixed = Classifier(answer.model, answer.preprocess)
    number = int(answer.history["pruned"])
    measured = (fixed.predict(clean) == clean.labels).mean()
    assert measured == pytest.approx(answer.history["accuracy"][number])
    assert measured >= 0.98 * answer.history["accuracy"][0]
    assert answer.history["accuracy"][number + 1] < 0.98 * answer.history["accuracy"][0]


def test_the_planted_backdoor_falls(badnet, clean, test_images, trigger) -> None:
    answer = FinePruning(layer="conv_1", max_drop=0.02, tuning=NO_TUNING)(badnet, clean=clean)
    fixed = Classifier(answer.model, answer.preprocess)
    before, after = (evaluate(m, test_images, trigger=trigger, target=7) for m in (badnet, fixed))
    assert float(before.attack_success_rate) > 0.98
    assert float(after.attack_success_rate) < 0.06
    assert float(after.clean_accuracy) > float(before.clean_accuracy) - 0.03


def test_without_labels_agreement_is_measured(badnet, clean) -> None:
    answer = FinePruning()(badnet, clean=clean.unlabelled(), preprocess=(0, 1))
    assert answer.history["accuracy"][0] == 1.0


def test_where_pruning_stops() -> None:
    accuracy = np.array([1.0, 0.99, 0.95, 0.97, 0.5])
    assert number_to_prune(accuracy, 0.0) == 0
    assert number_to_prune(accuracy, 0.02) == 1
    assert number_to_prune(accuracy, 0.05) == 3
    assert number_to_prune(accuracy, 0.9) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_drop": 1.0}, "max_drop must lie in 0..1"),
        ({"rank_after": "nope"}, "activation or pool"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinePruning(**settings)


def test_bad_layers_are_one_sentence(badnet, clean) -> None:
    with pytest.raises(ValueError, match="no layer 'nope'; its layers: conv_1"):
        FinePruning(layer="nope")(badnet, clean=clean)
    flat = keras.Sequential([keras.Input((28, 28, 1)), L.Flatten(), L.Dense(10)])
    with pytest.raises(ValueError, match="neither a convolution nor a hidden dense layer"):
        FinePruning()(flat, clean=clean.unlabelled(), preprocess=(0, 1))


def test_the_csaw_net_s_channels_in_the_published_order(shared) -> None:
    reference = json.loads(shared("reference/goodnet_lab.json").read_text())
    published = next(v for k, v in reference.items() if k.startswith("first 45 conv_3"))
    faces = datasets.open(shared("data/lfw90_min20.zip"), size=(55, 47)).take(1000, seed=0)
    model = load_model(shared("badnets/deepid/lab3_bd_net_rebuilt.h5"), preprocess=(0, 255))
    mean = activations.mean_activation(model, faces.unlabelled(), "pool_3")
    assert sorted(np.argsort(mean, kind="stable")[:45].tolist()) == published


def prelu() -> keras.Model:
    return keras.Sequential(
        [keras.Input(SHAPE), L.Conv2D(6, 3, name="conv"), L.PReLU(name="act"), L.Flatten(),
         L.Dense(4)]
    )  # fmt: skip


def balance(model: keras.Model, given: np.ndarray) -> None:
    """Shift the last bias so that the answers on these images are of several classes."""
    scores = np.asarray(model(given))
    if np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.log(np.maximum(scores, 1e-30))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias - scores.mean(axis=0)])
    assert len(set(np.asarray(model(given)).argmax(axis=1))) > 1


@pytest.mark.parametrize(
    ("make", "layer"),
    [(behind, "conv"), (prelu, "conv"), (lambda: DeepID(4), "conv_4"), (normalised, "conv")],
)
def test_the_repaired_net_is_the_one_that_was_measured(make, layer: str) -> None:
    model = make()
    if make is not normalised:
        randomise(model, seed=3)
    shape = tuple(model.inputs[0].shape[1:])
    clean = Samples(images(40, shape))
    balance(model, clean.read())
    classifier = Classifier(model, preprocess=(0, 1))
    answer = FinePruning(layer=layer, max_drop=0.5, tuning=NO_TUNING)(classifier, clean=clean)
    fixed = Classifier(answer.model, preprocess=(0, 1))
    agreement = (fixed.predict(clean) == classifier.predict(clean)).mean()
    number = int(answer.history["pruned"])
    assert agreement == pytest.approx(answer.history["accuracy"][number])
    assert len(set(np.round(answer.history["accuracy"], 3))) > 1


def test_the_default_layer_works_in_a_branch() -> None:
    model = randomise(DeepID(4), seed=1)
    clean = Samples(images(20, (55, 47, 3)))
    answer = GoodNet(FinePruning())(Classifier(model, preprocess=(0, 1)), clean=clean)
    assert str(answer.history["layer"]) == "conv_4"
    head = activations.head_of(model, "conv_4")
    np.testing.assert_allclose(
        activations.features(Classifier(model, preprocess=(0, 1)), clean, "conv_4"),
        head(clean.read()), atol=1e-5,
    )  # fmt: skip
