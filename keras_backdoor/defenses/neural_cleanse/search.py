"""Trigger inversion: the smallest stamp that sends images to a class, for many classes at once.

Wang et al., Neural Cleanse, S&P 2019, equation 3, for every label t:

    min over mask, pattern of  CE(f((1 - m) x + m p), t) + cost * |m|_1

All labels go through one compiled step; a label that has converged leaves it. No gradient of the
weights is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.defenses.neural_cleanse.schedule import Costs, Schedule, advance
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import track

EDGE = 2.0 - 1e-7
"""A value u in 0..1 is held as atanh(EDGE (u - 0.5)), which is finite, as in the published code."""
BETA_1, BETA_2, EPSILON = 0.5, 0.9, 1e-7
"""Of Adam, as in the published code."""
BLOCK = 512
"""Images that are answered at a time."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, step) -> (r, batch) numbers of the images that each row sees."""


@dataclass(frozen=True, eq=False)
class Found:
    """What inversion found for rows of labels.

    Attributes:
        masks: (r, h, w, 1) in 0..1.
        patterns: (r, h, w, c) in 0..1.
        norms: (r,) L1 norm of the masks; inf where no trigger worked.
        steps: (r,) steps that were made, of all starts.
    """

    masks: np.ndarray
    patterns: np.ndarray
    norms: np.ndarray
    steps: np.ndarray


