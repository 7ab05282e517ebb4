"""Trigger inversion: search for the smallest trigger of many target classes at once.

Wang et al., Neural Cleanse, S&P 2019, equation 3, for every target t:

    min over mask, pattern of  CE(f((1 - m) x + m p), t) + cost * |m|_1

One compiled function makes a step of all active searches. A search that has converged is no longer
active. The gradients of the weights are not computed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_backdoor._internals.backend import tf
from keras_backdoor._safe.files import write_npz
from keras_backdoor._safe.npz import Npz
from keras_backdoor.defenses.neural_cleanse.schedule import CostState, Schedule, update
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import track

EDGE = 2.0 - 1e-7
"""A value u in 0..1 is stored as atanh(EDGE (u - 0.5)), which is finite; see the published code."""
BETA_1, BETA_2, EPSILON = 0.5, 0.9, 1e-7
"""The parameters of the Adam optimizer, as in the published code."""
SAVED = 30.0
"""Seconds between two checkpoints of a search."""
BLOCK = 512
"""The number of images in a batch of predictions."""

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""(generator, step) -> (s, batch) indices of the images that each search uses in the step."""


class Variables(NamedTuple):
    """The variables that the searches optimize and the moments of Adam, as arrays or tensors.

    Attributes:
        mask: (s, h', w', 1) atanh values of the mask, one for each superpixel.
        pattern: (s, h, w, c) atanh values of the pattern.
        mask_first, mask_second: the first and second moments of the gradient of the mask.
        pattern_first, pattern_second: the first and second moments of the gradient of the
            pattern.
    """

    mask: Any
    pattern: Any
    mask_first: Any
    mask_second: Any
    pattern_first: Any
    pattern_second: Any

    @classmethod
    def start(cls, mask: np.ndarray, pattern: np.ndarray) -> "Variables":
        """The variables before the first step, for a mask and a pattern with values in 0..1."""
        values = [np.arctanh((v - 0.5) * EDGE).astype(np.float32) for v in (mask, pattern)]
        m1, m2, p1, p2 = (np.zeros_like(values[i]) for i in (0, 0, 1, 1))
        return cls(values[0], values[1], m1, m2, p1, p2)

    def select(self, chosen: np.ndarray) -> "Variables":
        """The variables of the chosen searches, as tensors."""
        return Variables(*(tf.constant(v[chosen]) for v in self))

    def assign(self, chosen: np.ndarray, changed: "Variables") -> None:
        """Replace the variables of the chosen searches."""
        for value, new in zip(self, changed, strict=True):
            value[chosen] = new.numpy()


class Measured(NamedTuple):
    """The measurements of a step before its update, as (s,) tensors.

    Attributes:
        attack: the share of the images that the model assigned to the target.
        norm: the L1 norm of the mask, in pixels.
    """

    attack: Any
    norm: Any


@dataclass(frozen=True, eq=False)
class Inverted:
    """The recovered triggers of t targets.

    Attributes:
        masks: (t, h, w, 1) masks in 0..1.
        patterns: (t, h, w, c) patterns in 0..1.
        norms: (t,) L1 norms of the masks in pixels; inf if no trigger worked.
        steps: (t,) the number of steps over all starts.
    """

    masks: np.ndarray
    patterns: np.ndarray
    norms: np.ndarray
    steps: np.ndarray


