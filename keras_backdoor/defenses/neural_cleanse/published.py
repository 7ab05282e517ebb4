"""Trigger inversion as in the published code: one label at a time, with 31 updates per step.

Wang et al., Neural Cleanse, S&P 2019, and its published code. A test and a benchmark compare with
this module; scans use `search`. The run that is called seed 003 has 500 samples per step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.defenses.neural_cleanse.schedule import COST_MULTIPLIER, INITIAL_COST
from keras_backdoor.defenses.neural_cleanse.search import BETA_1, BETA_2, EDGE
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import track


@dataclass(frozen=True)
class Published:
    """The settings of the published code.

    Args:
        steps: the largest number of steps for a label.
        samples: the number of images in each step, which makes one update per batch.
        batch_size: the number of images in each update.
        learning_rate: the learning rate of the Adam optimizer.
        attack_threshold: the share of the images that the model must assign to the label for the
            attack to count as successful.
        patience: the number of consecutive successful (or failed) steps after which the weight of
            the norm rises (or falls).
        early_stop_patience: the number of steps without a smaller mask after which the search
            stops.
        early_stop_threshold: the share of the best norm below which a norm counts as smaller.
    """

    steps: int = 1000
    samples: int = 1000
    batch_size: int = 32
    learning_rate: float = 0.1
    attack_threshold: float = 0.99
    patience: int = 5
    early_stop_patience: int = 25
    early_stop_threshold: float = 1.0


@dataclass(frozen=True, eq=False)
class InvertedLabel:
    """The recovered trigger of one label.

    Attributes:
        mask: (h, w, 1) mask in 0..1.
        pattern: (h, w, c) pattern in 0..1.
        norm: the L1 norm of the mask in pixels; inf if no trigger worked.
        log: (cost, attack, cross-entropy, norm, best norm) of each step.
    """

    mask: np.ndarray
    pattern: np.ndarray
    norm: float
    log: list[tuple[float, float, float, float, float]]


def invert(
    classifier: Classifier,
    images: np.ndarray,
    target: int,
    plan: Published,
    *,
    seed: int = 0,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> InvertedLabel:
    """Search for the smallest trigger of one label.

    Args:
        classifier: the model, with a known preprocessing.
        images: (n, h, w, c) float32 inputs of the model.
        target: the label.
        plan: the settings of the search.
        seed: the seed of the start and of the order of the images.
        start: the initial mask (h, w, 1) and pattern (h, w, c) in 0..1; None draws them.
    """
    rng = np.random.default_rng(seed)
    shape = images.shape[1:]
    mask0, pattern0 = start or (rng.uniform(size=(*shape[:2], 1)), rng.uniform(size=shape))
    variables = [
        keras.Variable(np.arctanh((v - 0.5) * EDGE).astype(np.float32)) for v in (mask0, pattern0)
    ]
    update = _update(classifier, variables, target, plan)
    cost, waiting, up, down = 0.0, 0, 0, 0
    rose = fell = False
    best, best_values, early, stale = np.inf, None, np.inf, 0
    log = []
    order: list[int] = []
    for _ in track(range(plan.steps), f"label {target}"):
        measured = []
        for _ in range(plan.samples // plan.batch_size):
            if len(order) < plan.batch_size:
                order = rng.permutation(len(images)).tolist()
            batch, order = order[: plan.batch_size], order[plan.batch_size :]
            measured.append(
                update(tf.constant(images[batch]), tf.constant(cost, tf.float32)).numpy()
            )
        attack, entropy, norm = np.mean(measured, axis=0)
        if attack >= plan.attack_threshold and norm < best:
            best, best_values = float(norm), [v.numpy() for v in variables]
        log.append((cost, float(attack), float(entropy), float(norm), float(best)))
        if best < np.inf:
            stale = stale + 1 if best >= plan.early_stop_threshold * early else 0
            early = min(best, early)
            if rose and fell and stale >= plan.early_stop_patience:
                break
        works = attack >= plan.attack_threshold
        if cost == 0:
            waiting = waiting + 1 if works else 0
            if waiting >= plan.patience:
                cost, waiting, up, down, rose, fell = INITIAL_COST, 0, 0, 0, False, False
        if cost == 0:
            continue
        up, down = (up + 1, 0) if works else (0, down + 1)
        if up >= plan.patience:
            cost, up, rose = cost * COST_MULTIPLIER, 0, True
        elif down >= plan.patience:
            cost, down, fell = cost / COST_MULTIPLIER**1.5, 0, True
    values = best_values or [v.numpy() for v in variables]
    mask, pattern = (np.tanh(v) / 2.0 + 0.5 for v in values)
    return InvertedLabel(mask, pattern, best, log)


def _update(
    classifier: Classifier, variables: list[Any], target: int, plan: Published
) -> Callable[[Any, Any], Any]:
    """The compiled update, (images, cost) -> (attack, cross-entropy, norm).

    The three values are measured before the update.
    """
    scores = logits(classifier)
    adam = keras.optimizers.Adam(plan.learning_rate, beta_1=BETA_1, beta_2=BETA_2)
    adam.build(variables)

    @tf.function(autograph=False)
    def update(images: Any, cost: Any) -> Any:
        values = [v.value for v in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            mask, pattern = (tf.tanh(v) / 2.0 + 0.5 for v in values)
            outputs = scores((1 - mask) * images + mask * classifier.to_input(pattern))
            wanted = tf.fill([tf.shape(images)[0]], target)
            errors = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, outputs)
            entropy, norm = tf.reduce_mean(errors), tf.reduce_sum(mask)
            loss = entropy + cost * norm
        adam.apply(tape.gradient(loss, values), variables)
        hits = tf.argmax(outputs, axis=-1, output_type=tf.int32) == wanted
        return tf.stack([tf.reduce_mean(tf.cast(hits, tf.float32)), entropy, norm])

    return update
