"""Audits of training data: hand values, poison that a network has learned, and bad input."""

import dataclasses

import numpy as np
import pytest
from planted import digits, network

from keras_backdoor._internals.backend import keras
from keras_backdoor.answers import FlaggedSamples
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import Poisoned
from keras_backdoor.defenses import (
    ActivationClustering,
    LabelDisagreement,
    Provenance,
    Retrain,
    SpectralSignatures,
)
from keras_backdoor.defenses._class_features import ClassFeatures
from keras_backdoor.defenses._clusters import clustered, reduced
from keras_backdoor.defenses._reclassification import Reclassified, poison_among, reclassified
from keras_backdoor.defenses.label_disagreement.cores import central, drawn_anew, minor
from keras_backdoor.defenses.label_disagreement.found import (
    Found,
    majorities,
    on_the_flagged_side,
    poisoned_classes,
    turned_around,
)
from keras_backdoor.defenses.label_disagreement.opinions import Opinions
from keras_backdoor.defenses.provenance import concentration
from keras_backdoor.defenses.spectral_signatures import whitened_distances
from keras_backdoor.evaluation import evaluate
from keras_backdoor.network import graph
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers import Patch

TARGET = 5
TRIGGER = Patch(size=4, row=0, column=10, color="white")
RECIPE = Recipe(epochs=20, batch_size=32, learning_rate=2e-3, seed=1)
AUDITS = (ActivationClustering, SpectralSignatures, LabelDisagreement)


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A network that has learned its backdoor from poisoned training data."""

    model: Classifier
    poisoned: Poisoned

    def found(self, answer) -> tuple[float, float]:
        """(share of the poison, share of the clean images) that an answer flags."""
        poison = self.poisoned.is_poison
        return float(answer.flagged[poison].mean()), float(answer.flagged[~poison].mean())


@pytest.fixture(scope="module")
def learned() -> Learned:
    clean = digits("train", 2500, seed=3).in_memory()
    poisoned = BadNets(TRIGGER, TARGET, count=60).poison(clean)
    samples = poisoned.samples.in_memory()
    model, _ = fit(network, samples, RECIPE)
    origin = np.arange(len(samples)) % 4
    origin[poisoned.is_poison] = 3
    samples = dataclasses.replace(samples, origin=np.array([f"camera {o}" for o in origin]))
    return Learned(model, dataclasses.replace(poisoned, samples=samples))


def test_the_network_has_a_backdoor(learned: Learned) -> None:
    measured = evaluate(learned.model, digits("test", 1000), trigger=TRIGGER, target=TARGET)
    assert float(measured.attack_success_rate) > 0.9
    assert float(measured.clean_accuracy) > 0.9


class TestActivationClustering:
    def test_reclassification_finds_the_class(self, learned: Learned) -> None:
        method = ActivationClustering(recipe=dataclasses.replace(RECIPE, epochs=8))
        answer = method(learned.model, train=learned.poisoned.samples)
        assert answer.groups[str(TARGET)].flagged
        assert learned.found(answer)[0] >= 0.85

    def test_the_preset_of_the_thesis_removes_a_third_of_the_data(self, learned: Learned) -> None:
        answer = ActivationClustering.preset("thesis")(
            learned.model, train=learned.poisoned.samples
        )
        assert all(group.flagged for group in answer.groups.values())
        assert 0.25 < learned.found(answer)[1] < 0.5

    @pytest.mark.parametrize("decision", ["relative-size", "silhouette", "distance"])
    def test_other_decisions_run(self, learned: Learned, decision: str) -> None:
        method = ActivationClustering(decision=decision)
        answer = method(learned.model, train=learned.poisoned.samples)
        assert len(answer.groups) == 10
        assert np.isfinite(answer.scores).all()
        assert answer.flagged.any() == any(g.flagged for g in answer.groups.values())

    def test_whitened_components_give_the_clusters_of_fast_ica(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(300, 12)) * np.arange(1, 13)
        features[:30] += 15.0
        one, other = (
            clustered(reduced(features, 4, reducer)) for reducer in ("whitened-pca", "fast-ica")
        )
        assert (one == other).mean() > 0.99

    def test_whitening_survives_a_class_without_full_rank(self) -> None:
        points = np.outer(np.arange(20.0), np.ones(6))
        assert reduced(points, 5).shape == (20, 1)
        assert reduced(points, 5, "fast-ica").shape == (20, 1)

    def test_the_ratio_by_hand(self) -> None:
        """Of six images two keep label 0; three go to class 2 and one to class 1."""
        scores = np.eye(3)[[0, 0, 2, 2, 2, 1]]
        found = reclassified(scores, 0)
        assert (found.kept, found.moved, found.other, found.sure) == (2, 3, 2, 1.0)
        assert poison_among({0: Reclassified(9, 1, 1, 1.0), 1: found}, 1.0) == [1]
        assert poison_among({0: Reclassified(9, 1, 1, 1.0), 1: found}, 0.5) == []

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"reducer": "tsne"}, "reducer must be one of"),
            ({"decision": "vote"}, "decision one of"),
            ({"components": 0}, "components must be 1 or more"),
            ({"clusters": 1}, "clusters 2 or more"),
            ({"decision": "distance", "clusters": 3}, "'distance' needs clusters=2"),
        ],
    )
    def test_refuses_settings(self, settings: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ActivationClustering(**settings)


class TestSpectralSignatures:
    def test_the_robust_score_ranks_the_poison_first(self, learned: Learned) -> None:
        answer = SpectralSignatures()(learned.model, train=learned.poisoned.samples)
        poison = learned.poisoned.is_poison
        own = learned.poisoned.samples.labels == TARGET
        clean = answer.scores[own & ~poison]
        ranks = (answer.scores[own & poison][:, None] > clean[None]).mean()
        assert ranks >= 0.9

    def test_the_paper_flags_a_share_of_every_class(self, learned: Learned) -> None:
        method = SpectralSignatures.preset("paper", epsilon=0.2)
        answer = method(learned.model, train=learned.poisoned.samples)
        for label in range(10):
            own = learned.poisoned.samples.labels == label
            assert answer.flagged[own].mean() == pytest.approx(0.3, abs=0.02)

    @pytest.mark.parametrize("epsilon", [0.01, 0.2, 0.6])
    def test_the_preset_of_the_thesis_flags_everything(self, learned: Learned, epsilon) -> None:
        method = SpectralSignatures.preset("thesis", epsilon=epsilon)
        assert method(learned.model, train=learned.poisoned.samples).flagged.all()

    def test_the_robust_distance_by_hand(self) -> None:
        """Medians 0 and spread 1/0.6745 of (-1, 0, 1); a value of 10 is 6.745 spreads away."""
        values = np.array([[-1.0], [0.0], [1.0], [-1.0], [1.0], [0.0], [10.0]])
        distances = whitened_distances(values, 1)
        unit = distances[0]
        assert distances[-1] / unit == pytest.approx(100.0)

    def test_refuses_settings(self) -> None:
        with pytest.raises(ValueError, match="score must be one of whitened"):
            SpectralSignatures(score="mean")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="epsilon must lie between 0 and 1"):
            SpectralSignatures(epsilon=0.0)
        with pytest.raises(ValueError, match=r"has no preset 'ours'; it has paper, art, thesis"):
            SpectralSignatures.preset("ours")


class TestLabelDisagreement:
    def test_finds_the_poison_and_nothing_else(self, learned: Learned) -> None:
        method = LabelDisagreement(**LabelDisagreement.quick)
        answer = method(learned.model, train=learned.poisoned.samples)
        poison, clean = learned.found(answer)
        assert [n for n, g in answer.groups.items() if g.flagged] == [str(TARGET)]
        assert poison >= 0.9
        assert clean <= 0.01

    def test_the_core_by_hand(self) -> None:
        """The half of a class that is nearest to its median, also by the margin alone."""
        features = np.linspace(-1, 1, 12)[:, None] * np.ones((1, 2))
        data = ClassFeatures(features.astype(np.float32), np.zeros(12, int))
        assert np.flatnonzero(central(data, np.zeros(12))).tolist() == [3, 4, 5, 6, 7, 8]
        margin = np.where(np.arange(12) == 5, 50.0, np.arange(12) % 3)
        assert not central(data, margin)[5]

    def test_the_core_is_drawn_anew_without_the_poison(self) -> None:
        """Also if the poison is the majority of its class, and few of its images are flagged."""
        rng = np.random.default_rng(0)
        poison = np.arange(100) < 60
        features = rng.normal(size=(100, 3)) + 20.0 * poison[:, None]
        data = ClassFeatures(features.astype(np.float32), np.zeros(100, int))
        core = central(data, np.zeros(100))
        assert core[poison].sum() > 40
        flagged = np.arange(100) < 10
        anew = drawn_anew(core, flagged, [0], data, np.zeros(100))
        assert anew.sum() == 20
        assert not anew[poison].any()

    def test_one_image_of_a_class_is_no_poison(self) -> None:
        data = ClassFeatures(np.random.default_rng(0).normal(size=(40, 3)), np.zeros(40, int))
        assert poisoned_classes(np.arange(40) < 4, data) == []
        assert poisoned_classes(np.arange(40) < 5, data) == [0]

    def test_the_flagged_side(self) -> None:
        """Two poisoned images that the copy gets wrong lie with the flagged ones."""
        rng = np.random.default_rng(0)
        poison = np.arange(200) < 20
        features = rng.normal(size=(200, 4)) + 9.0 * poison[:, None]
        seen = poison & (np.arange(200) > 1)
        assert on_the_flagged_side(features, seen).tolist() == poison.tolist()
        one = np.arange(200) == 3
        assert on_the_flagged_side(features, one).tolist() == one.tolist()

    def test_opinions_by_hand(self, learned: Learned) -> None:
        few = learned.poisoned.samples.take(20)
        scores = learned.model.scores(few)
        said = Opinions.of(learned.model, few)
        np.testing.assert_allclose(said["of_label"], scores[np.arange(20), few.labels], atol=1e-6)
        right = said["predicted"] == few.labels
        assert ((said["margin"] > 0) == right).all()


class TestProvenance:
    def test_finds_the_camera(self, learned: Learned, monkeypatch) -> None:
        """By what an audit flags; here the poison and one image of each camera."""
        poison = learned.poisoned.is_poison
        flagged = poison | (np.arange(len(poison)) < 4)

        def audited(self, evidence) -> FlaggedSamples:
            return FlaggedSamples(scores=flagged.astype(float), flagged=flagged)

        monkeypatch.setattr(LabelDisagreement, "run", audited)
        answer = Provenance()(learned.model, train=learned.poisoned.samples)
        assert [n for n, g in answer.groups.items() if g.flagged] == ["camera 3"]
        assert learned.found(answer) == (1.0, 1 / (~poison).sum())

    @pytest.mark.parametrize("trusted", [True, False])
    def test_the_paper_finds_no_backdoor(self, learned: Learned, trusted: bool) -> None:
        """A backdoor costs no accuracy."""
        method = Provenance.preset("paper", recipe=dataclasses.replace(RECIPE, epochs=3))
        clean = {"clean": digits("train", 500, seed=9)} if trusted else {}
        answer = method(learned.model, train=learned.poisoned.samples, **clean)
        assert not answer.flagged.any()
        assert answer.verdict == "nothing"

    def test_by_hand(self) -> None:
        """Three of three flagged images among 5 of 10: 5/10 4/9 3/8."""
        flagged = np.arange(10) < 3
        p = concentration(flagged, (np.arange(10) >= 5).astype(int))
        assert p[0] == pytest.approx(5 / 10 * 4 / 9 * 3 / 8)
        assert p[1] == 1.0

    def test_refuses_a_single_origin(self, learned: Learned) -> None:
        same = dataclasses.replace(
            learned.poisoned.samples, origin=np.full(len(learned.poisoned.samples), "camera 0")
        )
        with pytest.raises(ValueError, match="All images have the origin camera 0"):
            Provenance()(learned.model, train=same)
        with pytest.raises(ValueError, match="criterion must be disagreement or accuracy"):
            Provenance(criterion="loss")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="validation must lie between 0 and 1"):
            Provenance(validation=1.0)


class TestRetrain:
    def test_removes_the_backdoor(self, learned: Learned) -> None:
        samples, poison = learned.poisoned.samples, learned.poisoned.is_poison
        found = SpectralSignatures()(learned.model, train=samples)
        found = dataclasses.replace(found, flagged=poison)
        answer = Retrain(recipe=RECIPE)(learned.model, train=samples, found=found)
        measured = evaluate(answer.classifier, digits("test", 1000), trigger=TRIGGER, target=TARGET)
        assert float(measured.attack_success_rate) < 0.2
        assert float(measured.clean_accuracy) > 0.9
        assert answer.summary["left out"] == f"60 of {len(samples)} images"

    @pytest.mark.filterwarnings("ignore:The accuracy on")  # the network to start from is new
    def test_starts_from_the_network_before_fine_tuning(self, learned: Learned, tmp_path) -> None:
        samples, poison = learned.poisoned.samples, learned.poisoned.is_poison
        found = SpectralSignatures()(learned.model, train=samples)
        found = dataclasses.replace(found, flagged=poison)
        start = Classifier(graph.reinitialized(learned.model.model), learned.model.to_input)
        before = start.model.get_weights()
        still = Recipe(epochs=1, batch_size=4000, learning_rate=1e-9)
        method = Retrain(recipe=still)
        answer = method(learned.model, train=samples, found=found, reference=start)
        for kept, old in zip(answer.model.get_weights(), before, strict=True):
            np.testing.assert_allclose(kept, old, atol=1e-6)
        assert answer.summary["start"].startswith("the weights of")
        for kept, old in zip(start.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(kept, old)
        other = Classifier(start.model, preprocess=(0, 255))
        with pytest.raises(ValueError, match="must have the preprocessing of the model, 0:1"):
            method(learned.model, train=samples, found=found, reference=other)
        with pytest.raises(ValueError, match="must have the architecture of the model: leave out"):
            shape, layers = learned.model.model.input_shape[1:], keras.layers
            flat = [keras.Input(shape), layers.Flatten(), layers.Dense(10, "softmax")]
            plain = Classifier(keras.Sequential(flat), learned.model.to_input)
            method(learned.model, train=samples, found=found, reference=plain)

    def test_refuses_other_data(self, learned: Learned) -> None:
        samples = learned.poisoned.samples
        found = SpectralSignatures()(learned.model, train=samples)
        with pytest.raises(ValueError, match="The audit is about 2560 images, and train has 26"):
            Retrain()(learned.model, train=samples.take(0.01), found=found)
        other = samples.subset(np.arange(len(samples))[::-1])
        with pytest.raises(ValueError, match="The audit is about other images"):
            Retrain()(learned.model, train=other, found=found)


def small(labels: list[int], value: float | None = None) -> Samples:
    rng = np.random.default_rng(0)
    shape = (len(labels), 14, 14, 1)
    pixels = rng.random(shape) if value is None else np.full(shape, value)
    return Samples(pixels.astype(np.float32), np.array(labels), value_range=(0, 1))


@pytest.mark.parametrize("cls", AUDITS, ids=lambda c: c.__name__)
class TestBadInput:
    def quick(self, cls, **settings):
        given = {"decision": "silhouette"} if cls is ActivationClustering else {}
        return cls(**{**cls.quick, **given, **settings})

    def test_a_class_with_few_images_is_not_examined(self, cls, learned: Learned) -> None:
        whole = learned.poisoned.samples.subset(~learned.poisoned.is_poison)
        one = np.flatnonzero(whole.labels == 7)[:1]
        few = whole.subset(np.concatenate([np.flatnonzero(whole.labels != 7)[:300], one]))
        answer = self.quick(cls)(learned.model, train=few)
        assert np.isnan(answer.scores[few.labels == 7]).all()
        assert "7 (1 image, fewer than 10)" in answer.summary["classes that were not examined"]
        assert answer.verdict in ("inconclusive", "found")

    def test_equal_activations_are_not_examined(self, cls, learned: Learned) -> None:
        answer = self.quick(cls)(learned.model, train=small([0] * 20 + [1] * 20, 0.5))
        assert answer.verdict == "inconclusive"
        assert "all activations are equal" in answer.inconclusive

    def test_activations_that_are_not_finite(self, cls) -> None:
        model = network()
        weights = model.get_weights()
        weights[3][:] = np.inf
        model.set_weights(weights)
        with pytest.raises(ValueError, match="'hidden' are NaN or infinite for 40 images"):
            self.quick(cls)(model, train=small([0, 1] * 20), preprocess=(0, 1))

    def test_a_layer_that_does_not_exist(self, cls, learned: Learned) -> None:
        with pytest.raises(ValueError, match=r"no layer 'fc'; its layers: .*hidden"):
            self.quick(cls, layer="fc")(learned.model, train=small([0, 1] * 20))

    def test_no_labels(self, cls, learned: Learned) -> None:
        with pytest.raises(ValueError, match="needs labeled images, and train has no labels"):
            self.quick(cls)(learned.model, train=small([0, 1] * 20).unlabelled())


def test_feature_maps_are_flattened(learned: Learned) -> None:
    answer = SpectralSignatures(layer="conv")(
        learned.model, train=learned.poisoned.samples.take(200)
    )
    assert answer.summary["layer"] == "conv"
    assert isinstance(learned.model.model.get_layer("conv"), keras.layers.Conv2D)


class TestTheMajority:
    def test_the_rest_of_a_class_is_turned_around(self) -> None:
        """A network without the rest is surer of other classes on it than one without the flags."""
        poison = np.arange(100) < 70
        features = np.random.default_rng(0).normal(size=(100, 3)) + 9.0 * poison[:, None]
        data = ClassFeatures(features, np.zeros(100, int))

        def found(flagged: np.ndarray, sure: np.ndarray) -> Found:
            predicted = np.where(flagged, 1, 0)
            one = np.ones(100)
            return Found(Opinions(one, predicted, one, one), sure, [0], flagged)

        first = found(~poison, ~poison & (np.arange(100) % 2 == 0))
        other = found(poison, poison & (np.arange(100) % 10 > 0))
        turned = turned_around(first, other, [0], data)
        assert turned.flagged.tolist() == poison.tolist()
        assert turned.sure.tolist() == other.sure.tolist()
        less = found(poison, poison & (np.arange(100) % 10 == 0))
        assert turned_around(first, less, [0], data).flagged.tolist() == (~poison).tolist()

    def test_a_majority_that_the_core_does_not_show(self) -> None:
        """The core of the class is poison, and the smaller cluster is clean."""
        poison = np.arange(100) < 70
        features = np.random.default_rng(0).normal(size=(100, 3)) + 9.0 * poison[:, None]
        data = ClassFeatures(features, np.zeros(100, int))
        rest = minor(data)
        assert rest.tolist() == (~poison).tolist()
        one, predicted = np.ones(100), np.where(poison, 1, 0)
        for share, classes in ((0.9, [0]), (0.2, [])):
            sure = poison & (np.arange(100) % 10 < 10 * share)
            found = majorities(
                Found(Opinions(one, predicted, one, one), sure, [], poison), rest, data
            )
            assert found.poisoned == classes
            assert found.flagged.tolist() == (poison if classes else np.zeros(100, bool)).tolist()
