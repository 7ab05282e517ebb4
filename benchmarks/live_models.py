"""GoodNet on a live `keras.Model`, as a ratio to opening its file and running it on that.

`python benchmarks/live_models.py` takes about two minutes. Both sides run in turn, in one process.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import numpy as np
from _common import record

from keras_backdoor import bundled, datasets
from keras_backdoor._internals.backend import keras, quiet_logs
from keras_backdoor.defenses._tuning import NO_TUNING
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet
from keras_backdoor.loading import load_model

IMAGES, ROUNDS = 500, 5
L = keras.layers


def sequential() -> Any:
    """A small convolutional network as a Sequential model."""
    return keras.Sequential(
        [keras.Input((28, 28, 1)), L.Conv2D(32, 3, activation="relu"), L.MaxPooling2D(),
         L.Conv2D(64, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(),
         L.Dense(128, activation="relu"), L.Dropout(0.5), L.Dense(10, activation="softmax")]
    )  # fmt: skip


def residual() -> Any:
    """A functional model with batch normalization and additions."""
    image = keras.Input((28, 28, 1))
    x = L.Conv2D(16, 3, padding="same", activation="relu")(image)
    for _ in range(3):
        y = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.Conv2D(16, 3, padding="same")(x)))
        x = L.Add()([x, y])
    return keras.Model(image, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)))


def nested() -> Any:
    """A base network inside another one."""
    base, image = residual(), keras.Input((28, 28, 1))
    return keras.Model(image, base(image))


def half() -> Any:
    """A network with the policy mixed_float16, which is slow on a CPU."""
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        return sequential()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def seconds(model: Callable[[], Any], clean: Any) -> float:
    """The CPU time of GoodNet with pruning, with opening the model."""
    start = time.process_time()
    GoodNet(FinePruning(tuning=NO_TUNING))(model(), clean=clean, preprocess=(0, 1))
    return time.process_time() - start


def main() -> None:
    """Measure all kinds of models and record the ratios."""
    train = datasets.open(bundled.path("data/mnist_small.npz"), split="train")
    clean = train.take(IMAGES, seed=0)
    kinds: dict[str, Callable[[], Any]] = {
        "Sequential": sequential, "functional": residual, "nested": nested,
        "mixed_float16": half,
    }  # fmt: skip
    figures: dict[str, Any] = {}
    for name, build in kinds.items():
        live = build()
        live.compile("adam", "sparse_categorical_crossentropy")
        live.fit(train.read() / np.float32(255), train.labels, epochs=5, verbose=0)
        with tempfile.TemporaryDirectory() as folder, quiet_logs():
            path = Path(folder) / "model.keras"
            live.save(path)
            ratios = []
            for _ in range(ROUNDS + 1):
                of_file = seconds(partial(load_model, path), clean)
                ratios.append(seconds(partial(lambda m: m, live), clean) / of_file)
        figures[name] = {"ratios": ratios[1:], "median": float(np.median(ratios[1:]))}
        print(f"{name}: {figures[name]['median']:.2f}", flush=True)
    worst = max(found["median"] for found in figures.values())
    text = f"{worst:.2f} times its CPU time in the slowest of {len(kinds)} kinds of models"
    record(
        "live_models",
        "python benchmarks/live_models.py",
        {"images": IMAGES, "rounds": ROUNDS, "kinds": figures},
        {f"GoodNet over {IMAGES} images on a live `keras.Model` against its file": text},
    )


if __name__ == "__main__":
    main()