class Inverter:
    """Searches for triggers of one model on one pool of images.

    Args:
        classifier: the model, with a known preprocessing.
        images: (n, h, w, c) float32 inputs of the model. They stay on the device.
        plan: the schedule of the searches.
        images_at_once: the largest number of stamped images in a forward pass.
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
        self.to_input = classifier.to_input
        self.scores = logits(classifier)
        self.searches_at_once = max(1, images_at_once // plan.batch_size)
        self._step = tf.function(self._update, reduce_retracing=True, autograph=False)
        shapes = [None], (*images.shape[1:3], 1), images.shape[1:]
        kinds = tf.int32, tf.float32, tf.float32
        signature = [tf.TensorSpec(*pair) for pair in zip(shapes, kinds, strict=True)]
        self._answer = tf.function(self._stamped_predictions, signature, autograph=False)

    def search(
        self,
        targets: np.ndarray,
        *,
        seed: int,
        draw: Draw | None = None,
        label: str = "triggers",
        checkpoint: Path | None = None,
    ) -> Inverted:
        """Search for the smallest trigger of each target.

        Args:
            targets: (t,) the target classes.
            seed: the seed of the starts and of the images of each step.
            draw: (generator, step) -> (t, batch) indices of the images of each target, which are
                the same for all starts. None draws the same images for all targets.
            label: the label of the progress bar.
            checkpoint: a file to which the state is saved every `SAVED` seconds, and from which an
                interrupted search of the same settings resumes. None saves nothing.

        Returns:
            The smallest trigger of each target over all starts.
        """
        starts, steps = self.plan.starts, self.plan.max_steps(self.pixels)
        targets = np.repeat(np.asarray(targets, np.int32), starts)
        searches = len(targets)
        state, variables = CostState.start(searches), self._start(searches, seed)
        best = [variables.mask.copy(), variables.pattern.copy()]
        active, step_counts = np.arange(searches), np.zeros(searches, np.int64)
        first = 0
        if checkpoint is not None and checkpoint.exists():
            first, active = _restore(Npz(checkpoint), state, variables, best, step_counts)
        saved = time.monotonic()
        for step in track(range(steps), label):
            if step < first:
                continue
            if checkpoint is not None and time.monotonic() - saved > SAVED:
                parts = _as_arrays(step, active, state, variables, best, step_counts)
                write_npz(checkpoint, parts, force=True, compress=False)
                saved = time.monotonic()
            if step == steps // 2:
                active = np.intersect1d(active, _smallest(state.best, starts))
            if not len(active):
                continue
            rng = np.random.default_rng((seed, step))
            drawn = self._draw(rng, searches) if draw is None else draw(rng, step)
            drawn = np.repeat(drawn, searches // len(drawn), axis=0)
            before = [variables.mask[active], variables.pattern[active]]
            measured = self._step_of(variables, active, targets, state.cost, drawn, step)
            active_state = state.select(active)
            improved, converged = update(active_state, *measured, self.plan)
            state.assign(active, active_state)
            keep = improved | np.isinf(active_state.best)
            for stored, current in zip(best, before, strict=True):
                stored[active[keep]] = current[keep]
            step_counts[active] += 1
            active = active[~converged]
        smallest = _smallest(state.best, starts)
        masks, patterns = (np.clip(_to_unit_range(x[smallest]), 0.0, 1.0) for x in best)
        step_counts = step_counts.reshape(-1, starts).sum(axis=1)
        return Inverted(self._pixels_of(masks), patterns, state.best[smallest], step_counts)

    def _step_of(
        self,
        variables: Variables,
        active: np.ndarray,
        targets: np.ndarray,
        cost: np.ndarray,
        drawn: np.ndarray,
        step: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make one step of the active searches in place.

        Returns:
            (attack (a,), norm (a,)) of the active searches before the update; see `Measured`.
        """
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
        """The attack success rate of a trigger on images of the pool.

        Images that the model assigns to the target without the trigger do not count.

        Args:
            mask: (h, w, 1) mask in 0..1.
            pattern: (h, w, c) pattern in 0..1.
            target: the target class.
            positions: (n,) the indices of the images in the pool.

        Returns:
            The share of the images that the trigger sends to its target; NaN if no image counts.
        """
        before = self._predictions(positions, np.zeros_like(mask), pattern)
        after = self._predictions(positions, mask, pattern)[before != target]
        return float((after == target).mean()) if len(after) else float("nan")

    def _predictions(
        self, positions: np.ndarray, mask: np.ndarray, pattern: np.ndarray
    ) -> np.ndarray:
        """(n,) the predicted classes of stamped images of the pool."""
        stamp = tf.constant(mask, tf.float32), tf.constant(pattern, tf.float32)
        parts = [
            self._answer(tf.constant(positions[start : start + BLOCK], tf.int32), *stamp).numpy()
            for start in range(0, len(positions), BLOCK)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _stamped_predictions(self, positions: Any, mask: Any, pattern: Any) -> Any:
        stamped = self._stamp(tf.gather(self.images, positions), mask, pattern)
        return tf.argmax(self.scores(stamped), axis=-1)

    def _draw(self, rng: np.random.Generator, searches: int) -> np.ndarray:
        size = min(self.plan.batch_size, len(self.images))
        chosen = rng.choice(len(self.images), size, replace=False).astype(np.int32)
        return np.broadcast_to(chosen, (searches, size))

    def _start(self, searches: int, seed: int) -> Variables:
        """The variables for masks and patterns that are drawn uniformly from 0..1."""
        _, height, width, channels = self.images.shape
        rng = np.random.default_rng((seed, 2**32 - 1))
        mask = rng.uniform(size=(searches, -(-height // self.side), -(-width // self.side), 1))
        return Variables.start(mask, rng.uniform(size=(searches, height, width, channels)))

    def _pixels_of(self, masks: Any) -> Any:
        """Upsample masks of superpixels to masks of pixels."""
        side = self.side
        if side == 1:
            return masks
        _, height, width, _ = self.images.shape
        repeat = np.repeat if isinstance(masks, np.ndarray) else tf.repeat
        return repeat(repeat(masks, side, axis=1), side, axis=2)[:, :height, :width]

    def _stamp(self, images: Any, mask: Any, pattern: Any) -> Any:
        return (1.0 - mask) * images + mask * self.to_input(pattern)

    def _update(
        self, variables: Variables, targets: Any, costs: Any, drawn: Any, step: Any
    ) -> tuple[Variables, Measured]:
        """Compute one step of some searches: the updated variables and the measurements."""
        values = variables.mask, variables.pattern
        batch = tf.shape(drawn)[1]
        images = tf.gather(self.images, drawn)
        wanted = tf.repeat(targets, batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            mask = self._pixels_of(_to_unit_range(variables.mask))
            stamped = self._stamp(images, mask[:, None], _to_unit_range(variables.pattern)[:, None])
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


def _as_arrays(
    step: int,
    active: np.ndarray,
    state: CostState,
    variables: Variables,
    best: list[np.ndarray],
    step_counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """The state of a search before a step, as arrays."""
    arrays = {"step": np.array(step), "active": active, "step_counts": step_counts}
    arrays |= {f"state_{f.name}": getattr(state, f.name) for f in fields(state)}
    arrays |= {f"variable_{name}": value for name, value in variables._asdict().items()}
    return arrays | {f"best_{number}": values for number, values in enumerate(best)}


def _restore(
    arrays: Npz,
    state: CostState,
    variables: Variables,
    best: list[np.ndarray],
    step_counts: np.ndarray,
) -> tuple[int, np.ndarray]:
    """Restore the state of a search in place; return the next step and the active searches."""
    for field in fields(state):
        setattr(state, field.name, np.asarray(arrays[f"state_{field.name}"]))
    for name, value in variables._asdict().items():
        value[:] = arrays[f"variable_{name}"]
    for number, values in enumerate(best):
        values[:] = arrays[f"best_{number}"]
    step_counts[:] = arrays["step_counts"]
    return int(arrays["step"]), np.asarray(arrays["active"])


def _to_unit_range(values: Any) -> Any:
    """Map unbounded values to 0..1; the inverse of the mapping that `EDGE` describes."""
    return (np if isinstance(values, np.ndarray) else tf).tanh(values) / 2.0 + 0.5


def _smallest(best: np.ndarray, starts: int) -> np.ndarray:
    """The search with the smallest norm for each target.

    Args:
        best: (t * starts,) the smallest norm of each search; the searches of a target are adjacent.
        starts: the number of searches of each target.

    Returns:
        (t,) the indices of the searches.

    >>> _smallest(np.array([3.0, 2.0, np.inf, np.inf]), 2).tolist()
    [1, 2]
    """
    chosen = best.reshape(-1, starts).argmin(axis=1)
    return np.arange(len(chosen)) * starts + chosen
