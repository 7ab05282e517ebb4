"""Trigger inversion: the smallest stamp that sends images to a class, for many targets at once.

Wang et al., Neural Cleanse, S&P 2019, equation 3, for every target t:

    min over mask, pattern of  CE(f((1 - m) x + m p), t) + cost * |m|_1

All searches go through one compiled step; a search that has converged leaves it. No gradient of
the weights is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor.defenses.neural_cleanse.schedule import CostState, Schedule, update
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import track

EDGE = 2.0 - 1e-7
"""A value u in 0..1 is kept as atanh(EDGE (u - 0.5)), which is finite, as in the published code."""
BETA_1, BETA_2, EPSILON = 0.5, 0.9, 1e-7
"""Of Adam, as in the published code."""
BLOCK = 512
"""Images that are answered at a time."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, step) -> (s, batch) positions of the images that each search sees."""


class Variables(NamedTuple):
    """What a search optimizes, with the moments of Adam; arrays or tensors.

    Attributes:
        mask: (s, h', w', 1) atanh values of the mask, one for each superpixel.
        pattern: (s, h, w, c) atanh values of the pattern.
        mask_first, mask_second: first and second moments of the mask's gradient.
        pattern_first, pattern_second: those of the pattern's gradient.
    """

    mask: Any
    pattern: Any
    mask_first: Any
    mask_second: Any
    pattern_first: Any
    pattern_second: Any

    @classmethod
    def start(cls, mask: np.ndarray, pattern: np.ndarray) -> "Variables":
        """Before the first step, from the values of mask and pattern in 0..1."""
        values = [np.arctanh((v - 0.5) * EDGE).astype(np.float32) for v in (mask, pattern)]
        m1, m2, p1, p2 = (np.zeros_like(values[i]) for i in (0, 0, 1, 1))
        return cls(values[0], values[1], m1, m2, p1, p2)

    def select(self, chosen: np.ndarray) -> "Variables":
        """The variables of some searches, as tensors."""
        return Variables(*(tf.constant(v[chosen]) for v in self))

    def assign(self, chosen: np.ndarray, changed: "Variables") -> None:
        """Write the variables of some searches back."""
        for value, new in zip(self, changed, strict=True):
            value[chosen] = new.numpy()


class Measured(NamedTuple):
    """What a step measured before its update: (s,) tensors.

    Attributes:
        attack: share of the images that reached the target.
        norm: L1 norm of the mask.
    """

    attack: Any
    norm: Any


@dataclass(frozen=True, eq=False)
class Inverted:
    """The triggers that a search found.

    Attributes:
        masks: (s, h, w, 1) in 0..1.
        patterns: (s, h, w, c) in 0..1.
        norms: (s,) L1 norm of the masks; inf where no trigger worked.
        steps: (s,) steps that were made, over all starts.
    """

    masks: np.ndarray
    patterns: np.ndarray
    norms: np.ndarray
    steps: np.ndarray


