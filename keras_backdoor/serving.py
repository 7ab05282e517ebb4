"""Export for TensorFlow Serving: a SavedModel with named inputs and outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_backdoor._internals.backend import quiet_logs, tf
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.network.classifier import Classifier

PICTURES = (0.0, 255.0)
"""The range of the pixels of pictures."""


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

    def signature(function: Callable[[Any], dict[str, Any]], dtype: Any) -> Any:
        spec = tf.TensorSpec((None, *shape[1:]), dtype, name="images")
        return tf.function(function, input_signature=[spec], autograph=False)

    module = tf.Module()
    module.model = classifier.model
    signatures = {
        "serving_default": signature(of_pictures, tf.float32),
        "serving_uint8": signature(of_pictures, tf.uint8),
        "serving_raw": signature(answers, tf.float32),
    }
    module.functions = signatures
    with writing(target, force=force) as partial, quiet_logs():
        tf.saved_model.save(module, str(partial), signatures=signatures)
    write_json(Path(folder) / "model.json", description(classifier))
    return target


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
