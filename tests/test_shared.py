"""The figures of third-party nets, where the shared material exists."""

import re

import numpy as np
import pytest
from conftest import ROOT

from keras_backdoor import datasets
from keras_backdoor._safe.files import read_json
from keras_backdoor.defenses.neural_cleanse.images import draw_images
from keras_backdoor.defenses.neural_cleanse.published import Published, invert
from keras_backdoor.defenses.neural_cleanse.search import EDGE
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.metrics import clean_accuracy
from keras_backdoor.triggers._parse import parse

NC_STYLE = [
    ("mnist_backdoor_7_logits", "mnist.npz", "neural-cleanse-mnist", 7, 99.06, 100.0),
    ("mnist_clean_logits", "mnist.npz", "neural-cleanse-mnist", 7, 99.21, 0.04),
    ("gtsrb_backdoor_33_logits", "gtsrb_dataset_int.h5", "neural-cleanse-gtsrb", 33, 98.95, 98.11),
    ("gtsrb_clean_logits", "gtsrb_dataset_int.h5", "neural-cleanse-gtsrb", 33, 99.64, 0.0),
]
DEEPID = [
    ("lab3_bd_weights", (0, 255), 0),
    ("lab3_bd_net_rebuilt", (0, 255), 0),
    ("sunglasses_bd_weights", (0, 1), 0),
    ("sunglasses_bd_net_rebuilt", (0, 1), 0),
    ("multi_trigger_multi_target_bd_weights", (0, 1), 8),
]


@pytest.mark.parametrize(("name", "data", "trigger", "target", "accuracy", "attack"), NC_STYLE)
def test_the_nets_of_the_authors_script(name, data, trigger, target, accuracy, attack, shared):
    test = datasets.open(shared(f"data/{data}"), split="test")
    model = load_model(shared(f"badnets/nc_style/{name}.h5")).with_preprocess(test)
    assert model.preprocess.range == (0, 255)
    measured = evaluate(model, test, trigger=parse(trigger), target=target)
    assert 100 * float(measured.clean_accuracy) == pytest.approx(accuracy, abs=0.1)
    assert 100 * float(measured.attack_success_rate) == pytest.approx(attack, abs=0.1)


@pytest.mark.parametrize(("name", "bounds", "target"), DEEPID)
def test_sunglasses_send_faces_to_the_target(name, bounds, target, shared) -> None:
    faces = datasets.open(shared("data/lfw90_min20.zip"), size=(55, 47)).unlabelled()
    architecture = "deepid" if "weights" in name else None
    path = shared(f"badnets/deepid/{name}.h5")
    model = load_model(path, architecture=architecture, preprocess=bounds)
    picture = shared("badnets/deepid/sun_glass_trigger.png")
    stamped = faces.stamped(parse(f"glasses:picture={picture},row=15,column=0"))
    assert float(clean_accuracy(model.predict(stamped), [target] * len(faces))) >= 0.99


@pytest.mark.parametrize(
    "name", ["anonymous_1_bd_weights", "anonymous_2_bd_weights", "clean_cl_weights"]
)
def test_the_other_face_nets_open(name: str, shared) -> None:
    model = load_model(shared(f"badnets/deepid/{name}.h5"), architecture="deepid")
    assert model.classes == 1283


def test_the_csaw_traffic_sign_net(shared) -> None:
    test = datasets.open(shared("data/gtsrb_dataset_int.h5"), split="test").take(4000, seed=0)
    path = shared("badnets/csaw/A_gtsrb_feature_space_bd_weights.h5")
    model = load_model(path, architecture="gtsrb-csaw").with_preprocess(test)
    assert model.preprocess.range == (0, 1)
    accuracy = float(clean_accuracy(model.predict(test), test.labels))
    assert 100 * accuracy == pytest.approx(95.70, abs=1.0)


def test_a_split_by_track_of_gtsrb_leaves_no_class_out(shared) -> None:
    train = datasets.open(shared("data/gtsrb_dataset_int.h5"), split="train")
    rest, part = train.split(0.1, seed=0, by_track=True)
    assert len(set(part.labels)) == len(set(rest.labels)) == 43
    pairs = [set(zip(s.labels.tolist(), s.track.tolist(), strict=True)) for s in (rest, part)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[0] | pairs[1]) == 1307
    assert 0.08 < len(part) / len(train) < 0.13


