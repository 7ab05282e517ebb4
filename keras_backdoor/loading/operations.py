"""Operations on tensors in an untrusted configuration, and the layers that they become.

Keras 3 writes an operation of `keras.ops` as a node of the graph, and Keras 2 writes a TensorFlow
function as a `TFOpLambda` or `SlicingOpLambda` layer. Both are read into an `Operation`, whose name
is on the list `KINDS`, and built from built-in layers; only powers and selected channels become
operations of `keras.ops`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras
from keras_backdoor.errors import HostileFile, UnreadableFile, UnsupportedFile
from keras_backdoor.loading import constants
from keras_backdoor.network.keras_private import is_operation_class, is_operation_module, operation

NodeKey = tuple[str, int]
Apply = Callable[[Any, Any], Any]
"""(layer, tensors) -> the output of the layer, after checks of its size."""
ARITHMETIC = ("add", "subtract", "multiply", "divide", "power")
ACTIVATIONS = {"relu": "relu", "selu": "selu", "silu": "silu", "gelu": "gelu",
               "sigmoid": "sigmoid", "tanh": "tanh", "softplus": "softplus"}  # fmt: skip
KINDS = frozenset(
    {*ARITHMETIC, *ACTIVATIONS, "elu", "square", "sqrt", "negative", "relu6", "leaky_relu",
     "softmax", "mean", "max", "concatenate", "select", "take", "flip", "cast", "identity",
     "squeeze"}
)  # fmt: skip
"""The operations that are built."""
KERAS_3 = {
    "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Divide": "divide",
    "TrueDivide": "divide", "Power": "power", "Square": "square", "Sqrt": "sqrt",
    "Negative": "negative", "Relu": "relu", "Relu6": "relu6", "LeakyRelu": "leaky_relu",
    "Elu": "elu", "Selu": "selu", "Gelu": "gelu", "Silu": "silu", "Sigmoid": "sigmoid",
    "Softplus": "softplus", "Tanh": "tanh", "Softmax": "softmax", "Mean": "mean", "Max": "max",
    "Concatenate": "concatenate", "GetItem": "select", "Take": "take", "Flip": "flip",
    "Cast": "cast", "Squeeze": "squeeze",
}  # fmt: skip
"""Class of `keras.ops` in a file of Keras 3 -> operation."""
KERAS_2 = {
    "__operators__.add": "add", "math.add": "add", "add": "add", "nn.bias_add": "add",
    "math.subtract": "subtract", "subtract": "subtract", "math.multiply": "multiply",
    "multiply": "multiply", "math.truediv": "divide", "math.divide": "divide",
    "realdiv": "divide", "math.pow": "power", "pow": "power", "math.square": "square",
    "square": "square", "math.sqrt": "sqrt", "sqrt": "sqrt", "math.negative": "negative",
    "nn.relu": "relu", "nn.relu6": "relu6", "nn.leaky_relu": "leaky_relu", "nn.elu": "elu",
    "nn.selu": "selu", "nn.gelu": "gelu", "nn.silu": "silu", "nn.swish": "silu",
    "math.sigmoid": "sigmoid", "sigmoid": "sigmoid", "nn.sigmoid": "sigmoid",
    "math.tanh": "tanh", "tanh": "tanh", "nn.tanh": "tanh", "math.softplus": "softplus",
    "nn.softplus": "softplus", "nn.softmax": "softmax", "math.reduce_mean": "mean",
    "reduce_mean": "mean", "math.reduce_max": "max", "reduce_max": "max",
    "concat": "concatenate", "__operators__.getitem": "select", "gather": "take",
    "reverse": "flip", "cast": "cast", "identity": "identity", "stop_gradient": "identity",
    "squeeze": "squeeze",
}  # fmt: skip
"""TensorFlow function in a file of Keras 2 -> operation."""
HARMLESS_SPACES = ("math", "nn", "image", "linalg", "signal", "__operators__")
HARMLESS = frozenset(
    {"abs", "argmax", "boolean_mask", "broadcast_to", "clip_by_value", "cumsum", "einsum",
     "exp", "expand_dims", "fill", "gather_nd", "matmul", "maximum", "minimum", "norm", "one_hot",
     "ones_like", "pad", "range", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum",
     "repeat", "reshape", "roll", "round", "shape", "sign", "slice", "sort", "split", "stack",
     "strided_slice", "tensordot", "tile", "transpose", "unstack", "where", "zeros_like"}
)  # fmt: skip
"""TensorFlow functions that only compute, but are not supported; others are rejected as hostile."""
OPTIONS: dict[str, tuple[str, ...]] = {
    "select": ("selection",), "take": ("indices", "axis"), "mean": ("axis", "keepdims"),
    "max": ("axis", "keepdims"), "concatenate": ("axis",), "flip": ("axis",), "softmax": ("axis",),
    "squeeze": ("axis",), "leaky_relu": ("alpha", "negative_slope"), "elu": ("alpha",),
    "gelu": ("approximate",), "cast": ("dtype",),
}  # fmt: skip
"""Operation -> the options that are used; any other option with an effect is refused."""
IDLE = ("name", "key", "x2", "y", "bias", "data_format", "indices", "selection", "values", "inputs")
"""Options that are read elsewhere or have no effect."""
FLOATS = ("float16", "bfloat16", "float32", "float64", "half", "float", "double")
OLD_OPERATIONS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "TensorFlowOpLayer")


@dataclass(frozen=True)
class Operation:
    """An operation on tensors and constants.

    Attributes:
        kind: one of `KINDS`.
        operands: the source of each tensor, or a constant, in order.
        options: axis, keepdims, alpha, approximate, indices or selection.
    """

    kind: str
    operands: list[NodeKey | np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> list[NodeKey]:
        """The sources of the tensors."""
        return [o for o in self.operands if isinstance(o, tuple)]


def is_operation(item: dict, positional: int) -> bool:
    """Whether an entry of a configuration of Keras 3 is an operation, not a layer.

    Args:
        item: the entry.
        positional: the number of positional arguments of its first call.
    """
    module, kind = str(item.get("module") or ""), item.get("class_name")
    if is_operation_module(module):
        return True
    if module:
        return positional > 1 and kind in KERAS_3
    if hasattr(keras.layers, str(kind)):
        return positional > 1 and kind in KERAS_3
    return positional > 1 or is_operation_class(kind)


def of_keras_3(item: dict, node: Any, context: str) -> Operation:
    """Read an operation of `keras.ops`.

    Args:
        item: the entry of the configuration.
        node: its call, `{"args": […], "kwargs": {…}}`.
        context: the name of the file and of the operation for error messages.
    """
    kind = item.get("class_name")
    if kind not in KERAS_3:
        if is_operation_class(kind):
            raise UnsupportedFile(f"{context}: the operation {kind!r} is not supported yet.")
        raise HostileFile(f"{context}: the operation {str(kind)[:60]!r} is not allowed.")
    args, given = list(node.get("args") or []), dict(node.get("kwargs") or {})
    for key in ("x", "x1", "xs", "inputs"):
        if not args and key in given:
            args = [given.pop(key)]
    config = item.get("config")
    options = {**(config if isinstance(config, dict) else {}), **given}
    name = KERAS_3[kind]
    if name in ("select", "take"):
        second = args[1] if len(args) > 1 else options.get("key", options.get("indices"))
        options["selection" if name == "select" else "indices"] = second
        args = args[:1]
    if name == "cast":
        args = args[:1]
    flat = args[0] if name == "concatenate" and args and isinstance(args[0], list) else args
    for key in ("x2", "y"):
        if key in given:
            flat = [*flat, given[key]]
    operands = [_operand_3(a, context) for a in flat]
    return Operation(name, operands, _options(name, options, context))


def of_keras_2(item: dict, node: Any, context: str) -> Operation:
    """Read a `TFOpLambda` or `SlicingOpLambda` of Keras 2.

    Args:
        item: the entry of the configuration.
        node: its call: one `[layer, node, tensor, {…}]`, or a list of these.
        context: the name of the file and of the operation for error messages.
    """
    config = item.get("config")
    function = str(config.get("function", "")) if isinstance(config, dict) else ""
    function = function.removeprefix("compat.v1.")
    if item.get("class_name") not in ("TFOpLambda", "SlicingOpLambda") or function not in KERAS_2:
        space = function.partition(".")[0]
        known = function in HARMLESS or ("." in function and space in HARMLESS_SPACES)
        if known or item.get("class_name") in ("ClassMethod", "TensorFlowOpLayer"):
            shown = function or item.get("class_name")
            raise UnsupportedFile(f"{context}: the operation {shown!r} is not supported yet.")
        raise HostileFile(f"{context}: the operation {function[:60]!r} is not allowed.")
    name = KERAS_2[function]
    entries = [node] if node and isinstance(node[0], str) else list(node)
    options: dict[str, Any] = {}
    operands: list[NodeKey | np.ndarray] = []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) < 3:
            raise UnreadableFile(f"{context} has an invalid call.")
        if entry[0] == "_CONSTANT_VALUE":
            operands.append(constants.constant(entry[2], context))
        else:
            operands.append((str(entry[0]), int(entry[1])))
        options |= entry[3] if len(entry) > 3 and isinstance(entry[3], dict) else {}
    if options.get("data_format") not in (None, "NHWC", "channels_last"):
        raise UnsupportedFile(f"{context} has its channels first, which is not supported yet.")
    if "slice_spec" in options:
        options["selection"] = options.pop("slice_spec")
    operands += [_operand_2(options.pop(k), context) for k in ("y", "bias") if k in options]
    if name == "gelu":
        options.setdefault("approximate", False)
    return Operation(name, operands, _options(name, options, context))


def _operand_3(value: Any, context: str) -> NodeKey | np.ndarray:
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        return keras_tensor(value, context)
    return constants.constant(value, context)


def keras_tensor(value: dict, context: str) -> NodeKey:
    """The source of a tensor in a configuration of Keras 3."""
    try:
        history = value["config"]["keras_history"]
        return str(history[0]), int(history[1])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UnreadableFile(f"{context} has an invalid input.") from error


def _operand_2(value: Any, context: str) -> NodeKey | np.ndarray:
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
        return str(value[0]), int(value[1])
    return constants.constant(value, context)


def _options(name: str, options: dict[str, Any], context: str) -> dict[str, Any]:
    """The options that an operation has, as plain values.

    Raises:
        UnsupportedFile: an option has an effect that is not supported.
    """
    found: dict[str, Any] = {}
    others = {k: v for k, v in options.items() if k not in (*OPTIONS.get(name, ()), *IDLE)}
    if unknown := [k for k, v in others.items() if v not in (None, False, 0, 0.0, "")]:
        raise UnsupportedFile(
            f"{context} has the option {unknown[0]!r}, which is not supported yet."
        )
    if name == "cast" and options.get("dtype") not in FLOATS:
        kind = str(options.get("dtype"))[:40]
        raise UnsupportedFile(f"{context} converts to {kind!r}, which is not supported yet.")
    if name == "select":
        found["selection"] = constants.selection(options.get("selection"), context)
    if name == "take":
        found["indices"] = constants.indices(options.get("indices"), context)
    if name in ("mean", "max", "concatenate", "take", "flip", "softmax", "squeeze"):
        default = {"take": 0, "concatenate": -1, "softmax": -1}.get(name)
        axis = options.get("axis")
        found["axis"] = constants.indices(default if axis is None else axis, context)
        found["keepdims"] = options.get("keepdims") is True
    for key in ("alpha", "negative_slope"):
        if name in ("leaky_relu", "elu") and key in options:
            found["slope"] = float(constants.constant(options[key], context))
    if name == "gelu":
        found["approximate"] = options.get("approximate") is not False
    return found


def build(op: Operation, operands: list[Any], name: str, apply: Apply, context: str) -> Any:
    """Build the layers of an operation.

    Args:
        op: the operation.
        operands: a symbolic tensor or a constant for each of its operands.
        name: the name of the last layer.
        apply: calls a layer.
        context: the name of the file and of the operation for error messages.

    Returns:
        The symbolic output.

    Raises:
        UnsupportedFile: the operation is not supported for these operands.
        UnreadableFile: the operands do not fit.
    """
    layers, options = keras.layers, op.options
    tensors = [o for o in operands if not isinstance(o, np.ndarray)]
    if not tensors:
        raise UnreadableFile(f"{context} has no input.")
    if op.kind in ARITHMETIC:
        if len(operands) != 2:
            raise UnreadableFile(f"{context} needs two operands and has {len(operands)}.")
        return _arithmetic(op.kind, operands[0], operands[1], name, apply, context)
    if op.kind == "concatenate":
        if len(tensors) != len(operands):
            raise UnsupportedFile(f"{context}: a constant is joined, which is not supported yet.")
        axis = _one_axis(options["axis"], context)
        return apply(layers.Concatenate(axis=axis, name=name), tensors)
    if len(operands) != 1:
        raise UnreadableFile(f"{context} needs one operand and has {len(operands)}.")
    x = tensors[0]
    if op.kind in ("square", "sqrt"):
        exponent = 2.0 if op.kind == "square" else 0.5
        return apply(operation("Power", name), (x, exponent))
    if op.kind == "negative":
        return apply(layers.Rescaling(-1.0, name=name), x)
    if op.kind in ACTIVATIONS and not options.get("approximate"):
        return apply(layers.Activation(ACTIVATIONS[op.kind], name=name), x)
    if op.kind == "gelu":
        return apply(operation("Gelu", name, approximate=True), (x,))
    if op.kind == "elu":
        return apply(layers.ELU(alpha=options.get("slope", 1.0), name=name), x)
    if op.kind == "relu6":
        return apply(layers.ReLU(max_value=6.0, name=name), x)
    if op.kind == "leaky_relu":
        return apply(layers.LeakyReLU(negative_slope=options.get("slope", 0.2), name=name), x)
    if op.kind == "softmax":
        return apply(layers.Softmax(axis=_one_axis(options["axis"], context), name=name), x)
    if op.kind in ("cast", "identity"):
        return apply(layers.Identity(name=name), x)
    if op.kind in ("mean", "max"):
        return apply(_pooling(op, x, name, context), x)
    if op.kind == "squeeze":
        return apply(layers.Reshape(_squeezed(x, options["axis"], context), name=name), x)
    return _select(op, x, name, apply, context)


def _arithmetic(kind: str, a: Any, b: Any, name: str, apply: Apply, context: str) -> Any:
    layers = keras.layers
    if not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray):
        pairs = {"add": layers.Add, "subtract": layers.Subtract, "multiply": layers.Multiply}
        if kind not in pairs or len(a.shape) != len(b.shape):
            raise UnsupportedFile(f"{context}: this {kind} of two tensors is not supported yet.")
        return apply(pairs[kind](name=name), [a, b])
    first, value = (a, b) if isinstance(b, np.ndarray) else (b, a)
    if value.ndim and value.size != first.shape[-1]:
        raise UnreadableFile(
            f"{context} has {value.size} constants for {first.shape[-1]} channels."
        )
    reversed_ = isinstance(a, np.ndarray)
    if (reversed_ and kind in ("power", "divide")) or (kind == "power" and value.ndim):
        raise UnsupportedFile(f"{context}: this {kind} is not supported yet.")
    if kind == "power":
        return apply(operation("Power", name), (first, float(value)))
    if kind == "divide":
        if not value.all():
            raise UnreadableFile(f"{context} divides by 0.")
        value = 1.0 / value
        if np.abs(value).max() > constants.MAX_CONSTANT:
            raise UnreadableFile(f"{context} divides by a number that is nearly 0.")
    constant: Any = value.tolist()
    if kind in ("multiply", "divide"):
        return apply(layers.Rescaling(constant, name=name), first)
    if kind == "subtract" and reversed_:
        return apply(layers.Rescaling(-1.0, offset=constant, name=name), first)
    offset = constant if kind == "add" else (-value).tolist()
    return apply(layers.Rescaling(1.0, offset=offset, name=name), first)


def _one_axis(axes: list[int], context: str) -> int:
    if len(axes) != 1:
        raise UnsupportedFile(f"{context} has several axes, which is not supported yet.")
    return axes[0]


def _pooling(op: Operation, x: Any, name: str, context: str) -> Any:
    """The global pooling layer for a mean or a maximum."""
    rank = len(x.shape)
    axes = sorted(a % rank if -rank <= a < rank else a for a in op.options["axis"])
    sides = {4: ([1, 2], "2D"), 3: ([1], "1D")}
    if rank not in sides or axes != sides[rank][0]:
        raise UnsupportedFile(
            f"{context}: a {op.kind} over other axes than height and width is not supported yet."
        )
    kind = "Average" if op.kind == "mean" else "Max"
    layer = getattr(keras.layers, f"Global{kind}Pooling{sides[rank][1]}")
    return layer(keepdims=op.options["keepdims"], name=name)


def _squeezed(x: Any, axes: list[int], context: str) -> tuple[int, ...]:
    rank = len(x.shape)
    chosen = {a % rank for a in axes if -rank <= a < rank}
    if not chosen or 0 in chosen or any(x.shape[a] != 1 for a in chosen):
        raise UnreadableFile(f"{context} removes a dimension that is not 1.")
    left = [x.shape[a] for a in range(1, rank) if a not in chosen]
    return tuple(-1 if side is None else side for side in left)


def _select(op: Operation, x: Any, name: str, apply: Apply, context: str) -> Any:
    """Select or reverse channels, or select one element of a sequence."""
    rank, number = len(x.shape), x.shape[-1]
    if number is None or number > constants.MAX_VALUES:
        raise UnsupportedFile(f"{context} selects among too many channels.")
    channels = list(range(number))
    if op.kind == "flip":
        if [a % rank for a in op.options["axis"]] != [rank - 1]:
            raise UnsupportedFile(f"{context} reverses another axis, which is not supported yet.")
        channels = channels[::-1]
    elif op.kind == "take":
        if [a % rank for a in op.options["axis"]] != [rank - 1]:
            raise UnsupportedFile(f"{context} selects on another axis, which is not supported yet.")
        if any(not -number <= i < number for i in op.options["indices"]):
            raise UnreadableFile(f"{context} selects a channel that does not exist.")
        channels = [i % number for i in op.options["indices"]]
    else:
        parts = list(op.options["selection"])
        if parts.count(Ellipsis) > 1 or len(parts) - parts.count(Ellipsis) > rank:
            raise UnreadableFile(f"{context} selects along too many dimensions.")
        at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
        middle = [slice(None)] * (rank - len([p for p in parts if p is not Ellipsis]))
        parts = [*parts[:at], *middle, *parts[at + 1 :]]
        whole = slice(None, None, None)
        if rank == 3 and parts[0] == parts[2] == whole and isinstance(parts[1], int):
            return _element(x, parts[1], name, apply, context)
        *others, last = parts
        if any(p not in (whole, slice(0, None, None)) for p in others) or isinstance(last, int):
            raise UnsupportedFile(f"{context} selects other things than channels: not supported.")
        channels = channels[last]
    if not channels:
        raise UnreadableFile(f"{context} selects no channel.")
    if channels == list(range(number)):
        return apply(keras.layers.Identity(name=name), x)
    if channels == list(range(number))[::-1]:
        return apply(operation("Flip", name, axis=-1), (x,))
    return apply(operation("Take", name, axis=-1), (x, channels))


def _element(x: Any, position: int, name: str, apply: Apply, context: str) -> Any:
    """x[:, position] of a sequence of vectors."""
    length, width = x.shape[1:]
    if length is None or not -length <= position < length:
        raise UnreadableFile(f"{context} selects an element that does not exist.")
    before = position % length
    cropped = apply(
        keras.layers.Cropping1D((before, length - 1 - before), name=f"{name}.element"), x
    )
    return apply(keras.layers.Reshape((width,), name=name), cropped)
