"""Time a scan of 43 labels against its alternatives, on the GTSRB BadNet.

The benchmark needs the data and the BadNets in KERAS_BACKDOOR_DATA (see data/README.md). It
compares, in one process on one machine:

- ours: `NeuralCleanse(runs=1)`, all labels at once;
- the published sequential schedule (`published.invert`), timed on the target and two other labels
  with its own early stop; the mean of the two others stands for the remaining 42;
- NeuralCleanse of ART 1.20.1 with its default schedule (1,000 steps over 2,000 images for each
  label), timed on a few steps;
- the model's own forward and backward pass over the images of our scan.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable

import numpy as np
from _common import RESULTS, record

from keras_backdoor import datasets
from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.architectures import GTSRBCNN
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.images import draw_images
from keras_backdoor.defenses.neural_cleanse.published import Published, invert
from keras_backdoor.defenses.neural_cleanse.scan import MANY
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule
from keras_backdoor.defenses.neural_cleanse.search import Inverter
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import load_model
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.reports.figures import number_curves
from keras_backdoor.samples import Samples
from keras_backdoor.studies._engine.workspace import Workspace

MODEL, DATA, TARGET = "nc_style/gtsrb_backdoor_33_logits.h5", "gtsrb_dataset_int.h5", 33
PUBLISHED_LABELS, ART_STEPS, ART_DEFAULT_STEPS, ART_IMAGES = (33, 1, 20), 2, 1000, 2000
CLASSES = (10, 43, 200, 1283)


def seconds(run: Callable[[], object]) -> float:
    """Return the wall time of one call in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def art_step(model: Classifier, images: np.ndarray) -> float:
    """Return the seconds of one step of ART's schedule over the images of one label."""
    from art.estimators.poison_mitigation.neural_cleanse.keras import KerasNeuralCleanse

    net = KerasNeuralCleanse(
        model.model, use_logits=True, clip_values=model.preprocess, steps=ART_STEPS
    )
    labels = keras.utils.to_categorical(np.zeros(len(images)), model.classes)
    target = keras.utils.to_categorical([TARGET], model.classes)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        net.generate_backdoor(images[:64], labels[:64], target)  # the first call compiles
        return seconds(lambda: net.generate_backdoor(images, labels, target)) / ART_STEPS


def passes(model: Classifier, images: np.ndarray, number: int, batch: int) -> float:
    """Return the seconds of `number` forward and backward passes (input gradient) over a batch."""
    scores = logits(model)
    stack = tf.constant(np.resize(images, (batch, *images.shape[1:])))
    wanted = tf.constant(np.arange(batch) % model.classes)

    @tf.function(autograph=False)
    def once(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            errors = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, scores(x))
            loss = tf.reduce_sum(errors)
        return tf.reduce_sum(tape.gradient(loss, x))

    once(stack)
    return seconds(lambda: [once(stack).numpy() for _ in range(number)])


def by_classes() -> dict[str, float]:
    """Return the seconds of a whole scan by the number of classes, on untrained networks.

    The networks differ in their number of classes only. From 100 classes on, the scan uses the
    low-cost mode by default.
    """
    images = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    timings = {}
    for classes in CLASSES:
        net = Classifier(GTSRBCNN(classes), (0.0, 1.0))
        answer = NeuralCleanse(runs=1)(net, clean=Samples(images))
        timings[str(classes)] = float(answer.about["seconds"])
    return timings


