"""The contract of all attacks: found by their files, and they plant a backdoor that works."""

import dataclasses

import numpy as np
import pytest
from planted import digits, network

from keras_backdoor import bundled
from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.attacks import SIG, AllToAll, BadNets, CleanLabel, WaNet
from keras_backdoor.attacks.base import Attack, DataAttack, Training, TrainingAttack
from keras_backdoor.attacks.wanet import _NoisyWarp
from keras_backdoor.evaluation import evaluate
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit
from keras_backdoor.triggers import Warp

RECIPE = Recipe(epochs=6, batch_size=64, learning_rate=2e-3)
PLANTED = BadNets(**BadNets.quick)


def attacks(kind: type) -> list[str]:
    keys = discovery.keys("attacks")
    return [key for key in keys if issubclass(discovery.load("attacks", key), kind)]


@pytest.fixture(scope="module")
def clean() -> Samples:
    return digits("train", 2000).in_memory()


@pytest.fixture(scope="module")
def test_digits() -> Samples:
    return digits("test", 800)


@pytest.mark.parametrize("key", discovery.keys("attacks"))
def test_is_settings_and_a_paper(key: str) -> None:
    cls = discovery.load("attacks", key)
    assert issubclass(cls, DataAttack) != issubclass(cls, TrainingAttack)
    assert issubclass(cls, Attack)
    assert cls.paper
    made = cls(**cls.quick)
    assert made == cls(**cls.quick)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.anything = 1
    if issubclass(cls, TrainingAttack):  # `train --set` gives a setting to the one that has it
        assert not set(typed_settings.fields(cls)) & set(typed_settings.fields(Recipe))


@pytest.mark.parametrize("key", attacks(DataAttack))
class TestEveryDataAttack:
    def test_keeps_the_truth_apart_and_the_data_as_it_is(self, key: str, clean) -> None:
        cls = discovery.load("attacks", key)
        before = clean.read().copy(), clean.known_labels.copy()
        poisoned = cls(**cls.quick).poison(clean, seed=1)
        np.testing.assert_array_equal(clean.read(), before[0])
        np.testing.assert_array_equal(clean.known_labels, before[1])
        assert len(poisoned.is_poison) == len(poisoned.samples)
        assert 0 < poisoned.is_poison.mean() < 0.5
        assert poisoned.samples.row_numbers.tolist() == list(range(len(poisoned.samples)))
        again = cls(**cls.quick).poison(clean, seed=1)
        assert again.samples.fingerprint() == poisoned.samples.fingerprint()

    def test_plants_a_backdoor(self, key: str, clean, test_digits) -> None:
        cls = discovery.load("attacks", key)
        attack = cls(**cls.quick)
        model, _ = fit(network, attack.poison(clean).samples, RECIPE)
        measured = evaluate(model, test_digits, trigger=attack.stamp, target=attack.target)
        assert float(measured.attack_success_rate) >= 0.9
        assert float(measured.clean_accuracy) >= 0.85


@pytest.mark.parametrize("key", attacks(TrainingAttack))
class TestEveryTrainingAttack:
    def test_plants_a_backdoor(self, key: str, clean, test_digits, tmp_path) -> None:
        cls = discovery.load("attacks", key)
        attack, poisoned = cls(**cls.quick), PLANTED.poison(clean)
        training = Training(
            network, poisoned.samples, RECIPE, poisoned.is_poison, checkpoint=tmp_path / "c"
        )
        model, history = attack.train(training)
        measured = evaluate(model, test_digits, trigger=PLANTED.stamp, target=PLANTED.target)
        assert float(measured.attack_success_rate) >= 0.9
        assert float(measured.clean_accuracy) >= 0.85
        assert len(history["loss"]) <= RECIPE.epochs
        assert {p.name[:2] for p in tmp_path.iterdir()} == {"c."}

    def test_asks_for_the_truth_that_it_needs(self, key: str, clean) -> None:
        cls = discovery.load("attacks", key)
        if not cls.needs_truth:
            pytest.skip("it does not need to know which images are poison")
        with pytest.raises(ValueError, match="needs to know which images are poison: pass truth"):
            cls(**cls.quick).train(Training(network, clean, RECIPE))


