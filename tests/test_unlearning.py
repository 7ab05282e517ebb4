"""What is done with a recovered trigger: unlearning, neuron pruning, the input filter."""

import dataclasses
import json

import numpy as np
import pytest
from planted import digits, network

from keras_backdoor._internals.backend import keras
from keras_backdoor._safe.files import write_npz
from keras_backdoor.answers import FlaggedClasses, FlaggedSamples
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.defenses._recovered_triggers import (
    RecoveredTrigger,
    Refinement,
    combine,
    hold_out,
    median_norm,
    scan_notes,
    success,
    triggers_of,
)
from keras_backdoor.defenses.base import Evidence
from keras_backdoor.defenses.input_filter import InputFilter, filtered, suspicion
from keras_backdoor.defenses.neuron_pruning import NeuronPruning, number_to_silence
from keras_backdoor.defenses.unlearning import Unlearning, with_triggers
from keras_backdoor.evaluation import evaluate
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers import Checkerboard
from keras_backdoor.triggers.base import Stamp

STAMP = Checkerboard(size=8, row=19, column=19)


def scan(*flagged: int, triggers: tuple[int, ...] = (7,)) -> FlaggedClasses:
    marks = np.isin(np.arange(10), flagged)
    stamp = STAMP.stamp_for(28, 28)
    return FlaggedClasses(
        scores=marks * 3.0,
        flagged=marks,
        triggers=dict.fromkeys(triggers, stamp),
        about={"median_norm": 80.0},
    )


ALONE = Refinement(searches=0)
"""Keeps to the trigger of the scan."""


@pytest.fixture(scope="module")
def few(clean: Samples) -> Samples:
    return clean.take(1000, seed=5).in_memory()


def measured(answer, test_images):
    model = Classifier(answer.model, answer.preprocess, answer.reject_class)
    return evaluate(model, test_images, trigger=STAMP, target=7)