class Inverter:
    """Searches for triggers of one model over one pool of images.

    Args:
        classifier: the model; its input range is known.
        images: (n, h, w, c) float32, in the model's range; they stay on the device.
        plan: the settings.
        images_at_once: stamped images that pass through the model at a time.
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
        self.side = plan.superpixel_side(self.pixels)
        self.low, self.high = classifier.input_range or (0.0, 1.0)
        self.scores = logits(classifier)
        self.searches_at_once = max(1, images_at_once // plan.batch_size)
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
    ) -> Inverted:
        """A trigger for each target.

        Args:
            targets: (t,) classes.
            seed: of the starts and of the images of each step.
            draw: (generator, step) -> (t, batch) positions of images, the same for all starts;
                None draws the same images of the pool for all targets.
            label: of the progress bar.
        """
        starts, steps = self.plan.starts, self.plan.max_steps(self.pixels)
        targets = np.repeat(np.asarray(targets, np.int32), starts)
        searches = len(targets)
        state, variables = CostState.start(searches), self._start(searches, seed)
        best = [variables.mask.copy(), variables.pattern.copy()]
        active, made = np.arange(searches), np.zeros(searches, np.int64)
        for step in track(range(steps), label):
            if step == steps // 2:
                active = np.intersect1d(active, _smallest(state.best, starts))
            if not len(active):
                continue
            rng = np.random.default_rng((seed, step))
            drawn = self._draw(rng, searches) if draw is None else draw(rng, step)
            drawn = np.repeat(drawn, searches // len(drawn), axis=0)
            before = [variables.mask[active], variables.pattern[active]]
            measured = self._step_of(variables, active, targets, state.cost, drawn, step)
            own = state.select(active)
            improved, converged = update(own, *measured, self.plan)
            state.assign(active, own)
            keep = improved | np.isinf(own.best)
            for kept, now in zip(best, before, strict=True):
                kept[active[keep]] = now[keep]
            made[active] += 1
            active = active[~converged]
        kept = _smallest(state.best, starts)
        masks, patterns = (np.clip(_opened(x[kept]), 0.0, 1.0) for x in best)
        made = made.reshape(-1, starts).sum(axis=1)
        return Inverted(self._pixels_of(masks), patterns, state.best[kept], made)

    def _step_of(
        self,
        variables: Variables,
        active: np.ndarray,
        targets: np.ndarray,
        cost: np.ndarray,
        drawn: np.ndarray,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One step of the active searches, in place: (attack, norm) of each before it."""
        attack, norm = np.empty(len(active)), np.empty(len(active))
        for start in range(0, len(active), self.searches_at_once):
            part = slice(start, start + self.searches_at_once)
            chosen = active[part]
            changed, measured = self._step(
                variables.select(chosen),
                targets=tf.constant(targets[chosen]),
                costs=tf.constant(cost[chosen].astype(np.float32)),
                drawn=tf.constant(drawn[chosen]),
                step=tf.constant(step + 1.0, tf.float32),
            )
            variables.assign(chosen, changed)
            attack[part], norm[part] = measured.attack.numpy(), measured.norm.numpy()
        return attack, norm

    def success(
        self, mask: np.ndarray, pattern: np.ndarray, target: int, positions: np.ndarray
    ) -> float:
        """Share of some images of the pool that a trigger sends to its target.

        Images that reach it without the trigger do not count; NaN where no other is left.

        Args:
            mask: (h, w, 1) in 0..1.
            pattern: (h, w, c) in 0..1.
            target: the class.
            positions: (n,) of the images in the pool.
        """
        before = self._answers(positions, np.zeros_like(mask), pattern)
        after = self._answers(positions, mask, pattern)[before != target]
        return float((after == target).mean()) if len(after) else float("nan")

    def _answers(self, positions: np.ndarray, mask: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """(n,) the model's answers to stamped images of the pool."""
        stamp = tf.constant(mask, tf.float32), tf.constant(pattern, tf.float32)
        parts = [
            self._answer(tf.constant(positions[start : start + BLOCK], tf.int32), *stamp).numpy()
            for start in range(0, len(positions), BLOCK)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _stamped_answers(self, positions: Any, mask: Any, pattern: Any) -> Any:
        stamped = self._stamp(tf.gather(self.images, positions), mask, pattern)
        return tf.argmax(self.scores(stamped), axis=-1)

    def _draw(self, rng: np.random.Generator, searches: int) -> np.ndarray:
        size = min(self.plan.batch_size, len(self.images))
        chosen = rng.choice(len(self.images), size, replace=False).astype(np.int32)
        return np.broadcast_to(chosen, (searches, size))

    def _start(self, searches: int, seed: int) -> Variables:
        """Mask and pattern drawn uniformly."""
        _, height, width, channels = self.images.shape
        rng = np.random.default_rng((seed, 2**32 - 1))
        mask = rng.uniform(size=(searches, -(-height // self.side), -(-width // self.side), 1))
        return Variables.start(mask, rng.uniform(size=(searches, height, width, channels)))

    def _pixels_of(self, masks: Any) -> Any:
        """A mask of superpixels as one of pixels."""
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
        self, variables: Variables, targets: Any, costs: Any, drawn: Any, step: Any
    ) -> tuple[Variables, Measured]:
        """One compiled step of some searches: the changed variables, and what was measured."""
        values = variables.mask, variables.pattern
        batch = tf.shape(drawn)[1]
        images = tf.gather(self.images, drawn)
        wanted = tf.repeat(targets, batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            mask = self._pixels_of(_opened(variables.mask))
            stamped = self._stamp(images, mask[:, None], _opened(variables.pattern)[:, None])
            scores = self.scores(tf.reshape(stamped, (-1, *self.images.shape[1:])))
            errors = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, scores)
            norm = tf.reduce_sum(mask, axis=(1, 2, 3))
            entropy = tf.reduce_mean(tf.reshape(errors, (-1, batch)), axis=1)
            loss = tf.reduce_sum(entropy + costs * norm)
        mask_gradient, pattern_gradient = tape.gradient(loss, values)
        hits = tf.cast(tf.argmax(scores, axis=-1, output_type=tf.int32) == wanted, tf.float32)
        attack = tf.reduce_mean(tf.reshape(hits, (-1, batch)), axis=1)
        v = variables
        mask, m1, m2 = self._adam(v.mask, mask_gradient, v.mask_first, v.mask_second, step)
        pattern, p1, p2 = self._adam(
            v.pattern, pattern_gradient, v.pattern_first, v.pattern_second, step
        )
        return Variables(mask, pattern, m1, m2, p1, p2), Measured(attack, norm)

    def _adam(self, value: Any, gradient: Any, first: Any, second: Any, step: Any) -> Any:
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * tf.square(gradient)
        rate = self.plan.learning_rate * tf.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
        return value - rate * first / (tf.sqrt(second) + EPSILON), first, second


def _opened(values: Any) -> Any:
    """Values of any size as values in 0..1."""
    return (np if isinstance(values, np.ndarray) else tf).tanh(values) / 2.0 + 0.5


def _smallest(best: np.ndarray, starts: int) -> np.ndarray:
    """(t,) of the searches of each target, one after the other, that with the smallest norm.

    >>> _smallest(np.array([3.0, 2.0, np.inf, np.inf]), 2).tolist()
    [1, 2]
    """
    chosen = best.reshape(-1, starts).argmin(axis=1)
    return np.arange(len(chosen)) * starts + chosen
