"""Export for TensorFlow Serving: a SavedModel with named inputs and outputs."""

from pathlib import Path
from typing import Any

from keras_backdoor._internals.backend import keras, quiet_logs, tf
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.network.classifier import Classifier

PICTURES = (0.0, 255.0)
"""The range of the pixels of pictures."""
SIDE = 224
"""The side of the image of a warm-up request to a model that takes any size."""
CONFIG = """\
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""
"""A configuration of TensorFlow Serving for the container, where models are in /models."""


def export(
    classifier: Classifier, folder: Path | str, *, version: int = 1, force: bool = False
) -> Path:
    """Write a SavedModel to `folder/<version>/`, the layout of TensorFlow Serving.

    The signatures differ in their input `images` (n, h, w, c) only:

    - `serving_default`: float32 pictures with RGB pixels in 0..255, which are preprocessed inside.
    - `serving_uint8`: the same as uint8.
    - `serving_raw`: float32 inputs of the model itself.

    The outputs are `scores` (n, classes), float32 probabilities; `class_id` (n,), int64; and
    `rejected` (n,), bool, whether a guard rejects the image. `folder/model.json` describes them.
    The exported model needs neither this package nor Keras.

    The version contains a request for each signature that TensorFlow Serving sends itself when it
    loads the model, so that the first real request is not slow (`assets.extra/
    tf_serving_warmup_requests`). `folder/models.config` is a configuration for a server with
    several models.

    Args:
        classifier: the model, with a known preprocessing; a guard has one additional class.
        folder: the folder of the model.
        version: the version number; TensorFlow Serving serves the highest version.
        force: whether to replace an existing version.

    Returns:
        The folder of the version.

    Raises:
        BadInput: if the preprocessing is unknown, or the version exists and `force` is not set.
    """
    to_input = classifier.to_input
    target = check_output(Path(folder) / str(version), force=force)
    shape = classifier.model.inputs[0].shape

    def answers(inputs: Any) -> dict[str, Any]:
        scores = classifier.probabilities(inputs)
        number = tf.argmax(scores, axis=-1)
        reject = -1 if classifier.reject_class is None else classifier.reject_class
        return {"scores": scores, "class_id": number, "rejected": tf.equal(number, reject)}

    def of_pictures(images: Any) -> dict[str, Any]:
        return answers(to_input.of_stored(images, PICTURES))

    functions = {
        "serving_default": (of_pictures, tf.float32),
        "serving_uint8": (of_pictures, tf.uint8),
        "serving_raw": (answers, tf.float32),
    }
    archive, inputs = keras.export.ExportArchive(), {}
    archive.track(classifier.model)
    for name, (function, dtype) in functions.items():
        inputs[name] = tf.TensorSpec((None, *shape[1:]), dtype, name="images")
        archive.add_endpoint(name, function, input_signature=[inputs[name]])
    with writing(target, force=force) as partial, quiet_logs():
        archive.write_out(str(partial), verbose=False)
        _write_warmup(partial, Path(folder).name, inputs)
    write_json(Path(folder) / "model.json", description(classifier))
    with writing(Path(folder) / "models.config", force=True) as partial:
        partial.write_text(CONFIG.format(name=Path(folder).name))
    return target


def _write_warmup(folder: Path, name: str, inputs: dict[str, Any]) -> None:
    """Write one request of a single black image for each signature."""
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, spec in inputs.items():
            shape = [1, *(n or SIDE for n in spec.shape[1:])]
            image = tf.make_tensor_proto(tf.zeros(shape, spec.dtype))
            writer.write(_prediction_log(name, signature, image.SerializeToString()))


def _prediction_log(name: str, signature: str, image: bytes) -> bytes:
    """A serialized `PredictionLog` of TensorFlow Serving with a `PredictRequest`.

    The messages contain only each other, text and a tensor, so that the package of their classes is
    not needed to write them.

    Args:
        name: the name of the model.
        signature: the name of the signature.
        image: the serialized `TensorProto` of the input `images`.
    """
    spec = _field(1, name.encode()) + _field(3, signature.encode())
    entry = _field(1, b"images") + _field(2, image)
    request = _field(1, spec) + _field(2, entry)
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that contains bytes: its number, the length and the bytes."""
    length, varint = len(content), b""
    while length > 127:
        varint += bytes([length % 128 + 128])
        length //= 128
    return bytes([8 * number + 2]) + varint + bytes([length]) + content


def description(classifier: Classifier) -> dict[str, Any]:
    """What a client of the exported model needs to know, as JSON values."""
    shape = classifier.model.inputs[0].shape[1:]
    return {
        "signatures": {
            "serving_default": "images: float32, RGB pixels in 0..255",
            "serving_uint8": "images: uint8, RGB pixels in 0..255",
            "serving_raw": "images: float32 inputs of the model, see preprocess",
        },
        "outputs": ["scores", "class_id", "rejected"],
        "image_shape": list(shape),
        "preprocess": classifier.to_input.as_json(),
        "classes": classifier.classes,
        "reject_class": classifier.reject_class,
        "model_sha256": classifier.sha256(),
    }
