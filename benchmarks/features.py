"""Measure images per second of `activations.features` against a bare compiled forward pass.

Both run alternately in one process on the same arrays in memory. The benchmark reports the median
and the range of the ratios over all rounds.
"""

import time
from collections.abc import Callable

import numpy as np
from _common import record

from keras_backdoor._internals.backend import tf
from keras_backdoor.architectures import GTSRBCNN, BorjiMNIST
from keras_backdoor.network import activations
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

BATCH, ROUNDS = 256, 11


def bare(classifier: Classifier, layer: str, images: np.ndarray) -> Callable[[], np.ndarray]:
    """Return the code that a user would write: a compiled head over slices of the array."""
    head, _ = activations.split(classifier, layer)

    @tf.function(input_signature=[tf.TensorSpec((None, *images.shape[1:]), tf.uint8)])
    def forward(batch: tf.Tensor) -> tf.Tensor:
        return head(tf.cast(batch, tf.float32) / 255.0, training=False)

    def run() -> np.ndarray:
        starts = range(0, len(images), BATCH)
        return np.concatenate([forward(images[i : i + BATCH]).numpy() for i in starts])

    return run


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, classifier: Classifier, layer: str, count: int) -> dict[str, float]:
    """Return the ratios and throughputs for one network over all rounds."""
    shape = (count, *classifier.model.inputs[0].shape[1:])
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    samples = Samples(images)
    ours = lambda: activations.features(classifier, samples, layer, batch_size=BATCH)  # noqa: E731
    theirs = bare(classifier, layer, images)
    np.testing.assert_allclose(ours()[:BATCH], theirs()[:BATCH], atol=1e-5)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(ROUNDS)]
    ratios = [t / o for t, o in pairs]
    return {
        "ratio": float(np.median(ratios)),
        "lowest": min(ratios),
        "highest": max(ratios),
        "images_per_second": count / float(np.median([o for _, o in pairs])),
        "bare_images_per_second": count / float(np.median([t for t, _ in pairs])),
        "images": count,
    }


def main() -> None:
    """Measure two networks and record the results."""
    nets = {
        "gtsrb_cnn, fc_1": (Classifier(GTSRBCNN(), preprocess=(0, 1)), "fc_1", 12_800),
        "borji_mnist, fc_1": (Classifier(BorjiMNIST(), preprocess=(0, 1)), "fc_1", 25_600),
    }
    figures = {name: compare(name, *rest) for name, rest in nets.items()}
    table = {
        f"`features` against a bare compiled forward pass ({name})": (
            f"{f['ratio']:.2f} of its images per second ({f['lowest']:.2f} to {f['highest']:.2f})"
        )
        for name, f in figures.items()
    }
    record("features", "python benchmarks/features.py", figures, table)


if __name__ == "__main__":
    main()