class TestUnlearning:
    def test_the_backdoor_is_unlearned(self, badnet, few, test_images) -> None:
        before = evaluate(badnet, test_images, trigger=STAMP, target=7)
        assert float(before.attack_success_rate) > 0.99
        searches = Refinement(searches=4, steps=50)
        method = Unlearning(refinement=searches, averaged=3, recipe=Recipe(batch_size=64))
        answer = method(badnet, clean=few, found=scan(7))
        after = measured(answer, test_images)
        assert float(after.attack_success_rate) < 0.03
        assert float(after.clean_accuracy) > float(before.clean_accuracy) - 0.04
        assert float(after.robust_accuracy) > 0.9
        left, worst = answer.history["recovered_success"], answer.history["worst_success"]
        assert left[0] > 0.99
        assert worst[-1] <= 0.02
        assert (worst >= left).all()
        norms = answer.history["smallest_norm"]
        assert norms[0] < 40 < norms[-1]
        assert "further suspects" not in str(answer)

    def test_the_model_that_goes_out_is_searched(self, badnet, few, monkeypatch) -> None:
        """Before, after the one round, and with the mean of the weights."""
        searched, search = [], Refinement.search

        def find(self, model, *arguments, **more):
            searched.append([w.copy() for w in model.model.get_weights()])
            return search(self, model, *arguments, **more)

        monkeypatch.setattr(Refinement, "search", find)
        again = Refinement(searches=1, steps=4)
        method = Unlearning(rounds=1, max_epochs=1, averaged=1, refinement=again)
        answer = method(badnet, clean=few.take(200), found=scan(7))
        assert len(searched) == len(answer.history["smallest_norm"]) == 3
        for known, out in zip(searched[-1], answer.model.get_weights(), strict=True):
            np.testing.assert_allclose(known, out, atol=1e-6)

    def test_it_stops_when_the_trigger_has_lost_its_effect(self, badnet, few) -> None:
        method = Unlearning(rounds=1, refinement=ALONE)
        answer = method(badnet, clean=few, found=scan(7))
        left = answer.history["worst_success"]
        stopped = np.flatnonzero(left <= method.stop)[0]
        assert stopped < method.max_epochs
        assert len(left) == 1 + stopped + method.averaged + 1
        assert answer.summary["epochs"] == str(stopped + method.averaged)

    def test_it_says_when_the_trigger_still_works(self, badnet, few) -> None:
        method = Unlearning(max_epochs=1, refinement=ALONE, recipe=Recipe(learning_rate=1e-7))
        answer = method(badnet, clean=few.take(200), found=scan(7))
        assert "raise max_epochs" in answer.summary["warning"]

    def test_a_share_of_the_images_is_stamped_and_keeps_its_label(self, few) -> None:
        first = Stamp(np.ones((28, 28, 1)), np.ones((28, 28, 1)))
        second = Stamp(np.ones((28, 28, 1)), np.zeros((28, 28, 1)))
        data = with_triggers(
            few, [RecoveredTrigger(1, first), RecoveredTrigger(2, second)], 0.2, seed=0
        )
        assert len(data) == len(few)
        assert sorted(data.labels) == sorted(few.labels)
        pixels = data.read()
        for value, target in ((255, 1), (0, 2)):
            stamped = (pixels == value).all(axis=(1, 2, 3))
            assert stamped.sum() == 100
            assert target not in data.labels[stamped]

    def test_triggers_of_one_source_share_half_of_its_images(self, few) -> None:
        full = np.ones((28, 28, 1))
        shades = [Stamp(full, full * (100 + n) / 255) for n in range(11)]
        data = with_triggers(few, [RecoveredTrigger(7, s, 3) for s in shades], 0.5, seed=0)
        pixels = data.read()
        counts = [int((pixels == 100 + n).all(axis=(1, 2, 3)).sum()) for n in range(11)]
        stamped = ((pixels >= 100) & (pixels <= 110)).all(axis=(1, 2, 3))
        assert set(data.labels[stamped]) == {3}
        source = int((few.labels == 3).sum())
        assert set(counts) == {source // 22}
        assert stamped.sum() <= source / 2

    def test_without_a_search_it_keeps_to_the_scan_s_trigger(
        self, badnet, few, monkeypatch
    ) -> None:
        monkeypatch.delattr("keras_backdoor.defenses._recovered_triggers.Inverter")
        method = Unlearning(rounds=1, refinement=ALONE, max_epochs=1, averaged=0)
        answer = method(badnet, clean=few.take(200), found=scan(7))
        assert len(answer.history["recovered_success"]) == 2
        assert (
            answer.summary[
                "smallest trigger, searched anew before and after each round, and at the end"
            ]
            == "not searched"
        )
        unknown = dataclasses.replace(scan(7), about={})
        method = Unlearning(rounds=1, max_epochs=1, averaged=0)
        answer = method(badnet, clean=few.take(200), found=unknown)
        assert (
            answer.summary[
                "smallest trigger, searched anew before and after each round, and at the end"
            ]
            == "not searched"
        )

    def test_a_part_of_the_trigger_is_enough_to_unlearn_the_whole(
        self, badnet, few, test_images
    ) -> None:
        """The scan knows a corner of the square; what is searched anew brings the rest."""
        whole = STAMP.stamp_for(28, 28)
        mask = np.zeros_like(whole.mask)
        mask[19:22, 19:22] = 1.0
        part = Stamp(mask, whole.pattern)
        found = dataclasses.replace(scan(7), triggers={7: part})
        paper = measured(
            Unlearning(rounds=1, refinement=ALONE, averaged=3)(badnet, clean=few, found=found),
            test_images,
        )
        searches = Refinement(searches=4, steps=50)
        method = Unlearning(refinement=searches, averaged=3)
        answer = method(badnet, clean=few, found=found)
        ours = measured(answer, test_images)
        assert float(paper.attack_success_rate) > 0.3
        assert float(ours.attack_success_rate) < 0.05
        assert answer.history["smallest_norm"][-1] > 2 * answer.history["smallest_norm"][0]

    def test_unlabelled_images_are_refused(self, badnet, few) -> None:
        with pytest.raises(ValueError, match="Unlearning needs labeled images, and clean has no"):
            Unlearning()(badnet, clean=few.unlabelled(), found=scan(7), preprocess=(0, 1))

    @pytest.mark.parametrize(
        "changes",
        [{"share": 0.0}, {"holdout": 1.0}, {"max_epochs": 0}, {"rounds": 0}, {"averaged": -1}],
    )
    def test_bad_settings(self, changes) -> None:
        with pytest.raises(ValueError, match="must"):
            Unlearning(**changes)


class TestNeuronPruning:
    def test_by_hand(self) -> None:
        success, accuracy = np.array([1, 0.5, 0.0, 0.0]), np.array([1, 1, 0.97, 0.5])
        assert number_to_silence(success, accuracy, 0.01, 0.05) == 2
        assert number_to_silence(success, accuracy, 0.01, 0.01) == 1
        assert number_to_silence(np.zeros(4), accuracy, 0.01, 0.05) == 0

    def test_the_trigger_loses_its_effect(self, badnet, few, test_images) -> None:
        answer = NeuronPruning(max_drop=0.1)(badnet, clean=few, found=scan(7))
        after = measured(answer, test_images)
        assert float(after.attack_success_rate) < 0.2
        assert float(after.clean_accuracy) > 0.85
        number = int(answer.history["pruned"])
        assert 0 < number < len(answer.history["order"])
        found = answer.history["recovered_success"]
        assert found[0] > 0.9
        assert found[number] <= 0.01
        assert "warning" not in answer.summary

    @pytest.mark.filterwarnings("ignore:The accuracy on")
    def test_a_net_without_hidden_dense_layer_is_refused(self, few) -> None:
        layers = keras.layers
        net = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10)])
        with pytest.raises(ValueError, match="no hidden dense layer"):
            NeuronPruning()(net, clean=few, found=scan(7), preprocess=(0, 1))


