"""Neural Cleanse: the mathematics by hand, a planted backdoor, and parity with the publication."""

import dataclasses

import numpy as np
import pytest
from planted import digits, network

from keras_backdoor._internals.backend import keras, tf
from keras_backdoor.answers import load_answer
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.defenses.goodnet import goodnet
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.images import draw_images, images_by_class
from keras_backdoor.defenses.neural_cleanse.published import Published, invert
from keras_backdoor.defenses.neural_cleanse.scan import examples
from keras_backdoor.defenses.neural_cleanse.schedule import CostState, Schedule, update
from keras_backdoor.defenses.neural_cleanse.search import Inverter, Variables
from keras_backdoor.defenses.neural_cleanse.verdict import (
    MANY_PAIRS,
    Run,
    anomaly_index,
    best_triggers,
    judge,
    paper_limit,
    scaled_limit,
    smallest,
)
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan, all_pairs
from keras_backdoor.network.activations import logits
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit


def linear_net(weights: np.ndarray, bias: np.ndarray, activation: str | None = None) -> Classifier:
    """A network of one dense layer over (4, 4, 1) images."""
    image = keras.Input((4, 4, 1))
    hidden = keras.layers.Flatten()(image)
    scores = keras.layers.Dense(len(bias), activation=activation)(hidden)
    net = keras.Model(image, scores)
    net.layers[-1].set_weights([weights.astype(np.float32), bias.astype(np.float32)])
    return Classifier(net, (0, 1))


@pytest.fixture(scope="module")
def one_pixel() -> Classifier:
    """Class 1 answers to the first pixel alone, 2 and 3 to halves; 0 is what is answered else."""
    weights = np.zeros((16, 4))
    weights[0, 1] = 60.0
    weights[:, 0], weights[8:, 2], weights[:8, 3] = 0.5, 3.0, 3.0
    return linear_net(weights, np.array([8.0, -30.0, -4.0, -4.0]))


@pytest.fixture(scope="module")
def gray() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 0.4, (64, 4, 4, 1)).astype(np.float32)


class TestTheIndex:
    def test_by_hand(self) -> None:
        # median 12, MAD 2: (12 - 4) / (1.4826 * 2)
        index = anomaly_index(np.array([4.0, 10.0, 12.0, 14.0, 16.0]))
        assert index[0] == pytest.approx(8 / (1.4826 * 2))
        assert index[4] == pytest.approx(-4 / (1.4826 * 2))

    def test_the_published_figures(self) -> None:
        """The authors' GTSRB BadNet: L1 16.12, median 64.47, scaled MAD 13.24, index 3.652."""
        near, far, middle = np.full(10, 4.0), np.full(10, 12.0), 13.24 / 1.4826
        above = np.concatenate([near, far, [middle]])
        norms = np.concatenate([[16.12, 64.47], 64.47 - near, 64.47 - far, 64.47 + above])
        assert len(norms) == 43
        assert anomaly_index(norms)[0] == pytest.approx(3.652, abs=1e-3)

    def test_unknown_and_impossible_norms(self) -> None:
        index = anomaly_index(np.array([1.0, np.nan, 5.0, 6.0, 7.0, np.inf]))
        assert index[0] > 2
        assert np.isnan(index[1])
        assert index[5] == -np.inf
        assert np.isnan(anomaly_index(np.array([np.inf, np.inf, 3.0]))).all()

    def test_equal_norms_are_no_division_by_zero(self) -> None:
        assert anomaly_index(np.full(5, 3.0)).tolist() == [0.0] * 5