class Inverter:
    """Searches for triggers of one model over one pool of images.

    Args:
        classifier: with a known range.
        images: (n, h, w, c) float32, in the model's range; they stay on the device.
        plan: the settings.
        images_at_once: stamped images that go through the model at a time.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: np.ndarray,
        plan: Schedule,
        *,
        images_at_once: int = 1024,
    ) -> None:
        self.plan = plan
        self.images = tf.constant(images)
        self.pixels = int(np.prod(images.shape[1:3]))
        self.side = plan.side(self.pixels)
        self.low, self.high = classifier.input_range or (0.0, 1.0)
        self.scores = logits(classifier)
        self.rows_at_once = max(1, images_at_once // plan.batch_size)
        self._step = tf.function(self._update, reduce_retracing=True, autograph=False)
        shapes = [None], (*images.shape[1:3], 1), images.shape[1:]
        kinds = tf.int32, tf.float32, tf.float32
        signature = [tf.TensorSpec(*pair) for pair in zip(shapes, kinds, strict=True)]
        self._answer = tf.function(self._stamped_answers, signature, autograph=False)

    def search(
        self,
        targets: np.ndarray,
        *,
        seed: int,
        draw: Draw | None = None,
        label: str = "triggers",
    ) -> Found:
        """Triggers for rows of target classes.

        Args:
            targets: (r,) classes.
            seed: of the start and of the images of each step.
            draw: (generator, step) -> (r, batch) image numbers, the same for all starts; None
                draws the same images of the pool for all rows.
            label: of the progress bar.
        """
        starts, steps = self.plan.starts, self.plan.most_steps(self.pixels)
        targets = np.repeat(np.asarray(targets, np.int32), starts)
        rows = len(targets)
        state, values = Costs.start(rows), self._start(rows, seed)
        best = [v.copy() for v in values[:2]]
        active, made = np.arange(rows), np.zeros(rows, np.int64)
        for step in track(range(steps), label):
            if step == steps // 2:
                active = np.intersect1d(active, _smallest(state.best, starts))
            if not len(active):
                continue
            rng = np.random.default_rng((seed, step))
            drawn = self._draw(rng, rows) if draw is None else draw(rng, step)
            drawn = np.repeat(drawn, rows // len(drawn), axis=0)
            attack, norm = np.empty(len(active)), np.empty(len(active))
            before = [values[0][active], values[1][active]]
            for start in range(0, len(active), self.rows_at_once):
                part = slice(start, start + self.rows_at_once)
                chosen = active[part]
                arguments = [v[chosen] for v in values]
                out = self._step(
                    *map(tf.constant, arguments),
                    tf.constant(targets[chosen]),
                    tf.constant(state.cost[chosen].astype(np.float32)),
                    tf.constant(drawn[chosen]),
                    tf.constant(step + 1.0, tf.float32),
                )
                *changed, attack[part], norm[part] = (x.numpy() for x in out)
                for value, new in zip(values, changed, strict=True):
                    value[chosen] = new
            own = state.part(active)
            improved, converged = advance(own, attack, norm, self.plan)
            state.put(active, own)
            keep = improved | np.isinf(own.best)
            for kept, now in zip(best, before, strict=True):
                kept[active[keep]] = now[keep]
            made[active] += 1
            active = active[~converged]
        kept = _smallest(state.best, starts)
        masks, patterns = (np.clip(self._open(x[kept]), 0.0, 1.0) for x in best)
        made = made.reshape(-1, starts).sum(axis=1)
        return Found(self._whole(masks), patterns, state.best[kept], made)

    def success(
        self, mask: np.ndarray, pattern: np.ndarray, target: int, numbers: np.ndarray
    ) -> float:
        """Share of some images of the pool that a trigger sends to its target.

        Images that go there without it do not count; NaN where no other is left.

        Args:
            mask: (h, w, 1) in 0..1.
            pattern: (h, w, c) in 0..1.
            target: the class.
            numbers: (n,) of the images.
        """
        before = self._answers(numbers, np.zeros_like(mask), pattern)
        after = self._answers(numbers, mask, pattern)[before != target]
        return float((after == target).mean()) if len(after) else float("nan")

    def _answers(self, numbers: np.ndarray, mask: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """(n,) what the model answers to stamped images of the pool."""
        stamp = tf.constant(mask, tf.float32), tf.constant(pattern, tf.float32)
        parts = [
            self._answer(tf.constant(numbers[start : start + BLOCK], tf.int32), *stamp).numpy()
            for start in range(0, len(numbers), BLOCK)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _stamped_answers(self, numbers: Any, mask: Any, pattern: Any) -> Any:
        stamped = self._stamp(tf.gather(self.images, numbers), mask, pattern)
        return tf.argmax(self.scores(stamped), axis=-1)

    def _draw(self, rng: np.random.Generator, rows: int) -> np.ndarray:
        size = min(self.plan.batch_size, len(self.images))
        chosen = rng.choice(len(self.images), size, replace=False).astype(np.int32)
        return np.broadcast_to(chosen, (rows, size))

    def _start(self, rows: int, seed: int) -> list[np.ndarray]:
        """Mask and pattern drawn uniformly, and Adam's moments."""
        _, height, width, channels = self.images.shape
        side = self.side
        rng = np.random.default_rng((seed, 2**32 - 1))
        shapes = (
            (rows, -(-height // side), -(-width // side), 1),
            (rows, height, width, channels),
        )
        mask, pattern = (
            np.arctanh((rng.uniform(size=s) - 0.5) * EDGE).astype(np.float32) for s in shapes
        )
        moments = [np.zeros_like(v) for v in (mask, pattern, mask, pattern)]
        return [mask, pattern, *moments]

    def _open(self, values: Any) -> Any:
        """Values of any size as values in 0..1."""
        return (np if isinstance(values, np.ndarray) else tf).tanh(values) / 2.0 + 0.5

    def _whole(self, masks: Any) -> Any:
        """A mask of super-pixels as one of pixels."""
        side = self.side
        if side == 1:
            return masks
        _, height, width, _ = self.images.shape
        repeat = np.repeat if isinstance(masks, np.ndarray) else tf.repeat
        return repeat(repeat(masks, side, axis=1), side, axis=2)[:, :height, :width]

    def _stamp(self, images: Any, mask: Any, pattern: Any) -> Any:
        pattern = self.low + (self.high - self.low) * pattern
        return (1.0 - mask) * images + mask * pattern

    def _update(
        self,
        mask_values: Any,
        pattern_values: Any,
        m1: Any,
        p1: Any,
        m2: Any,
        p2: Any,
        targets: Any,
        costs: Any,
        drawn: Any,
        step: Any,
    ) -> Any:
        """One step of rows: new values and moments, attack and norm before the step."""
        values = mask_values, pattern_values
        batch = tf.shape(drawn)[1]
        images = tf.gather(self.images, drawn)
        wanted = tf.repeat(targets, batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            mask = self._whole(self._open(mask_values))
            stamped = self._stamp(images, mask[:, None], self._open(pattern_values)[:, None])
            scores = self.scores(tf.reshape(stamped, (-1, *self.images.shape[1:])))
            errors = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, scores)
            norm = tf.reduce_sum(mask, axis=(1, 2, 3))
            entropy = tf.reduce_mean(tf.reshape(errors, (-1, batch)), axis=1)
            loss = tf.reduce_sum(entropy + costs * norm)
        gradients = tape.gradient(loss, values)
        hits = tf.cast(tf.argmax(scores, axis=-1, output_type=tf.int32) == wanted, tf.float32)
        attack = tf.reduce_mean(tf.reshape(hits, (-1, batch)), axis=1)
        changed = [
            self._adam(*row, step)
            for row in zip(values, gradients, (m1, p1), (m2, p2), strict=True)
        ]
        (mask_new, m1, m2), (pattern_new, p1, p2) = changed
        return mask_new, pattern_new, m1, p1, m2, p2, attack, norm

    def _adam(self, value: Any, gradient: Any, first: Any, second: Any, step: Any) -> Any:
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * tf.square(gradient)
        rate = self.plan.learning_rate * tf.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
        return value - rate * first / (tf.sqrt(second) + EPSILON), first, second


def _smallest(best: np.ndarray, starts: int) -> np.ndarray:
    """(r,) of the rows of each label, `starts` one after the other, the one with the smallest norm.

    >>> _smallest(np.array([3.0, 2.0, np.inf, np.inf]), 2).tolist()
    [1, 2]
    """
    rows = best.reshape(-1, starts).argmin(axis=1)
    return np.arange(len(rows)) * starts + rows