class TestInputFilter:
    def test_by_hand(self) -> None:
        active = np.array([[1.0, 5.0, 3.0], [0.0, 1.0, 2.0]])
        assert suspicion(active, np.array([1, 2])).tolist() == [4.0, 1.5]

    def test_stamped_images_are_rejected(self, badnet, few, test_images) -> None:
        answer = InputFilter()(badnet, clean=few, found=scan(7))
        assert answer.reject_class == 10
        after = measured(answer, test_images)
        assert float(after.attack_success_rate) < 0.02
        assert float(after.rejected_stamped) > 0.95
        assert 0.02 < float(after.rejected_clean) < 0.10

    def test_what_is_not_rejected_is_answered_as_before(self, badnet, few) -> None:
        answer = InputFilter()(badnet, clean=few, found=scan(7))
        guard = Classifier(answer.model, (0, 1), 10)
        scores, before = guard.scores(few), badnet.scores(few)
        kept = scores[:, 10] == 0
        np.testing.assert_allclose(scores[kept, :10], before[kept], atol=1e-5)
        np.testing.assert_allclose(scores[~kept], np.eye(11)[[10]].repeat((~kept).sum(), 0))

    def test_the_guard_is_made_of_built_in_layers(self, badnet, few, tmp_path) -> None:
        from keras_backdoor.loading import load_model

        guard = filtered(badnet, "fc_1", np.array([1, 2, 3]), 0.5)
        guard.save(tmp_path / "guard.keras")
        back = load_model(tmp_path / "guard.keras", preprocess=(0, 1))
        assert back.reject_class == 10
        expected = Classifier(guard, (0, 1), 10).scores(few)
        np.testing.assert_allclose(back.scores(few), expected, atol=1e-6)

    def test_a_threshold_needs_images(self, badnet, few) -> None:
        for number, warned in ((38, True), (40, False)):
            answer = InputFilter()(badnet, clean=few.take(number), found=scan(7))
            assert ("give 40 clean images" in str(answer)) == warned

    def test_maps_and_guards_are_refused(self, badnet, few) -> None:
        with pytest.raises(ValueError, match="needs a layer of"):
            InputFilter(layer="conv_1")(badnet, clean=few.take(50), found=scan(7))
        guard = filtered(badnet, "fc_1", np.array([1]), 0.5)
        with pytest.raises(ValueError, match="guard already"):
            InputFilter()(Classifier(guard, (0, 1)), clean=few, found=scan(7))


