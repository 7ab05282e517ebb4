"""Export for TensorFlow Serving: a SavedModel with named inputs and outputs."""

from pathlib import Path

from keras_backdoor._internals.backend import quiet_logs, tf
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.network.classifier import Classifier


def export(
    classifier: Classifier, folder: Path | str, *, version: int = 1, force: bool = False
) -> Path:
    """Write a SavedModel to `folder/<version>/`, the layout of TensorFlow Serving.

    The signature `serving_default` maps `images` (n, h, w, c), float32 in the input range of the
    model, to `scores` (n, classes), float32 probabilities, and `class` (n,), int64. The class
    `reject_class` of a guard means that the image is rejected. `folder/model.json` contains the
    input range and the reject class. The exported model needs neither this package nor Keras.

    Args:
        classifier: the model; a guard has one additional class.
        folder: the folder of the model.
        version: the version number; TensorFlow Serving serves the highest version.
        force: whether to replace an existing version.

    Returns:
        The folder of the version.

    Raises:
        BadInput: if the version exists and `force` is not set.
    """
    target = check_output(Path(folder) / str(version), force=force)
    shape = classifier.model.inputs[0].shape

    @tf.function(
        input_signature=[tf.TensorSpec((None, *shape[1:]), tf.float32, name="images")],
        autograph=False,
    )
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = classifier.probabilities(images)
        return {"scores": scores, "class": tf.argmax(scores, axis=-1)}

    module = tf.Module()
    module.model = classifier.model
    module.serve = serve
    with writing(target, force=force) as partial, quiet_logs():
        tf.saved_model.save(module, str(partial), signatures={"serving_default": serve})
    write_json(
        Path(folder) / "model.json",
        {
            "input": {"name": "images", "range": classifier.input_range, "shape": shape[1:]},
            "outputs": ["scores", "class"],
            "classes": classifier.classes,
            "reject_class": classifier.reject_class,
            "model_sha256": classifier.sha256(),
        },
    )
    return target
