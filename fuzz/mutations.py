"""Create mutated model files: valid `.h5` and `.keras` files with changed bytes or settings."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import h5py
import numpy as np

from keras_backdoor._internals.backend import keras, quiet_logs

WORDS = (
    "", "Lambda", "TFSMLayer", "os", "eval", "../../x", "relu", "softmax", "Dense", "Conv2D",
    "Functional", "Sequential", "InputLayer", "conv", "__lambda__", "\x00", "\u202e", "[" * 40,
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 7, 2**16, 2**31, 2**63, -(2**40), 0.5, 1e308, float("nan"))


@cache
def seeds() -> dict[str, bytes]:
    """Return the contents of small valid files, by name."""
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(image)
    y = layers.Conv2D(2, 3, padding="same", name="branch")(x)
    x = layers.BatchNormalization(name="bn")(layers.Add(name="add")([x, y]) * 0.5)
    inner = keras.Sequential([keras.Input((6, 6, 2)), layers.MaxPooling2D(), layers.Flatten()])
    output = layers.Dense(3, activation="softmax", name="out")(inner(x))
    ops = keras.ops
    color = keras.Input((6, 6, 3), name="color")
    z = (color[..., ::-1] - np.array([103.0, 116.0, 123.0], "float32")) / 2.0
    z = ops.relu6(ops.power(ops.relu(z) + 1.0, 1.5)) * ops.sigmoid(z)
    z = ops.take(ops.concatenate([z, ops.silu(z)], axis=-1), [0, 3, 5], axis=-1)
    z = ops.softmax(layers.Dense(3, name="last")(ops.mean(z, axis=(1, 2))))
    models = {
        "operations": keras.Model(color, z),
        "functional": keras.Model(image, output),
        "sequential": keras.Sequential(
            [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, name="out")]
        ),
    }
    files = {}
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder, quiet_logs():
        for name, model in models.items():
            for suffix in (".h5", ".keras"):
                path = Path(folder) / f"{name}{suffix}"
                model.save(path)
                files[path.name] = path.read_bytes()
    return {**files, "keras_2.h5": _keras_2()}


def _keras_2() -> bytes:
    """An `.h5` file with operations as Keras 2 writes them."""
    source = ["image", 0, 0]
    nodes: list[tuple[str, list[Any]]] = [
        ("math.truediv", [*source, {"y": 127.5, "name": None}]),
        ("math.subtract", ["_CONSTANT_VALUE", -1, 1.0, {"y": ["op0", 0, 0], "name": None}]),
        ("nn.bias_add", ["op1", 0, 0, {"bias": [-1.0, 2.0, 3.0], "data_format": "NHWC"}]),
        ("math.multiply", ["op2", 0, 0, {"y": ["op0", 0, 0], "name": None}]),
        ("nn.relu6", ["op3", 0, 0, {"name": None}]),
        ("compat.v1.gather", ["op4", 0, 0, {"indices": [2, 1, 0], "axis": -1}]),
        ("math.reduce_mean", ["op5", 0, 0, {"axis": [1, 2]}]),
    ]
    first = {"class_name": "InputLayer", "name": "image", "inbound_nodes": [],
             "config": {"batch_input_shape": [None, 6, 6, 3], "name": "image"}}  # fmt: skip
    entries = [
        {"class_name": "TFOpLambda", "name": f"op{i}", "inbound_nodes": [node],
         "config": {"name": f"op{i}", "function": function}}
        for i, (function, node) in enumerate(nodes)
    ]  # fmt: skip
    last = {"class_name": "Dense", "name": "out", "inbound_nodes": [[["op6", 0, 0, {}]]],
            "config": {"name": "out", "units": 3, "activation": "hard_sigmoid"}}  # fmt: skip
    config = {"name": "model", "layers": [first, *entries, last],
              "input_layers": [source], "output_layers": [["out", 0, 0]]}  # fmt: skip
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["keras_version"] = "2.11.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"out"]
        weights = group.create_group("out")
        weights.attrs["weight_names"] = [b"kernel", b"bias"]
        weights["kernel"], weights["bias"] = np.eye(3, dtype="f4"), np.zeros(3, "f4")
    return buffer.getvalue()


def mutant(number: int) -> tuple[str, bytes]:
    """Return (file name, content) of a mutation; the same number gives the same file."""
    rng = random.Random(number)
    name = rng.choice(sorted(seeds()))
    content = seeds()[name]
    change: Callable[[bytes, str, random.Random], bytes] = rng.choice(
        (_flip, _flip, _cut, _configuration, _configuration, _configuration, _weights)
    )
    return name, change(content, name, rng)


def _flip(content: bytes, name: str, rng: random.Random) -> bytes:
    """Change some bytes, more often near the start, which holds the structure of the file."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 64))):
        limit = rng.choice((512, 4096, len(changed)))
        position = rng.randrange(min(limit, len(changed)))
        changed[position] = rng.choice(
            (0, 255, rng.randrange(256), changed[position] ^ (1 << rng.randrange(8)))
        )
    return bytes(changed)


