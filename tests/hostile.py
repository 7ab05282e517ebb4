"""A corpus of hostile and broken model files, made by the tests, as `.h5` and `.keras`.

Every entry of `KINDS` changes a small valid file; `expected` is what inspect says of it and a
part of the sentence. Run as a program it opens the whole corpus in one process and prints what
happened, so that a canary, a crash or growing memory is seen from outside.
"""

import base64
import gc
import io
import json
import marshal
import os
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import h5py
import numpy as np
from memory import peak_kilobytes

SUFFIXES = (".h5", ".keras")
Change = Callable[[dict], Any]


@dataclass(frozen=True)
class Kind:
    """One kind of file: what is changed, and what is said of it."""

    verdict: str
    sentence: str
    config: Change | None = None
    weights: Callable[[h5py.Group], Any] | None = None
    raw: Callable[[bytes, str], bytes] | None = None
    suffixes: tuple[str, ...] = SUFFIXES


def base_model() -> Any:
    from keras_backdoor._internals.backend import keras

    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    inner_image = keras.Input((6, 6, 2))
    inner = keras.Model(inner_image, layers.ReLU(name="act")(inner_image), name="inner")
    x = inner(layers.Conv2D(2, 3, name="conv")(image))
    x = layers.Dense(64, name="wide")(layers.Flatten(name="flat")(x))
    return keras.Model(image, layers.Dense(3, activation="softmax", name="out")(x))


def layer(config: dict, name: str) -> dict:
    """The entry of a layer, also in the nested model."""
    for item in config["config"]["layers"]:
        if item["config"].get("name") == name:
            return item
        if "layers" in item["config"]:
            for inner in item["config"]["layers"]:
                if inner["config"].get("name") == name:
                    return inner
    raise KeyError(name)


def replaced(name: str, kind: str, module: Any = "keras.layers", **settings: Any) -> Change:
    """A layer that is of another class."""

    def change(config: dict) -> None:
        item = layer(config, name)
        item.update(class_name=kind, module=module, registered_name=None)
        item["config"] = {"name": name, **settings}

    return change


def setting(name: str, key: str, value: Any) -> Change:
    """A layer with another setting."""
    return lambda config: layer(config, name)["config"].__setitem__(key, value)


def evil_code() -> str:
    """Byte code that leaves a canary, as Keras stores a Lambda's function."""
    code = compile(
        "lambda x: open(__import__('os').environ['CANARY'], 'w').close() or x", "e", "eval"
    )
    function = next(c for c in code.co_consts if hasattr(c, "co_code"))
    return base64.b64encode(marshal.dumps(function)).decode()


def evil_lambda() -> dict:
    return {
        "class_name": "__lambda__",
        "config": {"code": evil_code(), "defaults": None, "closure": None},
    }


def many_layers(config: dict) -> None:
    item = layer(config, "flat")
    for number in range(5000):
        extra = json.loads(json.dumps(item))
        extra["config"]["name"] = extra["name"] = f"flat{number}"
        config["config"]["layers"].append(extra)


def many_calls(config: dict) -> None:
    item = layer(config, "flat")
    item["inbound_nodes"] = item["inbound_nodes"] * 20_000


def nested(config: dict) -> None:
    inner = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 6, 6, 2], "name": "i"}}
    for number in range(9):
        inner = {
            "class_name": "Sequential",
            "config": {"name": f"s{number}", "layers": [first, inner]},
        }
    item = layer(config, "inner")
    item.update(class_name="Sequential", config={**inner["config"], "name": "inner"})


def cycle(config: dict) -> None:
    layer(config, "flat")["inbound_nodes"] = layer(config, "wide")["inbound_nodes"]


def twice(config: dict) -> None:
    config["config"]["layers"].append(layer(config, "flat"))


def strange_operation(config: dict) -> None:
    item = layer(config, "flat")
    item["class_name"] = "Subprocess"
    item["inbound_nodes"][0]["args"].append(3.0)


def hostile_call(config: dict) -> None:
    layer(config, "flat")["inbound_nodes"][0]["args"].append({"class_name": "__lambda__"})


def hostile_keyword(config: dict) -> None:
    layer(config, "flat")["inbound_nodes"][0]["kwargs"] = {"mask": {"class_name": "eval"}}


def tensor(*source: Any) -> dict:
    """A tensor as an argument of a call, as Keras 3 writes it."""
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [*source, 0, 0][:3]}}


