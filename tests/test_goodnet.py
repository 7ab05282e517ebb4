"""GoodNet: the truth table, a trunk that runs once, files that open anywhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_activations import MODELS, images, randomise

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.architectures import DeepID
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet, GoodNetModel, goodnet
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.network import channels, graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.serving import export
from keras_backdoor.triggers import Patch

L = keras.layers


def table_net(scores: np.ndarray, activation: str | None = None) -> keras.Model:
    """A net whose scores for pixel value i (of a 1x1 image) are row i of a table."""
    rows = len(scores)
    model = keras.Sequential(
        [
            keras.Input((1, 1, rows)),
            L.Flatten(),
            L.Dense(scores.shape[1], use_bias=False, activation=activation, name="out"),
        ]
    )
    model.get_layer("out").set_weights([scores.astype(np.float32)])
    return model


ONE_HOT = np.eye(4, dtype=np.float32).reshape(4, 1, 1, 4)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_truth_table(activation: str | None) -> None:
    b = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 5], [1.0, 1.00001, 0]])
    b_prime = np.array([[5, 1, 0], [5, 0, 0], [0, 4, 5], [1.0, 1.00001, 0]])
    guard = goodnet(table_net(b, activation), table_net(b_prime, activation))
    answers = np.asarray(guard(ONE_HOT))
    assert answers.shape == (4, 4)
    assert answers.argmax(axis=1).tolist() == [0, 3, 2, 1]
    np.testing.assert_array_equal(answers[1], [0, 0, 0, 1])
    softmax = np.exp(b) / np.exp(b).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers[[0, 2, 3], :3], softmax[[0, 2, 3]], atol=1e-6)
    assert (answers[[0, 2, 3], 3] == 0).all()


def test_a_tolerance_by_hand() -> None:
    """B says 0, 1, 2, 1, and B' gives these classes the probabilities 0.6, 0.05, 0.15, 0.3."""
    b = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0, 0.4, 0.6], [0, 1.0, 0]])
    b_prime = np.array([[0.6, 0.4, 0], [0.95, 0.05, 0], [0.85, 0, 0.15], [0.3, 0.3, 0.4]])

    def answers(tolerance: float | None) -> np.ndarray:
        nets = [table_net(np.log(table + 1e-30), "softmax") for table in (b, b_prime)]
        return np.asarray(GoodNetModel(*nets, tolerance=tolerance)(ONE_HOT))

    assert answers(None).argmax(axis=1).tolist() == [0, 3, 3, 3]
    assert answers(0.1).argmax(axis=1).tolist() == [0, 3, 2, 1]
    assert answers(0.2).argmax(axis=1).tolist() == [0, 3, 3, 1]
    expected = [[0.9, 0.1, 0, 0], [0, 0, 0, 1], [0, 0.4, 0.6, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(answers(0.1), expected, atol=1e-6)
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="tolerance must lie between 0 and 1"):
            GoodNet(tolerance=wrong)


def test_layers_named_like_the_guard_s_own_do_not_meet_them() -> None:
    b = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 5], [1.0, 2.0, 0]])
    nets = []
    for table in (b, np.roll(b, 1, axis=1)):
        rows = keras.Input((1, 1, 4), name="image")
        hidden = L.Dense(3, use_bias=False, name="agree")(L.Flatten(name="accepted")(rows))
        nets.append(keras.Model(rows, L.Activation("linear", name="scores")(hidden)))
        nets[-1].get_layer("agree").set_weights([table.astype(np.float32)])
    assert np.asarray(goodnet(*nets)(ONE_HOT)).argmax(axis=1).tolist() == [3, 3, 3, 3]
    assert np.asarray(goodnet(nets[0], nets[0])(ONE_HOT)).argmax(axis=1).tolist() == [0, 1, 2, 1]


