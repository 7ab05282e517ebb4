"""Provenance: find the origins of the training images that sent poison."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.stats import hypergeom

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.defenses import _art
from keras_backdoor.defenses._retraining import chosen_recipe, retrained
from keras_backdoor.defenses.base import Defense, Evidence, Need
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.errors import BadInput
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe

Criterion = Literal["disagreement", "accuracy"]
SIGNIFICANT = 1e-3
"""The largest p-value, over all origins, with which flagged images concentrate in an origin."""


def concentration(flagged: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """How unlikely it is that so many flagged images come from each origin by chance.

    Args:
        flagged: (n,) bool.
        origin: (n,) the number of the origin of each image, from 0.

    Returns:
        (origins,) p-values of one-sided hypergeometric tests: the probability that at least so many
        of the flagged images are among those of the origin, if they are drawn at random.

    >>> flags = np.array([True, True, False, False, False, False])
    >>> concentration(flags, np.array([0, 0, 1, 1, 1, 1])).round(3).tolist()
    [0.067, 1.0]
    """
    sizes = np.bincount(origin)
    found = np.bincount(origin[flagged], minlength=len(sizes))
    p: np.ndarray = hypergeom.sf(found - 1, len(flagged), int(flagged.sum()), sizes)
    return p


@dataclass(frozen=True)
class Provenance(Defense[FlaggedSamples]):
    """Find the origins, such as devices or sources, whose training images are poisoned.

    Baracaldo et al., Detecting Poisoning Attacks on Machine Learning in IoT Environments, 2018: the
    network is trained with and without the images of each origin. An origin is poisoned if the
    accuracy on trusted images is higher without it by more than `eps`. Without trusted images, a
    random part of the training images of the other origins takes their place.

    A backdoor costs no accuracy on clean images, so this criterion does not see it. That of this
    package asks which origin the images come from that `LabelDisagreement` flags: an origin is
    poisoned if significantly more of them come from it than by chance.

    Args:
        criterion: `disagreement` is that of this package, `accuracy` that of the paper.
        eps: the difference of the accuracies.
        validation: the share of the training images that takes the place of the trusted ones.
        recipe: the recipe of the trainings of the paper, or the name of a preset. By default that
            in the card of the model, or the default recipe.
        audit: the settings of the audit that `disagreement` uses.
        seed: the seed of the split and of the audit.

    Notes:
        The criterion of the paper is computed by ART, which gets row numbers in the place of images
        (see `suspected_origins`). Every network is trained from new weights. With `accuracy` all
        images of a poisoned origin are flagged; with `disagreement` those that the audit flags.
    """

    criterion: Criterion = "disagreement"
    eps: float = 0.2
    validation: float = 0.2
    recipe: Recipe | None = None
    audit: LabelDisagreement = field(default_factory=LabelDisagreement)
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (
        Need("train", labelled=True, with_origin=True),
        Need("clean", labelled=True, optional=True),
    )
    commands: ClassVar[tuple[str, ...]] = ("audit",)
    paper: ClassVar[str] = "Baracaldo et al., IEEE ICIOT 2018"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"criterion": "accuracy"},
        "thesis": {"criterion": "accuracy"},
    }
    quick: ClassVar[dict[str, Any]] = {"audit": LabelDisagreement(**LabelDisagreement.quick)}
    caveats: ClassVar[tuple[str, ...]] = LabelDisagreement.caveats

    def __post_init__(self) -> None:
        if self.criterion not in ("disagreement", "accuracy"):
            raise BadInput(
                f"criterion must be disagreement or accuracy. Received: {self.criterion}"
            )
        if self.eps < 0 or not 0 < self.validation < 1:
            raise BadInput(
                "eps must be 0 or more and validation must lie between 0 and 1. Received: "
                f"eps={self.eps}, validation={self.validation}"
            )

    def run(self, evidence: Evidence) -> FlaggedSamples:
        """See `Method.run`."""
        names, origin = np.unique(np.asarray(evidence.train.origin), return_inverse=True)
        if len(names) < 2:
            raise BadInput(
                f"All images have the origin {names[0]}: origins can only be compared if there are "
                "two or more."
            )
        decide = self._by_audit if self.criterion == "disagreement" else self._by_accuracy
        scores, flagged, groups, how = decide(evidence, origin)
        return FlaggedSamples(
            scores=scores,
            flagged=flagged,
            groups={str(names[number]): group for number, group in groups.items()},
            group_of=names[origin].astype(str),
            **how,
        )

    def _by_audit(self, evidence: Evidence, origin: np.ndarray) -> tuple[Any, ...]:
        answer = evidence.run(replace(self.audit, seed=self.seed))
        p = concentration(answer.flagged, origin)
        poisoned = p * len(p) < SIGNIFICANT
        groups = {
            number: Group(
                float(-np.log10(max(value, 1e-300))),
                bool(poisoned[number]),
                {"flagged by the audit": float(answer.flagged[origin == number].sum())},
            )
            for number, value in enumerate(p)
        }
        summary = {"images that the audit flags": str(int(answer.flagged.sum())), **answer.summary}
        reason = answer.inconclusive
        if answer.flagged.any() and not poisoned.any():
            reason = "the audit flags images, but they do not come from one of the origins"
        how = {"summary": summary, "inconclusive": reason, "embedding": answer.embedding}
        return answer.scores, answer.flagged & poisoned[origin], groups, how

    def _by_accuracy(self, evidence: Evidence, origin: np.ndarray) -> tuple[Any, ...]:
        train, clean = evidence.train, evidence.get("clean")
        recipe, text = chosen_recipe(evidence.model, self.recipe)
        trainings = _Trainings(evidence, recipe, [train] if clean is None else [train, clean])
        suspected = _art.suspected_origins(
            origin,
            trainings.on,
            np.concatenate([samples.known_labels for samples in trainings.images]),
            trusted=None if clean is None else len(train) + np.arange(len(clean)),
            eps=self.eps,
            share=self.validation,
            seed=self.seed,
        )
        groups = {
            number: Group(suspected.get(number, 0.0), number in suspected)
            for number in range(int(origin.max()) + 1)
        }
        flagged = np.isin(origin, list(suspected))
        scores = np.array([groups[int(number)].score for number in origin])
        summary = {"trainings": f"{len(trainings.networks)}, each with {text}"}
        return scores, flagged, groups, {"summary": summary}


class _Trainings:
    """Networks trained on rows of the training data, each of them once.

    Attributes:
        images: the training images and, if there are any, the trusted ones, whose row numbers
            follow.
        networks: the trained networks by their rows.
    """

    def __init__(self, evidence: Evidence, recipe: Recipe, images: list[Samples]) -> None:
        self.evidence, self.recipe, self.images = evidence, recipe, images
        self.networks: dict[bytes, Classifier] = {}

    def on(self, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function that returns the predictions of the network for rows of the images."""
        key = rows.tobytes()
        if key not in self.networks:
            part = self.images[0].subset(rows)
            self.networks[key] = retrained(self.evidence, "origins", part, self.recipe)
        return partial(self._predicted, self.networks[key])

    def _predicted(self, network: Classifier, rows: np.ndarray) -> np.ndarray:
        out, first = np.empty(len(rows), np.int64), 0
        for samples in self.images:
            inside = (rows >= first) & (rows < first + len(samples))
            if inside.any():
                out[inside] = network.predict(samples.subset(rows[inside] - first))
            first += len(samples)
        return out
