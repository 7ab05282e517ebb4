"""Contract of all defenses: what they are shown, what they must leave alone, what they answer."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_backdoor._internals import discovery
from keras_backdoor.answers import Answer, FlaggedClasses, RepairedModel, load_answer
from keras_backdoor.commands.console import EXIT
from keras_backdoor.defenses.base import EVIDENCE, Defense
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers import Checkerboard

FOUND = [(f, k) for f in ("defenses", "explanations") for k in discovery.keys(f)]
COMMANDS = {"scan", "audit", "repair", "guard", "explain"}


def load(method: tuple[str, str]) -> type[Defense]:
    return discovery.load(*method)


def evidence(cls: type[Defense], clean: Samples) -> dict:
    """What a method needs; an earlier answer is a scan that flags class 7."""
    shown: dict = {n: clean for n in cls.needs if n in ("train", "clean", "incoming")}
    if "found" in cls.needs:
        stamp = Checkerboard(size=8, row=19, column=19).stamp_for(28, 28)
        flagged = np.arange(10) == 7
        shown["found"] = FlaggedClasses(scores=flagged * 4.0, flagged=flagged, triggers={7: stamp})
    return shown


def quick(cls: type[Defense]) -> Defense:
    """The method with settings under which it runs in seconds."""
    return cls(**cls.quick)


def known_names() -> dict:
    """Every class that a repr may name: the methods and the settings inside them."""
    names: dict = {}
    for cls in map(load, FOUND):
        inner = [getattr(cls(), f.name) for f in dataclasses.fields(cls)]
        names |= {type(x).__name__: type(x) for x in inner if dataclasses.is_dataclass(x)}
        names[cls.__name__] = cls
    return names


def weights_hash(model) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


@pytest.fixture(scope="module")
def few(clean: Samples) -> Samples:
    return clean.take(300, seed=1).in_memory()


@pytest.mark.parametrize("method", FOUND, ids=lambda m: m[1])
class TestEveryDefense:
    def test_is_settings_and_a_paper(self, method: tuple[str, str]) -> None:
        cls = load(method)
        assert issubclass(cls, Defense)
        assert dataclasses.is_dataclass(cls)
        assert cls.paper
        assert cls.commands
        assert set(cls.commands) <= COMMANDS
        assert set(cls.default_for) <= set(cls.commands)
        assert set(cls.needs) <= set(EVIDENCE)
        assert eval(repr(cls()), known_names()) == cls()
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().anything = 1  # type: ignore[attr-defined]

    def test_changes_neither_model_nor_evidence(self, method, badnet, few, tmp_path) -> None:
        cls = load(method)
        before = weights_hash(badnet.model), few.fingerprint(), badnet.model.to_json()
        answer = quick(cls)(badnet, **evidence(cls, few))
        assert (weights_hash(badnet.model), few.fingerprint(), badnet.model.to_json()) == before
        assert isinstance(answer, Answer)
        assert answer.verdict in EXIT
        for key in ("settings", "model_sha256", "data", "versions", "seconds"):
            assert key in answer.about
        back = load_answer(answer.save(tmp_path / "a"))
        assert str(back) == str(answer)

    def test_says_what_it_needs(self, method, badnet) -> None:
        cls = load(method)
        for name in cls.needs:
            with pytest.raises(ValueError, match=f"{cls.__name__} needs .*--{name}"):
                cls()(badnet)

    def test_takes_bare_models_arrays_and_datasets(self, method, badnet, few) -> None:
        cls = load(method)
        if "found" in cls.needs or "reference" in cls.needs:
            pytest.skip("needs an earlier answer")
        images, labels = few.read(), few.labels
        answers = [
            quick(cls)(badnet.model, input_range=(0, 1), **dict.fromkeys(evidence(cls, few), data))
            for data in (
                (images, labels),
                (images / np.float32(255), labels),
                tf.data.Dataset.from_tensor_slices((images, labels)),
            )
        ]
        assert len({a.verdict for a in answers}) == 1

    def test_resumes_from_its_folder(self, method, badnet, few, tmp_path, monkeypatch) -> None:
        cls = load(method)
        first = quick(cls)(badnet, **evidence(cls, few), workdir=tmp_path)

        def never(self, evidence) -> Answer:
            raise AssertionError("computed again")

        monkeypatch.setattr(cls, "run", never)
        again = quick(cls)(badnet, **evidence(cls, few), workdir=tmp_path)
        assert str(again) == str(first)
        with pytest.raises(AssertionError, match="computed again"):
            quick(cls)(badnet, **evidence(cls, few.take(200)), workdir=tmp_path)

    def test_refuses_images_that_do_not_fit(self, method, badnet, noise) -> None:
        cls = load(method)
        with pytest.raises(ValueError, match="takes images of 28x28x1"):
            cls()(badnet, **evidence(cls, noise))

    def test_repairs_keep_the_units(self, method, badnet, few) -> None:
        cls = load(method)
        if not {"repair", "guard"} & set(cls.commands):
            pytest.skip("not a repair")
        answer = cls()(badnet, **evidence(cls, few))
        assert isinstance(answer, RepairedModel)
        assert answer.input_range == (0, 1)
        fixed = Classifier(answer.model, answer.input_range, answer.reject_class)
        assert fixed.classes == badnet.classes + (answer.reject_class is not None)
        right = (fixed.predict(few) == few.labels).mean()
        assert right > 0.9


def test_a_finished_part_is_not_computed_again(badnet, few, tmp_path: Path, monkeypatch) -> None:
    from keras_backdoor.defenses import fine_pruning

    sweep, calls = fine_pruning.sweep, []

    def counting(*arguments):
        calls.append(1)
        return sweep(*arguments)

    monkeypatch.setattr(fine_pruning, "sweep", counting)
    monkeypatch.setattr(fine_pruning.graph, "copy", lambda model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fine_pruning.FinePruning()(badnet, clean=few, workdir=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(fine_pruning, "sweep", counting)
    fine_pruning.FinePruning()(badnet, clean=few, workdir=tmp_path)
    assert len(calls) == 1
