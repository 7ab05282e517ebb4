"""Build a layer from an untrusted configuration, using the allow lists below.

A layer is built by calling a built-in class with numbers, short strings and lists of them.
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
"""Settings that are not passed to the class of the layer."""
HARMLESS = frozenset(
    {
        "Attention", "AveragePooling1D", "Bidirectional", "Conv1D", "Conv3D", "Embedding", "GRU",
        "GlobalAveragePooling1D", "LSTM", "Masking", "MaxPooling1D", "MultiHeadAttention",
        "RepeatVector", "SimpleRNN", "SpectralNormalization", "TimeDistributed",
    }
)  # fmt: skip
"""Layers that are safe but not supported, because image classifiers do not use them."""
ACTIVATION_LAYERS = frozenset({"ReLU", "LeakyReLU", "ELU", "Softmax"})
APPLICATION_LAYERS = {
    "LayerScale": "convnext",
    "StochasticDepth": "convnext",
    "CustomScaleLayer": "inception_resnet_v2",
}
"""Layers that are defined in `keras.applications`, with their module."""
ASIDE = ("initializer", "regularizer", "constraint")
"""Suffixes of settings that hold an object, and the names of the Keras modules without "s"."""
RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
"""(class, setting) in older versions of Keras -> current name of the setting."""
IDLE = frozenset(
    {"batch_size", "dynamic", "fused", "implementation", "lora_alpha", "lora_rank",
     "optional", "quantization_config", "ragged", "renorm_momentum", "sparse",
     "synchronized", "virtual_batch_size"}
)  # fmt: skip
"""Settings of other Keras versions that do not affect the predictions of a trained network."""
MAX_NUMBER = 2**20
"""Largest absolute value of an integer in a setting; a file that exceeds it is rejected."""


def _advanced_activation(value: dict, context: str) -> Any:
    """A layer that is used as an activation, as in Conv2D(activation=LeakyReLU())."""
    layer, _, _ = make_layer(value, context)
    return layer


def make_operation(item: Any, constant: float | None, file: str) -> Any:
    """A layer equivalent to an operation such as `x + y`, `x * 3` or `x - y` in a functional model.

    Its `_stored_class` is empty, because operations are not counted among the stored weights.

    Args:
        item: the configuration of the operation.
        constant: the constant operand, or None for an operation on two tensors.
        file: name of the file for error messages.

    Raises:
        HostileFile: if the operation is not on the list of allowed operations.
        UnreadableFile: if the operation is not supported.
    """
    kind = get(item, "class_name", file)
    name = plain_name(item.get("name") or get(item, "config", file).get("name"))
    if kind not in ("Add", "Subtract", "Multiply", "TrueDivide", "Divide"):
        raise HostileFile(f"{file}: the operation {str(kind)[:60]!r} is not allowed.")
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
    """Build a layer from `{"class_name": …, "config": …}`.

    Args:
        item: the configuration of the layer.
        file: name of the file for error messages.

    Returns:
        (layer, name, unknown): the layer, its name in the file and the names of its unsupported
        settings.

    Raises:
        HostileFile: if a class or value is not allowed.
        UnreadableFile: if the layer is invalid or not supported.
    """
    kind, config = get(item, "class_name", file), get(item, "config", file)
    name = str(config.get("name", kind)) if isinstance(config, dict) else str(kind)
    context = f"{file}: the layer {name!r}"
    built_in(item, context)
    if kind not in LAYERS and kind not in APPLICATION_LAYERS:
        if kind in HARMLESS:
            raise UnreadableFile(f"{context} is of class {kind!r}, which is not supported yet.")
        raise HostileFile(
            f"{context} is of class {kind!r}, which is not on the list of allowed layers."
        )
    if config.get("data_format") == "channels_first":
        raise UnreadableFile(f"{context} has data_format channels_first, which is not supported.")
    cls = (
        application_layer(APPLICATION_LAYERS[kind], kind)
        if kind in APPLICATION_LAYERS
        else getattr(keras.layers, kind)
    )
    known = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    if config.get("renorm"):
        raise UnreadableFile(f"{context} uses batch renormalization, which is not supported.")
    renamed = {RENAMED.get((kind, key), key): value for key, value in config.items()}
    settings = {
        key: _setting(key, value, context)
        for key, value in renamed.items()
        if key in known and key not in DROPPED
    }
    unknown = [k for k, v in renamed.items() if k not in known | DROPPED | IDLE and v]
    if kind == "BatchNormalization" and isinstance(settings.get("axis"), list):
        settings["axis"] = settings["axis"][0]
    try:
        layer = cls(name=plain_name(name), **settings)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise UnreadableFile(f"{context} cannot be created: {one_line(error)}") from error
    layer.trainable = bool(config.get("trainable", True))
    return layer, name, unknown


def _setting(key: str, value: Any, context: str) -> Any:
    if key.endswith(ASIDE):
        return _keras_object(key, value, context)
    if "activation" in key:
        return _activation(value, context)
    return _plain(key, value, context)


def _plain(key: str, value: Any, context: str) -> Any:
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    if isinstance(value, list) and len(value) <= 4096:
        return [_plain(key, v, context) for v in value]
    if isinstance(value, bool | None) or (isinstance(value, str) and len(value) <= 64):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) <= MAX_NUMBER:
        return value
    raise HostileFile(
        f"{context} has the setting {key!r}, which is not a plain value: {str(value)[:60]}"
    )


def _activation(value: Any, context: str) -> Any:
    if isinstance(value, dict):
        built_in(value, context)
        if value.get("class_name") in ACTIVATION_LAYERS:
            return _advanced_activation(value, context)
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
        value = _snake_case(value)
    if value is None or value in ACTIVATIONS:
        return value
    raise HostileFile(f"{context} has the activation {str(value)[:60]!r}, which is not built-in.")


def _keras_object(key: str, value: Any, context: str) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        value = {"class_name": value, "config": {}}
    built_in(value, context)
    module_of_kind = getattr(keras, next(a for a in ASIDE if key.endswith(a)) + "s")
    name, settings = value.get("class_name"), value.get("config") or {}
    cls = (
        getattr(module_of_kind, name, None)
        if isinstance(name, str) and name.isidentifier()
        else None
    )
    if not is_built_in(cls):
        cls = _class_by_snake_case(module_of_kind, name)
    if cls is None or not isinstance(settings, dict):
        raise HostileFile(f"{context} has the {key} {str(name)[:60]!r}, which is not built-in.")
    known = inspect.signature(cls.__init__).parameters
    arguments = {
        k: _plain(k, v, context) for k, v in settings.items() if k in known and k not in DROPPED
    }
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise UnreadableFile(f"{context}: {one_line(error)}") from error


def _class_by_snake_case(module_of_kind: Any, name: Any) -> Callable[..., Any] | None:
    wanted = str(name).replace("_", "").lower()
    for key, value in vars(module_of_kind).items():
        if inspect.isclass(value) and key.lower() == wanted:
            return value
    return None


def built_in(item: Any, context: str) -> None:
    """Check that an object of the configuration is part of Keras.

    Raises:
        HostileFile: if its module or registered name is not from Keras.
    """
    module, registered = item.get("module"), item.get("registered_name")
    if module not in (None, "builtins") and module.partition(".")[0] != "keras":
        raise HostileFile(f"{context} comes from the foreign module {str(module)[:80]!r}.")
    if registered is not None and registered not in (
        item.get("class_name"),
        "Functional",
        "function",
    ):
        allowed = item.get("module") == "builtins" and registered == item.get("config")
        if not allowed:
            raise HostileFile(f"{context} has the registered name {str(registered)[:80]!r}.")


def get(item: Any, key: str, file: str) -> Any:
    """The value of a required key of a configuration.

    Raises:
        UnreadableFile: if the key is missing.
    """
    if not isinstance(item, dict) or key not in item:
        raise UnreadableFile(f"{file} has a model configuration without {key!r}.")
    return item[key]


def plain_name(name: Any) -> str:
    """A valid Keras layer name: slashes become dots, and the length is limited to 200."""
    return str(name)[:200].replace("/", ".") or "layer"


def _snake_case(name: Any) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in str(name)).lstrip("_")


@contextmanager
def at_rest(layer: Any) -> Iterator[None]:
    """Initialize the weights of a layer with zeros inside a with block.

    The weights are loaded from the file later, and some initializers take minutes. On exit, the
    original initializers of the layer are restored, so that it can be trained again.
    """
    initializers = (
        {} if layer.built else {k: v for k, v in vars(layer).items() if k.endswith(ASIDE[0])}
    )
    for key in initializers:
        setattr(layer, key, keras.initializers.Zeros())
    try:
        yield
    finally:
        for key, initializer in initializers.items():
            setattr(layer, key, initializer)
