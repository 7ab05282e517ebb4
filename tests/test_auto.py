"""Auto and trigger augmentation: what is tried, what is kept, and what is said about it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import TARGET

from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.defenses._recovered_triggers import hold_out_spare
from keras_backdoor.defenses._tuning import Tuning
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation, changed_by_triggers
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.defenses.weight_signature import WeightSignature
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe

NOTHING = TriggerAugmentation(tuning=Tuning(steps=1, recipe=Recipe(learning_rate=1e-9)))
HARMFUL = TriggerAugmentation(
    tuning=Tuning(steps=60, averaged=0.0, recipe=Recipe(learning_rate=0.05))
)
QUICK = Auto(**Auto.quick)


def weights(model: Any) -> list[np.ndarray]:
    return list(model.get_weights())


@pytest.fixture(scope="module")
def answer(task) -> RepairedModel:
    """A repair with clean images alone, which several tests look at."""
    return QUICK(task.model, clean=task.clean)


def test_it_says_what_it_tried_and_what_it_kept(answer) -> None:
    assert answer.summary["tried"] == "trigger augmentation"
    assert answer.summary["decision"] == "the result of trigger augmentation"
    changed = answer.figures["changed_by_random_triggers"]
    assert changed["after"] < changed["before"]
    assert answer.inconclusive.startswith("no scan was given")
    assert {"accuracy_before", "accuracy_after"} <= set(answer.figures)
    drawn = answer.history["changed_before"]
    assert drawn.argmax() == TARGET and drawn.shape == (10,)


def test_a_trigger_of_a_scan_that_survives_is_unlearned(task) -> None:
    """The random triggers do nothing here, so the second step has to."""
    method = Auto(augmentation=NOTHING, unlearning=Unlearning(**Unlearning.quick))
    answer = method(task.model, clean=task.clean, found=task.scan)
    assert "unlearning, because a recovered trigger still worked on" in answer.summary["tried"]
    assert answer.summary["decision"] == "the result of unlearning"
    assert answer.inconclusive == ""
    measured = task.measure(answer.classifier)
    assert float(measured.attack_success_rate) <= 0.2
    unlabelled = method(task.model, clean=task.clean.unlabelled(), found=task.scan)
    assert "unlearning needs labels" in unlabelled.summary["tried"]
    assert "still works" in unlabelled.inconclusive


def test_recovered_triggers_join_the_random_ones(task) -> None:
    answer = QUICK(task.model, clean=task.clean, found=task.scan)
    assert answer.summary["recovered triggers among the random ones"] == "1"
    rates = answer.figures["recovered_triggers"][str(TARGET)]
    assert rates["before"]["share"] > 0.9 and rates["after"]["share"] <= 0.05


def test_a_clean_network_that_would_only_lose_is_left_as_it_is(task) -> None:
    answer = Auto(augmentation=HARMFUL)(task.twin, clean=task.clean)
    assert answer.summary["decision"] == "the model was left as it is"
    assert "points of accuracy on the held-out images" in answer.inconclusive
    for before, after in zip(weights(task.twin.model), weights(answer.model), strict=True):
        np.testing.assert_array_equal(before, after)
    assert answer.model is not task.twin.model


def test_a_scan_that_flags_is_a_reason_to_repair_all_the_same(task) -> None:
    method = Auto(augmentation=HARMFUL, unlearning=Unlearning(**Unlearning.quick))
    answer = method(task.model, clean=task.clean, found=task.scan)
    assert "left" not in answer.summary["decision"]


def test_a_scan_of_the_weights_is_a_reason_too(task) -> None:
    """It flags the class and has no trigger."""
    scan = WeightSignature()(task.model)
    assert not scan.triggers
    twin = replace(scan, flagged=scan.suspects, further=None, inconclusive="", about={})
    answer = replace(QUICK, augmentation=HARMFUL)(task.twin, clean=task.clean, found=twin)
    assert answer.summary["decision"] == "the result of trigger augmentation"
    assert answer.inconclusive.startswith("the scan found no trigger")


def test_a_scan_that_flags_nothing_is_no_scan(task) -> None:
    nothing = replace(task.scan, flagged=np.zeros(10, bool))
    assert isinstance(nothing, FlaggedClasses)
    answer = QUICK(task.model, clean=task.clean, found=nothing)
    assert "recovered triggers among the random ones" not in answer.summary


def test_the_card_has_both_networks(task, answer, tmp_path) -> None:
    answer.save(tmp_path / "repaired")
    card = json.loads((tmp_path / "repaired" / "model.json").read_text())
    assert card["examined"]["weights_sha256"] == task.model.sha256()
    assert card["weights_sha256"] == answer.classifier.sha256()
    assert card["figures"] == json.loads(json.dumps(answer.figures))
    assert card["made_by"]["method"] == "Auto"


def test_families_can_be_left_out(task) -> None:
    short = TriggerAugmentation(families=("patch",), tuning=Tuning(steps=5))
    assert short(task.model, clean=task.clean).about["settings"]["families"] == ["patch"]
    with pytest.raises(ValueError, match="families must be of patch, pattern"):
        TriggerAugmentation(families=("stickers",))


def test_random_triggers_change_a_backdoored_network_more(task) -> None:
    backdoored, clean = changed_by_triggers(
        (task.model, task.twin), task.clean, families=("checkerboard",)
    )
    assert backdoored["classes"][TARGET] > clean["classes"][TARGET] + 0.02
    assert backdoored["share"] == pytest.approx(backdoored["classes"].sum())


def test_a_killed_repair_goes_on(task, tmp_path, monkeypatch) -> None:
    """The state of the training is saved after every epoch, also its running mean."""
    from keras_backdoor import training

    few = task.clean.take(200, seed=0)
    method = TriggerAugmentation(tuning=Tuning(steps=36, averaged=0.5))
    whole = method(task.model, clean=few)
    store, calls = training._store, []

    def dies(*arguments: Any) -> None:
        store(*arguments)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_store", dies)
    with pytest.raises(KeyboardInterrupt):
        method(task.model, clean=few, workdir=tmp_path)
    monkeypatch.setattr(training, "_store", store)
    resumed = method(task.model, clean=few, workdir=tmp_path)
    for a, b in zip(weights(whole.model), weights(resumed.model), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_class_with_few_recordings_keeps_them() -> None:
    labels = np.repeat([0, 1, 2], [40, 90, 300])
    track = np.concatenate([np.arange(40) // 20, np.arange(90) // 15, np.arange(300) // 15])
    images = np.zeros((430, 4, 4, 1), np.uint8)
    samples = Samples(images, labels, track=track)
    working, held = hold_out_spare(samples, 0.2, seed=0)
    assert len(working) + len(held) == 430
    assert len(held) == 6 * 15
    assert not (held.known_labels == 0).any()
    assert (held.known_labels == 1).sum() <= 30
    pairs = [set(zip(s.known_labels, s.track, strict=True)) for s in (working, held)]
    assert not pairs[0] & pairs[1]
    single = Samples(images, labels, track=np.zeros(430, int))
    assert len(hold_out_spare(single, 0.1, seed=0)[1]) == 43


class TestTrainingData:
    """With the training data an audit comes first, and training without what it flags."""

    @pytest.fixture
    def quick_audit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from keras_backdoor.defenses.label_disagreement import LabelDisagreement

        monkeypatch.setattr(Auto, "audit", LabelDisagreement(**LabelDisagreement.quick))

    @pytest.fixture
    def flagged(self, monkeypatch: pytest.MonkeyPatch, task) -> None:
        """An audit that flags exactly the poison."""
        from keras_backdoor.defenses.label_disagreement import LabelDisagreement

        monkeypatch.setattr(LabelDisagreement, "_answer", lambda *a, **k: task.audit)

    def test_the_network_is_trained_without_the_poison(
        self, task, quick_audit, monkeypatch
    ) -> None:
        recipe = Recipe(epochs=8, batch_size=16, learning_rate=2e-3)
        monkeypatch.setattr("keras_backdoor.defenses._retraining.recipe_of", lambda model: recipe)
        answer = QUICK(task.model, train=task.poisoned.samples, clean=task.clean)
        assert "training without them" in answer.summary["tried"]
        assert answer.summary["decision"].startswith("the network that was trained without")
        assert float(task.measure(answer.classifier).attack_success_rate) <= 0.05
        assert answer.verdict == "repaired"

    def test_a_worse_network_is_not_kept(self, task, flagged, monkeypatch) -> None:
        """One epoch of training is not enough, so the trigger augmentation follows."""
        recipe = Recipe(epochs=1, learning_rate=1e-5)
        monkeypatch.setattr("keras_backdoor.defenses._retraining.recipe_of", lambda model: recipe)
        answer = QUICK(task.model, train=task.poisoned.samples)
        assert "points of accuracy; trigger augmentation" in answer.summary["tried"]
        assert float(task.measure(answer.classifier).attack_success_rate) <= 0.2

    @pytest.fixture
    def nothing(self, task) -> FlaggedSamples:
        """An audit that flags nothing."""
        flags = np.zeros(len(task.clean), bool)
        return FlaggedSamples(scores=flags * 1.0, flagged=flags)

    def test_clean_images_repair_where_there_are_some(self, task, nothing) -> None:
        """Training images may contain poison that the audit missed; the audit is given here."""
        poisoned = task.poisoned.samples
        flags = np.zeros(len(poisoned), bool)
        missed = FlaggedSamples(scores=flags * 1.0, flagged=flags)
        answer = QUICK(task.model, train=poisoned, clean=task.clean, found=missed)
        assert answer.summary["tried"].startswith("an audit of the training data, which flags no")
        assert float(task.measure(answer.classifier).attack_success_rate) <= 0.2
        worse = replace(QUICK, augmentation=HARMFUL)
        left = worse(task.twin, train=task.clean, clean=task.clean, found=nothing)
        assert left.summary["decision"] == "the model was left as it is"

    def test_training_images_alone_are_no_decision(self, task, nothing) -> None:
        answer = QUICK(task.twin, train=task.clean, found=nothing)
        assert answer.verdict == "inconclusive"
        assert "may contain poison that the audit did not flag" in answer.inconclusive
        worse = replace(QUICK, augmentation=HARMFUL)(task.twin, train=task.clean, found=nothing)
        assert worse.summary["decision"] == "the result of trigger augmentation"