class TestWhatTheyShare:
    def test_which_triggers(self, badnet, few) -> None:
        assert [t.target for t in triggers_of(scan(7), badnet)] == [7]
        assert [t.target for t in triggers_of(scan(), badnet, [7])] == [7]
        from_one = dataclasses.replace(scan(7), source={7: 3})
        assert [(t.target, t.source) for t in triggers_of(from_one, badnet)] == [(7, 3)]
        with pytest.raises(ValueError, match="flags no class: name those"):
            triggers_of(scan(), badnet)
        with pytest.raises(ValueError, match="no trigger for class 3"):
            triggers_of(scan(3), badnet)
        other = FlaggedSamples(scores=np.ones(2), flagged=np.ones(2, bool))
        with pytest.raises(ValueError, match="InputFilter needs a saved FlaggedClasses as found"):
            InputFilter()(badnet, clean=few, found=other)

    def test_a_scan_of_another_model_is_refused(self, badnet) -> None:
        layers = keras.layers
        few = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(5)])
        with pytest.raises(ValueError, match="of another model: it has a trigger for class 7"):
            triggers_of(scan(7), Classifier(few, (0, 1)))
        large = keras.Sequential([keras.Input((32, 32, 1)), layers.Flatten(), layers.Dense(10)])
        with pytest.raises(
            ValueError, match=r"this one has 10 classes and images of \(32, 32, 1\)"
        ):
            triggers_of(scan(7), Classifier(large, (0, 1)))

    def test_suspects_that_are_left_alone_are_named(self, badnet, few) -> None:
        further = np.isin(np.arange(10), [2, 4])
        found = dataclasses.replace(scan(7), further=further)
        evidence = Evidence(badnet, Unlearning(), {})
        line = scan_notes(evidence, found, triggers_of(found, badnet))
        assert line == {
            "further suspects, not treated": "2, 4; to treat them too, repeat the command with --set classes=2:4:7"
        }
        assert scan_notes(evidence, scan(7), triggers_of(scan(7), badnet)) == {}
        for method in (
            InputFilter(), NeuronPruning(refinement=ALONE), Unlearning(rounds=1, max_epochs=1, averaged=0, refinement=ALONE),
        ):  # fmt: skip
            answer = method(badnet, clean=few.take(200), found=found)
            assert "2, 4; to treat them too, repeat the command with --set classes=2:4:7" in str(
                answer
            )

    def test_a_scan_of_other_weights_is_noted(self, badnet, few) -> None:
        for sha, noted in ((badnet.sha256(), False), ("0" * 64, True)):
            found = dataclasses.replace(scan(7), about={"model_sha256": sha})
            answer = InputFilter()(badnet, clean=few.take(200), found=found)
            assert ("model with other weights" in str(answer)) == noted

    def test_a_model_that_takes_any_size_takes_its_scan(self) -> None:
        layers = keras.layers
        net = keras.Sequential(
            [
                keras.Input((None, None, 1)),
                layers.Conv2D(4, 3),
                layers.GlobalAveragePooling2D(),
                layers.Dense(10),
            ]
        )
        assert [t.target for t in triggers_of(scan(7), Classifier(net, (0, 1)))] == [7]

    def test_too_few_images_to_hold_out(self, few) -> None:
        with pytest.raises(ValueError, match=r"1 clean images are too few to hold out 20% of the"):
            hold_out(few.take(1), 0.2, 0)
        one_track = dataclasses.replace(few, track=np.zeros(len(few), int))
        with pytest.raises(ValueError, match="too few to hold out 20% of the tracks of a class"):
            hold_out(one_track, 0.2, 0)

    def test_a_guard_is_refused(self, badnet, few) -> None:
        guard = Classifier(
            InputFilter()(badnet, clean=few.take(200), found=scan(7)).model, (0, 1), 10
        )
        for method in (Unlearning(), NeuronPruning()):
            with pytest.raises(ValueError, match="guard already"):
                method(guard, clean=few, found=scan(7))

    def test_success_without_labels_goes_by_the_model(self, badnet, few) -> None:
        triggers = [RecoveredTrigger(7, STAMP.stamp_for(28, 28))]
        with_labels = success(badnet, few, triggers)
        without = success(badnet, few.unlabelled(), triggers)
        assert with_labels.of == (few.labels != 7).sum()
        assert float(without) == pytest.approx(float(with_labels), abs=0.01)

    def test_a_trigger_of_one_source_is_measured_on_its_images(self, badnet, few) -> None:
        stamp = STAMP.stamp_for(28, 28)
        assert success(badnet, few, [RecoveredTrigger(7, stamp, 3)]).of == (few.labels == 3).sum()
        labels = np.array([1, 3, 7])
        assert RecoveredTrigger(7, stamp).applies_to(labels).tolist() == [True, True, False]
        assert RecoveredTrigger(7, stamp, 3).applies_to(labels).tolist() == [False, True, False]
        with pytest.raises(ValueError, match="have none of source class 5, which the trigger of"):
            RecoveredTrigger(7, stamp, 5).applies_to(labels)
        with pytest.raises(ValueError, match="have none of a class other than 7"):
            RecoveredTrigger(7, stamp).applies_to(np.array([7, 7]))

    def test_triggers_together_by_hand(self) -> None:
        first = np.array([0.5, 0.0, 0.2]).reshape(1, 3, 1)
        second = np.array([0.5, 0.0, 0.0]).reshape(1, 3, 1)
        triggers = [
            RecoveredTrigger(1, Stamp(first, np.full((1, 3, 1), 1.0))),
            RecoveredTrigger(1, Stamp(second, np.full((1, 3, 1), 0.5))),
        ]
        plain, strong = combine(triggers, 1.0), combine(triggers, 4.0)
        np.testing.assert_allclose(plain.stamp.mask.ravel(), [0.75, 0.0, 0.2], atol=1e-6)
        np.testing.assert_allclose(strong.stamp.mask.ravel(), [1.0, 0.0, 0.8], atol=1e-6)
        np.testing.assert_allclose(plain.stamp.pattern.ravel(), [0.75, 0.0, 1.0], atol=1e-6)
        assert plain.target == 1

    def test_a_search_finds_more_triggers_of_the_class(self, badnet, few) -> None:
        trigger, plan = triggers_of(scan(7), badnet)[0], Refinement(steps=40, searches=4)
        found, smallest = plan.search(badnet, few, trigger, median_norm=120.0, seed=0)
        assert found
        assert {t.target for t in found} == {7}
        assert min(t.stamp.l1 for t in found) == pytest.approx(smallest, rel=1e-3)
        assert max(t.stamp.l1 for t in found) < 60
        assert max(float(success(badnet, few, [t])) for t in found) > 0.8
        none, smallest = plan.search(badnet, few, trigger, median_norm=1.0, seed=0)
        assert (none, np.isfinite(smallest)) == ([], True)
        for unknown in (np.nan, np.inf):
            assert plan.search(badnet, few, trigger, median_norm=unknown, seed=0) == ([], np.inf)

    def test_triggers_are_combined_once_for_each_strength(self) -> None:
        trigger = RecoveredTrigger(7, STAMP.stamp_for(28, 28))
        plan = Refinement(strengths=(1.0, 2.0, 4.0))
        assert len(plan.combined([trigger, trigger])) == 3
        assert len(plan.combined([trigger])) == 2  # by itself at strength 1 it is what it is

    def test_the_median_norm_of_a_scan(self) -> None:
        assert median_norm(scan(7)) == 80
        bare = dataclasses.replace(scan(7), about={})
        assert np.isnan(median_norm(bare))
        norms = np.array([1.0, 5.0, 9.0, *[np.nan] * 7])
        assert median_norm(dataclasses.replace(bare, measures={"l1_norm": norms})) == 5

    @pytest.mark.parametrize(
        "changes", [{"searches": -1}, {"norm_ratio": 0}, {"strengths": (0.0,)}]
    )
    def test_bad_settings_of_a_search(self, changes) -> None:
        with pytest.raises(
            ValueError, match="searches must be 0 or more, norm_ratio and strengths"
        ):
            Refinement(**changes)

    @pytest.mark.filterwarnings("ignore:The accuracy on")
    def test_the_gap_is_that_of_the_images_that_the_trigger_serves(self) -> None:
        """Neuron 0 is driven by the source class as it is, neuron 1 by the trigger."""
        layers = keras.layers
        image = keras.Input((2, 2, 1))
        hidden = layers.Dense(3, activation="relu", name="hidden")(layers.Flatten()(image))
        net = keras.Model(image, layers.Dense(3, name="scores")(hidden))
        weights = np.zeros((4, 3), np.float32)
        weights[0, 0], weights[3, 1] = 5.0, 1.0
        net.get_layer("hidden").set_weights([weights, np.zeros(3, np.float32)])
        images = np.zeros((30, 2, 2, 1), np.uint8)
        labels = np.repeat([0, 1, 2], 10)
        images[labels == 1, 0, 0] = 255
        mask = np.zeros((2, 2, 1))
        mask[1, 1] = 1.0
        found = FlaggedClasses(
            scores=np.array([0.0, 0.0, 3.0]),
            flagged=np.array([False, False, True]),
            triggers={2: Stamp(mask, mask)},
            source={2: 1},
        )
        clean, model = Samples(images, labels), Classifier(net, (0, 1))
        pruned = NeuronPruning(refinement=ALONE)(model, clean=clean, found=found)
        np.testing.assert_allclose(pruned.history["gap"], [0.0, 1.0, 0.0], atol=1e-6)
        guard = InputFilter(neurons=0.3)(model, clean=clean, found=found)
        assert guard.history["neurons"].tolist() == [1]


