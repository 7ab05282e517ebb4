"""The contract of all attacks: found by their files, and they plant a backdoor that works."""

import dataclasses

import numpy as np
import pytest
from planted import digits, network

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.attacks.badnets import BadNets
from keras_backdoor.attacks.base import Attack, DataAttack, Training, TrainingAttack
from keras_backdoor.evaluation import evaluate
from keras_backdoor.samples import Samples
from keras_backdoor.training import Recipe, fit

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


def test_the_command_line_refuses_the_wrong_kind(command, tmp_path) -> None:
    from test_cli import DIGITS

    out = ("--out", tmp_path / "m.h5")
    for arguments, message in (
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "badnets"), "another kind of attack; fitting: fine-tuned, pruning-aware"),
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "nope"), "no 'nope' among the attacks"),
        (("train", "badnet-mnist", DIGITS, *out, "--truth", DIGITS), "pass --attack too"),
        (("train", "badnet-mnist", DIGITS, *out, "--attack", "pruning-aware", "--set", "nope=1"), "PruningAware has no setting 'nope'"),
        (("poison", DIGITS, "--out", tmp_path / "p.npz", "--attack", "pruning-aware"), "fitting: badnets"),
        (("poison", DIGITS, "--out", tmp_path / "p.npz", "--target", 1), "BadNets needs a value for trigger"),
    ):  # fmt: skip
        code, _, err = command(*arguments)
        assert (code, message in " ".join(err.split())) == (2, True), err
    assert list(tmp_path.iterdir()) == []
