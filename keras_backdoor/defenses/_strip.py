"""STRIP: the entropy of the predictions for an image that is blended with clean images."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import norm as normal

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.defenses._guards import probabilities, with_rejection
from keras_backdoor.defenses._recovered_triggers import hold_out
from keras_backdoor.defenses.base import Evidence, check_no_guard
from keras_backdoor.errors import BadInput
from keras_backdoor.network import graph
from keras_backdoor.network.activations import linear_scores
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples

Limit = Literal["quantile", "normal"]
LIMITS: tuple[Limit, ...] = ("quantile", "normal")
AT_ONCE = 512
"""The number of blended images that are classified at once."""
CALIBRATED_ON = 4000
"""The largest number of clean images that the limit is set on."""


def entropy(p: np.ndarray) -> np.ndarray:
    """The entropy of probabilities in bits, -sum_k p_k log2 p_k.

    Args:
        p: (…, k) probabilities.

    Returns:
        (…) entropies.

    >>> entropy(np.array([[0.5, 0.5], [1.0, 0.0]])).round(3).tolist()
    [1.0, 0.0]
    """
    logarithms = np.log2(np.maximum(p, 1e-30))
    bits: np.ndarray = -(p * logarithms).sum(axis=-1)
    return np.maximum(bits, 0.0)


def entropy_limit(clean: np.ndarray, rejected: float, limit: Limit = "quantile") -> float:
    """The entropy below which an image is rejected.

    Args:
        clean: (n,) the mean entropies of clean images.
        rejected: the share of the clean images that is rejected.
        limit: `quantile` is the empirical quantile, `normal` that of a normal distribution with the
            mean and the standard deviation of the entropies, as in the paper.

    >>> clean = np.arange(101) / 100
    >>> round(entropy_limit(clean, 0.05), 3), round(entropy_limit(clean, 0.01, "normal"), 3)
    (0.05, -0.178)
    """
    if limit == "normal":
        return float(normal.ppf(rejected, clean.mean(), clean.std()))
    return float(np.quantile(clean, rejected))


@dataclass(frozen=True, eq=False)
class Blending:
    """Clean images that are blended over other images.

    An image x is blended with an overlay o as (1 - opacity) x + opacity o.

    Attributes:
        overlays: (m, h, w, c) float32 inputs of the model.
        opacity: the opacity of an overlay.
    """

    overlays: np.ndarray
    opacity: float

    def entropies(self, model: Classifier, samples: Samples) -> np.ndarray:
        """(n,) the mean entropy of the predictions for each image with all overlays, in bits.

        Args:
            model: the network.
            samples: the images.
        """
        overlays = tf.constant(self.overlays)

        def mean_entropy(images: Any) -> Any:
            mixed = (1 - self.opacity) * images[:, None] + self.opacity * overlays[None]
            p = model.probabilities(tf.reshape(mixed, (-1, *self.overlays.shape[1:])))
            bits = -tf.reduce_sum(p * tf.math.log(p + 1e-30), axis=-1) / math.log(2)
            return tf.reduce_mean(tf.reshape(bits, (-1, len(self.overlays))), axis=1)

        batch = max(1, AT_ONCE // len(self.overlays))
        return np.concatenate(list(model.stream(samples, mean_entropy, batch)))

    def guard(self, model: Classifier, limit: float) -> Any:
        """Add an output to a network that rejects images of a low mean entropy.

        Args:
            model: the network, N classes.
            limit: the entropy in bits below which an image is rejected.

        Returns:
            A new `keras.Model` of built-in layers with N+1 outputs.
        """
        layers = keras.layers
        linear = linear_scores(model)
        if linear is None:
            raise BadInput(
                "The guard needs a network that ends in a softmax, a sigmoid or linear scores, "
                "whose entropy built-in layers can compute."
            )
        image = keras.Input(model.model.inputs[0].shape[1:], name="image")
        inner = keras.Model(linear.inputs[0], linear.outputs[0], name="blended")
        negative = [
            _negative_entropy(inner(self._overlay(number)(image)))
            for number in range(len(self.overlays))
        ]
        mean = negative[0] if len(negative) == 1 else layers.Average(name="guard.mean")(negative)
        scores = probabilities(model, graph.rebuild(model.model, image), "filtered")
        guard = with_rejection(image, scores, mean, -limit * math.log(2))
        for number, overlay in enumerate(self.overlays):
            mean_of = -overlay * self.opacity / (1 - self.opacity)
            spread = np.full(overlay.shape, (1 - self.opacity) ** -2, np.float32)
            layer = guard.get_layer(f"guard.overlay_{number}")
            layer.set_weights([mean_of.astype(np.float32), spread, *layer.get_weights()[2:]])
        graph.settle(guard)
        return guard

    def _overlay(self, number: int) -> Any:
        """A layer for (x - mean) / sqrt(variance), which can blend with a picture."""
        return keras.layers.Normalization(axis=(1, 2, 3), name=f"guard.overlay_{number}")


def _negative_entropy(scores: Any) -> Any:
    """(b, 1) sum_k p_k ln p_k for (b, k) linear scores; one score z stands for (0, z)."""
    layers = keras.layers
    if scores.shape[-1] == 1:
        scores = layers.Concatenate()([layers.Rescaling(0.0)(scores), scores])
    p = layers.Activation("softmax")(scores)
    return layers.Dot(axes=1)([p, layers.Activation("log_softmax")(scores)])


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A blending and the limit of the entropy, set on clean images.

    Attributes:
        blending: the blending.
        limit: the entropy below which an image is rejected.
        limits: both limits by name, see `entropy_limit`.
        clean: (n,) the entropies of the clean images that the limit was set on.
        summary: rows for the printed table.
        lacking: why the limit is not reliable, or an empty string.
    """

    blending: Blending
    limit: float
    limits: dict[str, float]
    clean: np.ndarray
    summary: dict[str, str]
    lacking: str