def test_scan_then_unlearn_on_the_command_line(command, task, tmp_path) -> None:
    """A square in the corner sends small digits to class 2."""
    model, clean, test = (tmp_path / name for name in ("m.h5", "clean.npz", "test.npz"))
    attack = BadNets("patch:size=3,row=1,column=1", 2, fraction=0.1)
    poisoned = attack.poison(digits("train", 3000)).samples
    plan = Recipe(epochs=6, batch_size=64, learning_rate=2e-3)
    fit(network, poisoned, plan)[0].model.save(model, include_optimizer=False)
    write_npz(clean, {"x": task.clean.read(), "y": task.clean.labels})
    write_npz(test, {"x": task.test.read(), "y": task.test.labels})
    found, repaired = tmp_path / "scan", tmp_path / "repaired"
    code, out, err = command("scan", model, "--clean", clean, "--out", found, "--preprocess", "0:1")
    assert (code, "flagged classes" in out) == (1, True), err
    code, out, err = command(
        "repair", model, "--method", "unlearning", "--clean", clean, "--found", found,
        "--set", "refinement.searches=4", "--set", "refinement.steps=40", "--out", repaired,
        "--report", tmp_path / "page",
    )  # fmt: skip
    assert code == 0, err
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "Repaired: the recovered triggers work on" in page
    code, out, err = command(
        "evaluate", repaired, "--test", test, "--trigger", "patch:size=3,row=1,column=1",
        "--target", 2, "--json", tmp_path / "e.json",
    )  # fmt: skip
    assert code == 0, err
    left = json.loads((tmp_path / "e.json").read_text())["attack_success_rate"]["share"]
    assert left < 0.1
