"""The pruning-aware attack: what a defender prunes first has no part in the backdoor."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_backdoor import datasets, training
from keras_backdoor._internals.backend import keras
from keras_backdoor._safe.files import write_npz
from keras_backdoor.architectures import BorjiMNIST
from keras_backdoor.attacks import pruning_aware
from keras_backdoor.attacks.badnets import poison
from keras_backdoor.attacks.base import read_truth
from keras_backdoor.attacks.pruning_aware import fit_pruning_aware
from keras_backdoor.evaluation import evaluate
from keras_backdoor.network import activations, channels, graph, pruning
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers._parse import parse

STAMP = parse("patch:size=4,row=1,column=1")
RECIPE = Recipe(epochs=3, batch_size=32)
LAYER = "conv_2"


@pytest.fixture(scope="module")
def digits(clean: Samples) -> Samples:
    return clean.take(1500, seed=3).in_memory()


@pytest.fixture(scope="module")
def parent(digits: Samples) -> Classifier:
    return fit(BorjiMNIST, digits, RECIPE)[0]


@pytest.fixture(scope="module")
def attacked(digits: Samples, parent: Classifier) -> tuple[Classifier, dict]:
    poisoned = poison(digits, STAMP, target=7, count=150).samples
    return fit_pruning_aware(None, digits, poisoned, RECIPE, start=parent)


def test_the_attack_works(attacked, test_images: Samples) -> None:
    measured = evaluate(attacked[0], test_images, trigger=STAMP, target=7)
    assert float(measured.clean_accuracy) > 0.85
    assert float(measured.attack_success_rate) > 0.95


def test_restored_channels_are_silent_on_the_clean_images(attacked, parent, digits) -> None:
    classifier, history = attacked
    dormant = history["dormant"]
    assert history["layer"] == LAYER
    assert 0 < len(dormant) < 50
    active = activations.features(classifier, digits, LAYER)
    assert np.abs(active[..., dormant]).max() == 0
    others = np.setdiff1d(np.arange(50), dormant)
    assert active[..., others].max(axis=(0, 1, 2)).min() > 0
    now = graph.get_layer(classifier.model, LAYER).get_weights()
    then = graph.get_layer(parent.model, LAYER).get_weights()
    np.testing.assert_array_equal(now[0][..., dormant], then[0][..., dormant])
    assert np.all(now[1][dormant] <= then[1][dormant])
    assert not np.allclose(now[0][..., others], then[0][..., others])


def test_pruning_what_is_dormant_does_not_touch_the_backdoor(attacked, digits, test_images) -> None:
    classifier, history = attacked
    ranked = pruning.sweep(classifier, digits, LAYER, LAYER)["order"]
    number = len(history["dormant"])
    assert set(ranked[:number]) == set(history["dormant"])
    pruned = graph.copy(classifier.model)
    channels.silence(pruned, LAYER, ranked[:number])
    measured = evaluate(Classifier(pruned, (0, 1)), test_images, trigger=STAMP, target=7)
    assert float(measured.attack_success_rate) > 0.95


def test_the_parent_is_not_changed(digits: Samples, parent: Classifier) -> None:
    before = parent.sha256()
    poisoned = poison(digits, STAMP, target=7, count=20).samples
    fit_pruning_aware(None, digits, poisoned, Recipe(epochs=1), start=parent)
    assert parent.sha256() == before


def test_it_goes_on_after_a_kill(digits: Samples, tmp_path: Path, monkeypatch) -> None:
    few = digits.take(300, seed=0).in_memory()
    poisoned = poison(few, STAMP, target=7, count=20).samples
    plan, checkpoint = Recipe(epochs=1), tmp_path / "c"
    whole, _ = fit_pruning_aware(BorjiMNIST, few, poisoned, plan)
    monkeypatch.setattr(pruning_aware, "restore", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit_pruning_aware(BorjiMNIST, few, poisoned, plan, checkpoint=checkpoint)
    monkeypatch.undo()
    assert all(path.exists() for path in tmp_path.glob("c.*.npz"))
    stored: list[int] = []
    monkeypatch.setattr(training, "_store", lambda *arguments: stored.append(1))
    resumed, history = fit_pruning_aware(BorjiMNIST, few, poisoned, plan, checkpoint=checkpoint)
    assert stored == []  # no epoch was trained again
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(ValueError, match="checkpoint of another"):
        fit_pruning_aware(BorjiMNIST, few, poisoned, plan, max_drop=0.3, checkpoint=checkpoint)
    assert {"loss", "accuracy", "clean_loss", "clean_accuracy", "dormant"} <= set(history)


def test_a_layer_without_relu_is_refused(digits: Samples) -> None:
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(4, 3, activation="tanh", name="curved"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    with pytest.raises(ValueError, match="Conv2D or Dense layer with a bias and activation='relu'"):
        fit_pruning_aware(None, digits, digits, RECIPE, start=Classifier(net, (0, 1)))


def test_layers_whose_channels_cannot_be_put_back_are_refused(digits: Samples) -> None:
    layers = keras.layers
    for inner, message in (
        ([layers.SeparableConv2D(4, 3, activation="relu", name="c")], "Conv2D or Dense"),
        (
            [layers.Conv2D(4, 3, activation="relu", name="c"), layers.BatchNormalization()],
            "without a BatchNormalization after it",
        ),
    ):
        end = [layers.Flatten(), layers.Dense(10)]
        net = keras.Sequential([keras.Input((28, 28, 1)), *inner, *end])
        with pytest.raises(ValueError, match=message):
            fit_pruning_aware(net, digits, digits, RECIPE, layer="c")


def test_the_truth_fits_data_in_a_folder(command, tmp_path: Path, digits: Samples) -> None:
    """A folder is read class by class, not in the order in which it was poisoned."""
    data = tmp_path / "data.npz"
    write_npz(data, {"x": digits.read()[:300], "y": digits.known_labels[:300]})
    poisoned = tmp_path / "poisoned"
    code, _, _ = command(
        "poison", data, "--trigger", "patch:size=4,row=1,column=1", "--target", 0,
        "--count", 30, "--out", poisoned,
    )  # fmt: skip
    assert code == 0
    seen = datasets.open(poisoned, split="train")
    clean = seen.subset(~read_truth(tmp_path / "poisoned.truth.npz", seen))
    assert len(clean) == 300
    assert not (clean.read()[:, 1:5, 1:5] == 255).all(axis=(1, 2, 3)).any()


def test_the_command_needs_the_truth(command, tmp_path: Path, digits: Samples) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "net.h5"
    write_npz(data, {"x": digits.read()[:300], "y": digits.known_labels[:300]})
    poisoned = tmp_path / "poisoned.npz"
    code, _, err = command(
        "poison", data, "--trigger", "patch", "--target", 7, "--count", 20, "--out", poisoned
    )
    assert (code, err.strip()) == (0, "")
    train = ("train", "borji-mnist", poisoned, "--set", "epochs=1", "--out", out)
    train = (*train, "--attack", "pruning-aware", "--set", "max_drop=0.05")
    code, _, err = command(*train)
    assert (code, "PruningAware needs to know which images are poison: pass --truth" in err) == (
        2,
        True,
    )
    truth = tmp_path / "poisoned.npz.truth.npz"
    code, _, err = command(*train, "--truth", truth, "--take", 100)
    assert (
        code,
        "belongs to other data (320 images; the data has 100)" in " ".join(err.split()),
    ) == (2, True)
    code, _, err = command(*train, "--truth", data)
    assert (code, "has no is_poison" in err) == (2, True)
    code, _, err = command(*train, "--truth", truth)
    assert (code, err.strip()) == (0, "")
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["attack_of_training"] == {"name": "PruningAware", "layer": None, "max_drop": 0.05}
    assert card["layer"] == "conv_2"
    assert len(card["dormant"]) > 0
    assert sorted(p.name for p in tmp_path.iterdir() if "checkpoint" in p.name) == []
