"""Operations in model files: the same answers as Keras 3 gives, and as Keras 2 defines them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from keras_backdoor._internals.backend import keras
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.errors import UnsupportedFile
from keras_backdoor.loading import load_model
from keras_backdoor.loading.inspection import inspect_model

L, ops = keras.layers, keras.ops
SHAPE = (6, 6, 3)
VECTOR = np.array([1.5, -2.0, 0.25], np.float32)
KERAS_3: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + 2.0,
    "reversed add": lambda x: 3 + x,
    "add vector": lambda x: x + VECTOR,
    "subtract": lambda x: x - 0.5,
    "reversed subtract": lambda x: 1.0 - x,
    "subtract vector": lambda x: x - VECTOR,
    "reversed subtract vector": lambda x: ops.subtract(VECTOR, x),
    "multiply": lambda x: x * 3.0,
    "multiply by a row": lambda x: x * VECTOR.reshape(1, 1, 1, 3),
    "divide": lambda x: x / 127.5,
    "divide by a vector": lambda x: x / VECTOR,
    "two tensors": lambda x: (x + x * 2.0) * (x - 1.0),
    "power": lambda x: ops.power(ops.relu(x) + 1.0, 1.7),
    "square": lambda x: ops.square(x) + x**2,
    "square root": lambda x: ops.sqrt(ops.relu(x)),
    "negative": lambda x: -x,
    "relu6": lambda x: ops.relu6(x * 4.0),
    "leaky relu": lambda x: ops.leaky_relu(x, negative_slope=0.3),
    "gelu": lambda x: ops.gelu(x),
    "exact gelu": lambda x: ops.gelu(x, approximate=False),
    "elu with alpha": lambda x: ops.elu(x, alpha=0.3),
    "silu, elu, selu": lambda x: ops.silu(x) + ops.elu(x) + ops.selu(x),
    "sigmoid, tanh": lambda x: ops.sigmoid(x) * ops.tanh(x),
    "softmax": lambda x: ops.softmax(x, axis=-1),
    "reversed channels": lambda x: x[..., ::-1],
    "selected channels": lambda x: x[:, :, :, 0:2],
    "taken channels": lambda x: ops.take(x, [2, 0, 0], axis=-1),
    "flip": lambda x: ops.flip(x, axis=-1),
    "concatenate": lambda x: ops.concatenate([x, x * 2.0], axis=-1),
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True) * x,
    "max": lambda x: ops.max(x, axis=[1, 2], keepdims=True) + x,
    "cast": lambda x: ops.cast(x, "float32") * 2.0,
}


def images(shape: tuple = SHAPE, number: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, *shape)).astype(np.float32)


def save(model: keras.Model, path: Path) -> Path:
    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    return path


def closed(image: Any, hidden: Any) -> keras.Model:
    """A classifier on top of a feature map, with random weights."""
    x = L.Dense(3, activation="softmax", name="out")(L.GlobalAveragePooling2D()(hidden))
    model = keras.Model(image, x)
    model(images())  # builds a PReLU that is used as an activation
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 1, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", KERAS_3)
def test_operations_of_keras_3(name: str, suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = closed(image, L.Conv2D(3, 3)(KERAS_3[name](image)))
    loaded = load_model(save(model, tmp_path / f"m{suffix}"), preprocess=(0, 1))
    given = images()
    np.testing.assert_allclose(loaded.model(given), model(given), atol=2e-6)
    again = load_model(save(loaded.model, tmp_path / "again.keras"), preprocess=(0, 1))
    np.testing.assert_allclose(again.model(given), model(given), atol=2e-6)
    bare = keras.models.load_model(tmp_path / "again.keras", compile=False)
    np.testing.assert_allclose(bare(given), model(given), atol=2e-6)
    guard = goodnet(loaded, loaded)
    np.testing.assert_allclose(guard(given)[:, :3], model(given), atol=1e-5)


@pytest.mark.parametrize(
    "operation",
    [lambda x: ops.cast(ops.cast(x, "int32"), "float32"), lambda x: ops.max(x, (1, 2), initial=1.0),
     lambda x: x + np.ones((6, 6, 3), "float32")],
)  # fmt: skip
def test_options_that_would_be_dropped_are_not_supported(operation, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = keras.Model(image, L.Dense(3)(L.Flatten()(operation(image))))
    with pytest.raises(UnsupportedFile, match="supported yet"):
        load_model(save(model, tmp_path / "m.keras"))


def test_arguments_by_name_are_not_hostile(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = L.Reshape((36, 3))(L.Conv2D(3, 3, padding="same")(inputs=image))
    x = L.MultiHeadAttention(1, 2)(query=x, value=x)
    model = keras.Model(image, L.Dense(3)(inputs=L.GlobalAveragePooling1D()(x)))
    loaded = load_model(save(model, tmp_path / "m.keras"), preprocess=(0, 1)).model
    np.testing.assert_allclose(loaded(images()), model(images()), atol=1e-5)
    for activation in ("sparsemax", "glu"):
        other = keras.Model(image, L.Dense(4, activation=activation)(L.Flatten()(image)))
        with pytest.raises(UnsupportedFile, match=f"activation '{activation}': not supported yet"):
            load_model(save(other, tmp_path / f"{activation}.keras"))


def test_mean_and_maximum_without_dimensions(tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = ops.concatenate([ops.mean(image, axis=(1, 2)), ops.max(image, axis=(-3, -2))], axis=1)
    squeezed = ops.squeeze(ops.mean(image, axis=[1, 2], keepdims=True), axis=(1, 2))
    model = keras.Model(image, ops.softmax(ops.concatenate([x, squeezed], axis=-1)))
    loaded = load_model(save(model, tmp_path / "m.keras"), preprocess=(0, 1))
    np.testing.assert_allclose(loaded.model(images()), model(images()), atol=1e-6)
    assert loaded.output == "probabilities"


def old_file(path: Path, layers: list[dict], weights: dict[str, list[np.ndarray]]) -> Path:
    """An `.h5` file in the form of Keras 2."""
    first = {
        "class_name": "InputLayer", "name": "image", "inbound_nodes": [],
        "config": {"batch_input_shape": [None, *SHAPE], "dtype": "float32", "name": "image"},
    }  # fmt: skip
    config = {
        "name": "model", "layers": [first, *layers], "input_layers": [["image", 0, 0]],
        "output_layers": [[layers[-1]["name"], 0, 0]],
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.11.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [x["name"].encode() for x in (first, *layers)]
        for entry in (first, *layers):
            inner = group.create_group(entry["name"])
            arrays = weights.get(entry["name"], [])
            inner.attrs["weight_names"] = [f"w{i}".encode() for i in range(len(arrays))]
            for number, array in enumerate(arrays):
                inner[f"w{number}"] = array
    return path


def old_operation(name: str, function: str, *entries: Any, kind: str = "TFOpLambda") -> dict:
    node = list(entries) if len(entries) > 1 else entries[0]
    return {
        "class_name": kind, "name": name, "config": {"name": name, "function": function},
        "inbound_nodes": [node],
    }  # fmt: skip


def pooled(source: str) -> list[dict]:
    return [
        {"class_name": "GlobalAveragePooling2D", "name": "pool", "config": {"name": "pool"},
         "inbound_nodes": [[[source, 0, 0, {}]]]}
    ]  # fmt: skip


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


X = ["image", 0, 0]
SLICE = {"start": None, "stop": None, "step": -1}
KERAS_2: dict[str, tuple[list, Callable[[np.ndarray], np.ndarray]]] = {
    "truediv": ([("math.truediv", [*X, {"y": 255.0, "name": None}])], lambda x: x / 255),
    "reversed subtract": (
        [("math.subtract", ["_CONSTANT_VALUE", -1, 1.0, {"y": X, "name": None}])], lambda x: 1 - x
    ),
    "add a tensor": ([("__operators__.add", [*X, {"y": X}])], lambda x: x + x),
    "multiply by a vector": (
        [("math.multiply", [*X, {"y": [1.0, 2.0, 3.0]}])], lambda x: x * np.array([1, 2, 3])
    ),
    "wrapped number": (
        [("math.multiply", [*X, {"y": {"type": "ndarray", "value": 0.5}}])], lambda x: x / 2
    ),
    "bias": (
        [("nn.bias_add", [*X, {"bias": [1.0, 2.0, 3.0], "data_format": "NHWC"}])],
        lambda x: x + np.array([1, 2, 3]),
    ),
    "pow": ([("math.pow", [*X, {"y": 2.0}])], lambda x: x**2),
    "square": ([("math.square", [*X, {"name": None}])], lambda x: x**2),
    "relu6": ([("nn.relu6", [*X, {}])], lambda x: np.clip(x, 0, 6)),
    "silu": ([("nn.silu", [*X, {}])], lambda x: x * sigmoid(x)),
    "tanh": ([("math.tanh", [*X, {}])], np.tanh),
    "leaky relu": ([("nn.leaky_relu", [*X, {"alpha": 0.1}])], lambda x: np.where(x > 0, x, x / 10)),
    "gather": (
        [("compat.v1.gather", [*X, {"indices": [2, 1, 0], "axis": -1}])], lambda x: x[..., ::-1]
    ),
    "reverse": ([("reverse", [*X, {"axis": [-1]}])], lambda x: x[..., ::-1]),
    "slice": (
        [("__operators__.getitem", [*X, {"slice_spec": [{"class_name": "__ellipsis__"}, SLICE]}])],
        lambda x: x[..., ::-1],
    ),
    "concat": (
        [("concat", [*X, {"axis": -1}], [*X, {"axis": -1}])], lambda x: np.concatenate([x, x], -1)
    ),
    "two in a row": (
        [("math.truediv", [*X, {"y": 127.5}]), ("math.subtract", ["op0", 0, 0, {"y": 1.0}])],
        lambda x: x / 127.5 - 1,
    ),
    "mean": (
        [("math.reduce_mean", [*X, {"axis": [1, 2], "keepdims": True}])],
        lambda x: x.mean(axis=(1, 2), keepdims=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KERAS_2)
def test_operations_of_keras_2(name: str, tmp_path: Path) -> None:
    made, expected = KERAS_2[name]
    entries = [
        old_operation(
            f"op{i}", function, *nodes,
            kind="SlicingOpLambda" if "getitem" in function else "TFOpLambda",
        )
        for i, (function, *nodes) in enumerate(made)
    ]  # fmt: skip
    path = old_file(tmp_path / "m.h5", [*entries, *pooled(entries[-1]["name"])], {})
    loaded = load_model(path, preprocess=(0, 1)).model
    given = images()
    np.testing.assert_allclose(loaded(given), expected(given).mean(axis=(1, 2)), atol=1e-5)


def test_hard_sigmoid_follows_the_version_that_wrote_the_file(tmp_path: Path) -> None:
    dense = {
        "class_name": "Dense", "name": "out", "inbound_nodes": [[["pool", 0, 0, {}]]],
        "config": {"name": "out", "units": 3, "activation": "hard_sigmoid", "use_bias": False},
    }  # fmt: skip
    path = old_file(tmp_path / "m.h5", [*pooled("image"), dense], {"out": [np.eye(3)]})
    given = 3 * images()
    mean = given.mean(axis=(1, 2))
    old = np.clip(0.2 * mean + 0.5, 0, 1)
    np.testing.assert_allclose(load_model(path, preprocess=(0, 1)).model(given), old, atol=1e-6)
    image = keras.Input(SHAPE)
    x = L.Dense(3, activation="hard_sigmoid", use_bias=False)(L.GlobalAveragePooling2D()(image))
    model = keras.Model(image, x)
    model.set_weights([np.eye(3)])
    new = load_model(save(model, tmp_path / "new.h5"), preprocess=(0, 1)).model(given)
    np.testing.assert_allclose(new, np.clip(mean / 6 + 0.5, 0, 1), atol=1e-6)
    assert np.abs(new - old).max() > 0.01


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_dropout_that_is_always_on_is_off_and_said(suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = closed(image, L.Dropout(0.5, name="always")(image, training=True))
    path = save(model, tmp_path / f"m{suffix}")
    given = images()
    logits = given.mean(axis=(1, 2)) @ model.get_weights()[0] + model.get_weights()[1]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(load_model(path, preprocess=(0, 1)).model(given), expected, 1e-4)
    assert any("dropout of always is always on" in text for _, text in inspect_model(path).findings)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_batch_normalization_in_training_mode_is_not_supported(suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = closed(image, L.BatchNormalization()(image, training=True))
    with pytest.raises(UnsupportedFile, match="training=True, so that its answers depend"):
        load_model(save(model, tmp_path / f"m{suffix}"))


def layers_of_kinds() -> dict[str, Callable[[Any], Any]]:
    """Feature maps that need a layer of a kind."""
    return {
        "1D layers": lambda x: L.Reshape((4, 8, 3))(
            L.Conv1D(3, 3, padding="same")(
                L.Cropping1D(2)(L.ZeroPadding1D(0)(L.Reshape((36, 3))(x)))
            )
        ),
        "RMS normalization": lambda x: L.RMSNormalization()(x),
        "adaptive pooling": lambda x: L.AdaptiveAveragePooling2D((3, 3))(x),
        "PReLU as activation": lambda x: L.Conv2D(3, 3, activation=L.PReLU())(x),
        "shared PReLU as activation": lambda x: L.Conv2D(
            3, 3, activation=L.PReLU(shared_axes=[1, 2])
        )(x),
        "spectral normalization": lambda x: L.SpectralNormalization(L.Conv2D(4, 3))(x),
        "augmentation": lambda x: L.RandomErasing()(L.RandomGrayscale()(L.RandomShear(0.1)(x))),
        "attention": lambda x: L.Reshape((6, 6, 3))(
            L.MultiHeadAttention(2, 3)(L.Reshape((36, 3))(x), L.Reshape((36, 3))(x))
        ),
    }


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", layers_of_kinds())
def test_more_layers_open(name: str, suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    model = closed(image, layers_of_kinds()[name](image))
    loaded = load_model(save(model, tmp_path / f"m{suffix}"), preprocess=(0, 1)).model
    np.testing.assert_allclose(loaded(images()), model(images(), training=False), atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
def test_half_precision_files_open_as_float32(policy: str, suffix: str, tmp_path: Path) -> None:
    image = keras.Input(SHAPE)
    x = L.GlobalAveragePooling2D(dtype=policy)(L.Conv2D(8, 3, dtype=policy)(image))
    model = keras.Model(image, L.Dense(3, dtype=policy, activation="softmax")(x))
    loaded = load_model(save(model, tmp_path / f"m{suffix}"), preprocess=(0, 1)).model
    assert loaded.output.dtype == "float32"
    expected = np.asarray(model(images()), np.float32)
    np.testing.assert_allclose(loaded(images()), expected, atol=0.03)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("uses", [1, 2])
def test_nested_models_at_the_end_and_twice(uses: int, suffix: str, tmp_path: Path) -> None:
    inner_image = keras.Input(SHAPE)
    inner = keras.Model(inner_image, L.Conv2D(3, 3, padding="same")(inner_image), name="inner")
    head_image = keras.Input(SHAPE)
    head = closed(head_image, L.ReLU()(head_image))
    image = keras.Input(SHAPE)
    x = image
    for _ in range(uses):
        x = inner(x)
    model = keras.Model(image, head(x))
    loaded = load_model(save(model, tmp_path / f"m{suffix}"), preprocess=(0, 1)).model
    np.testing.assert_allclose(loaded(images()), model(images()), atol=1e-5)