class TestAllToAll:
    def test_gives_each_image_the_next_class(self, clean) -> None:
        attack = AllToAll("single-pixel:row=0,column=0,color=white", count=300)
        poisoned = attack.poison(clean, seed=1)
        assert poisoned.is_poison.sum() == 300
        given = poisoned.samples.known_labels[poisoned.is_poison]
        own = clean.known_labels[poisoned.rows]
        np.testing.assert_array_equal(given, (own + 1) % 10)
        assert 0 in given[own == 9]

    def test_success_is_the_next_class(self, task) -> None:
        stamp = BadNets("patch", 1, count=1).stamp
        measured = evaluate(task.model, task.test, trigger=stamp, target="next")
        predicted = task.model.predict(task.test.stamped(stamp))
        labels = task.test.known_labels
        assert float(measured.attack_success_rate) == np.mean(predicted == (labels + 1) % 10)
        assert measured.attack_success_rate.of == len(task.test)
        assert set(measured.per_class) == set(range(10))

    def test_needs_one_amount(self, clean) -> None:
        with pytest.raises(ValueError, match="Exactly one of count and fraction"):
            AllToAll("patch").poison(clean)
        with pytest.raises(ValueError, match=r"must lie in 1..2000"):
            AllToAll("patch", count=2001).poison(clean)

    def test_the_command_line_measures_it(self, command, tmp_path) -> None:
        from test_cli import DIGITS

        made = ("poison", DIGITS, "--attack", "all-to-all", "--trigger", "patch")
        code, _, err = command(*made, "--count", 50, "--out", tmp_path / "p.npz")
        assert code == 0, err
        model = bundled.path("models/mnist_badnet.h5")
        given = ("evaluate", model, "--test", DIGITS, "--take", 200, "--trigger", "patch")
        code, out, err = command(*given, "--target", "next")
        assert (code, "attack success rate" in out) == (0, True), err
        code, _, err = command(*given, "--target", "other")
        assert (code, "a class number or 'next' is needed" in " ".join(err.split())) == (2, True)


class TestCleanLabel:
    def test_stamps_the_target_class_alone_and_keeps_labels(self, clean) -> None:
        poisoned = CleanLabel("patch:size=2,row=0,column=0", 3, fraction=0.5).poison(clean)
        np.testing.assert_array_equal(poisoned.samples.known_labels, clean.known_labels)
        assert set(clean.known_labels[poisoned.is_poison]) == {3}
        number = (clean.known_labels == 3).sum()
        assert poisoned.is_poison.sum() == round(0.5 * number)
        changed = (poisoned.samples.read() != clean.read()).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(changed, poisoned.is_poison)

    def test_the_surrogate_finds_the_images_hard(self, clean, task) -> None:
        stamp = "single-pixel:row=0,column=0,color=white"
        attack = CleanLabel(stamp, 3, count=60, surrogate=task.twin, epsilon=0.2)
        poisoned = attack.poison(clean)
        before = clean.subset(poisoned.is_poison)
        after = poisoned.samples.subset(poisoned.is_poison)
        difference = np.abs(after.read().astype(float) - before.read())[:, 1:]
        assert 0 < difference.max() <= round(0.2 * 255)
        accuracy = [np.mean(task.twin.predict(s) == 3) for s in (before, after)]
        assert accuracy[0] > 0.9
        assert accuracy[1] < 0.3

    def test_names_what_is_missing(self, clean) -> None:
        with pytest.raises(ValueError, match="the data lacks class 12"):
            CleanLabel("patch", 12, count=3).poison(clean)
        with pytest.raises(ValueError, match="epsilon must be above 0"):
            CleanLabel("patch", 2, count=3, epsilon=0.0)