class TestTheRules:
    def test_the_paper_s_limit_is_where_the_index_is_two(self) -> None:
        norms = np.array([4.0, 10.0, 12.0, 14.0, 16.0, np.nan])
        limit = paper_limit(norms, threshold=2.0)
        assert limit == pytest.approx(12 - 2 * 1.4826 * 2)
        assert anomaly_index(np.array([limit]), norms)[0] == pytest.approx(2)

    def test_small_and_rare(self) -> None:
        norms = np.array([2.0, 30, 40, 50, 55, 60])
        assert scaled_limit(norms, among=6, ratio=1 / 3, level=0.05) == pytest.approx(15)
        assert scaled_limit(norms, among=6, ratio=0.01, level=0.05) == pytest.approx(0.45)
        assert scaled_limit(norms, among=6, ratio=1 / 3, level=1e-100) < 1
        assert scaled_limit(norms, among=6000, ratio=0.9, level=0.05) < scaled_limit(
            norms, among=6, ratio=0.9, level=0.05
        )

    def test_the_rarity_by_hand(self) -> None:
        # logarithms 0, 1, 2, 3, 4: median 2, MAD 1; the quantile of 1 - 0.05 / 5 is 2.3263
        limit = scaled_limit(np.exp(np.arange(5.0)), among=5, ratio=0.999, level=0.05)
        assert limit == pytest.approx(np.exp(2 - 2.3263 * 1.4826), rel=1e-3)

    def test_a_wide_spread_does_not_hide_a_norm_of_nearly_nothing(self) -> None:
        # what a scan found on a network of the development zoo
        norms = np.array([3.1, 23.0, 36.9, 38, 44, 46, 61, 75, 90, 110])
        assert (anomaly_index(norms) < 2).all()
        limit = scaled_limit(norms, among=10, ratio=1 / 3, level=0.05)
        assert (norms < limit).tolist() == [True] + [False] * 9

    def test_without_a_median_nothing_is_an_outlier(self) -> None:
        for norms in ([3.0, np.inf, np.inf], [np.nan, np.nan]):
            assert np.isnan(scaled_limit(np.array(norms), among=3, ratio=0.3, level=0.05))
            assert np.isnan(paper_limit(np.array(norms), threshold=2))


class TestTheSchedule:
    """Against the published code's rules, written out for one label."""

    def reference(self, attacks, norms, plan: Schedule) -> list[float]:
        cost, waiting, up, down, costs = 0.0, 0, 0, 0, []
        for attack, _ in zip(attacks, norms, strict=True):
            works = attack >= plan.attack_threshold
            if cost == 0 and works:
                waiting += 1
                if waiting >= plan.patience:
                    cost, up, down = 1e-3, 0, 0
            else:
                waiting = 0
            up, down = (up + 1, 0) if works else (0, down + 1)
            if up >= plan.patience:
                cost, up = cost * 2.0, 0
            elif down >= plan.patience:
                cost, down = cost / 2.0**1.5, 0
            costs.append(cost)
        return costs

    def test_rows_go_their_own_way(self) -> None:
        plan = Schedule(patience=2)
        rng = np.random.default_rng(1)
        attacks = np.where(rng.uniform(size=(60, 5)) < [0.9, 0.6, 0.5, 0.2, 1.0], 1.0, 0.5)
        norms = rng.uniform(1, 9, (60, 5))
        state, costs = CostState.start(5), []
        for attack, norm in zip(attacks, norms, strict=True):
            update(state, attack, norm, plan)
            costs.append(state.cost.copy())
        for row in range(5):
            expected = self.reference(attacks[:, row], norms[:, row], plan)
            np.testing.assert_allclose(np.array(costs)[:, row], expected)

    def test_the_best_norm_needs_a_working_attack(self) -> None:
        state, plan = CostState.start(2), Schedule()
        improved, _ = update(state, np.array([1.0, 0.9]), np.array([5.0, 1.0]), plan)
        assert improved.tolist() == [True, False]
        assert state.best.tolist() == [5.0, np.inf]

    def test_a_row_converges_after_rise_fall_and_rest(self) -> None:
        plan = Schedule(patience=1, early_stop_patience=3)
        state, norm = CostState.start(1), np.array([4.0])
        stops = [
            bool(update(state, np.array([attack]), norm, plan)[1][0])
            for attack in (1.0, 1.0, 0.0, 1.0, 1.0, 1.0)
        ]
        assert stops == [False, False, False, True, True, True]


