"""The mean of the adversarial images that end in each class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.network.adversarial import NONE, sign_steps
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import track

BATCH_PIXELS = 2**20
"""The number of pixel values of a batch."""


@dataclass(frozen=True)
class Jobs:
    """Which images are moved, and where.

    Attributes:
        rows: (m,) the row of the image of each job.
        targets: (m,) the class to reach, or `NONE`.
        sources: (m,) the class to leave, or `NONE`.
        groups: the number of sources that are recorded apart: 1, or the number of classes.
    """

    rows: np.ndarray
    targets: np.ndarray
    sources: np.ndarray
    groups: int = 1

    @classmethod
    def to_each_class(cls, images: int, classes: int) -> "Jobs":
        """Algorithm I: every image to every class."""
        rows = np.tile(np.arange(images), classes)
        targets = np.repeat(np.arange(classes), images)
        return cls(rows, targets, np.full(len(rows), NONE))

    @classmethod
    def between_classes(cls, images: int, classes: int) -> "Jobs":
        """Algorithm II: every image toward every class and away from every other one."""
        pairs = [(s, t) for s in range(classes) for t in range(classes) if s != t]
        sources, targets = (np.repeat(part, images) for part in np.array(pairs).T)
        return cls(np.tile(np.arange(images), len(pairs)), targets, sources, classes)

    @classmethod
    def away(cls, predicted: np.ndarray) -> "Jobs":
        """Untargeted: every image away from the class that is predicted for it."""
        number = len(predicted)
        return cls(np.arange(number), np.full(number, NONE), np.asarray(predicted))

    def batches(self, size: int) -> Iterator[slice]:
        """The jobs in parts."""
        for start in range(0, len(self.rows), size):
            yield slice(start, min(start + size, len(self.rows)))


@dataclass(frozen=True)
class Recorded:
    """Adversarial images by the class that they end in.

    Attributes:
        means: (groups, k, h, w, c) float32, the mean of the images that end in each class, by
            their source; zeros where there are none.
        counts: (groups, k), the number of these images.
        ends: (m,) the class that each image ends in.
    """

    means: np.ndarray
    counts: np.ndarray
    ends: np.ndarray


def record(
    classifier: Classifier, images: np.ndarray, jobs: Jobs, epsilon: float, steps: int
) -> Recorded:
    """Move images by the fast gradient sign method, and average them by the class they end in.

    Args:
        classifier: the model, with a known preprocessing.
        images: (n, h, w, c) float32 in 0..1.
        jobs: which images are moved, and where.
        epsilon: the size of a step in 0..1.
        steps: the number of steps.
    """
    move = sign_steps(classifier, epsilon, steps)
    resident, groups = tf.constant(images), jobs.groups * classifier.classes

    def part(rows: tf.Tensor, targets: tf.Tensor, sources: tf.Tensor) -> tuple:
        moved, ended = move(tf.gather(resident, rows), targets, sources)
        group = (sources if jobs.groups > 1 else tf.zeros_like(sources)) * classifier.classes
        return tf.math.unsorted_segment_sum(moved, group + ended, groups), ended

    numbers = tf.TensorSpec((None,), tf.int64)
    compiled = tf.function(part, autograph=False).get_concrete_function(*[numbers] * 3)
    sums = np.zeros((groups, *images.shape[1:]))
    ends = np.empty(len(jobs.rows), np.int64)
    size = max(32, BATCH_PIXELS // int(np.prod(images.shape[1:])))
    parts = list(jobs.batches(size))
    for chosen in track(parts, "adversarial images", len(parts)):
        given = (jobs.rows, jobs.targets, jobs.sources)
        total, ended = compiled(*(tf.constant(values[chosen], tf.int64) for values in given))
        sums += total.numpy()
        ends[chosen] = ended.numpy()
    group = (jobs.sources if jobs.groups > 1 else np.zeros_like(jobs.sources)) * classifier.classes
    counts = np.bincount(group + ends, minlength=groups)
    means = sums / np.maximum(counts, 1).reshape(-1, 1, 1, 1)
    shape = (jobs.groups, classifier.classes)
    return Recorded(
        means.reshape(*shape, *images.shape[1:]).astype(np.float32), counts.reshape(shape), ends
    )
