"""Speed of BayLIME and of bias maps, as ratios.

`python benchmarks/explanations.py` takes about three minutes. The way of the notebook, which asks
the network for one picture after the other, is timed on a few pictures and multiplied.
"""

import os
import time

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import numpy as np
from _common import in_turn, record

from keras_backdoor import bundled, datasets
from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.architectures import BorjiMNIST
from keras_backdoor.explanations import BayLIME
from keras_backdoor.explanations._recorded import Jobs
from keras_backdoor.explanations._recorded import record as recorded
from keras_backdoor.explanations._segments import segmented
from keras_backdoor.loading import load_model
from keras_backdoor.network.classifier import Classifier

PICTURES, PERTURBATIONS, SOME = 100, 40, 2
IMAGES, CLASSES, STEPS, BATCH, ROUNDS = 1000, 10, 10, 1024, 3


def as_in_the_notebook(model: keras.Model, image: np.ndarray, label: int) -> np.ndarray:
    """The posterior mean of one picture (28, 28), one `predict` for each perturbation."""
    segments = segmented(image[..., None], "watershed", 100)
    number = int(segments.max()) + 1
    rng = np.random.RandomState(207)
    rows, answers, weights = [], [], []
    for _ in range(PERTURBATIONS):
        on = rng.choice((0, 1), size=number)
        shown = image * on[segments]
        answers.append(model.predict(shown.reshape(1, 28, 28, 1), verbose=0)[0][label])
        distance = 1.0 - np.sqrt(on.mean())
        weights.append(np.sqrt(np.exp(-(distance**2))))
        rows.append(on)
    x, y, w = np.array(rows, float), np.array(answers, float), np.diag(weights)
    eigenvalues = np.linalg.eig(x.T @ x)[0].real
    identity = np.identity(number)
    lam, alpha, last = 0.1, 0.1, (0.0, 0.0)
    for _ in range(5000):
        gamma = sum(alpha * d / (lam + alpha * d) for d in eigenvalues)
        mean = np.linalg.inv(lam * identity + alpha * x.T @ w @ x) @ (alpha * x.T @ w @ y)
        lam = gamma / (mean @ mean)
        alpha = (PERTURBATIONS - gamma) / sum((y[i] - mean @ x[i]) ** 2 for i in range(len(x)))
        if abs(lam - last[0]) < 1e-3 and abs(alpha - last[1]) < 1e-3:
            break
        last = lam, alpha
    posterior = np.linalg.inv(lam * identity + alpha * x.T @ w @ x)
    return np.asarray((posterior @ (alpha * x.T @ w @ y))[segments])


def baylime() -> dict[str, float]:
    """100 pictures with 40 perturbations each."""
    model = load_model(bundled.path("models/mnist_badnet.h5"))
    digits = datasets.open(bundled.path("data/mnist_small.npz"), split="test").take(
        PICTURES, seed=0
    )
    method = BayLIME.preset("seed000", perturbations=PERTURBATIONS)
    images = digits.read()[..., 0].astype(np.float32) / 255
    labels = model.predict(digits)
    network = keras.Sequential([model.model, keras.layers.Softmax()])
    network = model.model if model.output == "probabilities" else network
    network.predict(images[:1, ..., None], verbose=0)
    start = time.perf_counter()
    known = [as_in_the_notebook(network, images[i], int(labels[i])) for i in range(SOME)]
    notebook = (time.perf_counter() - start) / SOME * PICTURES
    method(model, incoming=digits.take(2, seed=0).unlabelled())
    start = time.perf_counter()
    answer = method(model, incoming=digits.unlabelled())
    ours = time.perf_counter() - start
    start = time.perf_counter()
    BayLIME(perturbations=PERTURBATIONS)(model, incoming=digits.unlabelled())
    mended = time.perf_counter() - start
    difference = max(float(np.abs(answer.maps[i] - known[i]).max()) for i in range(SOME))
    return {
        "notebook": notebook, "preset": ours, "default": mended, "difference": difference,
        "ratio": notebook / ours, "ratio_default": notebook / mended,
    }  # fmt: skip


def algorithm_one() -> dict[str, float]:
    """Every image to every class in ten steps, against the bare forward and backward passes."""
    model = Classifier(BorjiMNIST(), preprocess=(0, 1))
    images = np.random.default_rng(0).random((IMAGES, 28, 28, 1)).astype(np.float32)
    targets = tf.constant(np.arange(BATCH) % CLASSES, tf.int64)
    batch = tf.constant(np.resize(images, (BATCH, 28, 28, 1)))

    @tf.function(autograph=False)
    def passes(shown: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(shown)
            losses = keras.losses.sparse_categorical_crossentropy(
                targets, model.model(shown, training=False), from_logits=True
            )
        return tape.gradient(losses, shown)

    def bare() -> None:
        for _ in range(round(IMAGES * CLASSES * STEPS / BATCH)):
            passes(batch).numpy()

    def ours() -> None:
        recorded(model, images, Jobs.to_each_class(IMAGES, CLASSES), 0.1, STEPS)

    medians = in_turn({"bare": bare, "ours": ours}, ROUNDS)
    return {**medians, "ratio": medians["ours"] / medians["bare"]}


def main() -> None:
    """Measure everything and record it."""
    tf.random.set_seed(0)
    pictures, maps = baylime(), algorithm_one()
    table = {
        f"BayLIME, {PICTURES} pictures with {PERTURBATIONS} perturbations": (
            f"{pictures['preset']:.1f} s, {pictures['ratio']:.0f} times faster than one picture "
            f"after the other; the same posterior to {pictures['difference']:.0e}"
        ),
        "the same with the default precisions and designs": (
            f"{pictures['default']:.1f} s, {pictures['ratio_default']:.0f} times faster"
        ),
        f"bias maps, {CLASSES} classes, {IMAGES:,} images, {STEPS} steps, against bare passes": (
            f"{maps['ratio']:.2f} times their time"
        ),
    }
    record(
        "explanations_speed", "python benchmarks/explanations.py",
        {"baylime": pictures, "bias_maps": maps}, table,
    )  # fmt: skip


if __name__ == "__main__":
    main()
