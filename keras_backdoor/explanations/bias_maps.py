"""Bias maps: the mean adversarial image of each class, alone or beside those of a clean network."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.errors import BadInput
from keras_backdoor.explanations._recorded import Jobs, Recorded, record
from keras_backdoor.explanations.base import Evidence, Explanation, Need
from keras_backdoor.network.adversarial import check_steps
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.preprocessing import unit_images
from keras_backdoor.samples import Samples

INPUTS, ALGORITHMS = ("data", "noise", "blank"), ("targets", "pairs", "untargeted")
FEWEST = 50
"""The smallest number of adversarial images of a pair of classes whose mean is compared."""
CHANGED = 0.01
"""The share of the pixels of a bias map that are stamped on images to test it."""
LEAD = 0.3
"""By how much a class has to lead in the share of images that its strongest pixels move to it."""
RATIO = 1.4
"""The multiple of the median distance from which a class is an outlier."""
MOST_VALUES = 2**27
"""The largest number of values of the maps of all pairs of classes."""


@dataclass(frozen=True)
class BiasMaps(Explanation[FlaggedClasses]):
    """Find the target of a backdoor in the mean of the adversarial images of each class.

    Borji, Adversarial examples are useful too!, 2020: blank images, white noise or data are changed
    by the iterated fast gradient sign method until the network takes them for a class. Their mean
    is the bias map of the class, which shows the trigger of a backdoor. With a clean reference, the
    Euclidean distance between the maps of both networks is largest at the target or the source.

    - `targets` (algorithm I): every image is moved to every class t,
      x <- clip(x - epsilon sign(grad J(x, t))), and recorded under the class that it ends in.
    - `pairs` (algorithm II): it is also moved away from every other class s,
      x <- clip(x - epsilon sign(grad (J(x, t) - J(x, s)))), and recorded under s and its class.
    - `untargeted`: every image is moved away from its class,
      x <- clip(x + epsilon sign(grad J(x, y))).

    With a reference, the class with the largest distance is flagged if it is more than 1.4 times
    the median; it may be the target or the source. Other classes above this limit are further
    suspects. With `pairs`, the distance of a class is the norm of the mean difference over the
    pairs that end in it, so that what they have in common counts; the measure `row` is that over
    the pairs that leave it. The reference has to be the network that the suspect was fine-tuned
    from: two networks that were trained apart differ as much as one with a backdoor from its
    parent.

    Without a reference, the score is one of this package. The strongest 1 % of the pixels of a map,
    where it differs most from the mean of the images, are stamped on images of other classes, each
    channel at 0 or 1. If they move to the class a share of the images that is larger by 0.3 than
    that of any other class, it is flagged: the pixels of a trigger move images by themselves, those
    of a natural class only together. Both limits were chosen on the development zoo
    (`docs/explanations.md`).

    Args:
        inputs: `data` are the clean images, `noise` is uniform in 0..1, and `blank` is black.
        algorithm: `targets`, `pairs` or `untargeted`.
        epsilon: the size of a step, as a share of the range of the pixels.
        steps: the number of steps.
        images: the largest number of images; `blank` is a single one.
        seed: the seed of the noise and of the choice of the images.

    Notes:
        All classes are compared with the median, so that a network with two classes is not
        examined. Without data, the test of the strongest pixels takes the noise.
    """

    inputs: Literal["data", "noise", "blank"] = "data"
    algorithm: Literal["targets", "pairs", "untargeted"] = "targets"
    epsilon: float = 0.1
    steps: int = 10
    images: int = 300
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (
        Need("clean", optional=True),
        Need("reference", optional=True),
    )
    commands: ClassVar[tuple[str, ...]] = ("scan",)
    paper: ClassVar[str] = "Borji, Adversarial examples are useful too!, 2020 (arXiv 2005.06107)"
    caveats: ClassVar[tuple[str, ...]] = (
        "Triggers of many pixels, triggers of one source class and triggers in pictures without a "
        "plain background are often missed.",
    )

    def __post_init__(self) -> None:
        check_steps(self.epsilon, self.steps)
        if self.inputs not in INPUTS or self.algorithm not in ALGORITHMS:
            raise BadInput(
                f"inputs must be one of {', '.join(INPUTS)}, and algorithm one of "
                f"{', '.join(ALGORITHMS)}. Received: {self.inputs}, {self.algorithm}"
            )
        if self.images < 1:
            raise BadInput(f"images must be 1 or more. Received: {self.images}")

    def run(self, evidence: Evidence) -> FlaggedClasses:
        """See `Method.run`."""
        model, reference = evidence.model, evidence.get("reference")
        if reference is not None and reference.classes != model.classes:
            raise BadInput(
                f"The reference has {reference.classes} classes and the model {model.classes}: "
                "their maps can be compared only if the classes are the same."
            )
        images = self._images(model, evidence.get("clean"))
        own = self._recorded(model, images, evidence, "suspect")
        ratio = self._ratio(own, len(images), model.classes)
        measures: dict[str, Any] = {"ratio": ratio}
        maps = {"suspect": own.means[0] if len(own.means) == 1 else own.means}
        summary = self._summary(own, len(images))
        if reference is None:
            moved = self._moved(model, own, images)
            measures["moved"] = moved
            scores = (moved - _best_of_others(moved)) / LEAD
            summary["compared with"] = "the other classes"
        else:
            known = reference if reference.preprocess else reference.using(model.to_input, "")
            other = self._recorded(known, images, evidence, "reference")
            maps["reference"] = other.means[0] if len(other.means) == 1 else other.means
            scores = self._compared(own, other, measures)
            summary["compared with"] = "the maps of the reference"
        scores = scores if model.classes > 2 else np.full(model.classes, np.nan)
        examined = ~np.isnan(scores)
        above = np.nan_to_num(scores) > 1
        largest = np.arange(len(scores)) == np.argmax(np.where(examined, scores, -np.inf))
        return FlaggedClasses(
            scores=scores,
            flagged=above & largest,
            further=above & ~largest,
            measures=measures,
            maps=maps,
            summary=summary,
            inconclusive=self._reason(reference, examined, above),
        )

    def _reason(self, reference: Any, examined: np.ndarray, above: np.ndarray) -> str:
        """Why the answer is inconclusive; empty if it is not."""
        if not examined.any():
            return "there is no class to compare with"
        if reference is None and not above.any():
            return (
                "without the network that the model was fine-tuned from (--reference), only "
                "triggers of few pixels are seen"
            )
        return ""

    def _images(self, model: Classifier, clean: Samples | None) -> np.ndarray:
        """(n, h, w, c) float32 in 0..1, the images that are changed."""
        if self.inputs == "data":
            if clean is None:
                raise BadInput(
                    "BiasMaps changes clean images: pass --clean DATA, or --set inputs=noise to do "
                    "without."
                )
            chosen = clean.take(min(self.images, len(clean)), seed=self.seed)
            return np.asarray(unit_images(chosen.read(), chosen))
        shape = tuple(side for side in model.image_shape if side is not None)
        if len(shape) < 3:
            raise BadInput("The model takes images of any size: pass --clean DATA.")
        if self.inputs == "blank":
            return np.zeros((1, *shape), np.float32)
        rng = np.random.default_rng(self.seed)
        return rng.random((self.images, *shape), np.float32)

    def _recorded(
        self, model: Classifier, images: np.ndarray, evidence: Evidence, name: str
    ) -> Recorded:
        classes = model.classes
        if self.algorithm == "pairs" and classes**2 * images[0].size > MOST_VALUES:
            raise BadInput(
                f"The maps of all pairs of {classes} classes need too much memory: use "
                "algorithm=targets."
            )

        def compute() -> dict[str, np.ndarray]:
            if self.algorithm == "targets":
                jobs = Jobs.to_each_class(len(images), classes)
            elif self.algorithm == "pairs":
                jobs = Jobs.between_classes(len(images), classes)
            else:
                jobs = Jobs.away(model.predict(Samples(images, value_range=(0.0, 1.0))))
            return vars(record(model, images, jobs, self.epsilon, self.steps))

        return Recorded(**evidence.part(name, compute))

    def _ratio(self, found: Recorded, images: int, classes: int) -> np.ndarray:
        """The share of the images that end in the class that they are moved to.

        Returns:
            (k,), or (k, k) by source and target for `pairs`. For `untargeted`, the share of all
            images that end in each class.
        """
        if self.algorithm == "untargeted":
            return np.asarray(np.bincount(found.ends, minlength=classes) / images)
        if self.algorithm == "targets":
            ends = found.ends.reshape(classes, images)
            return np.asarray((ends == np.arange(classes)[:, None]).mean(axis=1))
        ends = found.ends.reshape(classes * (classes - 1), images)
        away = ~np.eye(classes, dtype=bool)
        share = np.full((classes, classes), np.nan)
        share[away] = (ends == np.nonzero(away)[1][:, None]).mean(axis=1)
        return share

    def _summary(self, found: Recorded, images: int) -> dict[str, str]:
        empty = np.flatnonzero(found.counts.sum(axis=0) == 0)
        summary = {"images": str(images)}
        if len(empty):
            summary["classes that no adversarial image reaches"] = ", ".join(map(str, empty))
        return summary

    def _moved(self, model: Classifier, found: Recorded, images: np.ndarray) -> np.ndarray:
        """(k,), the share of images that the strongest pixels of each map move to its class."""
        if len(images) == 1:
            images = np.random.default_rng(self.seed).random((300, *images.shape[1:]), np.float32)
        predicted = model.predict(Samples(images, value_range=(0.0, 1.0)))
        counts = found.counts.sum(axis=0)
        sums = (found.means * found.counts[..., None, None, None]).sum(axis=0)
        means = sums / np.maximum(counts, 1)[:, None, None, None]
        mean = images.mean(axis=0)
        moved = np.zeros(model.classes)
        for c in np.flatnonzero(counts):
            others = images[predicted != c]
            if len(others):
                shown = stamped_with_strongest(others, means[c] - mean, CHANGED)
                answers = model.predict(Samples(shown, value_range=(0.0, 1.0)))
                moved[c] = (answers == c).mean()
        return moved

    def _compared(self, own: Recorded, other: Recorded, measures: dict[str, Any]) -> np.ndarray:
        """(k,) scores of the distances between the maps of two networks, which are recorded."""
        distance = np.sqrt(((own.means - other.means).astype(np.float64) ** 2).sum(axis=(2, 3, 4)))
        fewest = FEWEST if self.algorithm == "pairs" else 1
        few = (own.counts < fewest) | (other.counts < fewest)
        distance[few] = np.nan
        if len(distance) == 1:
            measures["distance"] = distance[0]
            return outliers(distance[0])
        np.fill_diagonal(distance, np.nan)
        measures["distance"] = distance
        change = np.where(
            np.isnan(distance)[..., None, None, None], np.nan, own.means - other.means
        )
        measures["row"], measures["column"] = _common(change, 1), _common(change, 0)
        return outliers(measures["column"])


def stamped_with_strongest(images: np.ndarray, change: np.ndarray, share: float) -> np.ndarray:
    """Stamp the strongest pixels of a change on images, each channel at 0 or 1 by its sign.

    Args:
        images: (n, h, w, c) float32 in 0..1.
        change: (h, w, c).
        share: the share of the pixels that are stamped, at least one.

    >>> change = np.array([[[0.1], [-0.5]]])
    >>> stamped_with_strongest(np.full((1, 1, 2, 1), 0.5), change, 0.5).ravel().tolist()
    [0.5, 0.0]
    """
    strength = np.abs(change).max(axis=-1)
    number = max(1, round(share * strength.size))
    chosen = np.zeros(strength.size, bool)
    chosen[np.argsort(-strength, axis=None, kind="stable")[:number]] = True
    mask = chosen.reshape(strength.shape)[..., None]
    return np.where(mask, (change > 0).astype(images.dtype), images)


def outliers(distances: np.ndarray) -> np.ndarray:
    """Distances in units of the limit, `RATIO` times their median; NaN stays NaN.

    >>> outliers(np.array([1.0, 2.0, 7.0])).round(2).tolist()
    [0.36, 0.71, 2.5]
    """
    median = np.nanmedian(distances) if np.isfinite(distances).any() else np.nan
    if median > 0:
        scores: np.ndarray = distances / (RATIO * median)
        return scores
    return np.where(np.isnan(distances), np.nan, np.where(distances > 0, np.inf, 0.0))


def _common(change: np.ndarray, axis: int) -> np.ndarray:
    """(k,) the norm of the mean change (k, k, h, w, c) along an axis, without NaN.

    >>> change = np.array([[np.nan, 3.0], [1.0, np.nan]]).reshape(2, 2, 1, 1, 1)
    >>> _common(change, 0).tolist(), _common(change, 1).tolist()
    ([1.0, 3.0], [3.0, 1.0])
    """
    number = (~np.isnan(change[..., 0, 0, 0])).sum(axis=axis)
    mean = np.nansum(change, axis=axis) / np.maximum(number, 1).reshape(-1, 1, 1, 1)
    norms: np.ndarray = np.sqrt((mean.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    return np.where(number > 0, norms, np.nan)


def _best_of_others(moved: np.ndarray) -> np.ndarray:
    """(k,), the largest value of the other classes.

    >>> _best_of_others(np.array([0.1, 0.9, 0.4])).tolist()
    [0.9, 0.4, 0.9]
    """
    first, second = np.sort(moved)[[-1, -2]]
    best: np.ndarray = np.where(np.arange(len(moved)) == moved.argmax(), second, first)
    return best
