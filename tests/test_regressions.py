"""What once went wrong, in places that several modules share."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
from test_activations import SHAPE, images, randomise

from keras_backdoor import datasets
from keras_backdoor._internals.backend import keras
from keras_backdoor._safe.files import MARKER, writing
from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.architectures import DeepID
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet, goodnet
from keras_backdoor.evaluation import evaluate
from keras_backdoor.loading import load_model
from keras_backdoor.metrics import Rate
from keras_backdoor.network import activations, channels, graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.units import at_chance, rescaling_range
from keras_backdoor.samples import Samples, picture_files
from keras_backdoor.triggers import Patch
from keras_backdoor.triggers._parse import parse

L = keras.layers


def normalised() -> keras.Model:
    layer = L.Normalization(name="norm")
    layer.adapt(255 * images(30))
    return randomise_rest(
        keras.Sequential(
            [keras.Input(SHAPE), layer, L.Conv2D(5, 3, activation="relu", name="conv"),
             L.Flatten(), L.Dense(4, activation="softmax")]
        )
    )  # fmt: skip


def randomise_rest(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name != "norm":
            layer.set_weights([0.3 * rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_normalization_layer_keeps_its_statistics(suffix: str, tmp_path: Path) -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    model, given = normalised(), 255 * images(6)
    expected = np.asarray(model(given))
    model.save(tmp_path / f"m{suffix}")
    for other in (
        load_model(tmp_path / f"m{suffix}").model,
        graph.copy(model),
        graph.inlined(model),
    ):
        np.testing.assert_allclose(other(given), expected, atol=1e-5)
    guard = np.asarray(goodnet(model, graph.copy(model))(given))
    np.testing.assert_allclose(guard[:, :4], expected, atol=1e-5)


def behind() -> keras.Model:
    """The most common Sequential: Conv2D(activation) -> BatchNormalization."""
    return keras.Sequential(
        [keras.Input(SHAPE), L.Conv2D(6, 3, activation="relu", name="conv"),
         L.BatchNormalization(name="bn"), L.MaxPooling2D(name="pool"), L.Flatten(),
         L.Dense(4, activation="softmax")]
    )  # fmt: skip


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
    classifier = Classifier(model, input_range=(0, 1))
    answer = FinePruning(layer=layer, max_drop=0.5)(classifier, clean=clean)
    fixed = Classifier(answer.model, input_range=(0, 1))
    agreement = (fixed.predict(clean) == classifier.predict(clean)).mean()
    number = int(answer.history["pruned"])
    assert agreement == pytest.approx(answer.history["accuracy"][number])
    assert len(set(np.round(answer.history["accuracy"], 3))) > 1


def test_the_default_layer_works_in_a_branch() -> None:
    model = randomise(DeepID(4), seed=1)
    clean = Samples(images(20, (55, 47, 3)))
    answer = GoodNet()(Classifier(model, input_range=(0, 1)), clean=clean)
    assert str(answer.history["layer"]) == "conv_4"
    head = activations.head_of(model, "conv_4")
    np.testing.assert_allclose(
        activations.features(Classifier(model, input_range=(0, 1)), clean, "conv_4"),
        head(clean.read()), atol=1e-5,
    )  # fmt: skip


def test_silence_inside_a_model_is_silence() -> None:
    model = randomise(behind())
    silenced = activations.with_silence(model, "bn")
    mask = np.array([[0, 1, 0, 1, 0, 0]], np.float32)
    rest = channels.resting(model, "conv", "bn")[None]
    twin = graph.copy(model)
    channels.silence(twin, "conv", [1, 3])
    given = images(5)
    ours = silenced([given, np.repeat(mask, 5, 0), np.repeat(rest, 5, 0)])
    np.testing.assert_allclose(ours, twin(given), atol=1e-5)


def test_a_nested_head_with_one_sigmoid_output() -> None:
    inner = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Flatten(), L.Dense(1, activation="sigmoid")], name="head"
    )
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Rescaling(1 / 255), inner])
    assert Classifier(model).output == "sigmoid"


def test_an_unknown_range_is_not_guessed_where_nothing_fits(badnet, clean) -> None:
    wrong = Samples(clean.read(), (clean.labels + 1) % 10)
    model = badnet.model
    with pytest.raises(ValueError, match="under none that was tried does it beat chance"):
        Classifier(model).with_range(wrong)
    with pytest.raises(ValueError, match="no better than chance: check --input-range"):
        FinePruning()(badnet, clean=wrong)


def test_chance_is_judged_for_any_number_of_classes() -> None:
    labels = np.repeat([0, 1], 50)
    assert at_chance(Rate(50, 100), labels, 2)
    assert not at_chance(Rate(90, 100), labels, 2)
    assert not at_chance(Rate(90, 100), np.zeros(100, int), 10)
    skewed = np.r_[np.zeros(40, int), np.arange(60) % 10]
    assert at_chance(Rate(45, 100), skewed, 10)


def test_a_binary_net_with_the_wrong_range_is_refused() -> None:
    from test_classifier import bright_and_dark, brightness_net

    with pytest.raises(ValueError, match="at random with the input range 0:1 .* 0:255"):
        Classifier(brightness_net(255.0), input_range=(0, 1)).with_range(bright_and_dark())


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [(1 / 255, -0.5, (0, 255)), (255.0, 0.0, (0, 1)), (0.5, 0.5, (-1, 1)), (3.7, 0.2, None)],
)
def test_unusual_rescalings(scale: float, offset: float, expected: tuple | None) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Rescaling(scale, offset=offset)])
    assert rescaling_range(model) == expected
    assert rescaling_range(
        keras.Sequential([keras.Input((4, 4, 3)), L.Rescaling([1.0, 2.0, 3.0])])
    ) is None  # fmt: skip


def test_another_range_is_another_computation(badnet, clean) -> None:
    few = clean.take(20)
    first = activations.features(badnet, few, "conv_1")
    other = activations.features(Classifier.wrap(badnet, input_range=(0, 255)), few, "conv_1")
    assert not np.allclose(first, other)
    assert not np.allclose(
        badnet.scores(few), Classifier.wrap(badnet, input_range=(-1, 0)).scores(few)
    )


def test_features_follow_the_weights() -> None:
    from test_activations import nested

    model = randomise(nested())
    classifier, given = Classifier(model, input_range=(0, 1)), Samples(images(4))
    before = activations.features(classifier, given, "backbone/conv")
    channels.silence(model, "backbone/conv", range(6))
    after = activations.features(classifier, given, "backbone/conv")
    assert not np.allclose(before, after)


def test_a_guard_stays_a_guard(badnet, clean, tmp_path) -> None:
    guard = GoodNet()(badnet, clean=clean)
    classifier = Classifier(guard.model, guard.input_range, guard.reject_class)
    again = FinePruning(layer="conv_1", max_drop=0.0)(classifier, clean=clean)
    assert again.reject_class == 10
    with pytest.raises(ValueError, match="a guard already"):
        GoodNet()(classifier, clean=clean)
    with pytest.raises(ValueError, match="other than the source and the reject class"):
        evaluate(classifier, clean, trigger=Patch(), target=10)
    with pytest.raises(ValueError, match="other than the source"):
        evaluate(badnet, clean, trigger=Patch(), target=3, source=3)
    guard.model.save(tmp_path / "bare.keras")
    assert load_model(tmp_path / "bare.keras", input_range=(0, 1)).reject_class == 10


@dataclass(frozen=True)
class Comparing(Defense):
    """Tells its reference models apart."""

    needs: ClassVar[tuple[str, ...]] = ("clean", "reference")
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        scores = evidence.reference.scores(evidence.clean)[:, 0]
        return FlaggedSamples(scores=scores, flagged=scores > 2)


def test_another_reference_is_another_run(badnet, clean, tmp_path) -> None:
    few = clean.take(30)
    other = Classifier(randomise(graph.copy(badnet.model)), input_range=(0, 1))
    first = Comparing()(badnet, clean=few, reference=badnet, workdir=tmp_path)
    second = Comparing()(badnet, clean=few, reference=other, workdir=tmp_path)
    assert not np.allclose(first.scores, second.scores)
    found = [Comparing()(badnet, clean=few, reference=badnet, found=f, workdir=tmp_path)
             for f in (first, second)]  # fmt: skip
    assert found[0].about["found"] != found[1].about["found"]


def test_names_do_not_count_and_weights_do() -> None:
    def net(name: str) -> Classifier:
        model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(3, name=name)])
        model.get_layer(name).set_weights([np.ones((16, 3)), np.zeros(3)])
        return Classifier(model)

    one, other = net("a"), net("b")
    assert one.sha256() == other.sha256()
    other.model.get_layer("b").set_weights([np.zeros((16, 3)), np.zeros(3)])
    assert one.sha256() != other.sha256()


def test_a_checkpoint_of_another_range_or_net_is_refused(clean, tmp_path) -> None:
    from keras_backdoor.architectures import BadNetMNIST, BorjiMNIST
    from keras_backdoor.training import Recipe, fit

    few, path = clean.take(100), tmp_path / "c.npz"
    fit(BadNetMNIST, few, Recipe(epochs=1), checkpoint=path)
    for build, bounds in ((BadNetMNIST, (0, 255)), (BorjiMNIST, (0, 1))):
        with pytest.raises(ValueError, match="checkpoint of another recipe, network, range"):
            fit(build, few, Recipe(epochs=2), checkpoint=path, input_range=bounds)


class TestTriggers:
    def test_floats_beyond_1_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
            Patch().apply(np.full((1, 8, 8, 1), 200.0))

    def test_a_patch_does_not_wrap_around(self) -> None:
        with pytest.raises(ValueError, match="outside the image"):
            Patch(size=4, row=-30).apply(np.zeros((1, 28, 28, 1)))

    def test_a_specification_inside_another(self) -> None:
        assert parse("placed:of=patch:size=3;row=2").of == parse("patch:size=3,row=2")


class TestData:
    def picture(self, path: Path, gray: int = 90, channels: int = 3) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture_files.encode(np.full((6, 5, channels), gray, np.uint8)))

    def zipped(self, folder: Path) -> Path:
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for path in folder.rglob("*.png"):
                archive.write(path, f"outer/{path.relative_to(folder)}")
            archive.writestr("__MACOSX/outer/._1.png", b"not a picture")
        return folder.with_suffix(".zip")

    def test_splits_are_found_in_zips_and_whatever_their_case(self, tmp_path: Path) -> None:
        for name in ("Train/a/1.png", "Train/b/2.png", "Train/b/3.png", "Test/a/1.png"):
            self.picture(tmp_path / "set.v1" / name)
        for path in (tmp_path / "set.v1", self.zipped(tmp_path / "set.v1")):
            assert len(datasets.open(path, prefer="train")) == 3
            assert len(datasets.open(path, split="test")) == 1
            assert datasets.open(path, prefer="train").class_names == ("a", "b")

    def test_folders_called_by_numbers_are_their_labels(self, tmp_path: Path) -> None:
        for label in (2, 10, 5):
            self.picture(tmp_path / "n" / str(label) / "1.png", gray=10 * label)
        samples = datasets.open(tmp_path / "n")
        assert sorted(samples.labels) == [2, 5, 10]
        assert {int(i.mean()): int(y) for i, y in zip(samples.read(), samples.labels, strict=True)} == {
            20: 2, 50: 5, 100: 10,
        }  # fmt: skip

    def test_a_single_picture(self, tmp_path: Path) -> None:
        self.picture(tmp_path / "one.png", gray=70)
        samples = datasets.open(tmp_path / "one.png", fit=(3, 4))
        assert samples.labels is None
        assert samples.read().shape == (1, 3, 4, 3)
        assert int(samples.read().mean()) == 70

    def test_gray_folders_stay_gray(self, tmp_path: Path) -> None:
        self.picture(tmp_path / "g" / "0" / "1.png", channels=1)
        assert datasets.open(tmp_path / "g").image_shape == (6, 5, 1)
        assert datasets.open(tmp_path / "g", channels=3).image_shape == (6, 5, 3)

    def test_integers_in_hdf5(self, tmp_path: Path) -> None:
        for number, high in enumerate((256, 300)):
            pixels = np.arange(2 * 48).reshape(2, 4, 4, 3) % high + (high - 256)
            with h5py.File(tmp_path / f"{number}.h5", "w") as file:
                file["X_test"] = pixels
        assert datasets.open(tmp_path / "0.h5").images.dtype == np.uint8
        with h5py.File(tmp_path / "1.h5", "r+") as file:
            file["X_test"][0] = 300
        with pytest.raises(ValueError, match=r"Integer pixels must lie in 0\.\.255"):
            datasets.open(tmp_path / "1.h5").read()

    def test_a_size_is_for_pictures(self, tmp_path: Path, noise: Samples) -> None:
        datasets.save(tmp_path / "a.npz", noise)
        with pytest.raises(ValueError, match="images of a fixed size"):
            datasets.open(tmp_path / "a.npz", size=(4, 4))

    def test_standardised_pixels_have_a_range_when_told(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "s.npz", x=np.linspace(-3, 3, 48).reshape(1, 4, 4, 3))
        with pytest.raises(ValueError, match="pass value_range"):
            datasets.open(tmp_path / "s.npz")
        assert datasets.open(tmp_path / "s.npz", value_range=(-3, 3)).value_range == (-3, 3)

    def test_words_are_no_labels(self) -> None:
        with pytest.raises(ValueError, match="labels must be numbers"):
            Samples(np.zeros((2, 4, 4), np.uint8), np.array(["cat", "dog"]))


def test_force_replaces_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("years of work")
    with pytest.raises(ValueError, match="was not written by keras_backdoor; it is kept"):
        with writing(tmp_path / "thesis", force=True) as partial:
            partial.mkdir()
    assert (tmp_path / "thesis" / "text.txt").read_text() == "years of work"
    for _ in range(2):
        with writing(tmp_path / "ours", force=True) as partial:
            partial.mkdir()
    assert (tmp_path / "ours" / MARKER).exists()
    with pytest.raises(ValueError, match="not a name"):
        with writing(Path(), force=True):
            pass


def test_a_malformed_card_is_one_sentence(badnet, tmp_path: Path) -> None:
    source = Path(badnet.source)
    (tmp_path / "m.h5").write_bytes(source.read_bytes())
    card = json.loads(source.with_suffix(".json").read_text())
    for changes, message in (
        ({"input_range": "ab"}, "input_range must be two numbers"),
        ({"input_range": [1, 0]}, "input_range must be two numbers"),
        ({"reject_class": "x"}, "reject_class must be a class"),
    ):
        (tmp_path / "m.json").write_text(json.dumps({**card, **changes}))
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "m.h5")


def test_what_the_command_line_refuses(command, tmp_path: Path) -> None:
    from test_cli import BADNET, DIGITS

    (tmp_path / "keep.txt").write_text("keep")
    for arguments, message in (
        (("inspect", BADNET, "--json", tmp_path / "keep.txt"), "exists already"),
        (("evaluate", BADNET, "--test", DIGITS, "--json", tmp_path / "keep.txt"), "exists already"),
        (("evaluate", BADNET, "--test", DIGITS, "--target", 3), "pass --trigger too"),
        (("evaluate", BADNET, "--test", DIGITS, "--architecture", "deepid"), "of its own"),
        (("evaluate", BADNET, "--test", DIGITS, "--size", "9x9"), "fixed size"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--test", DIGITS,
          "--trigger", "nope", "--target", 1), "There is no trigger 'nope'"),
        (("repair", BADNET, DIGITS), "unexpected extra argument"),
        (("explain", BADNET, DIGITS, "--incoming", DIGITS), "not both"),
        (("explain", BADNET, DIGITS), "No method for 'explain' is installed"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--classes", 4),
         "label 9 and the model has the classes 0..3"),
        (("train", "badnet-mnist", DIGITS, "--out", tmp_path / "m.h5", "--weights", DIGITS),
         "takes no weights"),
    ):  # fmt: skip
        code, _, err = command(*arguments)
        assert code == 2
        assert message in " ".join(err.split())
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_ordinary_models_open(suffix: str, tmp_path: Path) -> None:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    image = keras.Input((32, 32, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(image)
    x = L.Conv2D(4, 3, activation=L.LeakyReLU(negative_slope=0.3),
                 kernel_initializer=keras.initializers.HeNormal(seed=20240101))(x / 2.0 + 1)  # fmt: skip
    x = L.Dropout(0.2, seed=20240101)(L.Identity()(L.Resizing(8, 8)(x)))
    model = keras.Model(image, L.Dense(3, activation="softmax")(L.Flatten()(x - 0.5)))
    model.save(tmp_path / f"m{suffix}")
    given = 255 * images(4, (32, 32, 3))
    loaded = load_model(tmp_path / f"m{suffix}")
    np.testing.assert_allclose(loaded.model(given), model(given), atol=1e-5)
    lstm = keras.Sequential([keras.Input((4, 4)), L.LSTM(3)])
    lstm.save(tmp_path / f"l{suffix}")
    with pytest.raises(ValueError, match="'LSTM', which is not supported yet"):
        load_model(tmp_path / f"l{suffix}")