class TestSIG:
    def test_a_sinusoid_is_added_to_images_of_the_target_class(self, clean) -> None:
        poisoned = SIG(2, count=20, delta=0.1, frequency=3.0).poison(clean, seed=1)
        assert poisoned.is_poison.sum() == 20
        np.testing.assert_array_equal(poisoned.samples.labels, clean.labels)
        assert (clean.known_labels[poisoned.is_poison] == 2).all()
        before, after = (
            s.subset(poisoned.is_poison).read().astype(float) for s in (clean, poisoned.samples)
        )
        wave = 25.5 * np.sin(2 * np.pi * 3 * np.arange(before.shape[2]) / before.shape[2])
        expected = np.clip(before + wave[None, None, :, None], 0, 255)
        np.testing.assert_allclose(after, expected, atol=1.0)

    def test_names_what_is_missing(self, clean) -> None:
        with pytest.raises(ValueError, match="the data lacks class 12"):
            SIG(12, count=3).poison(clean)


class TestWaNet:
    def test_the_target_is_a_class_of_the_data(self, clean) -> None:
        with pytest.raises(ValueError, match="target must be one of the 10 classes"):
            WaNet(99, count=3).poison(clean)

    @pytest.mark.parametrize("replace", [False, True])
    def test_noisily_warped_images_keep_their_labels(self, clean, replace: bool) -> None:
        attack = WaNet(3, count=100, noisy=1.5, strength=2.0, replace=replace)
        poisoned = attack.poison(clean, seed=2)
        assert poisoned.is_poison.sum() == 100
        assert len(poisoned.samples) == len(clean) + (0 if replace else 250)
        assert (poisoned.samples.known_labels[poisoned.is_poison] == 3).all()
        assert 3 not in clean.known_labels[poisoned.rows]
        warped = poisoned.samples.subset(poisoned.is_poison).read()
        expected = clean.subset(poisoned.rows).stamped(attack.stamp).read()
        np.testing.assert_array_equal(warped, expected)
        if replace:
            kept = ~poisoned.is_poison
            np.testing.assert_array_equal(
                poisoned.samples.known_labels[kept], clean.known_labels[kept]
            )
            changed = (poisoned.samples.read() != clean.read()).any(axis=(1, 2, 3)) & kept
            assert 140 <= changed.sum() <= 150

    def test_the_noise_is_small_and_differs_by_image(self) -> None:
        ramp = np.tile(np.arange(16, dtype=np.float32) / 20, (2, 16, 1))[..., None]
        noisy = _NoisyWarp(Warp(strength=1.0)).stamp_rows(ramp, np.arange(2), seed=0)
        plain = Warp(strength=1.0).apply(ramp)
        assert np.abs(noisy - plain).max() <= 0.5 / 20 + 1e-6
        assert np.abs(noisy[0] - noisy[1]).max() > 0.01

    def test_names_what_is_wrong(self, clean) -> None:
        with pytest.raises(ValueError, match="There is nothing to poison for target 3"):
            WaNet(3, source=3, count=2).poison(clean)
        with pytest.raises(ValueError, match="noisy must be 0 or more"):
            WaNet(3, count=2, noisy=-1)


def test_the_command_line_refuses_the_wrong_kind(command, tmp_path) -> None:
    from test_cli import DIGITS

    out = ("--out", tmp_path / "m.h5")
    for arguments, message in (
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "badnets"), "another kind of attack; fitting: fine-tuned, pruning-aware"),
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "nope"), "no 'nope' among the attacks"),
        (("train", "badnet-mnist", DIGITS, *out, "--truth", DIGITS), "pass --attack too"),
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "pruning-aware", "--set", "nope=1"), "PruningAware has no setting 'nope'"),
        (("poison", DIGITS, "--out", tmp_path / "p.npz", "--attack", "pruning-aware"), "fitting: all-to-all, badnets, clean-label, sig, wanet"),
        (("poison", DIGITS, "--out", tmp_path / "p.npz", "--target", 1), "BadNets needs a value for trigger"),
    ):  # fmt: skip
        code, _, err = command(*arguments)
        assert (code, message in " ".join(err.split())) == (2, True), err
    assert list(tmp_path.iterdir()) == []