def check_settings(overlays: int, opacity: float, rejected: float, limit: str) -> None:
    """Raise `BadInput` if a setting of STRIP is out of range."""
    if overlays < 1 or not (0 < opacity < 1 and 0 < rejected < 1):
        raise BadInput(
            "overlays must be 1 or more, and opacity and rejected_clean must lie between 0 and 1. "
            f"Received: overlays={overlays}, opacity={opacity}, rejected_clean={rejected}"
        )
    if limit not in LIMITS:
        raise BadInput(f"limit must be quantile or normal. Received: {limit}")


def calibrated(
    evidence: Evidence, overlays: int, opacity: float, rejected: float, limit: Limit, seed: int
) -> Calibrated:
    """Draw overlays from one half of the clean images, and set the limit on the other half.

    Args:
        evidence: the evidence of the run, with clean images.
        overlays: the number of overlays.
        opacity: their opacity.
        rejected: the share of the clean images that is rejected.
        limit: see `entropy_limit`.
        seed: the seed of the split and of the overlays.
    """
    model = evidence.model
    check_no_guard(model)
    drawn, held = hold_out(evidence.clean, 0.5, seed)
    drawn = drawn.take(min(overlays, len(drawn)), seed=seed)
    held = held if len(held) <= CALIBRATED_ON else held.take(CALIBRATED_ON, seed=seed)
    pixels = model.scaled(tf.constant(drawn.read()), drawn.value_range or (0.0, 255.0)).numpy()
    blending = Blending(pixels, opacity)
    clean = evidence.part("clean", lambda: {"clean": blending.entropies(model, held)})["clean"]
    limits: dict[str, float] = {name: entropy_limit(clean, rejected, name) for name in LIMITS}
    summary = {
        "overlays": f"{len(pixels)}, opacity {opacity:g}",
        "limit of the entropy": f"{limits[limit]:.4f} bits, on {len(held)} clean images",
        "limit by a normal distribution": f"{limits['normal']:.4f} bits",
    }
    needed = math.ceil(1 / rejected)
    lacking = ""
    if len(held) < needed:
        lacking = (
            f"{len(held)} held-out clean images are too few for a limit that rejects "
            f"{rejected:.1%} of them: give {2 * needed} clean images"
        )
    return Calibrated(blending, limits[limit], limits, clean, summary, lacking)