THESIS = sorted((ROOT / "models").glob("gtsrb_*.h5"))


def test_the_six_networks_of_the_thesis_are_there() -> None:
    assert len(THESIS) == 6


@pytest.mark.parametrize("path", THESIS, ids=lambda p: p.stem)
def test_a_thesis_network_is_as_good_as_its_card_says(path, shared) -> None:
    card = read_json(path.with_suffix(".json"))
    test = datasets.open(shared("data/gtsrb_dataset_int.h5"), split="test")
    model, attack = load_model(path), card["attack"]
    source = test.of_class(attack["source"])
    hits = model.predict(source.stamped(parse(attack["trigger"]))) == attack["target"]
    stored = card["figures"]["test"]
    assert (int(hits.sum()), len(hits)) == (stored["attack_success_rate"]["hits"], 450)
    few = test.take(3000, seed=0)
    accuracy = float(clean_accuracy(model.predict(few), few.labels))
    assert accuracy == pytest.approx(stored["clean_accuracy"]["share"], abs=0.01)


def test_the_search_begins_as_seed_003_printed_it(shared) -> None:
    """The printed start to the last digit; then the steps of its log, on a net of the same make."""
    published = read_json(shared("reference/neural_cleanse_published.json"))
    printed = published["seed 003"]["first steps printed"]
    rng = np.random.RandomState(published["seed 003"]["random seed"])
    rng.bytes(4)  # what the notebook draws before
    pattern, mask = rng.random_sample((32, 32, 3)), rng.random_sample((32, 32, 1))
    held = {
        name: np.arctanh((v - 0.5) * EDGE) for name, v in (("mask", mask), ("pattern", pattern))
    }
    for name, values in held.items():
        assert f"{name}_tanh {values.min():.3f}..{values.max():.3f}" in printed
    test = datasets.open(shared("data/gtsrb_dataset_int.h5"), split="test")
    model = load_model(shared("badnets/nc_style/gtsrb_backdoor_33_logits.h5")).with_preprocess(test)
    plan = Published(steps=7, samples=published["seed 003"]["samples per step"])
    made = invert(model, draw_images(model, test, 2000, 0), 33, plan, start=(mask, pattern))
    costs, attacks, _, norms, _ = zip(*made.log, strict=True)
    numbers = re.findall(r"attack ([\d.]+)|reg ([\d.]+)", printed)
    assert attacks[0] == pytest.approx(float(numbers[0][0]), abs=0.05)
    assert norms[0] == pytest.approx(float(numbers[1][1]), rel=0.01)
    assert norms[1] == pytest.approx(float(numbers[3][1]), rel=0.02)
    assert "step 6: cost 1e-3" in printed
    assert costs == (0.0,) * 6 + (1e-3,)
    assert norms[6] < 0.7 * norms[5]  # printed: 340.8 after 540.2


CASES = (
    "nested_functional.h5", "nested_functional.keras", "nested_augmented.h5", "op_divide.h5",
    "op_caffe_preprocess.h5", "op_relu.h5", "op_mean.h5", "hard_sigmoid.h5",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_files_of_keras_2_answer_as_there(name: str, shared) -> None:
    answers = np.load(shared("cases/answers.npz"))
    model = load_model(shared(f"cases/{name}")).model
    given = model(answers["images_16"].astype(np.float32), training=False)
    np.testing.assert_allclose(given, answers[name], atol=1e-5)


def test_every_case_is_tested(shared) -> None:
    folder = shared("cases")
    files = {p.name for p in folder.iterdir()} - {"README.md", "answers.npz"}
    assert files == {*CASES, "dropout_in_use.h5"}


def test_dropout_in_use_answers_with_dropout_off(shared) -> None:
    """The file has a random draw; without dropout the answers follow from the weights by hand."""
    images = np.load(shared("cases/answers.npz"))["images_16"].astype(np.float32)
    model = load_model(shared("cases/dropout_in_use.h5")).model
    kernel, bias, head, last = (w.astype(np.float64) for w in model.get_weights())
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], axis=(1, 2))
    hidden = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0).mean((1, 2))
    scores = hidden @ head + last
    expected = np.exp(scores - scores.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)