class TestInversion:
    def test_the_smallest_mask_is_the_pixel(self, one_pixel, gray) -> None:
        inverter = Inverter(one_pixel, gray, Schedule(steps=200))
        found = inverter.search(np.array([1, 2, 3]), seed=0)
        assert found.norms.argmin() == 0
        assert found.norms[0] < 1.5
        mask = found.masks[0, :, :, 0]
        assert mask.argmax() == 0
        assert mask[0, 0] > 0.6 * mask.sum()
        stamp, every = (found.masks[0], found.patterns[0]), np.arange(64)
        assert inverter.success(*stamp, 1, every) > 0.9
        # images that go there anyway do not count
        answers = one_pixel.predict(Samples(gray, value_range=(0, 1)))
        assert (answers == 0).all()
        assert np.isnan(inverter.success(*stamp, 0, every))
        assert np.isnan(inverter.success(*stamp, 0, every[:20]))
        assert inverter.success(np.zeros((4, 4, 1), np.float32), stamp[1], 1, every) == 0
        assert inverter._answer.experimental_get_tracing_count() == 1

    def test_rows_do_not_depend_on_their_company(self, one_pixel, gray) -> None:
        plan = Schedule(steps=30, starts=1)
        start = Inverter._start

        def search(targets, at: int) -> np.ndarray:
            inverter = Inverter(one_pixel, gray, plan, images_at_once=at)
            # every label starts from the same values, whatever its row
            inverter._start = lambda searches, seed: Variables(  # type: ignore[method-assign]
                *(np.repeat(v, searches, axis=0) for v in start(inverter, 1, seed))
            )
            return inverter.search(np.array(targets), seed=3).masks

        together = search([0, 1, 2, 3], 4096)
        in_parts = search([0, 1, 2, 3], 32)
        np.testing.assert_allclose(together, in_parts, atol=1e-4)
        for label in range(4):
            np.testing.assert_allclose(together[label], search([label], 4096)[0], atol=1e-4)

    def test_one_update_is_the_published_one(self, one_pixel, gray) -> None:
        """The same start and the same single batch: the same first step, cost and mask."""
        rng = np.random.default_rng(5)
        start = rng.uniform(size=(4, 4, 1)), rng.uniform(size=(4, 4, 1))
        few = gray[:32]
        reference = invert(one_pixel, few, 1, Published(steps=12, samples=32), start=start)
        inverter = Inverter(
            one_pixel, few, Schedule(steps=12, learning_rate=0.1, patience=5, starts=1)
        )
        inverter._start = lambda searches, seed: Variables.start(  # type: ignore[method-assign]
            *(v[None] for v in start)
        )
        log: list[tuple[float, float]] = []
        step = inverter._step

        def recording(*arguments, **more):
            changed, measured = step(*arguments, **more)
            log.append((float(measured.attack[0]), float(measured.norm[0])))
            return changed, measured

        inverter._step = recording  # type: ignore[method-assign]
        inverter.search(np.array([1]), seed=0)
        published = [(attack, norm) for _, attack, _, norm, _ in reference.log]
        np.testing.assert_allclose(log, published, rtol=1e-4, atol=1e-4)

    def test_the_start_that_is_ahead_half_way_goes_on(self, one_pixel, gray) -> None:
        targets = np.array([1, 2, 3])
        alone = [
            Inverter(one_pixel, gray, Schedule(steps=40, starts=1)).search(targets, seed=s).norms[0]
            for s in range(4)
        ]
        found = Inverter(one_pixel, gray, Schedule(steps=40, starts=4)).search(targets, seed=0)
        assert found.norms.shape == (3,)
        assert found.masks.shape == (3, 4, 4, 1)
        assert found.norms[0] < np.mean(alone)
        assert (found.steps == 4 * 20 + 20).all()
        np.testing.assert_allclose(found.masks.sum((1, 2, 3)), found.norms, rtol=1e-4)

    def test_all_starts_see_the_images_that_are_drawn(self, one_pixel, gray) -> None:
        inverter = Inverter(one_pixel, gray, Schedule(steps=4, starts=2))
        seen, step = [], inverter._step

        def recording(*arguments, **more):
            seen.append(more["drawn"].numpy())
            return step(*arguments, **more)

        inverter._step = recording  # type: ignore[method-assign]
        inverter.search(
            np.array([1, 2]), seed=0, draw=lambda rng, step: np.array([[1, 2], [3, 4]], np.int32)
        )
        np.testing.assert_array_equal(seen[0], [[1, 2], [1, 2], [3, 4], [3, 4]])
        np.testing.assert_array_equal(seen[-1], [[1, 2], [3, 4]])

    def test_super_pixels_share_their_value(self, one_pixel, gray) -> None:
        plan = Schedule(steps=60, superpixel=3)
        found = Inverter(one_pixel, gray, plan).search(np.array([1]), seed=0)
        mask = found.masks[0, :, :, 0]
        assert mask.shape == (4, 4)
        assert np.ptp(mask[:3, :3]) == 0
        assert np.ptp(mask[3, :3]) == 0
        assert mask[0, 0] != mask[0, 3]
        assert found.norms[0] == pytest.approx(mask.sum(), rel=1e-4)

    def test_the_weights_get_no_gradient(self, one_pixel, gray, monkeypatch) -> None:
        watched: list[int] = []
        tape = tf.GradientTape

        class Counting(tape):  # type: ignore[valid-type,misc]
            def gradient(self, target, sources, *arguments):
                watched.extend(len(s.shape) for s in sources)
                assert self.watched_variables() == ()
                return super().gradient(target, sources, *arguments)

        monkeypatch.setattr(tf, "GradientTape", Counting)
        Inverter(one_pixel, gray, Schedule(steps=2)).search(np.arange(4), seed=0)
        assert set(watched) == {4}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"steps": 0}, "steps must be 1 or more"),
            ({"superpixel": 0}, "superpixel must be 1 or more"),
            ({"starts": 0}, "starts must be 1 or more"),
            ({"attack_threshold": 0.0}, "attack_threshold must lie in 0..1"),
            ({"learning_rate": 0}, "learning_rate must be above 0"),
        ],
    )
    def test_bad_settings(self, changes, message) -> None:
        with pytest.raises(ValueError, match=message):
            Schedule(**changes)


