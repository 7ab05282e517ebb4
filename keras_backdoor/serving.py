"""Export for TensorFlow Serving: a SavedModel with named input and outputs."""

from pathlib import Path

from keras_backdoor._internals.backend import quiet_logs, tf
from keras_backdoor._safe.files import check_output, write_json, writing
from keras_backdoor.network.classifier import Classifier


def export(
    classifier: Classifier, folder: Path | str, *, version: int = 1, force: bool = False
) -> Path:
    """Write `folder/<version>/`, as TensorFlow Serving expects it.

    The signature `serving_default` takes `images` (n, h, w, c) float32 in the units of the
    original model and answers `scores` (n, classes) probabilities and `class` (n,) int64. In a
    guard the class `reject_class` means that the image was refused. `folder/model.json` says
    the range and the reject class; the exported program needs neither this package nor Keras.

    Args:
        classifier: the model; a guard has one class more.
        folder: the model's folder.
        version: TensorFlow Serving serves the highest version.
        force: replace what is there.

    Returns:
        The folder of the version.
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
