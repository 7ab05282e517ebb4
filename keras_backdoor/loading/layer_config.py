"""One layer of a configuration that nobody vouches for: only what is on the lists below.

A layer is made by calling a built-in class with numbers, words and lists of these.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import HostileFile, UnreadableFile, one_line
from keras_backdoor.network.keras_private import application_layer, is_built_in

LAYERS = frozenset(
    {
        "Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average",
        "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate", "Conv2D",
        "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout",
        "ELU", "Flatten", "GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D",
        "GlobalMaxPooling2D", "GroupNormalization", "Identity", "LayerNormalization",
        "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply", "Normalization",
        "PReLU", "Permute", "RandomBrightness", "RandomContrast", "RandomFlip",
        "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU", "Rescaling", "Reshape",
        "Resizing", "SeparableConv2D", "Softmax", "SpatialDropout2D", "Subtract",
        "UnitNormalization", "UpSampling2D", "ZeroPadding2D",
    }
)  # fmt: skip
ACTIVATIONS = frozenset(
    {
        "linear", "relu", "relu6", "elu", "selu", "gelu", "softplus", "softsign", "tanh",
        "sigmoid", "hard_sigmoid", "hard_swish", "hard_silu", "silu", "swish", "mish",
        "softmax", "log_softmax", "exponential", "leaky_relu", "hard_tanh", "celu", "log_sigmoid",
        "sparse_plus", "squareplus", "tanh_shrink", "soft_shrink", "hard_shrink",
    }
)  # fmt: skip
DROPPED = frozenset(
    {"name", "dtype", "trainable", "batch_shape", "batch_input_shape", "data_format", "seed"}
)
HARMLESS = frozenset(
    {
        "Attention", "AveragePooling1D", "Bidirectional", "Conv1D", "Conv3D", "Embedding", "GRU",
        "GlobalAveragePooling1D", "LSTM", "Masking", "MaxPooling1D", "MultiHeadAttention",
        "RepeatVector", "SimpleRNN", "SpectralNormalization", "TimeDistributed",
    }
)  # fmt: skip
"""Layers that do no harm and have no use in the image classifiers that are opened here."""
ACTIVATION_LAYERS = frozenset({"ReLU", "LeakyReLU", "ELU", "Softmax"})
APPLICATION_LAYERS = {
    "LayerScale": "convnext",
    "StochasticDepth": "convnext",
    "CustomScaleLayer": "inception_resnet_v2",
}
"""Layers that `keras.applications` defines for itself, and the module of each."""
ASIDE = ("initializer", "regularizer", "constraint")
RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
"""(class, setting) of older Keras -> the setting's name now."""
IDLE = frozenset(
    {"batch_size", "dynamic", "fused", "implementation", "lora_alpha", "lora_rank",
     "optional", "quantization_config", "ragged", "renorm_momentum", "sparse",
     "synchronized", "virtual_batch_size"}
)  # fmt: skip
"""Settings of other versions that change no answer of a trained net."""
MAX_NUMBER = 2**20
"""Whole number in a setting above which a file is refused."""


def _activation_layer(value: dict, where: str) -> Any:
    """A layer that stands as an activation, as in Conv2D(activation=LeakyReLU())."""
    made, _, _ = make_layer(value, where)
    return made


def make_operation(item: Any, constant: float | None, file: str) -> Any:
    """A layer that does what `x + y`, `x * 3` or `x - y` did in a functional model.

    It stands for no layer of the file, so it has no place among the stored weights.
    """
    kind = get(item, "class_name", file)
    name = plain_name(item.get("name") or get(item, "config", file).get("name"))
    if kind not in ("Add", "Subtract", "Multiply", "TrueDivide", "Divide"):
        raise HostileFile(f"{file}: the operation {str(kind)[:60]!r} is not on the list.")
    if constant is None and "Divide" in kind:
        raise UnreadableFile(f"{file}: the quotient {name!r} of two tensors is not supported yet.")
    if constant == 0.0 and "Divide" in kind:
        raise UnreadableFile(f"{file}: the operation {name!r} divides by 0.")
    if constant is None:
        layer = getattr(keras.layers, kind)(name=name)
    elif kind == "Multiply" or "Divide" in kind:
        factor = constant if kind == "Multiply" else 1.0 / constant
        layer = keras.layers.Rescaling(factor, name=name)
    else:
        offset = constant if kind == "Add" else -constant
        layer = keras.layers.Rescaling(1.0, offset=offset, name=name)
    layer._stored_class = ""
    return layer


