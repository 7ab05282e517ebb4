"""A scan of 43 labels against what a user would run otherwise, on the GTSRB BadNet.

Needs the data and the BadNets in KERAS_BACKDOOR_DATA (see data/README.md). Sides, in one process
on one machine:

- ours: `NeuralCleanse(runs=1)`, all labels at once;
- the published sequential schedule (`mode=published`), timed on a few labels with its own early
  stop and multiplied to all labels;
- ART 1.20.1's NeuralCleanse at its default schedule (1,000 steps over 2,000 images a label),
  timed on a few steps;
- the model's own forward and backward pass over the images of our scan.
"""

import contextlib
import io
import sys
import time
from collections.abc import Callable

import numpy as np
from _common import record

from keras_backdoor import datasets
from keras_backdoor._backend import keras, tf
from keras_backdoor.activations import logits
from keras_backdoor.architectures import GTSRBCNN
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._inversion import Inverter
from keras_backdoor.defenses._published_inversion import invert
from keras_backdoor.defenses._rows import pool
from keras_backdoor.defenses._schedule import Published, Schedule
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import load_model
from keras_backdoor.samples import Samples
from keras_backdoor.studies._place import Place

MODEL, DATA, TARGET = "nc_style/gtsrb_backdoor_33_logits.h5", "gtsrb_dataset_int.h5", 33
PUBLISHED_LABELS, ART_STEPS, ART_DEFAULT_STEPS, ART_IMAGES = (33, 1, 20), 2, 1000, 2000
CLASSES, CLASS_STEPS = (10, 43, 200, 1283), 10


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def art_step(model: Classifier, images: np.ndarray) -> float:
    """Seconds of one step of ART's schedule over the images of one label."""
    from art.estimators.poison_mitigation.neural_cleanse.keras import KerasNeuralCleanse

    net = KerasNeuralCleanse(
        model.model, use_logits=True, clip_values=model.input_range, steps=ART_STEPS
    )
    labels = keras.utils.to_categorical(np.zeros(len(images)), model.classes)
    target = keras.utils.to_categorical([TARGET], model.classes)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        return seconds(lambda: net.generate_backdoor(images, labels, target)) / ART_STEPS


def passes(model: Classifier, images: np.ndarray, number: int, batch: int) -> float:
    """Seconds of `number` forward and backward passes (gradient of the input) over a batch."""
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
    """Seconds of one step of a scan over the number of classes, on untrained networks."""
    images = np.random.default_rng(0).uniform(0, 1, (200, 32, 32, 3)).astype(np.float32)
    found = {}
    for classes in CLASSES:
        net = Classifier(GTSRBCNN(classes), (0.0, 1.0))
        inverter = Inverter(net, images, Schedule(steps=CLASS_STEPS))
        inverter.search(np.arange(classes), seed=0, steps=1)
        taken = seconds(lambda i=inverter, k=classes: i.search(np.arange(k), seed=0))  # type: ignore[misc]
        found[str(classes)] = taken / CLASS_STEPS
    return found


def main() -> None:
    """Measure both sides and write results/neural_cleanse_speed.json."""
    place = Place()
    train = datasets.open(place.file(DATA), split="train").take(4000, seed=0).in_memory()
    model = load_model(place.file(MODEL)).with_range(train)
    method = NeuralCleanse(runs=1)
    answer = method(model, clean=Samples(train.read()))
    ours = float(answer.about["seconds"])
    images = pool(model, train, ART_IMAGES, seed=0)
    inverter = Inverter(model, images[: method.images], method.schedule)
    made = inverter.search(np.arange(model.classes), seed=0)
    updates = int(made.steps.sum())
    published = []
    for label in PUBLISHED_LABELS:
        start = time.perf_counter()
        found = invert(model, images[:1000], label, Published(), seed=0)
        published.append((time.perf_counter() - start, len(found.log)))
    per_label = float(np.mean([s for s, _ in published]))
    steps = float(np.mean([n for _, n in published])) * (1000 // 32)
    art = art_step(model, images) * ART_DEFAULT_STEPS * model.classes
    batch = inverter.rows_at_once * method.schedule.batch_size
    total = updates * method.schedule.batch_size
    rounds = max(1, total // batch)
    search = seconds(lambda: inverter.search(np.arange(model.classes), seed=0))
    own = passes(model, images, rounds, batch) * total / (rounds * batch)
    sequential = per_label * model.classes
    per_image = {"ours": search / total, "published": per_label / (steps * 32)}
    ours_updates, step_seconds = updates / model.classes, by_classes()
    figures = {
        "flagged": np.flatnonzero(answer.flagged),
        "seconds": {"ours": ours, "published, 43 labels": sequential, "ART, 43 labels": art},
        "published labels": dict(zip(map(str, PUBLISHED_LABELS), published, strict=True)),
        "updates a label": {"ours": ours_updates, "published": steps},
        "seconds an image": per_image,
        "search over own passes": search / own,
        "seconds a step by classes": step_seconds,
    }
    fewer, faster = steps / ours_updates, per_image["published"] / per_image["ours"]
    table = {
        "scan of 43 labels against the published sequential schedule": (
            f"{sequential / ours:.0f} times less wall time ({fewer:.0f} times fewer updates, "
            f"{faster:.1f} times less an image)"
        ),
        "scan of 43 labels against ART's default schedule over 2,000 images": (
            f"{art / ours:,.0f} times less wall time"
        ),
        "scan against the model's own forward and backward pass over the same images": (
            f"{search / own:.2f} times its time"
        ),
        "seconds of one step for 10, 43, 200 and 1,283 classes": ", ".join(
            f"{s:.2f}" for s in step_seconds.values()
        ),
    }
    record("neural_cleanse_speed", "python benchmarks/neural_cleanse.py", figures, table)


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        print(f"skipped: {error}", file=sys.stderr)
