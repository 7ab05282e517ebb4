"""Speed of the pruning sweep, of G(B, B') and of stamped batches, as ratios.

`python benchmarks/repairs.py` takes about six minutes. In each comparison, both sides run in turn
on the same machine. The networks have random weights, which does not change their speed.
"""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import numpy as np
from _common import in_turn, record

from keras_backdoor._internals.backend import tf
from keras_backdoor.architectures import GTSRBCNN, DeepID
from keras_backdoor.defenses._random_triggers import RandomTriggers
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.network import channels, graph, pruning
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit

FACES, LAYER = 10_000, "conv_3"
LOOP = 4
"""Steps of the notebook's loop that are timed; each takes the same time."""
SIGNS, EPOCHS, ROUNDS = 3200, 2, 3
BATCHES = (256, 32, 1)


def faces(number: int) -> np.ndarray:
    """Random face images."""
    return np.random.default_rng(0).integers(0, 256, (number, 55, 47, 3), dtype=np.uint8)


def sweep() -> dict[str, float]:
    """The sweep of all channels of a layer against the loop of the CSAW notebook.

    The notebook predicts all images with the whole network for each channel. Its loop is timed for
    a few channels and multiplied.
    """
    model = Classifier(DeepID(), preprocess=(0, 255))
    samples = Samples(faces(FACES)).labelled(np.arange(FACES) % 1283)
    ranked_at = channels.after_activation(model.model, LAYER, pool=True)
    start = time.perf_counter()
    swept = pruning.sweep(model, samples, LAYER, ranked_at)
    ours = time.perf_counter() - start
    clone, images = graph.copy(model.model), samples.read().astype(np.float32)
    start = time.perf_counter()
    for number in range(1, LOOP + 1):
        channels.silence(clone, LAYER, swept["order"][:number])
        predicted = np.argmax(clone.predict(images, verbose=0), axis=1)
        np.mean(predicted == samples.labels)
    loop = (time.perf_counter() - start) / LOOP * len(swept["order"])
    return {"sweep": ours, "loop": loop, "ratio": loop / ours}


def guard() -> dict[str, float]:
    """G with a shared trunk and two separate models, as multiples of the time of B."""
    b = DeepID()
    b_prime = graph.copy(b)
    channels.silence(b_prime, "conv_4", range(20))
    g = goodnet(Classifier(b, (0, 255)), Classifier(b_prime, (0, 255)))
    figures = {}
    for batch in BATCHES:
        images = tf.constant(faces(batch).astype(np.float32))
        run = {
            name: tf.function(function).get_concrete_function(images)
            for name, function in (("b", b), ("g", g), ("both", lambda x: (b(x), b_prime(x))))
        }
        times = in_turn({name: _call(function, images) for name, function in run.items()}, 15)
        for name in ("g", "both"):
            figures[f"{name} at batch {batch}"] = times[name] / times["b"]
    return figures


def _call(function: Any, images: Any) -> Callable[[], Any]:
    return lambda: function(images)


def stamped() -> dict[str, float]:
    """Training on stamped batches against plain fine-tuning, by wall time."""
    images = np.random.default_rng(0).integers(0, 256, (SIGNS, 32, 32, 3), dtype=np.uint8)
    samples = Samples(images).labelled(np.arange(SIGNS) % 43)
    recipe = Recipe(epochs=EPOCHS)
    model = GTSRBCNN()

    def trained(augment: Any) -> Callable[[], Any]:
        return lambda: fit(model, samples, recipe, preprocess=(0, 1), augment=augment)

    times = in_turn({"plain": trained(None), "stamped": trained(RandomTriggers())}, ROUNDS)
    return {**times, "ratio": times["stamped"] / times["plain"]}


def main() -> None:
    """Measure everything and record it."""
    figures = {"sweep": sweep(), "guard": guard(), "stamped": stamped()}
    table = {
        f"sweep of 60 channels over {FACES:,} faces against the notebook's loop": (
            f"{figures['sweep']['ratio']:.0f} times faster"
        ),
        "G with a shared trunk against B (batch 256, 32, 1)": ", ".join(
            f"{figures['guard'][f'g at batch {b}']:.2f}" for b in BATCHES
        ) + " times its time",
        "B and B' one after the other against B (batch 256, 32, 1)": ", ".join(
            f"{figures['guard'][f'both at batch {b}']:.2f}" for b in BATCHES
        ) + " times its time",
        "training on batches with random triggers against plain batches": (
            f"{figures['stamped']['ratio']:.2f} times its time"
        ),
    }  # fmt: skip
    record("repairs_speed", "python benchmarks/repairs.py", figures, table)


if __name__ == "__main__":
    main()
