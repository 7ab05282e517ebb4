"""Random numbers of a batch that depend on its seed alone, for a `tf.data` pipeline."""

from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf


class Draw:
    """Random numbers of a batch, each stream from a number of its own.

    Args:
        seed: (2,) int32.
        number: the number of images.
    """

    def __init__(self, seed: Any, number: Any = None) -> None:
        self.seed, self.number = tf.cast(seed, tf.int32), number

    def uniform(self, stream: int, *shape: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
        """(b, *shape) float32, uniform in low..high."""
        seed = self.seed + tf.constant([stream, 0])
        values = tf.random.stateless_uniform((self.number, *shape), seed)
        return low + values * (high - low)

    def whole_number(self, stream: int, low: Any, high: Any) -> Any:
        """(b,) float32 whole numbers, uniform in low..high, both included."""
        return tf.floor(self.uniform(stream, low=low, high=high + 0.99999))

    def choice(self, stream: int, weights: list[float]) -> Any:
        """(b,) int32 positions in a list, drawn by weight."""
        ends = np.cumsum(weights)
        limits = tf.constant(ends[:-1] / ends[-1], tf.float32)
        return tf.searchsorted(limits, self.uniform(stream), side="right")