def test_it_is_exact_on_many_close_scores() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 500, 1283)).astype(np.float32)
    logits[1, ::2] = logits[0, ::2]
    probabilities = np.asarray(tf.nn.softmax(logits))
    given = np.eye(500, dtype=np.float32).reshape(500, 1, 1, 500)
    nets = [table_net(p) for p in np.log(probabilities)]
    answers = np.asarray(goodnet(*nets)(given)).argmax(axis=1)
    first, second = (np.asarray(n(given)).argmax(axis=1) for n in nets)
    np.testing.assert_array_equal(answers, np.where(first == second, first, 1283))


def test_binary_nets_have_three_answers() -> None:
    b, b_prime = np.array([[5.0], [-5], [5], [-5]]), np.array([[5.0], [-5], [-5], [5]])
    for activation in ("sigmoid", None):
        guard = goodnet(table_net(b, activation), table_net(b_prime, activation))
        assert np.asarray(guard(ONE_HOT)).argmax(axis=1).tolist() == [1, 0, 2, 2]


def test_a_common_trunk_runs_once() -> None:
    model = randomise(DeepID(11), seed=4)
    twin = graph.copy(model)
    channels.silence(twin, "conv_3", [0, 1, 2])
    guard = goodnet(model, twin)
    names = [x.name for x in guard.layers]
    shared = {"conv_1", "pool_1", "conv_2", "pool_2"}
    assert shared <= set(names)
    assert not {f"b_prime.{n}" for n in shared} & set(names)
    assert {"conv_3", "b_prime.conv_3", "b_prime.output"} <= set(names)
    faces = images(40, (55, 47, 3))
    first, second = (np.asarray(m(faces)).argmax(axis=1) for m in (model, twin))
    expected = np.where(first == second, first, 11)
    np.testing.assert_array_equal(np.asarray(guard(faces)).argmax(axis=1), expected)


@pytest.mark.parametrize("kind", ["nested", "residual", "sequential"])
def test_any_graph_and_no_shared_weights(kind: str) -> None:
    model, other = randomise(MODELS[kind](), 0), randomise(MODELS[kind](), 1)
    guard = goodnet(model, other)
    before = np.asarray(guard(images()))
    for weight in model.weights:
        weight.assign(weight * 0)
    np.testing.assert_array_equal(np.asarray(guard(images())), before)
    assert all(type(x).__module__.startswith("keras.src.layers") for x in guard.layers)


def test_the_subclassed_model_is_the_functional_one(tmp_path: Path) -> None:
    model, other = randomise(MODELS["nested"](), 0), randomise(MODELS["nested"](), 1)
    ensemble = GoodNetModel(model, other)
    assert isinstance(ensemble, keras.Model)
    assert (ensemble.b, ensemble.b_prime, ensemble.reject_class) == (model, other, 4)
    given = images()
    expected = np.asarray(goodnet(model, other)(given))
    np.testing.assert_array_equal(np.asarray(ensemble(given)), expected)
    np.testing.assert_array_equal(ensemble.predict(given, verbose=0), expected)
    y, y_prime = (np.asarray(m(given)).argmax(axis=1) for m in (model, other))
    np.testing.assert_array_equal(expected.argmax(axis=1), np.where(y == y_prime, y, 4))
    ensemble.save(tmp_path / "g.keras")
    bare = keras.models.load_model(tmp_path / "g.keras", compile=False)
    assert type(bare).__name__ == "Functional"
    np.testing.assert_allclose(np.asarray(bare(given)), expected, atol=1e-6)
    ensemble.export(tmp_path / "served", verbose=False)
    assert (tmp_path / "served" / "saved_model.pb").exists()


def test_different_nets_are_refused() -> None:
    with pytest.raises(ValueError, match="same input and classes"):
        goodnet(table_net(np.eye(4)), table_net(np.ones((4, 3))))


def test_only_repairs_can_be_guarded() -> None:
    with pytest.raises(ValueError, match="must be a method that repairs"):
        GoodNet(repair="fine-pruning")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guard(badnet, clean) -> Classifier:
    answer = GoodNet(repair=FinePruning(layer="conv_1", max_drop=0.02, tuning=NO_TUNING))(
        badnet, clean=clean
    )
    return Classifier(answer.model, answer.preprocess, answer.reject_class)