def search_over_own(model: Classifier, images: np.ndarray, plan: Schedule) -> dict[str, float]:
    """Time a search of all labels and the model's own passes over as many images, both compiled."""
    inverter = Inverter(model, images, plan)
    labels = np.arange(model.classes)
    inverter.search(labels, seed=0)
    start = time.perf_counter()
    inverted = inverter.search(labels, seed=0)
    search = time.perf_counter() - start
    updates = int(inverted.steps.sum())
    batch = inverter.searches_at_once * plan.batch_size
    rounds = max(1, updates * plan.batch_size // batch)
    own = passes(model, images, rounds, batch) * updates * plan.batch_size / (rounds * batch)
    return {"search": search, "own passes": own, "updates": updates}


def sequential(model: Classifier, images: np.ndarray) -> dict[int, tuple[float, int, float]]:
    """Map label to (seconds, steps, norm) of the published schedule with its own early stop."""
    timings = {}
    for label in PUBLISHED_LABELS:
        start = time.perf_counter()
        inverted = invert(model, images, label, Published(), seed=0)
        timings[label] = time.perf_counter() - start, len(inverted.log), inverted.norm
    return timings


def main() -> None:
    """Measure all alternatives; write results/neural_cleanse_speed.json and its plot."""
    workspace = Workspace()
    train = datasets.open(workspace.file(DATA), split="train").take(4000, seed=0).in_memory()
    model = load_model(workspace.file(MODEL)).with_preprocess(train)
    method = NeuralCleanse(runs=1)
    answer = method(model, clean=Samples(train.read()))
    flagged = np.flatnonzero(answer.flagged).tolist()
    assert flagged == [TARGET], f"The timed scan must flag {TARGET}. Received: {flagged}"
    ours = float(answer.about["seconds"])
    images = draw_images(model, train, ART_IMAGES, seed=0)
    search = search_over_own(model, images[: method.images], method.schedule)
    published = sequential(model, images[:1000])
    norms = {label: norm for label, (_, _, norm) in published.items()}
    assert min(norms, key=norms.__getitem__) == TARGET, (
        f"The published search must give {TARGET} the smallest norm. Received: {norms}"
    )
    others = [published[label] for label in PUBLISHED_LABELS if label != TARGET]
    mean_seconds, mean_steps, _ = np.mean(others, axis=0)
    first_seconds, first_steps, _ = published[TARGET]
    rest = model.classes - 1
    whole = first_seconds + rest * mean_seconds
    updates = (first_steps + rest * mean_steps) * (1000 // 32) / model.classes
    art = art_step(model, images) * ART_DEFAULT_STEPS * model.classes
    per_image = {
        "ours": ours / (search["updates"] * method.schedule.batch_size),
        "published": whole / (updates * model.classes * 32),
    }
    ours_updates, seconds_of_scan = search["updates"] / model.classes, by_classes()
    figures = {
        "flagged": flagged,
        "seconds": {"ours": ours, "published, 43 labels": whole, "ART, 43 labels": art},
        "published labels (seconds, steps, norm)": {str(k): v for k, v in published.items()},
        "updates a label": {"ours": ours_updates, "published": updates},
        "seconds an image": per_image,
        "seconds, warm": search,
        "seconds of a scan by classes": seconds_of_scan,
    }
    fewer, faster = updates / ours_updates, per_image["published"] / per_image["ours"]
    table = {
        "scan of 43 labels (one run) against the published schedule, 42 labels of it from two": (
            f"{whole / ours:.0f} times less wall time: {fewer:.0f} times fewer updates, "
            f"{faster:.1f} times less time an image"
        ),
        "scan of 43 labels against ART's default schedule over 2,000 images": (
            f"{art / ours:,.0f} times less wall time"
        ),
        "scan against the model's own forward and backward pass over the same images": (
            f"{search['search'] / search['own passes']:.2f} times its time"
        ),
        "seconds of a scan of 10, 43, 200 and 1,283 classes (the last two low-cost)": ", ".join(
            f"{s:.0f}" for s in seconds_of_scan.values()
        ),
    }
    points = [(int(classes), s) for classes, s in seconds_of_scan.items()]
    curves = {
        "every class in full": [p for p in points if p[0] < MANY],
        "low-cost": [p for p in points if p[0] >= MANY],
    }
    picture = number_curves(curves, xlabel="classes", ylabel="seconds of a scan (one run)")
    (RESULTS / "neural_cleanse_speed.png").write_bytes(picture)
    record("neural_cleanse_speed", "python benchmarks/neural_cleanse.py", figures, table)


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        print(f"skipped: {error}", file=sys.stderr)