def make_layer(item: Any, file: str) -> tuple[Any, str, list[str]]:
    """A layer from `{"class_name": …, "config": …}`, its name in the file, unknown settings."""
    kind, config = get(item, "class_name", file), get(item, "config", file)
    name = str(config.get("name", kind)) if isinstance(config, dict) else str(kind)
    where = f"{file}: the layer {name!r}"
    built_in(item, where)
    if kind not in LAYERS and kind not in APPLICATION_LAYERS:
        if kind in HARMLESS:
            raise UnreadableFile(f"{where} is of class {kind!r}, which is not supported yet.")
        raise HostileFile(f"{where} is of class {kind!r}, which is not on the list of layers.")
    if config.get("data_format") == "channels_first":
        raise UnreadableFile(f"{where} stores channels first, which TensorFlow cannot run.")
    cls = (
        application_layer(APPLICATION_LAYERS[kind], kind)
        if kind in APPLICATION_LAYERS
        else getattr(keras.layers, kind)
    )
    known = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    if config.get("renorm"):
        raise UnreadableFile(f"{where} uses batch renormalization, which is not supported.")
    renamed = {RENAMED.get((kind, key), key): value for key, value in config.items()}
    settings = {
        key: _setting(key, value, where)
        for key, value in renamed.items()
        if key in known and key not in DROPPED
    }
    unknown = [k for k, v in renamed.items() if k not in known | DROPPED | IDLE and v]
    if kind == "BatchNormalization" and isinstance(settings.get("axis"), list):
        settings["axis"] = settings["axis"][0]
    try:
        layer = cls(name=plain_name(name), **settings)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise UnreadableFile(f"{where} cannot be made: {one_line(error)}") from error
    layer.trainable = bool(config.get("trainable", True))
    return layer, name, unknown


def _setting(key: str, value: Any, where: str) -> Any:
    if key.endswith(ASIDE):
        return _object(key, value, where)
    if "activation" in key:
        return _activation(value, where)
    return _plain(key, value, where)


def _plain(key: str, value: Any, where: str) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    if isinstance(value, list) and len(value) <= 4096:
        return [_plain(key, v, where) for v in value]
    if isinstance(value, bool | None) or (isinstance(value, str) and len(value) <= 64):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) <= MAX_NUMBER:
        return value
    raise HostileFile(
        f"{where} has the setting {key!r}, which is not a plain value: {str(value)[:60]}"
    )


def _activation(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        built_in(value, where)
        if value.get("class_name") in ACTIVATION_LAYERS:
            return _activation_layer(value, where)
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
        value = _snake(value)
    if value is None or value in ACTIVATIONS:
        return value
    raise HostileFile(f"{where} has the activation {str(value)[:60]!r}, which is not built-in.")


def _object(key: str, value: Any, where: str) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        value = {"class_name": value, "config": {}}
    built_in(value, where)
    folder = getattr(keras, next(a for a in ASIDE if key.endswith(a)) + "s")
    name, settings = value.get("class_name"), value.get("config") or {}
    cls = getattr(folder, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not is_built_in(cls):
        cls = _by_snake(folder, name)
    if cls is None or not isinstance(settings, dict):
        raise HostileFile(f"{where} has the {key} {str(name)[:60]!r}, which is not built-in.")
    known = inspect.signature(cls.__init__).parameters
    kept = {k: _plain(k, v, where) for k, v in settings.items() if k in known and k not in DROPPED}
    try:
        return cls(**kept)
    except (ValueError, TypeError) as error:
        raise UnreadableFile(f"{where}: {one_line(error)}") from error


def _by_snake(folder: Any, name: Any) -> Callable[..., Any] | None:
    wanted = str(name).replace("_", "").lower()
    for key, value in vars(folder).items():
        if inspect.isclass(value) and key.lower() == wanted:
            return value
    return None


def built_in(item: Any, where: str) -> None:
    """Raise where a part of the configuration comes from outside Keras."""
    module, registered = item.get("module"), item.get("registered_name")
    if module not in (None, "builtins") and module.partition(".")[0] != "keras":
        raise HostileFile(f"{where} comes from the foreign module {str(module)[:80]!r}.")
    if registered is not None and registered not in (
        item.get("class_name"),
        "Functional",
        "function",
    ):
        allowed = item.get("module") == "builtins" and registered == item.get("config")
        if not allowed:
            raise HostileFile(f"{where} has the registered name {str(registered)[:80]!r}.")


def get(item: Any, key: str, file: str) -> Any:
    """A key that a configuration must have."""
    if not isinstance(item, dict) or key not in item:
        raise UnreadableFile(f"{file} has a model configuration without {key!r}.")
    return item[key]


def plain_name(name: Any) -> str:
    """A name that Keras takes."""
    return str(name)[:200].replace("/", ".") or "layer"


def _snake(name: Any) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in str(name)).lstrip("_")


@contextmanager
def at_rest(layer: Any) -> Iterator[None]:
    """Build with zeros: the weights follow from the file, and some initializers take minutes.

    Afterwards the layer has its own initializers again, for those who train it anew.
    """
    kept = {} if layer.built else {k: v for k, v in vars(layer).items() if k.endswith(ASIDE[0])}
    for key in kept:
        setattr(layer, key, keras.initializers.Zeros())
    try:
        yield
    finally:
        for key, initializer in kept.items():
            setattr(layer, key, initializer)