class TestLogits:
    @pytest.mark.parametrize("activation", [None, "softmax"])
    def test_softmax_is_taken_off(self, activation, gray) -> None:
        rng = np.random.default_rng(0)
        weights, bias = rng.normal(size=(16, 3)) * 200, rng.normal(size=3)
        net = linear_net(weights, bias, activation)
        expected = gray.reshape(64, 16) @ weights + bias
        np.testing.assert_allclose(logits(net)(gray), expected, rtol=1e-4, atol=1e-2)

    def test_a_single_sigmoid_is_two_classes(self, gray) -> None:
        weights = np.ones((16, 1))
        net = linear_net(weights, np.zeros(1), "sigmoid")
        scores = np.asarray(logits(net)(gray))
        np.testing.assert_allclose(scores[:, 0], 0)
        np.testing.assert_allclose(scores[:, 1], gray.reshape(64, 16).sum(1), rtol=1e-5)

    def test_softmax_as_a_layer_and_an_activation(self, gray) -> None:
        layers = keras.layers
        for last in (layers.Softmax(), layers.Activation("softmax")):
            dense = layers.Dense(3)
            net = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), dense, last])
            kernel, bias = dense.get_weights()
            expected = gray.reshape(64, 16) @ kernel + bias
            np.testing.assert_allclose(logits(Classifier(net, (0, 1)))(gray), expected, atol=1e-5)

    def test_an_output_that_does_not_tell_gives_logarithms(self, gray) -> None:
        layers = keras.layers
        net = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Flatten(),
                layers.Dense(3, activation="softmax"),
                layers.Reshape((3,)),
            ]
        )
        model = Classifier(net, (0, 1))
        np.testing.assert_allclose(logits(model)(gray), np.log(net(gray)), atol=1e-5)


PLAN = Recipe(epochs=6, batch_size=64, learning_rate=2e-3)


@pytest.fixture(scope="module")
def planted() -> Classifier:
    """A square in the corner sends every small digit to class 2."""
    attack = BadNets("patch:size=3,row=1,column=1", 2, fraction=0.1)
    return fit(network, attack.poison(digits("train", 3000)).samples, PLAN)[0]


def run(norms, targets=None, sources=None, **changes) -> Run:
    """A run without triggers, as `judge` takes them."""
    return dataclasses.replace(Run.of_norms(np.asarray(norms, float), targets, sources), **changes)


