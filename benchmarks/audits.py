"""Speed of clustering and scoring features, and of STRIP, as ratios.

`python benchmarks/audits.py` takes about five minutes and 2 GB. ART's clustering is timed on a few
classes and multiplied.
"""

import os
import time
from typing import Any

os.environ.setdefault("KERAS_BACKDOOR_QUIET", "1")

import numpy as np
from _common import in_turn, record
from threadpoolctl import threadpool_limits

from keras_backdoor._internals.backend import tf
from keras_backdoor.architectures import GTSRBCNN
from keras_backdoor.defenses import _art
from keras_backdoor.defenses._class_features import ClassFeatures
from keras_backdoor.defenses._clusters import clustered, reduced
from keras_backdoor.defenses._strip import Blending
from keras_backdoor.defenses.spectral_signatures import centered_scores, whitened_distances
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

IMAGES, NEURONS, CLASSES = 600_000, 160, 1283
ART_CLASSES = 12
OVERLAYS, INCOMING, ROUNDS = 50, 200, 5


def features() -> ClassFeatures:
    """Features like those of a face network: every class has its own center and directions."""
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, CLASSES, IMAGES))
    centers = rng.normal(size=(CLASSES, NEURONS)).astype(np.float32)
    values = rng.normal(size=(IMAGES, NEURONS)).astype(np.float32)
    values *= (1.0 / np.sqrt(1.0 + np.arange(NEURONS))).astype(np.float32)
    return ClassFeatures(np.maximum(values + centers[labels], 0.0), labels)


def clustering() -> dict[str, float]:
    """Clusters and all scores of all classes, against ART's clusters with FastICA."""
    data = features()
    start = time.perf_counter()
    data.map(lambda own: clustered(reduced(own, 10)))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    data.map(whitened_distances)
    data.map(centered_scores)
    scores = time.perf_counter() - start
    some = [data.features[data.rows(label)] for label in data.examined[:ART_CLASSES]]
    start = time.perf_counter()
    with threadpool_limits(1):
        _art.clusters_by_fast_ica(some)
    art = (time.perf_counter() - start) / ART_CLASSES * CLASSES
    return {"clusters": ours, "scores": scores, "art": art, "ratio": art / ours}


def strip() -> dict[str, float]:
    """STRIP against the forward passes that it needs."""
    model = Classifier(GTSRBCNN(), preprocess=(0, 1))
    rng = np.random.default_rng(0)
    samples = Samples(rng.integers(0, 256, (INCOMING, 32, 32, 3), dtype=np.uint8))
    overlays = rng.random((OVERLAYS, 32, 32, 3)).astype(np.float32)
    blending = Blending(overlays, 0.5)
    passes = Samples(np.repeat(samples.read(), OVERLAYS, axis=0))
    run: dict[str, Any] = {
        "plain": lambda: model.scores(passes, batch_size=500),
        "strip": lambda: blending.entropies(model, samples),
    }
    medians = in_turn(run, ROUNDS)
    return {**medians, "ratio": medians["strip"] / medians["plain"]}


def main() -> None:
    """Measure everything and record it."""
    tf.random.set_seed(0)
    found, passes = clustering(), strip()
    table = {
        f"clusters of {IMAGES:,} x {NEURONS} features in {CLASSES:,} classes": (
            f"{found['clusters']:.0f} s, {found['ratio']:.0f} times faster than ART with FastICA"
        ),
        "spectral and whitened scores of the same features": f"{found['scores']:.0f} s",
        f"STRIP with {OVERLAYS} overlays against the forward passes that it needs": (
            f"{passes['ratio']:.2f} times their time"
        ),
    }
    figures = {"clustering": found, "strip": passes}
    record("audits_speed", "python benchmarks/audits.py", figures, table)


if __name__ == "__main__":
    main()