def operation(kind: str, *args: Any, module: Any = "keras.src.ops.numpy", **options: Any) -> Change:
    """An operation of `keras.ops` instead of a layer; its first argument is the tensor."""

    def change(config: dict) -> None:
        item = layer(config, "flat")
        item.update(class_name=kind, module=module, registered_name=kind)
        item["config"] = {"name": "flat", **options}
        item["inbound_nodes"] = [{"args": [tensor("inner"), *args], "kwargs": {}}]

    return change


def old_operation(function: Any, kind: str = "TFOpLambda", **arguments: Any) -> Change:
    """An operation as Keras 2 writes it."""

    def change(config: dict) -> None:
        item = layer(config, "flat")
        item.update(class_name=kind, module=None, registered_name=None)
        item["config"] = {"name": "flat", "function": function}
        item["inbound_nodes"] = [["inner", 0, 0, arguments]]

    return change


def attention(**settings: Any) -> Change:
    """An attention of a layer to itself."""

    def change(config: dict) -> None:
        replaced("act", "Reshape", target_shape=[36, 2])(config)
        replaced("flat", "MultiHeadAttention", **settings)(config)
        layer(config, "flat")["inbound_nodes"] = [
            {"args": [tensor("inner"), tensor("inner")], "kwargs": {}}
        ]

    return change


def deep(value: Any, times: int) -> Any:
    """A value inside many lists."""
    for _ in range(times):
        value = [value]
    return value


def numpy_value(value: Any) -> dict:
    return {"class_name": "__numpy__", "config": {"value": value, "dtype": "float32"}}


def arrays(group: h5py.Group) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    group.visititems(lambda _, x: found.append(x) if isinstance(x, h5py.Dataset) else None)
    return found


def fill(value: float) -> Callable[[h5py.Group], None]:
    return lambda group: arrays(group)[0].__setitem__(..., value)


def swap(make: Callable[[h5py.Group, str], Any]) -> Callable[[h5py.Group], None]:
    """Put something else in the place of an array."""

    def change(group: h5py.Group) -> None:
        name = arrays(group)[0].name
        del group.file[name]
        make(group.file, name)

    return change