def killed(function, at: int, tell) -> tuple:
    """(the function, which is killed at this call; a list of what `tell` makes of each call)."""
    calls: list = []

    def called(*arguments, **rest):
        calls.append(tell(*arguments, **rest))
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments, **rest)

    return called, calls


class TestNeuralCleanse:
    def test_it_finds_the_planted_class(self, planted, tmp_path) -> None:
        few = digits("train", 300, seed=4).unlabelled()
        method = NeuralCleanse(runs=1, schedule=Schedule(steps=120))
        answer = method(planted, clean=few)
        assert np.flatnonzero(answer.flagged).tolist() == [2]
        assert answer.verdict == "found"
        inside = answer.triggers[2].mask[:5, :5].sum() / answer.triggers[2].l1
        assert inside > 0.5  # by chance 0.13
        assert "of the clean images of other classes" in str(answer)
        assert answer.about["median_norm"] == pytest.approx(np.median(answer.measures["l1_norm"]))
        assert answer.measures["l1_norm"][2] < min(answer.about["limits"].values())
        facts = answer.facts()
        assert {"verdict", "flagged", "anomaly_index", "l1_norm"} <= set(facts)
        assert {"settings", "model_sha256", "seconds"} <= set(answer.about)
        back = load_answer(answer.save(tmp_path / "scan"))
        np.testing.assert_array_equal(back.measures["l1_norm"], answer.measures["l1_norm"])
        assert str(back) == str(answer)

    def test_a_killed_scan_goes_on(self, badnet, clean, tmp_path, monkeypatch) -> None:
        few = clean.take(100, seed=0)
        method = NeuralCleanse(runs=2, images=100, schedule=Schedule(steps=20, starts=1))
        whole = method(badnet, clean=few)
        search, seeds = killed(Inverter.search, 2, lambda *_, seed, **__: seed)
        monkeypatch.setattr(Inverter, "search", search)
        with pytest.raises(KeyboardInterrupt):
            method(badnet, clean=few, workdir=tmp_path)
        resumed = method(badnet, clean=few, workdir=tmp_path)
        assert seeds == [0, 1, 1]
        np.testing.assert_allclose(resumed.runs, whole.runs, rtol=1e-3)

    def test_the_low_cost_mode_looks_closer_at_the_suspicious(self, planted) -> None:
        method = NeuralCleanse(
            runs=1, mode="low-cost", quick_steps=60, candidates=3, others=5,
            schedule=Schedule(steps=80),
        )  # fmt: skip
        answer = method(planted, clean=digits("train", 200, seed=4))
        examined = ~np.isnan(answer.scores)
        assert 5 <= examined.sum() <= 8
        assert examined[2]
        assert answer.scores[examined].max() == answer.scores[2]

    def test_a_quick_look_at_larger_images_has_more_steps_of_fewer_images(
        self, monkeypatch
    ) -> None:
        layers = keras.layers
        net = keras.Sequential([keras.Input((50, 50, 1)), layers.Flatten(), layers.Dense(4)])
        images = np.random.default_rng(0).random((20, 50, 50, 1), np.float32)
        method = NeuralCleanse(runs=1, mode="low-cost", quick_steps=2, candidates=1, others=1)
        search, plans = Inverter.search, {}

        def recording(self, *arguments, label="triggers", **more):
            plans[label] = self.plan
            return search(self, *arguments, label=label, **more)

        monkeypatch.setattr(Inverter, "search", recording)
        method(Classifier(net, (0, 1)), clean=Samples(images, value_range=(0, 1)))
        quick, whole = plans["quick search"], plans["triggers"]
        assert (quick.steps, quick.batch_size, quick.starts) == (5, 13, 1)
        assert (whole.steps, whole.batch_size, whole.starts) == (None, 32, 3)

    def test_a_killed_low_cost_scan_keeps_its_quick_look(
        self, badnet, clean, tmp_path, monkeypatch
    ) -> None:
        few = clean.take(100, seed=0)
        method = NeuralCleanse(
            runs=1, mode="low-cost", quick_steps=4, candidates=2, others=3,
            schedule=Schedule(steps=6, starts=1),
        )  # fmt: skip
        search, labels = killed(Inverter.search, 2, lambda *_, label="triggers", **__: label)
        monkeypatch.setattr(Inverter, "search", search)
        with pytest.raises(KeyboardInterrupt):
            method(badnet, clean=few, workdir=tmp_path)
        method(badnet, clean=few, workdir=tmp_path)
        assert labels == ["quick search", "triggers", "triggers"]

    def test_runs_that_disagree_are_inconclusive(self) -> None:
        found, nothing = run([1.0, 10.0, 11.0, 12.0, 13.0]), run([10.0, 10.0, 11.0, 12.0, 13.0])
        rules = NeuralCleanse().limits()
        assert judge([found, found, nothing], 5, rules).verdict == "found"
        assert judge([found, nothing, nothing], 5, rules).verdict == "inconclusive"
        assert judge([nothing, nothing, nothing], 5, rules).verdict == "nothing"
        answer = judge([found, found, nothing], 5, rules)
        assert answer.flagged.tolist() == [True] + [False] * 4
        assert answer.source == {}

    def test_a_small_trigger_among_widely_spread_norms_is_not_acquitted(self) -> None:
        # a network of the development kind whose attack is strong: half of the norms are small
        norms = [109.7, 70.2, 3.9, 26.3, 11.1, 11.0, 5.6, 9.4, 81.0, 2.0]
        method = NeuralCleanse()
        answer = judge(
            [run(norms)], 10, method.limits(), inconclusive_below=method._share_of_median
        )
        assert not answer.flagged.any()
        assert answer.verdict == "inconclusive"
        assert "norms spread too widely" in str(answer)
        ordinary = judge(
            [run(np.linspace(50, 90, 10))],
            10,
            method.limits(),
            inconclusive_below=method._share_of_median,
        )
        assert ordinary.verdict == "nothing"

    @pytest.mark.parametrize(
        ("shares", "text"),
        [([0.9, 0.5], "50.0% to 90.0%"), ([0.5, np.nan], "50.0%"), ([np.nan], "an unknown share")],
    )
    def test_how_often_the_smallest_trigger_works(self, shares, text) -> None:
        runs = [run([1.0, 10.0, 11.0, 12.0], success=s) for s in shares]
        summary = judge(runs, 4, NeuralCleanse().limits()).summary
        words = f"{text} of the clean images of other classes"
        assert summary["smallest trigger works on"] == words

    def test_a_class_that_has_most_images_needs_no_trigger(self) -> None:
        norms = run([0.1, 50.0, 55.0, 52.0, 58.0, 51.0])
        method, even = NeuralCleanse(), np.full(6, 1 / 6)
        assert method.judge([norms], 6, even).flagged.tolist() == [True] + [False] * 5
        answer = method.judge([norms], 6, np.array([0.9, 0.1, 0, 0, 0, 0]))
        assert answer.verdict == "inconclusive"
        assert not answer.flagged.any()
        assert "puts most clean images in class 0: give others too" in str(answer)

    def test_clean_images_of_one_class_find_nothing(self, badnet, clean) -> None:
        threes = clean.of_class(3).take(100, seed=0)
        answer = NeuralCleanse(runs=1, schedule=Schedule(steps=80, starts=1))(badnet, clean=threes)
        assert not answer.flagged[3]
        assert not answer.further[3]
        assert np.argmin(answer.measures["l1_norm"]) == 3
        assert answer.verdict == "inconclusive"

    def test_among_many_pairs_nothing_is_flagged(self) -> None:
        """On the zoo, ordinary pairs of 43 classes have triggers as small as planted ones."""
        rules = NeuralCleanse().limits()
        for classes, verdict in ((10, "found"), (11, "inconclusive")):
            sources, targets = all_pairs(classes)
            assert (len(targets) > MANY_PAIRS) == (verdict == "inconclusive")
            norms = np.linspace(40, 60, len(targets))
            norms[(sources == 2) & (targets == 1)] = 0.5
            answer = judge([run(norms, targets, sources)], classes, rules)
            assert answer.verdict == verdict
            assert answer.source[1] == 2
            assert (answer.further if verdict == "inconclusive" else answer.flagged).tolist() == [
                c == 1 for c in range(classes)
            ]
        assert "pairs of many classes" in str(answer)
        paper = SourceSpecificScan(rule="paper")
        assert paper.judge([run(norms, targets, sources)], 11).flagged[1]

    def test_the_reference_of_a_part_is_what_is_drawn_at_random(self) -> None:
        sources, targets = all_pairs(5)
        norms = np.linspace(40, 60, len(targets))
        part = run(norms, targets, sources, reference=np.arange(len(targets)) < 12)
        answer = judge([part], 5, NeuralCleanse().limits())
        assert answer.about["median_norm"] == pytest.approx(np.median(norms[:12]))
        assert answer.about["reference_norms"] == [norms[:12].tolist()]

    def test_runs_that_mark_other_pairs_of_a_class_disagree(self) -> None:
        sources, targets = all_pairs(4)
        runs = []
        for source in (0, 3):
            norms = np.linspace(40, 60, len(targets))
            norms[(sources == source) & (targets == 1)] = 2.0
            runs.append(run(norms, targets, sources))
        answer = SourceSpecificScan().judge(runs, 4)
        assert not answer.flagged.any()
        assert "the runs disagree about class 1:" in str(answer)

    def test_a_class_that_serves_most_sources_has_none(self) -> None:
        sources, targets = all_pairs(5)
        norms = np.linspace(40, 60, len(targets))
        norms[(targets == 1) & (sources != 4)] = 2.0
        answer = SourceSpecificScan().judge([run(norms, targets, sources)], 5)
        assert np.flatnonzero(answer.flagged).tolist() == [1]
        assert 1 not in answer.source
        assert answer.source[0] == 1  # of an ordinary class: that of its smallest pair

    def test_two_classes_cannot_be_judged(self) -> None:
        answer = NeuralCleanse().judge([run([0.5, 90.0])], 2)
        assert answer.verdict == "inconclusive"
        assert "fewer than three classes" in str(answer)

    def test_where_no_norm_is_finite_no_class_is_flagged(self) -> None:
        marks = smallest(np.array([True, True]), np.array([np.inf, np.inf]))
        assert marks.tolist() == [False, False]

    def test_the_trigger_of_one_source_is_that_source_s(self) -> None:
        sources, targets = all_pairs(3)
        low, high = (1, 2), (0, 2)
        runs = []
        for norm in (1.0, 6.0):  # in the second run another source has the smaller trigger
            norms = np.full(6, 50.0)
            place = {
                pair: int(np.flatnonzero((sources == pair[0]) & (targets == pair[1]))[0])
                for pair in (low, high)
            }
            norms[place[low]], norms[place[high]] = norm, 0.5 if norm > 1 else 50.0
            masks = np.stack([np.full((1, 1, 1), 0.1), np.full((1, 1, 1), 0.2)])
            kept = np.array([place[low], place[high]])
            kept_triggers = {"kept": kept, "masks": masks, "patterns": masks}
            runs.append(run(norms, targets, sources, **kept_triggers))
        triggers = best_triggers(runs, {2: 1})
        assert float(triggers[2].mask[0, 0, 0]) == pytest.approx(0.1)
        assert float(best_triggers(runs, {})[2].mask[0, 0, 0]) == pytest.approx(0.2)

    def test_the_smallest_is_flagged_and_the_others_are_further_suspects(self) -> None:
        norms = [60.0, 2.0, 61.0, 59.0, 1.0, 62.0, 58.0, 60.5, 63.0]
        answer = judge([run(norms)], 9, NeuralCleanse().limits())
        assert np.flatnonzero(answer.flagged).tolist() == [4]
        assert np.flatnonzero(answer.further).tolist() == [1]
        assert "further suspects  " in str(answer)
        paper = judge([run(norms)], 9, NeuralCleanse(rule="paper").limits(), flag_all=True)
        assert np.flatnonzero(paper.flagged).tolist() == [1, 4]
        assert not paper.further.any()
        assert set(answer.about["limits"]) == {"scaled", "paper"}
        assert "anomaly index, which flags above 2" in str(answer)

    def test_pairs_name_the_source(self) -> None:
        sources, targets = all_pairs(4)
        norms = np.linspace(40, 60, len(targets))
        norms[(sources == 2) & (targets == 1)] = 2.0
        answer = judge([run(norms, targets, sources)], 4, NeuralCleanse().limits())
        assert np.flatnonzero(answer.flagged).tolist() == [1]
        assert answer.source[1] == 2
        assert answer.measures["l1_norm"][1] == 2.0
        assert answer.measures["norms"].shape == (1, 4)
        assert answer.measures["pair_norms"][2, 1] == 2.0
        assert np.isnan(np.diag(answer.measures["pair_norms"])).all()
        assert "pairs of source and target" in str(answer)
        seen = sources != 3
        few = judge([run(norms[seen], targets[seen], sources[seen])], 4, NeuralCleanse().limits())
        assert few.summary["no clean image of source class"] == "3"

    def test_a_pair_sees_images_of_its_source(self, badnet, clean) -> None:
        numbers, _, sizes = images_by_class(badnet, clean, 8, seed=0)
        assert (clean.labels[numbers] == np.repeat(np.arange(10), sizes)).all()
        method = SourceSpecificScan(images_per_source=8)
        space = method.space(badnet, clean, 0)
        draw = space.draw(6)
        assert draw is not None
        drawn = draw(np.random.default_rng(0), 0)
        assert drawn.shape == (90, 6)
        assert (clean.labels[numbers][drawn] == space.sources[:, None]).all()
        for row in (0, 40, 89):
            assert (clean.labels[numbers][space.seen_by(row)] == space.sources[row]).all()
            assert len(space.seen_by(row)) == 8
        shown = examples(badnet, clean, 3, seed=0)
        assert shown.shape == (5, 28, 28, 1)
        assert space.images.shape == (80, 28, 28, 1)
        few = space.draw(6, np.array([3, 80]))
        assert few is not None
        assert few(np.random.default_rng(0), 0).shape == (2, 6)
        without = method.space(badnet, clean.subset(clean.labels != 3), 0)
        assert len(without.targets) == 81
        assert 3 not in without.sources
        with pytest.raises(ValueError, match="takes up to 100 classes"):
            all_pairs(101)

    def test_a_scan_of_pairs_finds_the_planted_pair(self) -> None:
        """A bar sends ones to class 6, and no other digit."""
        bar = BadNets("patch:size=2,row=11,column=1", 6, source=1, count=150)
        model = fit(network, bar.poison(digits("train", 3000)).samples, PLAN)[0]
        plan = Schedule(steps=80, batch_size=8)
        method = SourceSpecificScan(runs=1, schedule=plan, images_per_source=16)
        answer = method(model, clean=digits("train", 600, seed=4).unlabelled())
        norms = answer.measures["pair_norms"]
        assert norms.shape == (10, 10)
        assert np.unravel_index(np.nanargmin(norms), norms.shape) == (1, 6)
        assert answer.source[6] == 1
        assert answer.triggers[6].mask[10:, :4].sum() > 0.5 * answer.triggers[6].l1

    def test_the_pool_is_in_the_model_s_range(self, badnet, clean) -> None:
        values = draw_images(badnet, clean, 50, seed=0)
        assert values.shape == (50, 28, 28, 1)
        assert values.dtype == np.float32
        assert 0 <= values.min() < values.max() <= 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"runs": 0}, "runs must be 1 or more"),
            ({"mode": "fast"}, "mode must be auto, full or low-cost"),
            ({"threshold": 0}, "threshold must be above 0"),
            ({"rule": "mine"}, "rule must be scaled or paper"),
            ({"images": 0}, "images must be 1 or more"),
        ],
    )
    def test_bad_settings(self, changes, message) -> None:
        with pytest.raises(ValueError, match=message):
            NeuralCleanse(**changes)

    def test_a_guard_is_not_scanned(self, badnet, clean) -> None:

        with pytest.raises(ValueError, match="scan the model that it was made from"):
            NeuralCleanse()(Classifier(goodnet(badnet, badnet), (0, 1)), clean=clean)