def _cut(content: bytes, name: str, rng: random.Random) -> bytes:
    """Cut the file short, or remove or repeat a range of bytes."""
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice((1, 100, 10_000)))
    return rng.choice(
        (content[:start], content[:start] + content[stop:], content[:stop] + content[start:])
    )


def _configuration(content: bytes, name: str, rng: random.Random) -> bytes:
    """Change the configuration and keep the file well-formed."""

    def change(text: str) -> str:
        config = json.loads(text)
        for _ in range(rng.choice((1, 1, 2, 5))):
            _mutate(config, rng)
        return json.dumps(config)

    if name.endswith(".h5"):
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "r+") as file:
            file.attrs["model_config"] = change(file.attrs["model_config"])
        return buffer.getvalue()
    members = _unzip(content)
    members["config.json"] = change(members["config.json"].decode()).encode()
    return _zip(members)


def _weights(content: bytes, name: str, rng: random.Random) -> bytes:
    """Change shapes, values or links of the stored weights."""
    if name.endswith(".keras"):
        members = _unzip(content)
        members["model.weights.h5"] = _weights(members["model.weights.h5"], "x.h5", rng)
        return _zip(members)
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        arrays: list[str] = []
        file.visititems(lambda n, x: arrays.append(n) if isinstance(x, h5py.Dataset) else None)
        chosen = rng.choice(arrays)
        kind = rng.randrange(5)
        if kind == 0:
            file[chosen][...] = rng.choice((np.nan, np.inf, 0.0, 1e30))
        else:
            values = file[chosen][()]
            del file[chosen]
            if kind == 1:
                file[chosen] = values.ravel()[: rng.randrange(1, values.size + 1)]
            elif kind == 2:
                file[chosen] = h5py.SoftLink("/" + rng.choice(arrays))
            elif kind == 3:
                file[chosen] = np.array([b"text"])
    return buffer.getvalue()


def _mutate(config: Any, rng: random.Random) -> None:
    """Change one value somewhere in nested lists and dictionaries."""
    entries: list[tuple[Any, Any]] = []
    waiting = [config]
    while waiting:
        parent = waiting.pop()
        for key in list(parent if isinstance(parent, dict) else range(len(parent))):
            entries.append((parent, key))
            if isinstance(parent[key], dict | list):
                waiting.append(parent[key])
    if not entries:
        return
    parent, key = rng.choice(entries)
    what = rng.randrange(7)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, list):
        parent.append(parent[key])
    elif what == 2:
        parent[key] = rng.choice(entries)[0] if rng.random() < 0.2 else None
        if parent[key] is not None:
            parent[key] = (
                json.loads(json.dumps(parent[key], default=str)) if _finite(parent[key]) else []
            )
    elif what == 3:
        parent[key] = [parent[key]]
    elif what == 4:
        parent[key] = {rng.choice(WORDS): parent[key]}
    else:
        parent[key] = rng.choice((*WORDS, *NUMBERS, True, [], {}))


def _finite(value: Any) -> bool:
    """Whether a value can be written as JSON: it does not contain itself and is not too long."""
    try:
        return len(json.dumps(value, default=str)) < 10**6
    except ValueError:
        return False


def _unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
