"""Old and new files open with the same answers; what is hostile or broken is refused."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_activations import MODELS, SHAPE, images, randomise

from keras_backdoor import bundled
from keras_backdoor._backend import keras
from keras_backdoor.architectures import BadNetMNIST
from keras_backdoor.classifier import Classifier
from keras_backdoor.inspection import inspect_model
from keras_backdoor.loading import load_model

L = keras.layers
TOP = ("class_name", "module", "registered_name")


def save(model: keras.Model, path: Path) -> Path:
    import logging

    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    return path


def agree(path: Path, model: keras.Model) -> None:
    loaded = load_model(path, input_range=(0, 1)).model
    shape = model.inputs[0].shape[1:]
    given = images(5, tuple(shape))
    np.testing.assert_allclose(loaded(given), model(given), atol=1e-5)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_own_files_open_with_the_same_answers(kind: str, suffix: str, tmp_path: Path) -> None:
    model = randomise(MODELS[kind]())
    agree(save(model, tmp_path / f"m{suffix}"), model)


def rich() -> keras.Model:
    """Most of the layers on the list in one model."""
    image = keras.Input((16, 16, 3), name="image")
    x = L.Rescaling(1 / 255)(image)
    x = L.ZeroPadding2D(((1, 0), (0, 1)))(x)
    x = L.SeparableConv2D(8, 3, activation="swish", padding="same", depth_multiplier=2)(x)
    x = L.LeakyReLU(negative_slope=0.2)(L.BatchNormalization(momentum=0.9)(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="gelu")(x)
    x = L.Concatenate()([x, L.ReLU(max_value=6.0)(y)])
    x = L.GroupNormalization(groups=4)(x)
    x = L.PReLU(shared_axes=[1, 2])(L.AveragePooling2D(2)(x))
    x = L.UpSampling2D(2)(L.Cropping2D(1)(L.Conv2DTranspose(6, 3)(x)))
    x = L.SpatialDropout2D(0.1)(L.LayerNormalization()(x))
    a, b = L.GlobalAveragePooling2D()(x), L.GlobalMaxPooling2D()(x)
    x = L.Multiply()([L.Average()([a, b]), L.Maximum()([a, b])])
    x = L.Dense(6, activation="relu", kernel_regularizer="l2", kernel_initializer="he_normal")(x)
    x = L.Softmax()(L.Dense(4)(L.Reshape((6,))(x)))
    return keras.Model(image, x)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_the_layers_on_the_list_open(suffix: str, tmp_path: Path) -> None:
    model = randomise(rich(), seed=3)
    agree(save(model, tmp_path / f"m{suffix}"), model)
    dense = next(
        x for x in load_model(tmp_path / f"m{suffix}").model.layers if isinstance(x, L.Dense)
    )
    assert dense.kernel_regularizer.l2 == pytest.approx(0.01)
    assert type(dense.kernel_initializer).__name__ == "HeNormal"


def test_shared_layers_and_frozen_ones(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    conv = L.Conv2D(3, 3, padding="same", name="shared")
    x = conv(conv(image))
    model = keras.Model(image, L.Dense(3)(L.Flatten()(x)))
    conv.trainable = False
    for suffix in (".h5", ".keras"):
        agree(save(randomise(model), tmp_path / f"m{suffix}"), model)
        assert not load_model(tmp_path / f"m{suffix}").model.get_layer("shared").trainable


def rewrite(path: Path, change, attribute: str = "model_config") -> Path:
    with h5py.File(path, "r+") as file:
        content = json.loads(file.attrs[attribute])
        file.attrs[attribute] = json.dumps(change(content) or content)
    return path


def to_keras_2(config: dict) -> dict:
    """The configuration of a Sequential as Keras 2.1 and 2.2 wrote it."""
    layers = []
    for item in config["config"]["layers"]:
        if item["class_name"] == "InputLayer":
            shape = item["config"].get("batch_shape")
            continue
        inner = {k: v for k, v in item["config"].items() if k != "dtype"}
        for key, value in list(inner.items()):
            if isinstance(value, dict) and "class_name" in value:
                inner[key] = {k: value[k] for k in ("class_name", "config")}
        inner["quantization_config"] = None
        layers.append({"class_name": item["class_name"], "config": inner})
    layers[0]["config"]["batch_input_shape"] = shape
    return {"class_name": "Sequential", "config": layers}


def test_a_sequential_of_keras_2_1(tmp_path: Path) -> None:
    model = randomise(MODELS["sequential"]())
    path = rewrite(save(model, tmp_path / "m.h5"), to_keras_2)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = b"2.1.6"
        config = json.loads(file.attrs["model_config"])
        assert isinstance(config["config"], list)
    agree(path, model)
    assert inspect_model(path).keras_version == "2.1.6"


def test_a_sequential_of_keras_2_3(tmp_path: Path) -> None:
    model = randomise(MODELS["sequential"]())

    def change(config: dict) -> dict:
        old = to_keras_2(config)
        return {"class_name": "Sequential", "config": {"name": "s", "layers": old["config"]}}

    agree(rewrite(save(model, tmp_path / "m.h5"), change), model)


def old_functional(config: dict) -> dict:
    """Calls as Keras 2 wrote them: [[name, node, tensor, {}], …]."""
    for item in config["config"]["layers"]:
        nodes = []
        for node in item["inbound_nodes"]:
            found: list = []

            def collect(value, found=found) -> None:
                if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
                    found.append([*value["config"]["keras_history"], {}])
                elif isinstance(value, list):
                    for part in value:
                        collect(part)

            collect(node["args"])
            nodes.append(found)
        item["inbound_nodes"] = nodes
        if "batch_shape" in item["config"]:
            item["config"]["batch_input_shape"] = item["config"].pop("batch_shape")
    for key in ("input_layers", "output_layers"):
        ends = config["config"][key]
        config["config"][key] = [ends] if isinstance(ends[0], str) else ends
    config["class_name"] = "Model"
    return config


def test_a_functional_model_of_keras_2(tmp_path: Path) -> None:
    model = randomise(MODELS["residual"]())
    agree(rewrite(save(model, tmp_path / "m.h5"), old_functional), model)


def test_weights_only_files_need_an_architecture(tmp_path: Path) -> None:
    model = randomise(BadNetMNIST(), seed=5)
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(bundled.path("models/mnist_badnet.h5")) as whole:
        with h5py.File(tmp_path / "old.h5", "w") as file:
            for key in whole["model_weights"]:
                whole.copy(whole["model_weights"][key], file, key)
            for key, value in whole["model_weights"].attrs.items():
                file.attrs[key] = value
    loaded = load_model(tmp_path / "m.weights.h5", architecture="badnet-mnist")
    given = images(4, (28, 28, 1))
    np.testing.assert_allclose(loaded.model(given), model(given), atol=1e-6)
    badnet = load_model(bundled.path("models/mnist_badnet.h5"))
    loaded = load_model(tmp_path / "old.h5", architecture="borji_mnist")
    np.testing.assert_allclose(loaded.model(given), badnet.model(given), atol=1e-5)
    for path in ("m.weights.h5", "old.h5"):
        with pytest.raises(ValueError, match="holds weights only: pass --architecture"):
            load_model(tmp_path / path)
        with pytest.raises(ValueError, match="do not fit|missing|has weights of shapes"):
            load_model(tmp_path / path, architecture="gtsrb-cnn")
    with pytest.raises(ValueError, match="has weights of shapes"):
        load_model(tmp_path / "old.h5", architecture="borji-mnist", classes=7)
    with pytest.raises(ValueError, match="There is no 'nope' among the architectures"):
        load_model(tmp_path / "old.h5", architecture="nope")


def test_the_card_tells_the_range_only_for_its_own_file(tmp_path: Path) -> None:
    source = bundled.path("models/mnist_badnet.h5")
    assert load_model(source).input_range == (0, 1)
    (tmp_path / "m.h5").write_bytes(source.read_bytes())
    card = json.loads(source.with_suffix(".json").read_text())
    (tmp_path / "m.json").write_text(json.dumps(card))
    assert load_model(tmp_path / "m.h5").input_range == (0, 1)
    (tmp_path / "m.json").write_text(json.dumps({**card, "sha256": "0" * 64}))
    assert load_model(tmp_path / "m.h5").input_range is None
    (tmp_path / "m.json").write_text("not json")
    assert load_model(tmp_path / "m.h5").input_range is None
    assert load_model(tmp_path / "m.h5", input_range=(0, 255)).input_range == (0, 255)


class TestRefused:
    """Sentences for files that are hostile (1) or unreadable (2)."""

    def check(self, path: Path, message: str, verdict: str = "hostile") -> None:
        with pytest.raises(ValueError, match=message):
            load_model(path)
        found = inspect_model(path)
        assert found.verdict == verdict
        assert found.findings[0][0] == verdict

    @pytest.fixture
    def h5(self, tmp_path: Path) -> Path:
        return save(randomise(MODELS["sequential"]()), tmp_path / "m.h5")

    def layer(self, path: Path, number: int, **changes: object) -> Path:
        def change(config: dict) -> None:
            item = config["config"]["layers"][number]
            for key, value in changes.items():
                (item if key in TOP else item["config"])[key] = value

        return rewrite(path, change)

    def test_lambda_runs_nothing(self, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        model = keras.Sequential(
            [keras.Input(SHAPE), L.Lambda(lambda x: x, name="evil"), L.Flatten(), L.Dense(2)]
        )
        for suffix in (".h5", ".keras"):
            path = save(model, tmp_path / f"m{suffix}")
            self.check(path, "'evil' is of class 'Lambda', which is not on the list")
        assert not canary.exists()

    @pytest.mark.parametrize("name", ["TFSMLayer", "TorchModuleWrapper", "StringLookup", "Evil"])
    def test_foreign_layers(self, h5: Path, name: str) -> None:
        self.check(self.layer(h5, 1, class_name=name, registered_name=None), f"class '{name}'")

    def test_foreign_modules_and_names(self, h5: Path) -> None:
        self.check(self.layer(h5, 1, module="os"), "foreign module 'os'")

    def test_registered_names(self, h5: Path) -> None:
        self.check(self.layer(h5, 1, registered_name="Custom>X"), "registered name 'Custom>X'")

    def test_foreign_activations_and_initializers(self, h5: Path, tmp_path: Path) -> None:
        self.check(self.layer(h5, 1, activation="os.system"), "activation 'os.system'")

    def test_foreign_initializers(self, h5: Path) -> None:
        evil = {"module": "builtins", "class_name": "eval", "config": {}, "registered_name": None}
        self.check(self.layer(h5, 1, kernel_initializer=evil), "kernel_initializer 'eval'")

    def test_settings_that_are_not_plain(self, h5: Path) -> None:
        evil = {"class_name": "function", "config": "os.system"}
        self.check(self.layer(h5, 1, strides=evil), "setting 'strides', which is not a plain value")

    def test_absurd_sizes(self, h5: Path) -> None:
        self.check(self.layer(h5, 1, filters=2**40), "setting 'filters'")

    def test_absurd_products(self, h5: Path) -> None:
        self.check(self.layer(h5, 6, units=2**20), "asks for .* weights, and the file holds")

    def test_external_links(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file["model_weights/x"] = h5py.ExternalLink("/etc/passwd", "/")
        self.check(h5, "'/model_weights/x' is a link")

    def test_soft_links(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file["again"] = h5py.SoftLink("/model_weights")
        self.check(h5, "'/again' is a link")

    def test_external_storage(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file.create_dataset("e", (4,), "f4", external=[("/etc/passwd", 0, 16)])
        self.check(h5, "'/e' is stored outside the file")

    def test_text_weights(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file["t"] = np.array([b"abc"])
        self.check(h5, "'/t' holds text")

    def test_not_finite_weights(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            data = file["model_weights/conv"]
            data.visititems(
                lambda _, x: x.__setitem__(..., np.nan) if hasattr(x, "shape") else None
            )
        self.check(h5, "NaN or infinite weights")

    def test_bombs(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file.create_dataset("bomb", (2**26,), "f4", chunks=(2**20,), compression="gzip")
        self.check(h5, "a decompression bomb")

    def test_zip_bombs_and_strange_members(self, tmp_path: Path) -> None:
        path = save(randomise(MODELS["sequential"]()), tmp_path / "m.keras")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../../evil.py", "x")
        self.check(path, "has the member '../../evil.py'")
        bomb = tmp_path / "bomb.keras"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.weights.h5", bytes(2**26))
            archive.writestr("config.json", "{}")
            archive.writestr("metadata.json", "{}")
        self.check(bomb, "a zip bomb")

    def test_deep_json(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            file.attrs["model_config"] = "[" * 500 + "]" * 500
        self.check(h5, "nested deeper than 64")

    def test_broken_files(self, h5: Path, tmp_path: Path) -> None:
        whole = h5.read_bytes()
        (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
        self.check(tmp_path / "cut.h5", "is damaged: .*truncated", "unreadable")
        (tmp_path / "text.h5").write_text("hello")
        self.check(tmp_path / "text.h5", "not an HDF5 file", "unreadable")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["x"] = np.zeros(3)
        self.check(tmp_path / "other.h5", "without a Keras model", "unreadable")
        (tmp_path / "z.keras").write_bytes(b"PK\x05\x06" + bytes(18))
        self.check(tmp_path / "z.keras", "without a Keras model", "unreadable")
        with h5py.File(h5, "r+") as file:
            file.attrs["model_config"] = "{"
        self.check(h5, "is not JSON", "unreadable")

    @pytest.mark.parametrize(
        "config",
        [
            "[]", "{}", '{"class_name": "Sequential"}', '{"class_name": "Functional", "config": {}}',
            '{"class_name": "Sequential", "config": {"layers": [7]}}',
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "Dense"}]}}',
            '{"class_name": "Functional", "config": {"layers": [{"class_name": "InputLayer", '
            '"name": "a", "config": {"batch_shape": [null, 4, 4, 1]}, "inbound_nodes": []}]}}',
        ],
    )  # fmt: skip
    def test_configurations_that_make_no_sense(self, h5: Path, config: str) -> None:
        with h5py.File(h5, "r+") as file:
            file.attrs["model_config"] = config
        with pytest.raises(ValueError, match="m.h5"):
            load_model(h5)
        assert inspect_model(h5).verdict == "unreadable"

    def test_other_formats(self, tmp_path: Path) -> None:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
        self.check(tmp_path / "saved", "is a SavedModel", "unreadable")
        (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
        self.check(tmp_path / "m.tflite", "is a TFLite file", "unreadable")
        with pytest.raises(ValueError, match="There is no model file"):
            load_model(tmp_path / "none.h5")

    def test_missing_weights(self, h5: Path) -> None:
        with h5py.File(h5, "r+") as file:
            del file["model_weights/out"]
        with pytest.raises(ValueError, match="m.h5"):
            load_model(h5)


def test_what_is_loaded_is_ours(tmp_path: Path) -> None:
    path = save(randomise(MODELS["sequential"]()), tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["training_config"] = json.dumps({"loss": {"class_name": "os.system"}})
    loaded = load_model(path)
    assert isinstance(loaded, Classifier)
    assert not loaded.model.compiled
    assert inspect_model(path).findings[0][1] == "Present and not used: training_config."
