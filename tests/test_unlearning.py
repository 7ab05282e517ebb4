"""What is done with a recovered trigger: unlearning, neuron pruning, the input filter."""

import numpy as np
import pytest

from keras_backdoor._backend import keras
from keras_backdoor.answers import FlaggedClasses, FlaggedSamples
from keras_backdoor.classifier import Classifier
from keras_backdoor.defenses._recovered import recovered, success
from keras_backdoor.defenses.input_filter import InputFilter, filtered, suspicion
from keras_backdoor.defenses.neuron_pruning import NeuronPruning, number_to_silence
from keras_backdoor.defenses.unlearning import Unlearning, with_triggers
from keras_backdoor.evaluation import evaluate
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe
from keras_backdoor.triggers import Checkerboard
from keras_backdoor.triggers.base import Stamp

STAMP = Checkerboard(size=8, row=19, column=19)


def scan(*flagged: int, triggers: tuple[int, ...] = (7,)) -> FlaggedClasses:
    marks = np.isin(np.arange(10), flagged)
    stamp = STAMP.stamp_for(28, 28)
    return FlaggedClasses(
        scores=marks * 3.0, flagged=marks, triggers=dict.fromkeys(triggers, stamp)
    )


@pytest.fixture(scope="module")
def few(clean: Samples) -> Samples:
    return clean.take(1000, seed=5).in_memory()


def measured(answer, test_images):
    model = Classifier(answer.model, answer.input_range, answer.reject_class)
    return evaluate(model, test_images, trigger=STAMP, target=7)


class TestUnlearning:
    def test_the_backdoor_is_unlearned(self, badnet, few, test_images) -> None:
        before = evaluate(badnet, test_images, trigger=STAMP, target=7)
        assert float(before.attack_success_rate) > 0.99
        answer = Unlearning(recipe=Recipe(batch_size=64))(badnet, clean=few, found=scan(7))
        after = measured(answer, test_images)
        assert float(after.attack_success_rate) < 0.03
        assert float(after.clean_accuracy) > float(before.clean_accuracy) - 0.04
        assert float(after.robust_accuracy) > 0.9
        left = answer.history["recovered_success"]
        assert left[0] > 0.99
        assert left[-1] <= 0.01
        stopped = np.flatnonzero(left <= Unlearning().stop)[0]
        assert len(left) == 1 + stopped + Unlearning().polish

    def test_it_says_when_the_trigger_still_works(self, badnet, few) -> None:
        method = Unlearning(max_epochs=1, recipe=Recipe(learning_rate=1e-7))
        answer = method(badnet, clean=few.take(200), found=scan(7))
        assert "raise max_epochs" in answer.about["summary"]["warning"]

    def test_a_share_of_the_images_is_stamped_and_keeps_its_label(self, few) -> None:
        first = Stamp(np.ones((28, 28, 1)), np.ones((28, 28, 1)))
        second = Stamp(np.ones((28, 28, 1)), np.zeros((28, 28, 1)))
        data = with_triggers(few, {1: first, 2: second}, 0.2, seed=0)
        assert len(data) == len(few)
        assert sorted(data.labels) == sorted(few.labels)
        pixels = data.read()
        assert (pixels == 255).all(axis=(1, 2, 3)).sum() == 100
        assert (pixels == 0).all(axis=(1, 2, 3)).sum() == 100

    def test_unlabelled_images_are_refused(self, badnet, few) -> None:
        with pytest.raises(ValueError, match="Labelled images are needed"):
            Unlearning()(badnet, clean=few.unlabelled(), found=scan(7), input_range=(0, 1))

    @pytest.mark.parametrize("changes", [{"share": 0.0}, {"holdout": 1.0}, {"max_epochs": 0}])
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
        assert "warning" not in answer.about["summary"]

    def test_a_net_without_hidden_dense_layer_is_refused(self, few) -> None:
        layers = keras.layers
        net = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10)])
        with pytest.raises(ValueError, match="no hidden dense layer"):
            NeuronPruning()(net, clean=few, found=scan(7), input_range=(0, 1))


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
        back = load_model(tmp_path / "guard.keras", input_range=(0, 1))
        assert back.reject_class == 10
        expected = Classifier(guard, (0, 1), 10).scores(few)
        np.testing.assert_allclose(back.scores(few), expected, atol=1e-6)

    def test_maps_and_guards_are_refused(self, badnet, few) -> None:
        with pytest.raises(ValueError, match="needs a layer of"):
            InputFilter(layer="conv_1")(badnet, clean=few.take(50), found=scan(7))
        guard = filtered(badnet, "fc_1", np.array([1]), 0.5)
        with pytest.raises(ValueError, match="guard already"):
            InputFilter()(Classifier(guard, (0, 1)), clean=few, found=scan(7))


class TestWhatTheyShare:
    def test_which_triggers(self) -> None:
        assert list(recovered(scan(7))) == [7]
        assert list(recovered(scan(), [7])) == [7]
        with pytest.raises(ValueError, match="flags no class: name those"):
            recovered(scan())
        with pytest.raises(ValueError, match="no trigger for class 3"):
            recovered(scan(3))
        other = FlaggedSamples(scores=np.ones(2), flagged=np.ones(2, bool))
        with pytest.raises(ValueError, match="A saved scan is needed"):
            recovered(other)

    def test_success_without_labels_goes_by_the_model(self, badnet, few) -> None:
        with_labels = success(badnet, few, {7: STAMP.stamp_for(28, 28)})
        without = success(badnet, few.unlabelled(), {7: STAMP.stamp_for(28, 28)})
        assert with_labels.of == (few.labels != 7).sum()
        assert float(without) == pytest.approx(float(with_labels), abs=0.01)


def test_scan_then_unlearn_on_the_command_line(command, tmp_path) -> None:
    model, data = "models/mnist_badnet.h5", "data/mnist_small.npz"
    found, repaired = tmp_path / "scan", tmp_path / "repaired"
    quick = ["--set", "runs=1", "--set", "seed=1", "--set", "rule=paper"]
    code, out, _ = command("scan", model, "--clean", data, *quick, "--out", found)
    assert (code, "flagged classes" in out) == (1, True)
    code, out, _ = command(
        "repair", model, "--method", "unlearning", "--clean", data, "--take", 1500, "--found",
        found, "--set", "classes=7", "--out", repaired,
    )  # fmt: skip
    assert code == 0
    code, out, _ = command(
        "evaluate", repaired, "--test", data, "--trigger", "checkerboard:size=8,row=19,column=19",
        "--target", 7, "--take", 1000, "--json", tmp_path / "e.json",
    )  # fmt: skip
    assert code == 0
    assert '"share": 1.0' not in (tmp_path / "e.json").read_text().partition("attack")[2][:80]
