"""Build a layer from an untrusted configuration, using the allow lists below.

A layer is built by calling a built-in class with numbers, short strings and lists of them.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import HostileFile, UnreadableFile, UnsupportedFile, one_line
from keras_backdoor.loading.constants import plain
from keras_backdoor.network.keras_private import application_layer, is_built_in

LAYERS = frozenset(
    {
        "Activation", "ActivityRegularization", "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D",
        "Add", "AlphaDropout", "Average", "AveragePooling1D", "AveragePooling2D",
        "BatchNormalization", "CenterCrop", "Concatenate", "Conv1D", "Conv2D", "Conv2DTranspose",
        "Cropping1D", "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU", "Flatten",
        "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GroupNormalization", "Identity",
        "LayerNormalization", "LeakyReLU", "MaxPooling1D", "MaxPooling2D", "Maximum", "Minimum",
        "MultiHeadAttention", "Multiply", "Normalization", "PReLU", "Permute", "RMSNormalization",
        "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax",
        "SpatialDropout1D", "SpatialDropout2D", "SpectralNormalization", "Subtract",
        "ThresholdedReLU", "UnitNormalization", "UpSampling1D", "UpSampling2D", "ZeroPadding1D",
        "ZeroPadding2D",
    }
)  # fmt: skip
AUGMENTATIONS = frozenset(
    {
        "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration",
        "RandomColorJitter", "RandomContrast", "RandomElasticTransform", "RandomErasing",
        "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHeight", "RandomHue",
        "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
        "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomWidth",
        "RandomZoom",
    }
)  # fmt: skip
"""Layers that change images at random during training and do nothing otherwise."""
KEPT_AUGMENTATIONS = frozenset(
    {"RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation",
     "RandomZoom"}
)  # fmt: skip
"""Augmentations that are built as they are; the others become `Identity`."""
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
HARMFUL = frozenset(
    {"FlaxLayer", "HashedCrossing", "Hashing", "IntegerLookup", "JaxLayer", "Lambda",
     "StringLookup", "TFSMLayer", "TextVectorization", "TorchModuleWrapper"}
)  # fmt: skip
"""Layers of Keras that run code of the file, or that read other files."""
REMOVED = frozenset(
    {"ConvRNN2D", "CuDNNGRU", "CuDNNLSTM", "DenseFeatures", "Highway", "LocallyConnected1D",
     "LocallyConnected2D", "MaxoutDense", "Merge", "Convolution2D", "MaxPooling", "RandomCrop"}
)  # fmt: skip
"""Layers of other Keras versions, and layers whose output for new images differs between them."""
ACTIVATION_LAYERS = frozenset({"ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax"})
APPLICATION_LAYERS = {
    "LayerScale": "convnext",
    "StochasticDepth": "convnext",
    "CustomScaleLayer": "inception_resnet_v2",
}
"""Layers that are defined in `keras.applications`, with their module."""
MODULES = ("keras", "tf_keras")
"""Packages that a layer may come from."""
OLD_MODULES = ("tensorflow.python.keras.", "tensorflow.python.ops.init_ops", "tensorflow.keras.")
"""Beginnings of the modules of Keras inside TensorFlow."""
ASIDE = ("initializer", "regularizer", "constraint")
"""Suffixes of settings that hold an object, and the names of the Keras modules without "s"."""
RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
"""(class, setting) in older versions of Keras -> current name of the setting."""
IDLE = frozenset(
    {"batch_size", "dynamic", "fused", "implementation", "lora_alpha", "lora_rank",
     "optional", "quantization_config", "ragged", "renorm_momentum", "sparse",
     "rng_type", "synchronized", "virtual_batch_size"}
)  # fmt: skip
"""Settings of other Keras versions that do not affect the predictions of a trained network."""
NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, 1.0, "", "linear", [], {}, [1, 1])
"""Values with which an unknown setting has no effect, such as `groups: 1`."""
OLD_HARD_SIGMOID = (0.2, 0.5)
"""hard_sigmoid(x) = min(1, max(0, 0.2 x + 0.5)) in Keras 1 and 2; Keras 3 has x / 6 + 0.5."""


@dataclass(frozen=True)
class Built:
    """The layers that an entry of a configuration becomes.

    Attributes:
        layers: the layers, which are called one after the other. The first has the weights.
        name: the name of the entry in the file.
        unknown: the names of its settings that are not supported.
        parts: further layers with weights, by the name under which the file stores them.
        stored_class: the class in the file, if it differs from that of the first layer.
        inside: where the weights of the first layer lie below those of the entry; empty if they
            are those of the entry.
    """

    layers: list[Any]
    name: str
    unknown: list[str]
    parts: dict[str, Any] = field(default_factory=dict)
    stored_class: str | None = None
    inside: str = ""


def make_layer(item: Any, file: str, *, old: bool = False) -> Built:
    """Build a layer from `{"class_name": …, "config": …}`.

    Args:
        item: the configuration of the layer.
        file: name of the file for error messages.
        old: whether Keras 1 or 2 wrote the file.

    Raises:
        HostileFile: if a class or value is not allowed.
        UnsupportedFile: if the layer belongs to Keras but is not supported.
        UnreadableFile: if the layer is invalid.
    """
    kind, config = plain_class(get(item, "class_name", file)), get(item, "config", file)
    name = str(config.get("name", kind)) if isinstance(config, dict) else str(kind)
    context = f"{file}: the layer {name!r}"
    built_in(item, context)
    if not isinstance(config, dict):
        raise UnreadableFile(f"{context} has no settings.")
    check_kind(kind, context)
    if config.get("data_format") == "channels_first":
        raise UnsupportedFile(f"{context} has data_format channels_first: not supported yet.")
    if kind in AUGMENTATIONS - KEPT_AUGMENTATIONS:
        return Built([keras.layers.Identity(name=plain_name(name))], name, [], stored_class=kind)
    if kind == "SpectralNormalization":
        inner = make_layer(get(config, "layer", file), file, old=old)
        return Built(inner.layers, name, inner.unknown, inner.parts, kind, inside="layer")
    if old and kind == "UpSampling2D" and config.get("interpolation") == "bilinear":
        raise UnsupportedFile(
            f"{context} enlarges with bilinear interpolation, which differs between the versions "
            "of Keras: not supported yet."
        )
    return _build(kind, config, name, context, old)


def plain_class(kind: Any) -> Any:
    """The class of a layer without the prefix that Keras 2 gives its own registered layers."""
    if isinstance(kind, str) and kind.removeprefix("Custom>") in APPLICATION_LAYERS:
        return kind.removeprefix("Custom>")
    return kind


def check_kind(kind: Any, context: str) -> None:
    """Check that a class of layers is supported.

    Raises:
        UnsupportedFile: if it is a harmless class of Keras that is not supported.
        HostileFile: if it is another class.
    """
    if isinstance(kind, str) and any(
        kind in names for names in (LAYERS, AUGMENTATIONS, APPLICATION_LAYERS)
    ):
        return
    known = isinstance(kind, str) and (
        kind in REMOVED or is_built_in(getattr(keras.layers, kind, None))
    )
    if known and kind not in HARMFUL:
        raise UnsupportedFile(f"{context} is of class {kind!r}, which is not supported yet.")
    raise HostileFile(
        f"{context} is of class {str(kind)[:60]!r}, which is not in the list of allowed layers."
    )


def _build(kind: str, config: dict, name: str, context: str, old: bool) -> Built:
    if config.get("renorm"):
        raise UnsupportedFile(f"{context} uses batch renormalization: not supported yet.")
    config, replaced = dict(config), kind
    if config.get("max_value") == float("inf"):  # a ReLU without an upper limit
        config["max_value"] = None
    if kind == "ThresholdedReLU":  # Keras 3 has it as a ReLU with a threshold
        kind, config = "ReLU", {"threshold": config.get("theta", 1.0)}
    cls = (
        application_layer(APPLICATION_LAYERS[kind], kind)
        if kind in APPLICATION_LAYERS
        else getattr(keras.layers, kind)
    )
    known = set(inspect.signature(cls.__init__).parameters) - {"self", "kwargs"}
    renamed = {RENAMED.get((kind, key), key): value for key, value in config.items()}
    after, part = _split_activation(renamed, name, context, old)
    settings = {
        key: _setting(key, value, context)
        for key, value in renamed.items()
        if key in known and key not in DROPPED
    }
    unknown = [
        k for k, v in renamed.items() if k not in known | DROPPED | IDLE and v not in NEUTRAL
    ]
    if kind == "BatchNormalization" and isinstance(settings.get("axis"), list):
        settings["axis"] = settings["axis"][0]
    try:
        layer = cls(name=plain_name(name), **settings)
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise UnreadableFile(f"{context} cannot be created: {one_line(error)}") from error
    layer.trainable = bool(config.get("trainable", True))
    stored_class = replaced if replaced != kind else None
    return Built([layer, *after], name, unknown, part, stored_class)


def _split_activation(
    config: dict, name: str, context: str, old: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Replace an activation that needs layers of its own by none, in place.

    Returns:
        (layers, parts): the layers that follow, and those of them that have weights; see `Built`.
    """
    value = config.get("activation")
    if old and _activation_name(value) == "hard_sigmoid":
        config["activation"] = "linear"
        scale, offset = OLD_HARD_SIGMOID
        name = plain_name(name)
        after = [
            keras.layers.Rescaling(scale, offset=offset, name=f"{name}.scale"),
            keras.layers.ReLU(max_value=1.0, name=f"{name}.clip"),
        ]
        return after, {}
    if isinstance(value, dict) and value.get("class_name") == "PReLU":
        config["activation"] = "linear"
        settings = {**get(value, "config", context), "name": f"{name}.activation"}
        inner = make_layer({**value, "config": settings}, context)
        return inner.layers, {"activation": inner.layers[0]}
    return [], {}


