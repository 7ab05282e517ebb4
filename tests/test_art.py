"""What is wrong in ART, shown beside what replaces it; these tests fail when ART mends it."""

import subprocess
import sys

import numpy as np
import pytest

from keras_backdoor.defenses import _art
from keras_backdoor.defenses._clusters import clustered, silhouette
from keras_backdoor.defenses.spectral_signatures import centered_scores
from keras_backdoor.metrics import Rate


def two_groups(clean: int = 90, poison: int = 10, away: float = 6.0) -> tuple[np.ndarray, ...]:
    """Features far from the origin, of which the last ones are shifted; and which ones."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(clean + poison, 8)) + 20.0
    features[clean:, 0] += away
    return features, np.arange(clean + poison) >= clean


def test_importing_art_leaves_logging_alone() -> None:
    """Stock ART closes the handlers of the process that imports it."""
    code = (
        "import io, logging\n"
        "{before}\n"
        "handler = logging.StreamHandler(io.StringIO())\n"
        "logging.getLogger('mine').addHandler(handler)\n"
        "{importing}\n"
        "print(any(ref() is handler for ref in logging._handlerList))"
    )
    kept = []
    for before, importing in (
        ("", "import art.defences"),
        ("from keras_backdoor.defenses import _art", "_art._analyzer()"),
    ):
        source = code.format(before=before, importing=importing)
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", source], capture_output=True,
                              text=True, check=True)  # fmt: skip
        kept.append(done.stdout.split()[-1])
    assert kept == ["False", "True"]


class TestActivationClustering:
    def test_smaller_flags_a_cluster_of_every_class(self) -> None:
        """Also of classes without poison: a third to a half of all data."""
        rng = np.random.default_rng(1)
        clusters = [clustered(rng.normal(size=(200, 4))) for _ in range(5)]
        flagged = np.concatenate(_art.smaller_clusters(clusters))
        assert 0.3 < flagged.mean() < 0.5

    def test_relative_size_fails_in_art(self) -> None:
        """`poison_clusters` is a tuple of arrays, and NumPy 2 refuses `in` on it."""
        clusters = [np.array([0] * 9 + [1]), np.array([0] * 5 + [1] * 5)]
        with pytest.raises(ValueError, match="truth value of an array|ambiguous"):
            _art._analyzer().analyze_by_relative_size(clusters)

    def test_distance_by_hand(self) -> None:
        """The second cluster of the first class lies at the second class."""
        clusters = [np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1])]
        points = [np.array([[0.0], [0.1], [0.2], [9.0]]), np.array([[9.0], [9.1], [9.2], [8.0]])]
        first, second = _art.clusters_nearer_to_another_class(clusters, points)
        assert first.tolist() == [False, False, False, True]
        assert not second.any()


class TestSpectralSignatures:
    def test_art_projects_uncentered_features(self) -> None:
        features, poison = two_groups()
        ours = centered_scores(features)
        # The sign of the singular vector is arbitrary, the mean of the features is not 0.
        mirrored = features.copy()
        mirrored[:, 0] = 40.0 - mirrored[:, 0]
        art = [_art.uncentered_scores(f) for f in (features, mirrored)]
        assert Rate(int((ours[poison].min() > ours[~poison]).sum()), 90) == Rate(90, 90)
        assert min(auc(poison, scores) for scores in art) < 0.1

    def test_they_agree_on_centered_features(self) -> None:
        features, _ = two_groups()
        features -= features.mean(axis=0)
        np.testing.assert_allclose(
            _art.uncentered_scores(features) ** 2, centered_scores(features), rtol=1e-6
        )


class TestProvenance:
    def test_art_drops_rows_of_all_origins(self) -> None:
        """It compares pixel values: every 8-bit image has only values that the origin has too."""
        with _art._quietly():
            from art.defences.detector.poison.provenance_defense import ProvenanceDefense
        images = np.random.default_rng(0).integers(0, 256, (40, 64))
        left, _ = ProvenanceDefense.filter_input(images, np.zeros(40), images[:20])
        assert len(left) < 20
        rows = np.arange(40)[:, None]
        left, _ = ProvenanceDefense.filter_input(rows, np.zeros(40), rows[:20])
        assert left[:, 0].tolist() == list(range(20, 40))

    @pytest.mark.parametrize("trusted", [True, False])
    def test_an_origin_that_costs_accuracy(self, trusted: bool) -> None:
        """A network that repeats the most frequent label of its rows; one origin lies."""
        origin = np.repeat([0, 1, 2], 20)
        labels = np.where(origin == 2, 1, 0)
        labels[:4] = 1
        asked = []

        def trained(rows: np.ndarray):
            asked.append(rows)
            lies = (labels[rows] == 1).mean() > 0.3
            return lambda rows: np.full(len(rows), int(lies))

        found = _art.suspected_origins(
            origin,
            trained,
            np.concatenate([labels, np.zeros(10, int)]),
            trusted=60 + np.arange(10) if trusted else None,
            eps=0.2,
            share=0.2,
            seed=0,
        )
        assert list(found) == [2]
        assert found[2] > 0.5
        assert all((np.diff(rows) > 0).all() for rows in asked)

    def test_leaves_the_random_state_of_numpy(self) -> None:
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        with _art._numpy_seed(3):
            np.random.random()  # noqa: NPY002
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def auc(positive: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def test_a_silhouette_needs_two_clusters() -> None:
    assert np.isnan(silhouette(np.zeros((5, 2)), np.zeros(5, int)))