def virtual(file: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset(name, layout)


def foreign_filter(file: h5py.Group, name: str) -> None:
    space = h5py.h5s.create_simple((64,))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((64,))
    properties.set_filter(32768 + 7, h5py.h5z.FLAG_OPTIONAL, (1,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, properties)


def chunk_bomb(file: h5py.Group, name: str) -> None:
    file.create_dataset(name, (4,), "f4", chunks=(2**27,), maxshape=(None,), compression="gzip")


def cut(content: bytes, _: str) -> bytes:
    return content[: len(content) // 2]


def with_member(name: str, text: bytes) -> Callable[[bytes, str], bytes]:
    def change(content: bytes, _: str) -> bytes:
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
        return buffer.getvalue()

    return change


def zip_bomb(content: bytes, _: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, bytes(2**26))
    return buffer.getvalue()


def bzip2(content: bytes, _: str) -> bytes:
    """Python 3.11 decompresses bzip2 without a bound, whatever a member declares."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        for name, member in unzip(content).items():
            archive.writestr(name, member)
    return buffer.getvalue()


def unwritten(group: h5py.Group) -> None:
    """Arrays that take no place and claim to be weights."""
    for number in range(64):
        group.create_dataset(f"junk{number}", (2**22,), "f4", chunks=(2**20,))


def nothing_twice(group: h5py.Group) -> None:
    """An array of no numbers and endless rows."""
    group.create_dataset("endless", (2**60, 0), "f4")


def raw_config(text: str) -> Callable[[bytes, str], bytes]:
    """A configuration that is not what JSON writes."""

    def change(content: bytes, suffix: str) -> bytes:
        if suffix == ".h5":
            buffer = io.BytesIO(content)
            with h5py.File(buffer, "r+") as file:
                file.attrs["model_config"] = text
            return buffer.getvalue()
        members = unzip(content)
        members["config.json"] = text.encode()
        return rezip(members)

    return change


FOREIGN = {"module": "builtins", "class_name": "eval", "config": {}, "registered_name": None}
HOSTILE: dict[str, Kind] = {
    "lambda": Kind("hostile", "'act' is of class 'Lambda'",
                   replaced("act", "Lambda", function=evil_lambda())),
    "lambda outside": Kind("hostile", "class 'Lambda'", replaced("flat", "Lambda", function=evil_lambda())),
    "lambda as activation": Kind("hostile", "has the activation", setting("out", "activation", evil_lambda())),
    "TFSMLayer": Kind("hostile", "class 'TFSMLayer'", replaced("act", "TFSMLayer", filepath="/tmp")),
    "TorchModuleWrapper": Kind("hostile", "class 'TorchModuleWrapper'",
                               replaced("act", "TorchModuleWrapper", wrapped="x")),
    "StringLookup": Kind("hostile", "class 'StringLookup'",
                         replaced("act", "StringLookup", vocabulary="/etc/passwd")),
    "TextVectorization": Kind("hostile", "class 'TextVectorization'",
                              replaced("act", "TextVectorization", vocabulary="/etc/passwd")),
    "foreign module": Kind("hostile", "foreign module 'os'", replaced("act", "ReLU", module="os")),
    "foreign class": Kind("hostile", "class 'system'", replaced("act", "system", module=None)),
    "registered name": Kind("hostile", "registered name 'Custom>X'",
                            lambda c: layer(c, "act").update(registered_name="Custom>X")),
    "foreign activation": Kind("hostile", "activation 'os.system'", setting("wide", "activation", "os.system")),
    "foreign activation object": Kind("hostile", "registered name|activation",
                                      setting("wide", "activation", {**FOREIGN, "registered_name": "x"})),
    "foreign initializer": Kind("hostile", "kernel_initializer 'eval'", setting("wide", "kernel_initializer", FOREIGN)),
    "foreign regularizer": Kind("hostile", "kernel_regularizer 'eval'", setting("wide", "kernel_regularizer", FOREIGN)),
    "foreign constraint": Kind("hostile", "bias_constraint 'eval'", setting("wide", "bias_constraint", FOREIGN)),
    "function as setting": Kind("hostile", "'strides', which is not a plain value",
                                setting("conv", "strides", evil_lambda())),
    "foreign model class": Kind("hostile", "class 'Evil'", lambda c: c.update(class_name="Evil")),
    "operation": Kind("hostile", "operation 'Subprocess'|class 'Subprocess'", strange_operation),
    "call with a function": Kind("hostile", "not a tensor", hostile_call),
    "call with a keyword": Kind("hostile", "is called with", hostile_keyword),
    "units": Kind("hostile", "asks for .* weights, and the file holds", setting("wide", "units", 2**20)),
    "filters": Kind("hostile", "not a plain value", setting("conv", "filters", 2**40)),
    "kernel size": Kind("hostile", "asks for .* weights|does not fit", setting("conv", "kernel_size", [2**19, 2**19])),
    "not a number": Kind("hostile", "not a plain value", setting("act", "max_value", float("nan"))),
    "input bomb": Kind("hostile", "has a side outside 1..8192", setting("image", "batch_shape", [None, 2**31, 2**31, 1])),
    "input bomb by product": Kind("hostile", "the input shape .* has more than 67,108,864 values", setting("image", "batch_shape", [None, 8192, 8192, 3])),
    "output bomb": Kind("hostile", "the output of .* has more than 67,108,864 values", replaced("act", "UpSampling2D", size=[9999, 9999])),
    "padding bomb": Kind("hostile", "the output of .* has more than 67,108,864 values", replaced("act", "ZeroPadding2D", padding=[9999, 9999])),
    "many layers": Kind("hostile", "more than 4096 layers|more than 8192 times", many_layers),
    "many calls": Kind("hostile", "more than 8192 times", many_calls),
    "nested models": Kind("hostile", "nested deeper than 8", nested),
    "deep JSON": Kind("hostile", "nested deeper than 64", raw=raw_config("[" * 900 + "]" * 900)),
    "long JSON": Kind("hostile", "longer than 16 MiB", raw=raw_config('"' + "x" * 2**24 + '"')),
    "external link": Kind("hostile", "is a link", weights=swap(
        lambda f, n: f.__setitem__(n, h5py.ExternalLink("/etc/passwd", "/")))),
    "soft link": Kind("hostile", "is a link", weights=swap(lambda f, n: f.__setitem__(n, h5py.SoftLink("/")))),
    "external storage": Kind("hostile", "stored outside the file", weights=swap(
        lambda f, n: f.create_dataset(n, (4,), "f4", external=[("/etc/passwd", 0, 16)]))),
    "virtual dataset": Kind("hostile", "stored outside the file", weights=swap(virtual)),
    "objects": Kind("hostile", "holds objects", weights=swap(
        lambda f, n: f.create_dataset(n, (2,), h5py.string_dtype()))),
    "references": Kind("hostile", "holds objects", weights=swap(
        lambda f, n: f.create_dataset(n, (2,), h5py.ref_dtype))),
    "text": Kind("hostile", "holds text", weights=swap(lambda f, n: f.__setitem__(n, np.array([b"abc"])))),
    "compound": Kind("hostile", "holds objects", weights=swap(
        lambda f, n: f.create_dataset(n, (2,), [("a", "f4"), ("b", "f4")]))),
    "declared bytes": Kind("hostile", "declares more than 8 GiB|expands from", weights=swap(
        lambda f, n: f.create_dataset(n, (2**40,), "f4", chunks=(2**20,)))),
    "decompression bomb": Kind("hostile", "expands from", weights=swap(
        lambda f, n: f.create_dataset(n, data=np.zeros(2**24, "f4"), chunks=(2**20,), compression="gzip"))),
    "chunk bomb": Kind("hostile", "stored in chunks", weights=swap(chunk_bomb)),
    "foreign filter": Kind("hostile", "unsupported HDF5 filter", weights=swap(foreign_filter)),
    "linked twice": Kind("hostile", "is linked twice", weights=lambda g: g.__setitem__("again", arrays(g)[0])),
    "group in itself": Kind("hostile", "is linked twice", weights=lambda g: g.create_group("a").__setitem__("b", g["a"])),
    "NaN weights": Kind("hostile", "NaN or infinite", weights=fill(np.nan)),
    "infinite weights": Kind("hostile", "NaN or infinite", weights=fill(np.inf)),
    "foreign operation": Kind("hostile", "operation 'system' is not allowed", operation("system")),
    "operation of a foreign module": Kind("hostile", "foreign module 'os'|is not allowed",
                                          operation("Add", 1.0, module="os")),
    "operation with code": Kind("hostile", "is not a number", operation("Add", evil_lambda())),
    "operation with a function": Kind("hostile", "is not a number", operation("Multiply", FOREIGN)),
    "operation of NaN": Kind("hostile", "not finite", operation("Add", float("nan"))),
    "operation of infinity": Kind("hostile", "not finite", operation("Multiply", numpy_value([float("inf")]))),
    "operation of a huge number": Kind("hostile", "not finite", operation("Add", 10**400)),
    "operation of a large number": Kind("hostile", "not finite or above", operation("Multiply", 1e36)),
    "operation of many numbers": Kind("hostile", "too many values", operation("Add", [0.5] * 100_000)),
    "operation of nested numbers": Kind("hostile", "too many values or dimensions|not a number",
                                        operation("Add", deep(0.5, 30))),
    "operation of wrapped wraps": Kind("hostile", "not a number", operation("Add", numpy_value(numpy_value({})))),
    "operation of text": Kind("hostile", "not a number", operation("Power", "2")),
    "selection by text": Kind("hostile", "not an integer", operation("GetItem", ["x"])),
    "selection by a large number": Kind("hostile", "not an integer", operation("Take", [2**40], axis=-1)),
    "selection of many": Kind("hostile", "more than 4096 indices", operation("Take", [0] * 100_000, axis=-1)),
    "selection of dimensions": Kind("hostile", "more than 8 dimensions", operation("GetItem", [0] * 100)),
    "mean over text": Kind("hostile", "not an integer", operation("Mean", axis="x")),
    "Keras 2 function": Kind("hostile", "operation 'io.read_file' is not allowed", old_operation("io.read_file")),
    "Keras 2 py_function": Kind("hostile", "operation 'py_function' is not allowed", old_operation("py_function")),
    "Keras 2 raw op": Kind("hostile", "operation 'raw_ops.ReadFile' is not allowed", old_operation("raw_ops.ReadFile")),
    "Keras 2 foreign function": Kind("hostile", "operation 'os.system' is not allowed", old_operation("os.system")),
    "Keras 2 function object": Kind("hostile", "is not allowed", old_operation({"class_name": "eval"})),
    "Keras 2 constant": Kind("hostile", "not a number", old_operation("math.add", y={"a": 1})),
    "Keras 2 NaN": Kind("hostile", "not finite", old_operation("math.multiply", y=float("nan"))),
    "attention bomb": Kind("hostile", "asks for .* weights|more than .* pairs|is called with|two or three",
                           attention(num_heads=2**19, key_dim=2**19)),
    "zip traversal": Kind("hostile", "has the member", raw=with_member("../../evil.py", b"x"), suffixes=(".keras",)),
    "strange member": Kind("hostile", "has the member 'evil.pkl'", raw=with_member("evil.pkl", b"x"), suffixes=(".keras",)),
    "zip bomb": Kind("hostile", "zip bomb", raw=zip_bomb, suffixes=(".keras",)),
    "unwritten arrays": Kind("hostile", "expands from", weights=unwritten),
    "bzip2 members": Kind("unreadable", "unsupported compression method|damaged archive", raw=bzip2, suffixes=(".keras",)),
    "strange scale": Kind("unreadable", "cannot be used|cannot be created|invalid model configuration", replaced("act", "Rescaling", scale="abc")),
    "strange axis": Kind("unreadable", "cannot be used|does not fit|invalid model configuration", replaced("act", "Softmax", axis=99)),
    "damaged half": Kind("unreadable", "not an HDF5|damaged|without", raw=cut),
    "empty": Kind("unreadable", "is empty", raw=lambda c, s: b""),
    "text file": Kind("unreadable", "not an HDF5", raw=lambda c, s: b"hello"),
    "not JSON": Kind("unreadable", "is not JSON", raw=raw_config("{")),
    "JSON of something else": Kind("unreadable", "without 'class_name'", raw=raw_config("[1, 2]")),
    "huge number": Kind("unreadable", "is not JSON", raw=raw_config("[" + "9" * 5000 + "]")),
    "no layers": Kind("unreadable", "without layers", lambda c: c["config"].update(layers=[])),
    "cycle": Kind("unreadable", "has no input", cycle),
    "layer twice": Kind("unreadable", "two layers called 'flat'", twice),
    "unsupported": Kind("unsupported", "not supported yet", replaced("act", "LSTM", units=3)),
    "no class": Kind("unreadable", "without 'class_name'", lambda c: layer(c, "act").pop("class_name")),
    "ends of nowhere": Kind("unreadable", "an input or output of the model is not one of its layers",
                            lambda c: c["config"].update(output_layers=[["nope", 0, 0]])),
    "shape of a weight": Kind("unreadable", "has weights of shapes", weights=swap(
        lambda f, n: f.__setitem__(n, np.zeros(5, "f4")))),
    "missing weight": Kind("unreadable", "damaged|has weights of shapes|missing", weights=swap(lambda f, n: None)),
    "layer that does not fit": Kind("unreadable", "does not fit|cannot be created", setting("conv", "strides", [0, 0])),
    "constants for other channels": Kind("unreadable", "has 5 constants for 2 channels", operation("Add", [1.0] * 5)),
    "rows of other lengths": Kind("unreadable", "rows differ", operation("Add", [[1.0], [1.0, 2.0]])),
    "division by zero": Kind("unreadable", "divides by 0", operation("TrueDivide", 0.0)),
    "division by nearly zero": Kind("unreadable", "nearly 0", old_operation("math.truediv", y=1e-38)),
    "no operand": Kind("unreadable", "has no input|needs two operands", operation("Add")),
    "channel that does not exist": Kind("unreadable", "does not exist", operation("Take", [7], axis=-1)),
    "slice of step 0": Kind("unreadable", "step 0", operation("GetItem", [
        {"class_name": "__ellipsis__", "config": {}},
        {"class_name": "__slice__", "config": {"start": None, "stop": None, "step": 0}}])),
    "no channel": Kind("unreadable", "selects no channel", operation("GetItem", [
        {"class_name": "__ellipsis__", "config": {}},
        {"class_name": "__slice__", "config": {"start": 5, "stop": 9, "step": None}}])),
    "ordinary operation": Kind("unsupported", "operation 'Sort' is not supported yet", operation("Sort")),
    "ordinary Keras 2 operation": Kind("unsupported", "operation 'image.resize' is not supported yet",
                                       old_operation("image.resize", size=[4, 4])),
    "quotient of tensors": Kind("unsupported", "this divide .* is not supported yet",
                                operation("Divide", tensor("inner"))),
    "mean over channels": Kind("unsupported", "over other axes", operation("Mean", axis=3)),
    "wrong type": Kind("unreadable", "cannot be created|invalid model configuration|does not fit", setting("wide", "units", "many")),
}  # fmt: skip
OPENED: dict[str, Kind] = {
    "endless rows of nothing": Kind("safe", "", weights=nothing_twice),
    "valid": Kind("safe", ""),
    "training configuration": Kind("safe", ""),
    "slow initializer": Kind("safe", "", setting("wide", "kernel_initializer", {
        "module": "keras.initializers", "class_name": "Orthogonal", "config": {}, "registered_name": None})),
    "many seeds": Kind("safe", "", setting("wide", "kernel_initializer", {
        "module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": 2**40},
        "registered_name": None})),
}  # fmt: skip
KINDS = {**HOSTILE, **OPENED}


def unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def edit_h5(content: bytes, change: Callable[[h5py.File], Any]) -> bytes:
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def make(kind: Kind, name: str, valid: bytes, suffix: str) -> bytes:
    """The file of one kind."""
    content = valid
    if kind.config is not None or name == "training configuration":
        content = _edit_config(content, suffix, kind.config or _training)
    if kind.weights is not None:
        if suffix == ".h5":
            content = edit_h5(content, lambda f: kind.weights(f["model_weights"]))  # type: ignore[misc]
        else:
            members = unzip(content)
            members["model.weights.h5"] = edit_h5(members["model.weights.h5"], kind.weights)
            content = rezip(members)
    return kind.raw(content, suffix) if kind.raw is not None else content


def _training(config: dict) -> None:
    config["compile_config"] = {"loss": evil_lambda(), "optimizer": FOREIGN}


def _edit_config(content: bytes, suffix: str, change: Change) -> bytes:
    def edit(text: str) -> str:
        config = json.loads(text)
        change(config)
        return json.dumps(config)

    if suffix == ".h5":

        def in_file(file: h5py.File) -> None:
            text = edit(file.attrs["model_config"])
            file.attrs["model_config"] = text
            file.attrs["training_config"] = json.dumps({"loss": evil_lambda()})

        return edit_h5(content, in_file)
    members = unzip(content)
    members["config.json"] = edit(members["config.json"].decode()).encode()
    return rezip(members)


def valid_files() -> dict[str, bytes]:
    import tempfile

    from keras_backdoor._internals.backend import quiet_logs

    found = {}
    with tempfile.TemporaryDirectory() as folder, quiet_logs():
        for suffix in SUFFIXES:
            path = Path(folder) / f"m{suffix}"
            base_model().save(path)
            found[suffix] = path.read_bytes()
    return found


def entries() -> list[tuple[str, str]]:
    return [(name, suffix) for name, kind in KINDS.items() for suffix in kind.suffixes]


def use_it(path: Path, folder: Path) -> None:
    """What people do with a model that opens: clone, repair, export."""
    from keras_backdoor._internals.backend import keras
    from keras_backdoor.defenses._tuning import NO_TUNING
    from keras_backdoor.defenses.fine_pruning import FinePruning
    from keras_backdoor.defenses.goodnet import GoodNet, goodnet
    from keras_backdoor.errors import BadInput
    from keras_backdoor.loading import load_model
    from keras_backdoor.network.classifier import Classifier
    from keras_backdoor.serving import export

    classifier = load_model(path, preprocess=(0, 1))
    keras.models.clone_model(classifier.model)
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)
    try:
        guard = GoodNet(FinePruning(tuning=NO_TUNING))(classifier, clean=images).model
    except BadInput:  # a network without training puts all images in one class
        guard = goodnet(classifier, classifier)
    export(Classifier(guard, (0, 1), 3), folder / "served", force=True)


def main(folder: Path) -> None:
    """Open everything; print one JSON object."""
    from keras_backdoor.loading.inspection import inspect_model

    valid, results = valid_files(), {}
    for suffix in SUFFIXES:
        path = folder / f"warm{suffix}"
        path.write_bytes(valid[suffix])
        use_it(path, folder)
    gc.collect()
    before = peak_kilobytes()
    for name, suffix in entries():
        path = folder / f"m{suffix}"
        path.write_bytes(make(KINDS[name], name, valid[suffix], suffix))
        start = time.perf_counter()
        found = inspect_model(path)
        seconds = time.perf_counter() - start
        if found.verdict == "safe":
            use_it(path, folder)
        sentence = found.findings[0][1] if found.findings else ""
        results[name + suffix] = {
            "verdict": found.verdict,
            "sentence": sentence,
            "seconds": seconds,
        }
    grown = peak_kilobytes() - before
    print(json.dumps({"results": results, "grown_mb": grown / 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
