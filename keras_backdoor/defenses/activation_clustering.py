"""Activation clustering: split the images of each class by their activations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.answers.flagged_samples import Group
from keras_backdoor.defenses import _art
from keras_backdoor.defenses._class_features import ClassFeatures, class_features
from keras_backdoor.defenses._clusters import REDUCERS, Reducer, clustered, reduced, silhouette
from keras_backdoor.defenses._reclassification import Reclassified, poison_among, reclassified
from keras_backdoor.defenses._retraining import chosen_recipe, retrained
from keras_backdoor.defenses.base import Defense, Evidence, Need
from keras_backdoor.errors import BadInput
from keras_backdoor.training import Recipe

Decision = Literal["reclassification", "silhouette", "relative-size", "smaller", "distance"]
DECISIONS = ("reclassification", "silhouette", "relative-size", "smaller", "distance")


@dataclass(frozen=True)
class ActivationClustering(Defense[FlaggedSamples]):
    """Split the images of each class into clusters by their activations, and flag clusters.

    Chen et al., Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering, 2018:
    poisoned images are given their label for another reason than clean ones, which shows in the
    last hidden layer. Its activations are reduced to a few components for each class and split by
    k-means. Then a rule decides for each cluster whether it is poison.

    Args:
        layer: the path of the layer. By default the last hidden dense layer, or the layer
            before the last one if another kind of layer lies between.
        reducer: `whitened-pca` and `fast-ica` (the paper) give the same clusters; `pca` does not
            whiten (the default of ART).
        components: the number of components.
        clusters: the number of clusters of each class.
        decision: which clusters are poison. `reclassification` trains the architecture again
            without a cluster and flags it if l / p < `ratio`, see `reclassified`. `silhouette` and
            `relative-size` flag the smallest cluster of a class if it holds less than `size` of the
            class, and `silhouette` also asks for a mean silhouette above `cohesion`. `smaller` and
            `distance` are rules of ART: the smallest cluster of every class, and clusters that are
            nearer to another class than to their own.
        size: the share of the class below which a cluster is suspiciously small.
        cohesion: the mean silhouette above which the clusters are real.
        ratio: T of the reclassification.
        recipe: the recipe of the reclassification, or the name of a preset. By default that in the
            card of the model, or the default recipe.
        seed: the seed of k-means and of FastICA.

    Notes:
        The reclassification needs one training for each number of a cluster: without the largest
        clusters of all classes, without the second largest ones, and so on. If the largest cluster
        of a class moves, the others have not taught its class, so that one of them is unlike the
        others. Then all but one are flagged, whatever their l / p: the one whose images the network
        that was trained without them is least sure of. Poisoned images show other classes, which it
        knows; clean ones show a class that it has not seen. `relative-size` and `silhouette` are
        rules of ART, but fail there with NumPy 2, so they are computed here.
    """

    layer: str | None = None
    reducer: Reducer = "whitened-pca"
    components: int = 10
    clusters: int = 2
    decision: Decision = "reclassification"
    size: float = 0.35
    cohesion: float = 0.1
    ratio: float = 1.0
    recipe: Recipe | None = None
    seed: int = 0

    needs: ClassVar[tuple[Need, ...]] = (Need("train", labelled=True),)
    commands: ClassVar[tuple[str, ...]] = ("audit",)
    baseline: ClassVar[bool] = True
    paper: ClassVar[str] = "Chen et al., Activation Clustering, SafeAI 2019 (arXiv 1811.03728)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"reducer": "fast-ica"},
        "thesis": {"reducer": "pca", "decision": "smaller"},
        "thesis-distance": {"reducer": "pca", "decision": "distance"},
    }
    quick: ClassVar[dict[str, Any]] = {"recipe": Recipe(epochs=6, batch_size=64)}
    caveats: ClassVar[tuple[str, ...]] = (
        "Few poisoned images may share a cluster with clean ones, and are then missed.",
    )

    def __post_init__(self) -> None:
        if self.reducer not in REDUCERS or self.decision not in DECISIONS:
            raise BadInput(
                f"reducer must be one of {', '.join(REDUCERS)}, and decision one of "
                f"{', '.join(DECISIONS)}. Received: {self.reducer}, {self.decision}"
            )
        if self.components < 1 or self.clusters < 2:
            raise BadInput(
                "components must be 1 or more and clusters 2 or more. Received: "
                f"components={self.components}, clusters={self.clusters}"
            )
        if self.decision == "distance" and self.clusters != 2:
            raise BadInput("The decision 'distance' needs clusters=2.")

    def run(self, evidence: Evidence) -> FlaggedSamples:
        """See `Method.run`."""
        data = class_features(evidence, self.layer)
        points = data.map(lambda f: reduced(f, self.components, self.reducer, self.seed))
        with threadpool_limits(1):
            clusters = {c: clustered(p, self.clusters, self.seed) for c, p in points.items()}
        found = _Found(data, points, clusters)
        decide = {
            "reclassification": self._by_reclassification,
            "smaller": self._by_art,
            "distance": self._by_art,
        }.get(self.decision, self._by_size)
        groups, summary = decide(found, evidence)
        notes, reason = data.notes()
        flagged = found.flagged()
        return FlaggedSamples(
            scores=found.scores(),
            flagged=flagged,
            groups={str(c): group for c, group in groups.items()},
            group_of=data.labels.astype(str),
            embedding=data.embedding(points),
            summary={"layer": data.layer, **summary, **notes},
            inconclusive="" if flagged.any() else reason,
        )

    def _by_size(self, found: "_Found", evidence: Evidence) -> tuple[dict[int, Group], dict]:
        groups = {}
        for label, clusters in found.clusters.items():
            shares = np.bincount(clusters) / len(clusters)
            figures = {"smallest cluster": float(shares[-1])}
            small = shares[-1] < self.size and len(shares) > 1
            score = 1.0 - float(shares[-1])
            if self.decision == "silhouette":
                score = silhouette(found.points[label], clusters, self.seed)
                figures["silhouette"] = score
                small &= score > self.cohesion
            found.poison[label] = [len(shares) - 1] if small else []
            groups[label] = Group(score, bool(small), figures)
        return groups, {}

    def _by_art(self, found: "_Found", evidence: Evidence) -> tuple[dict[int, Group], dict]:
        given = list(found.clusters.values())
        if self.decision == "smaller":
            flags = _art.smaller_clusters(given)
        else:
            flags = _art.clusters_nearer_to_another_class(
                given, [found.data.features[found.data.rows(c)] for c in found.clusters]
            )
        groups = {}
        for (label, clusters), flagged in zip(found.clusters.items(), flags, strict=True):
            found.poison[label] = np.unique(clusters[flagged]).tolist()
            share = float(flagged.mean())
            groups[label] = Group(1.0 - share, bool(flagged.any()), {"flagged share": share})
        return groups, {}

    def _by_reclassification(
        self, found: "_Found", evidence: Evidence
    ) -> tuple[dict[int, Group], dict]:
        recipe, text = chosen_recipe(evidence.model, self.recipe)
        results: dict[int, dict[int, Reclassified]] = {c: {} for c in found.clusters}
        for number in range(self.clusters):
            out = found.rows_of(number)
            rest = evidence.train.subset(np.setdiff1d(np.arange(len(evidence.train)), out))
            network = retrained(evidence, f"without-cluster-{number}", rest, recipe)
            scores = network.scores(evidence.train.subset(out))
            for label in results:
                own = found.data.labels[out] == label
                if own.any():
                    results[label][number] = reclassified(scores[own], label)
        groups = {}
        for label, by_number in results.items():
            found.poison[label] = poison_among(by_number, self.ratio)
            most = max(by_number.values(), key=lambda r: r.suspicion)
            groups[label] = Group(
                most.suspicion,
                bool(found.poison[label]),
                {"l": most.kept, "p": most.moved, "source class": most.other},
            )
        return groups, {"trainings": f"{self.clusters}, each with {text}"}


class _Found:
    """The clusters of the examined classes, and which of them are poison."""

    def __init__(
        self, data: ClassFeatures, points: dict[int, np.ndarray], clusters: dict[int, np.ndarray]
    ) -> None:
        self.data, self.points, self.clusters = data, points, clusters
        self.poison: dict[int, list[int]] = {}

    def rows_of(self, number: int) -> np.ndarray:
        """The rows of the images in the clusters with a number, in increasing order."""
        rows = [self.data.rows(c)[k == number] for c, k in self.clusters.items()]
        joined: np.ndarray = np.sort(np.concatenate(rows))
        return joined

    def flagged(self) -> np.ndarray:
        """(n,) bool, whether the image is in a cluster that is poison."""
        flagged = np.zeros(len(self.data.labels), bool)
        for label, clusters in self.clusters.items():
            flagged[self.data.rows(label)] = np.isin(clusters, self.poison[label])
        return flagged

    def scores(self) -> np.ndarray:
        """(n,) how much nearer an image is to the suspicious cluster than to the other ones.

        The suspicious clusters are the flagged ones, or the smallest one if none is flagged.
        """
        scores = np.full(len(self.data.labels), np.nan)
        for label, clusters in self.clusters.items():
            points = self.points[label]
            numbers = np.unique(clusters)
            centers = np.stack([points[clusters == n].mean(axis=0) for n in numbers])
            distances = np.linalg.norm(points[:, None] - centers[None], axis=2)
            suspicious = np.isin(numbers, self.poison[label] or [numbers[-1]])
            if suspicious.all():
                suspicious[0] = False
            near = distances[:, suspicious].min(axis=1)
            scores[self.data.rows(label)] = distances[:, ~suspicious].min(axis=1) - near
        return scores