def _activation_name(value: Any) -> Any:
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return _snake_case(value)


def _setting(key: str, value: Any, context: str) -> Any:
    if key.endswith(ASIDE):
        return _keras_object(key, value, context)
    if "activation" in key:
        return _activation(value, context)
    return plain(key, value, context)


def _activation(value: Any, context: str) -> Any:
    if isinstance(value, dict):
        built_in(value, context)
        if value.get("class_name") in ACTIVATION_LAYERS:
            return make_layer(value, context).layers[0]
        value = _activation_name(value)
    if value is None or value in ACTIVATIONS:
        return value
    if isinstance(value, str) and callable(getattr(keras.activations, value, None)):
        raise UnsupportedFile(f"{context} has the activation {value!r}: not supported yet.")
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
        k: plain(k, v, context) for k, v in settings.items() if k in known and k not in DROPPED
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
    known = module in (None, "builtins") or (
        isinstance(module, str)
        and (module.partition(".")[0] in MODULES or module.startswith(OLD_MODULES))
    )
    if not known:
        raise HostileFile(f"{context} comes from the foreign module {str(module)[:80]!r}.")
    usual = [plain_class(item.get("class_name")), "Functional", "function"]
    usual = [name for name in usual if ">" not in str(name)]
    if registered is not None and plain_class(registered) not in usual:
        allowed = module == "builtins" and registered == item.get("config")
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
        {}
        if getattr(layer, "built", True)
        else {k: v for k, v in vars(layer).items() if k.endswith(ASIDE[0])}
    )
    for key in initializers:
        setattr(layer, key, keras.initializers.Zeros())
    try:
        yield
    finally:
        for key, initializer in initializers.items():
            setattr(layer, key, initializer)
