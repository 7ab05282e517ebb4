"""BayLIME: which segments of a picture a decision depends on, by Bayesian linear regression."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from keras_backdoor._internals.backend import tf
from keras_backdoor.answers import Heatmaps
from keras_backdoor.errors import BadInput
from keras_backdoor.explanations._bayesian_ridge import Posterior, Regressions
from keras_backdoor.explanations._segments import (
    SEGMENTATIONS,
    Segmentation,
    segmented,
    share_inside,
)
from keras_backdoor.explanations.base import Evidence, Explanation, Need
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.progress import track
from keras_backdoor.samples import Samples

CALL_PIXELS = 2**22
"""The largest number of pixel values of one call of the model."""
WIDTH = 1.0
"""The width of the kernel that weights the perturbed pictures."""
CONTRAST = 0.1
"""By how much the mean picture differs from its edge inside the mask of the prior `in`."""
Prior = Literal["zero", "in", "out"]
PRIORS = ("zero", "in", "out")


@dataclass(frozen=True)
class BayLIME(Explanation[Heatmaps]):
    """Explain the predicted class of pictures by their segments, with a prior and its uncertainty.

    Zhao et al., BayLIME: Bayesian Local Interpretable Model-Agnostic Explanations, UAI 2021. Each
    picture is split into segments, which are switched on and off at random. A Bayesian linear
    regression explains the probability of the class that the model predicts for the whole picture
    by the segments that are on. A perturbed picture with the share s of its segments on has the
    weight sqrt(exp(-(1 - sqrt(s))^2)), from its cosine distance to the whole picture. The
    precisions of the noise and of the prior maximize the evidence.

    A trigger lies in the segment with the largest coefficient, if the decision depends on it.

    Args:
        perturbations: the number of perturbed pictures for each picture.
        segmentation: `watershed`, `felzenszwalb` or `quickshift`, see scikit-image.
        segments: the number of markers of `watershed`. The grid that they fill has fewer cells.
        prior: the prior mean of the coefficient of a segment: `zero`, or `prior_scale` times the
            share of the segment that lies `in` the object or `out` of it. The object is where the
            mean of the clean images, or else of the explained ones, differs from its edge.
        prior_scale: see `prior`.
        fill: the pixels of a segment that is off: `black`, or the `mean` color of the picture, for
            triggers that are black.
        design: `own` draws new perturbations for each picture, `shared` the same for all.
        precisions: `weighted` maximizes the evidence of the regression; `seed000` is the way of the
            notebook of the preset, see `Regressions.fitted_as_seed`.
        seed: the seed of the perturbations.

    Notes:
        The preset `seed000` repeats the experiment of a notebook with a trigger of one pixel, whose
        pictures all shared one design, so that its results are those of a single draw.
    """

    perturbations: int = 200
    segmentation: Segmentation = "watershed"
    segments: int = 100
    prior: Prior = "zero"
    prior_scale: float = 0.1
    fill: Literal["black", "mean"] = "black"
    design: Literal["own", "shared"] = "own"
    precisions: Literal["weighted", "seed000"] = "weighted"
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"), Need("clean", optional=True))
    commands: ClassVar[tuple[str, ...]] = ("explain",)
    default_for: ClassVar[tuple[str, ...]] = ("explain",)
    paper: ClassVar[str] = "Zhao et al., BayLIME, UAI 2021 (arXiv 2012.03058)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed000": {
            "perturbations": 40,
            "design": "shared",
            "precisions": "seed000",
            "seed": 207,
        }
    }
    quick: ClassVar[dict[str, Any]] = {"segments": 16}
    caveats: ClassVar[tuple[str, ...]] = (
        "Every decision depends on some part of the picture, also without a backdoor.",
    )

    def __post_init__(self) -> None:
        for name, known in (
            ("segmentation", SEGMENTATIONS), ("prior", PRIORS), ("fill", ("black", "mean")),
            ("design", ("own", "shared")), ("precisions", ("weighted", "seed000")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise BadInput(
                    f"{name} must be one of {', '.join(known)}. Received: {getattr(self, name)}"
                )
        if self.perturbations < 2 or self.segments < 2:
            raise BadInput(
                "perturbations and segments must be 2 or more. Received: "
                f"perturbations={self.perturbations}, segments={self.segments}"
            )

    def run(self, evidence: Evidence) -> Heatmaps:
        """See `Method.run`."""
        model, pictures = evidence.model, evidence.incoming
        images = unit_images(pictures.read(), pictures).numpy()
        labels = model.predict(pictures)
        split = [segmented(i, self.segmentation, self.segments) for i in track(images, "segments")]
        numbers = np.array([int(s.max()) + 1 for s in split])
        segments = np.stack(split)
        on = self._design(numbers, pictures.as_bytes())
        answers = self._probabilities(model, images, segments, on, labels)
        mask = _object(_mean(evidence.get("clean") or pictures))
        prior = self._prior_means(segments, numbers, mask)
        found = self._fitted(on, answers, numbers, prior)
        rows = np.arange(len(images))[:, None, None]
        deviation = np.sqrt(np.maximum(np.diagonal(found.covariance, axis1=1, axis2=2), 0.0))
        strongest = np.array([m[:n].argmax() for m, n in zip(found.mean, numbers, strict=True)])
        reason, notes = self._notes(found, answers, numbers)
        return Heatmaps(
            maps=found.mean[rows, segments],
            spread=deviation[rows, segments],
            prior=prior[rows, segments],
            segments=segments,
            top=segments == strongest[:, None, None],
            labels=labels,
            summary=notes,
            figures={
                "converged": int(found.converged.sum()),
                "segments": numbers.tolist(),
                "noise_precision": found.noise.tolist(),
                "prior_precision": found.prior.tolist(),
            },
            inconclusive=reason,
        )

    def _design(self, numbers: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """(n, p, m) bool, which segments are on; those that a picture does not have are off.

        The design of a picture follows from its pixels (n, h, w, c) uint8, wherever it stands.
        """
        on = np.zeros((len(numbers), self.perturbations, int(numbers.max())), bool)
        for picture, number, own in zip(pixels, numbers, on, strict=True):
            if self.design == "own":
                drawn = np.random.default_rng((self.seed, zlib.crc32(picture.tobytes()))).integers(
                    0, 2, (self.perturbations, number)
                )
            else:
                drawn = np.random.RandomState(self.seed).choice(
                    (0, 1), size=(self.perturbations, number)
                )
            own[:, :number] = drawn.astype(bool)
        return on

    def _probabilities(
        self,
        model: Classifier,
        images: np.ndarray,
        segments: np.ndarray,
        on: np.ndarray,
        labels: np.ndarray,
    ) -> np.ndarray:
        """(n, p) float64, the probability of the class of each picture when it is perturbed."""
        height, width, channels = images.shape[1:]

        def call(image: Any, part: Any, kept: Any, color: Any, label: Any) -> Any:
            shown = tf.gather(tf.transpose(kept, (0, 2, 1)), part, axis=1, batch_dims=1)
            shown = tf.transpose(shown, (0, 3, 1, 2))[..., None]
            perturbed = tf.where(shown, image[:, None], color[:, None, None, None])
            flat = tf.reshape(perturbed, (-1, height, width, channels))
            scores = model.probabilities(model.scaled(flat, (0.0, 1.0)))
            scores = tf.reshape(scores, (tf.shape(image)[0], -1, model.classes))
            return tf.gather(scores, label, axis=2, batch_dims=1)

        compiled = tf.function(call, autograph=False).get_concrete_function(
            tf.TensorSpec((None, height, width, channels), tf.float32),
            tf.TensorSpec((None, height, width), tf.int64),
            tf.TensorSpec((None, None, None), tf.bool),
            tf.TensorSpec((None, channels), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        )
        colors = (
            images.mean(axis=(1, 2)) if self.fill == "mean" else np.zeros((len(images), channels))
        )
        most = max(1, CALL_PIXELS // (height * width * channels))
        pictures, designs = max(1, most // self.perturbations), min(most, self.perturbations)
        out = np.empty(on.shape[:2])
        starts = range(0, len(images), pictures)
        for start in track(starts, "perturbed pictures", len(starts)):
            own = slice(start, start + pictures)
            for first in range(0, self.perturbations, designs):
                part = slice(first, first + designs)
                out[own, part] = compiled(
                    tf.constant(images[own]),
                    tf.constant(segments[own]),
                    tf.constant(on[own, part]),
                    tf.constant(colors[own], tf.float32),
                    tf.constant(labels[own]),
                ).numpy()
        return out

    def _prior_means(
        self, segments: np.ndarray, numbers: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """(n, m) the prior mean of each segment; 0 for those that a picture does not have."""
        prior = np.zeros((len(segments), int(numbers.max())))
        if self.prior == "zero":
            return prior
        inside = mask if self.prior == "in" else ~mask
        for own, part, number in zip(prior, segments, numbers, strict=True):
            own[:number] = self.prior_scale * share_inside(part, inside)
        return prior

    def _fitted(
        self, on: np.ndarray, answers: np.ndarray, numbers: np.ndarray, prior: np.ndarray
    ) -> Posterior:
        share = on.sum(axis=2) / numbers[:, None]
        weights = np.sqrt(np.exp(-(((1.0 - np.sqrt(share)) / WIDTH) ** 2)))
        with threadpool_limits(1):
            regressions = Regressions(on.astype(np.float64), answers, weights, prior)
            weighted = self.precisions == "weighted"
            return regressions.fitted() if weighted else regressions.fitted_as_seed()

    def _notes(
        self, found: Posterior, answers: np.ndarray, numbers: np.ndarray
    ) -> tuple[str, dict[str, str]]:
        """Why pictures are not explained, and rows for the printed table."""
        notes = {
            "segments of a picture": _span(numbers),
            "perturbations of a picture": str(self.perturbations),
            "pictures whose precisions converged": f"{found.converged.sum()} of {len(numbers)}",
        }
        if numbers.max() > self.perturbations:
            notes["warning, more segments than perturbations"] = (
                f"the perturbations do not determine all of the {numbers.max()} coefficients: in "
                f"{numbers.max() - self.perturbations} directions or more the posterior is the "
                "prior"
            )
        single = np.flatnonzero(numbers == 1)
        constant = np.flatnonzero(
            ((np.ptp(answers, axis=1) < 1e-6) | found.diverged) & (numbers > 1)
        )
        reasons = []
        if len(single):
            reasons.append(f"{_pictures(single)} of a single segment: nothing can be compared")
        if len(constant):
            reasons.append(
                f"the answer for {_pictures(constant)} does not depend on the segments: the map is "
                "the prior"
            )
        return "; ".join(reasons), notes


def _mean(samples: Samples) -> np.ndarray:
    """(h, w, c) float64, the mean of pictures in 0..1."""
    total = np.zeros(samples.image_shape)
    for batch, _ in samples.batches(1024):
        total += np.asarray(unit_images(batch, samples)).sum(axis=0, dtype=np.float64)
    return total / len(samples)


def _object(mean: np.ndarray) -> np.ndarray:
    """(h, w) bool, where the mean (h, w, c) of pictures differs from its edge."""
    edge = np.concatenate([mean[0], mean[-1], mean[:, 0], mean[:, -1]])
    different: np.ndarray = np.abs(mean - np.median(edge, axis=0)).max(axis=-1) > CONTRAST
    return different


def _span(numbers: np.ndarray) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _pictures(numbers: np.ndarray) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"picture {shown}" if len(numbers) == 1 else f"pictures {shown}"