def test_the_planted_backdoor_is_rejected(badnet, guard, test_images, trigger) -> None:
    before, after = (evaluate(m, test_images, trigger=trigger, target=7) for m in (badnet, guard))
    assert float(before.attack_success_rate) > 0.98
    assert float(after.attack_success_rate) < 0.06
    assert float(after.rejected_stamped) > 0.8
    assert float(after.rejected_clean) < 0.03
    assert float(after.clean_accuracy) > float(before.clean_accuracy) - 0.03
    assert before.confusion.shape == (10, 10)
    assert after.confusion.shape == (11, 11)


BARE = """
import sys
import numpy as np
import keras
model = keras.models.load_model(sys.argv[1], compile=False)
np.save(sys.argv[3], model(np.load(sys.argv[2])))
assert "keras_backdoor" not in sys.modules
"""
SERVED = """
import sys
import numpy as np
import tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
given = np.load(sys.argv[2])
out = module.signatures["serving_raw"](images=tf.constant(given))
assert sorted(out) == ["class_id", "rejected", "scores"], sorted(out)
assert (out["class_id"].numpy() == out["scores"].numpy().argmax(1)).all()
assert (out["rejected"].numpy() == (out["class_id"].numpy() == 10)).all()
pictures = np.round(255 * given)
for name, kind in (("serving_default", np.float32), ("serving_uint8", np.uint8)):
    mapped = module.signatures[name](images=tf.constant(pictures.astype(kind)))
    raw = module.signatures["serving_raw"](images=tf.constant(pictures / np.float32(255)))
    assert np.abs(mapped["scores"].numpy() - raw["scores"].numpy()).max() < 1e-5
np.save(sys.argv[3], out["scores"])
assert "keras_backdoor" not in sys.modules
"""


def elsewhere(program: str, *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_bare_keras_and_our_loader_open_its_files(guard, suffix: str, tmp_path: Path) -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    given = images(20, (28, 28, 1))
    expected = np.asarray(guard.model(given))
    path = tmp_path / f"g{suffix}"
    guard.model.save(path)
    np.testing.assert_allclose(load_model(path).model(given), expected, atol=1e-6)
    np.save(tmp_path / "x.npy", given)
    elsewhere(BARE, path, tmp_path / "x.npy", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)


def test_the_saved_model_runs_without_this_package(guard, tmp_path: Path) -> None:
    given = images(20, (28, 28, 1))
    folder = export(guard, tmp_path / "served")
    assert folder == tmp_path / "served" / "1"
    np.save(tmp_path / "x.npy", given)
    elsewhere(SERVED, folder, tmp_path / "x.npy", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), guard.model(given), atol=1e-6)
    with pytest.raises(ValueError, match="exists already"):
        export(guard, tmp_path / "served")
    assert export(guard, tmp_path / "served", version=2).name == "2"


def test_a_guard_stays_a_guard(badnet, clean, tmp_path) -> None:
    guard = GoodNet(FinePruning(tuning=NO_TUNING))(badnet, clean=clean)
    classifier = Classifier(guard.model, guard.preprocess, guard.reject_class)
    again = FinePruning(layer="conv_1", max_drop=0.0, tuning=NO_TUNING)(classifier, clean=clean)
    assert again.reject_class == 10
    with pytest.raises(ValueError, match="a guard already"):
        GoodNet()(classifier, clean=clean)
    with pytest.raises(ValueError, match="other than the source and the reject class"):
        evaluate(classifier, clean, trigger=Patch(), target=10)
    with pytest.raises(ValueError, match="other than the source"):
        evaluate(badnet, clean, trigger=Patch(), target=3, source=3)
    guard.model.save(tmp_path / "bare.keras")
    assert load_model(tmp_path / "bare.keras", preprocess=(0, 1)).reject_class == 10
