"""The contract of all methods, defenses and explanations, and their floors on a planted task."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow as tf
from contract import IMAGES, METHODS, evidence, is_nested, load, quick
from planted import CLASSES, TARGET, TRIGGER, PlantedTask
from scipy.ndimage import binary_dilation

from keras_backdoor._internals.typed_settings import as_dict
from keras_backdoor.answers import (
    Answer,
    FlaggedClasses,
    FlaggedSamples,
    Heatmaps,
    RepairedModel,
    load_answer,
)
from keras_backdoor.commands.console import EXIT
from keras_backdoor.defenses.base import Defense
from keras_backdoor.defenses.fine_pruning import FinePruning
from keras_backdoor.defenses.goodnet import GoodNet
from keras_backdoor.defenses.unlearning import Unlearning
from keras_backdoor.errors import BadInput
from keras_backdoor.explanations.base import Explanation
from keras_backdoor.methods import EVIDENCE, Evidence, Method, Need
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.samples import Samples
from keras_backdoor.triggers.base import Stamp

ANSWER_OF = {
    "scan": FlaggedClasses,
    "audit": FlaggedSamples,
    "repair": RepairedModel,
    "guard": RepairedModel,
    "explain": Heatmaps,
}


def assert_alike(one: Answer, other: Answer) -> None:
    """The same decisions; of repairs the same weights."""
    assert type(one) is type(other)
    if isinstance(one, RepairedModel) and isinstance(other, RepairedModel):
        pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, atol=1e-3)
    elif isinstance(one, FlaggedClasses | FlaggedSamples):
        np.testing.assert_array_equal(one.flagged, other.flagged)
    elif isinstance(one, Heatmaps) and isinstance(other, Heatmaps):
        np.testing.assert_allclose(one.maps, other.maps, atol=0.05 * np.abs(one.maps).max())
    assert one.verdict == other.verdict


def bare(samples: Samples, form: str) -> Any:
    """The images and labels as arrays in 0..1, or as a dataset of bytes."""
    pixels, labels = samples.read(), samples.labels
    if form == "floats":
        pixels = pixels / np.float32(255)
    parts = pixels if labels is None else (pixels, labels)
    return tf.data.Dataset.from_tensor_slices(parts) if form == "dataset" else parts


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m[1])
class TestEveryMethod:
    def test_is_settings_and_a_paper(self, method: tuple[str, str]) -> None:
        cls = load(method)
        assert issubclass(cls, Defense if method[0] == "defenses" else Explanation)
        assert not issubclass(cls, Explanation if method[0] == "defenses" else Defense)
        assert dataclasses.is_dataclass(cls)
        assert cls.paper
        assert cls.commands
        assert {ANSWER_OF[c] for c in cls.commands} == {cls.answer}
        assert set(cls.default_for) <= set(cls.commands)
        assert {need.name for need in cls.needs} <= set(EVIDENCE)
        assert cls() == cls()
        assert repr(cls()).startswith(cls.__name__)
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().anything = 1  # type: ignore[attr-defined]

    def test_changes_neither_model_nor_evidence(self, method, first_run, tmp_path) -> None:
        cls, run = load(method), first_run(method)
        assert run.after == run.before
        answer = run.answer
        assert type(answer) is cls.answer
        assert answer.verdict in EXIT
        for key in ("settings", "model_sha256", "data", "versions", "seconds"):
            assert key in answer.about
        back = load_answer(answer.save(tmp_path / "a"))
        assert str(back) == str(answer)
        assert back.fingerprint() == answer.fingerprint()

    def test_says_what_it_needs(self, method, task) -> None:
        cls, whole = load(method), evidence(load(method), task)
        for need in cls.needs:
            if need.optional and need.name not in whole:
                whole[need.name] = task.evidence(need.name)
            given = {k: v for k, v in whole.items() if k != need.name}
            if not need.optional:
                with pytest.raises(ValueError, match=f"{cls.__name__} needs {need.name}[.:]"):
                    cls()(task.model, **given)
            if need.labelled:
                given[need.name] = whole[need.name].unlabelled()
                with pytest.raises(ValueError, match=f"and {need.name} has no labels"):
                    cls()(task.model, **given)
            if need.with_origin:
                given[need.name] = dataclasses.replace(whole[need.name], origin=None)
                with pytest.raises(ValueError, match="needs the origin of each image"):
                    cls()(task.model, **given)
            if need.answer is not None:
                given[need.name] = Heatmaps(maps=np.zeros((1, 2, 2)), labels=np.zeros(1, int))
                with pytest.raises(ValueError, match=f"needs a saved {need.answer.__name__}"):
                    cls()(task.model, **given)

    def test_takes_bare_models_arrays_and_datasets(
        self, method, task, first_run, monkeypatch
    ) -> None:
        """Bytes become the same evidence; floats, which are rounded, lead to the same decisions."""
        cls, given = load(method), evidence(load(method), task)
        if any(need.with_origin for need in cls.needs):
            pytest.skip("an array has no origin")
        first = first_run(method).answer
        if not is_nested(cls):  # the floats of a nested method are tried with the other method
            floats = {k: bare(v, "floats") if k in IMAGES else v for k, v in given.items()}
            answer = quick(cls)(task.model.model, preprocess=(0, 1), **floats)
            assert_alike(first, answer)
        seen: list[Evidence] = []

        def keep(self, evidence: Evidence) -> Answer:
            seen.append(evidence)
            return first

        monkeypatch.setattr(cls, "run", keep)
        for form in ("bytes", "dataset"):
            shown = {k: bare(v, form) if k in IMAGES else v for k, v in given.items()}
            quick(cls)(task.model.model, preprocess=(0, 1), **shown)
        for received in seen:
            assert received.model.sha256() == task.model.sha256()
            assert received.model.preprocess == task.model.preprocess
            for name in set(IMAGES) & set(given):
                wrapped, samples = received.get(name), given[name]
                np.testing.assert_array_equal(wrapped.read(), samples.read())
                assert wrapped.read().dtype == np.uint8
                assert (wrapped.labels is None) == (samples.labels is None)
                if samples.labels is not None:
                    np.testing.assert_array_equal(wrapped.labels, samples.labels)
        assert len(seen) == 2

    def test_resumes_from_its_folder(self, method, task, first_run, monkeypatch) -> None:
        cls, given, first = load(method), evidence(load(method), task), first_run(method)

        def never(self, evidence) -> Answer:
            raise AssertionError("computed again")

        monkeypatch.setattr(cls, "run", never)
        again = quick(cls)(task.model, **given, workdir=first.folder)
        assert str(again) == str(first.answer)
        name = next((n for n in IMAGES if n in given), None)
        if name is None:
            return
        given[name] = given[name].take(0.8)
        with pytest.raises(AssertionError, match="computed again"):
            quick(cls)(task.model, **given, workdir=first.folder)

    def test_refuses_images_that_do_not_fit(self, method, task, noise) -> None:
        cls, given = load(method), evidence(load(method), task)
        if not any(name in given for name in IMAGES):
            pytest.skip("it needs no images")
        foreign = dataclasses.replace(noise, origin=np.arange(len(noise)) % 2)
        given |= {n: foreign for n in IMAGES if n in given}
        with pytest.raises(ValueError, match="takes images with 1 channel"):
            cls()(task.model, **given)

    def test_is_run_by_calling_it_alone(self, method, task) -> None:
        cls = load(method)
        other = Evidence(task.model, cls(), {})
        with pytest.raises(TypeError, match=r"run is not called directly: use evidence.run\("):
            cls().run(other)

    def test_reaches_its_floor(self, method, task, first_run) -> None:
        cls = load(method)
        for command in cls.commands:
            FLOORS[command](cls, task, first_run(method).answer)


def scan_floor(cls: type[Method], task: PlantedTask, answer: Answer) -> None:
    """Exactly the planted class, and nothing on the clean twin; a scan may say it sees little.

    A scan that takes no data at all may call the class a suspect.
    """
    assert answer.verdict == "found" or not cls.needs
    accused = answer.flagged if answer.verdict == "found" else answer.suspects
    assert np.flatnonzero(accused).tolist() == [TARGET]
    twin = quick(cls)(task.twin, **evidence(cls, task))
    assert not twin.flagged.any()
    assert twin.verdict in ("nothing", "inconclusive")


def audit_floor(cls: type[Method], task: PlantedTask, answer: Answer) -> None:
    """At least 90 % of the poison, at most 5 % of the clean images.

    Baselines have tests of their own for what they can find.
    """
    if cls.baseline:
        return
    arriving = any(need.name == "incoming" for need in cls.needs)
    truth = task.is_triggered if arriving else task.poisoned.is_poison
    assert answer.flagged[truth].mean() >= 0.9
    assert answer.flagged[~truth].mean() <= 0.05
    assert answer.verdict == "found"


def repair_floor(cls: type[Method], task: PlantedTask, answer: Answer) -> None:
    """An attack of at most 20 %, and at most 5 points of accuracy lost.

    Baselines have tests of their own for what they can remove.
    """
    before, after = task.measure(task.model), task.measure(answer.classifier)
    assert float(before.attack_success_rate) > 0.99
    if not cls.baseline:
        assert float(after.attack_success_rate) <= 0.2
    assert float(after.clean_accuracy) >= float(before.clean_accuracy) - 0.05
    assert answer.preprocess.range == (0, 1)


def guard_floor(cls: type[Method], task: PlantedTask, answer: Answer) -> None:
    """At least 80 % of the triggered images rejected, at most 10 % of the clean ones."""
    after = task.measure(answer.classifier)
    assert answer.reject_class == CLASSES
    assert float(after.rejected_stamped) >= 0.8
    assert float(after.rejected_clean) <= 0.1


def explanation_floor(cls: type[Method], task: PlantedTask, answer: Answer) -> None:
    """The strongest part lies on the trigger and its neighbors in 80 % of the pictures."""
    given = evidence(cls, task)
    triggered = task.incoming.subset(task.is_triggered).take(30)
    answer = quick(cls)(task.model, **{**given, "incoming": triggered})
    support = binary_dilation(TRIGGER.support(14, 14), np.ones((3, 3)))
    inside = [part[support].sum() / max(part.sum(), 1) for part in answer.top]
    assert support.mean() < 0.2
    assert np.mean(np.array(inside) >= 0.5) >= 0.8
    assert (answer.predicted == TARGET).all()
    assert len(answer.pictures) == 30


FLOORS = {
    "scan": scan_floor,
    "audit": audit_floor,
    "repair": repair_floor,
    "guard": guard_floor,
    "explain": explanation_floor,
}


@dataclass(frozen=True)
class Both(Defense[RepairedModel]):
    """Two repairs of two layers, one after the other."""

    needs: ClassVar[tuple[Need, ...]] = (Need("clean"),)
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        first = evidence.run(FinePruning(layer="conv"))
        second = evidence.run(FinePruning(layer="hidden"))
        sizes = np.array([len(a.history["order"]) for a in (first, second)])
        return RepairedModel(model=second.model, preprocess=(0.0, 1.0), history={"sizes": sizes})


def test_nested_methods_keep_their_parts_apart(task, tmp_path: Path) -> None:
    for workdir in (None, tmp_path, tmp_path):
        answer = Both()(task.model, clean=task.clean, workdir=workdir)
        assert answer.history["sizes"].tolist() == [13, 49]


def test_a_nested_method_says_what_it_needs(task) -> None:
    with pytest.raises(ValueError, match="Unlearning needs found"):
        GoodNet(repair=Unlearning())(task.model, clean=task.clean)


def test_a_nested_method_resumes(task, tmp_path: Path, monkeypatch) -> None:
    from keras_backdoor.defenses import goodnet
    from keras_backdoor.network import pruning

    sweep, calls = pruning.sweep, []

    def counting(*arguments):
        calls.append(1)
        return sweep(*arguments)

    monkeypatch.setattr(pruning, "sweep", counting)
    monkeypatch.setattr(goodnet, "goodnet", lambda *nets: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            GoodNet(FinePruning())(task.model, clean=task.clean, workdir=tmp_path)
    assert len(calls) == 1


@dataclass(frozen=True)
class Careless(Defense[FlaggedSamples]):
    """Uses evidence that it does not declare, or returns another answer than it declares."""

    undeclared: bool = True

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"),)
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        if self.undeclared:
            return evidence.train
        return FlaggedClasses(scores=np.zeros(3), flagged=np.zeros(3, bool))


def test_evidence_that_is_not_declared_is_an_error_of_the_method(task) -> None:
    with pytest.raises(TypeError, match="uses train, which it does not declare in needs"):
        Careless()(task.model, incoming=task.incoming)
    with pytest.raises(TypeError, match="must return FlaggedSamples. Received: FlaggedClasses"):
        Careless(undeclared=False)(task.model, incoming=task.incoming)


def test_another_repair_is_another_found(task) -> None:
    def answer(model) -> RepairedModel:
        return RepairedModel(model=model, preprocess=(0.0, 1.0))

    one, other = answer(task.model.model), answer(task.twin.model)
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == answer(task.model.model).fingerprint()


@dataclass(frozen=True)
class Bright(Defense[FlaggedSamples]):
    """Flags bright images."""

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"),)
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        brightness = evidence.incoming.read().mean(axis=(1, 2, 3))
        return FlaggedSamples(scores=brightness, flagged=brightness > np.median(brightness))


@dataclass(frozen=True)
class InParts(Defense[FlaggedSamples]):
    """Has one part, which is computed at most once."""

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"),)
    paper: ClassVar[str] = "none"
    calls: ClassVar[list[int]] = []

    def run(self, evidence):
        def compute():
            self.calls.append(1)
            return {"scores": np.arange(len(evidence.incoming)) / 10}

        scores = evidence.part("scores", compute)["scores"]
        return FlaggedSamples(scores=scores, flagged=scores > 1)


def test_damaged_work_is_computed_again(task, tmp_path: Path) -> None:
    few, calls = task.incoming.take(30, seed=0), []
    for damaged in ((), ("answer/arrays.npz",), ("answer/arrays.npz", "scores.npz"), ()):
        for name in damaged:
            (path,) = tmp_path.glob(f"*/{name}")
            path.write_bytes(path.read_bytes()[:50])
        answer = InParts()(task.model, incoming=few, workdir=tmp_path)
        assert answer.scores.max() == 2.9
        calls.append(len(InParts.calls))
    assert calls == [1, 1, 2, 2]


def test_row_numbers_are_those_of_the_file(task, tmp_path: Path) -> None:
    part = task.incoming.take(50, seed=3)
    for workdir in (tmp_path, tmp_path):
        answer = Bright()(task.model, incoming=part, workdir=workdir)
        brightness = task.incoming.read().mean(axis=(1, 2, 3))
        assert (brightness[answer.flagged_rows] > np.median(answer.scores)).all()
        assert len(answer.flagged_rows) == answer.flagged.sum() == 25
        assert answer.flagged_rows.max() > 50
    assert answer.thumbnails["all"].flagged.shape == (12, 14, 14, 1)


def test_a_classifier_and_a_bare_model_are_the_same(task) -> None:
    bare = FinePruning()(task.model.model, clean=task.clean, preprocess=(0, 1))
    wrapped = FinePruning()(Classifier(task.model.model, (0, 1)), clean=task.clean)
    assert_alike(bare, wrapped)


@dataclass(frozen=True)
class Comparing(Defense[FlaggedSamples]):
    """Its answer follows from the reference."""

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"), Need("reference"))
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        scores = evidence.reference.scores(evidence.incoming)[:, 0]
        return FlaggedSamples(scores=scores, flagged=scores > 2)


def test_another_reference_or_found_is_another_run(task, tmp_path: Path) -> None:
    few = task.incoming.take(30)
    given = {"incoming": few, "workdir": tmp_path}
    first = Comparing()(task.model, reference=task.model, **given)
    second = Comparing()(task.model, reference=task.twin, **given)
    assert not np.allclose(first.scores, second.scores)
    again = [
        Comparing()(task.model, reference=task.model, found=found, **given)
        for found in (first, second)
    ]
    assert again[0].about["found"] != again[1].about["found"]


@dataclass(frozen=True, eq=False)
class Keyed(Defense[FlaggedSamples]):
    """Its answer follows from one value of an array in its settings."""

    stamp: Any = None

    needs: ClassVar[tuple[Need, ...]] = (Need("incoming"),)
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        scores = np.full(len(evidence.incoming), float(self.stamp.pattern[20, 20, 0]))
        return FlaggedSamples(scores=scores, flagged=scores > 2)


class TestFinishedParts:
    """An answer in a work folder belongs to exactly one method, one model and one set of data."""

    def test_arrays_in_settings_count_whole(self, task, tmp_path: Path) -> None:
        few, mask, pattern = task.incoming.take(5), np.ones((40, 40, 1)), np.zeros((40, 40, 1))
        other = pattern.copy()
        other[20, 20] = 1
        for values, expected in ((pattern, 0), (other, 1)):
            answer = Keyed(Stamp(mask, values))(task.model, incoming=few, workdir=tmp_path)
            assert answer.scores[0] == expected

    def test_settings_in_words_tell_arrays_apart(self) -> None:
        field = np.zeros(5000)
        other = np.where(np.arange(5000) == 2500, 1e-12, 0)
        assert str(field) == str(other)
        assert as_dict(Keyed(field)) != as_dict(Keyed(other))
        assert as_dict(Keyed(field)) == as_dict(Keyed(field.copy()))

    def test_the_revision_of_a_nested_method_counts(self, task, tmp_path, monkeypatch) -> None:
        from keras_backdoor.network import pruning

        calls, sweep = [], pruning.sweep
        monkeypatch.setattr(pruning, "sweep", lambda *a: calls.append(1) or sweep(*a))
        for revision, number in ((1, 1), (1, 1), (9, 2)):
            monkeypatch.setattr(FinePruning, "revision", revision)
            GoodNet(FinePruning())(task.model, clean=task.clean, workdir=tmp_path)
            assert len(calls) == number

    def test_two_classes_of_one_name_are_two(self, task, tmp_path: Path) -> None:
        few = task.incoming.take(5)
        answer = FlaggedSamples(scores=np.full(5, 7.0), flagged=np.ones(5, bool))
        body = {"run": lambda self, evidence: answer, "__module__": "other"}
        same = type("Bright", (Bright,), body)
        Bright()(task.model, incoming=few, workdir=tmp_path)
        assert same()(task.model, incoming=few, workdir=tmp_path).scores[0] == 7

    def test_the_reject_class_counts(self, task, tmp_path: Path) -> None:
        clean = task.clean.subset(task.clean.labels < 9)
        for reject in (None, 9):
            model = Classifier(task.model.model, (0, 1), reject)
            answer = FinePruning()(model, clean=clean, workdir=tmp_path)
            assert answer.reject_class == reject

    def test_a_part_is_used_once(self, task) -> None:
        evidence = Evidence(task.model, Bright(), {})
        evidence.part("x", lambda: {"a": np.zeros(1)})
        with pytest.raises(TypeError, match="Bright.run uses the part 'x' twice"):
            evidence.part("x", lambda: {"a": np.ones(1)})


def test_nested_evidence_is_converted_and_checked(task) -> None:
    evidence = Evidence(task.model, Bright(), {})
    images = task.incoming.read()[:20]
    assert len(evidence.run(Bright(), model=task.twin.model, incoming=images).scores) == 20
    with pytest.raises(TypeError, match="There is no evidence {'incomming'}"):
        evidence.run(Bright(), incomming=images)
    with pytest.raises(BadInput, match="found must be the answer of an earlier method"):
        Bright()(task.model, incoming=images, found="text")


def test_a_need_and_an_answer_are_named() -> None:
    with pytest.raises(TypeError, match="There is no evidence 'claen'"):
        Need("claen")
    with pytest.raises(TypeError, match="found has no labels"):
        Need("found", labelled=True)
    with pytest.raises(TypeError, match="Nameless must name its answer"):
        type("Nameless", (Defense,), {"run": lambda self, evidence: None})


@dataclass(frozen=True)
class TrainAudit(Defense[FlaggedSamples]):
    """Needs two kinds of images, and flags the bright ones of the training data."""

    needs: ClassVar[tuple[Need, ...]] = (Need("train"), Need("incoming"))
    paper: ClassVar[str] = "none"

    def run(self, evidence):
        brightness = evidence.train.read().mean(axis=(1, 2, 3))
        return FlaggedSamples(scores=brightness, flagged=brightness > np.median(brightness))


def test_an_answer_is_about_the_first_data_of_its_needs(task) -> None:
    train, incoming = task.poisoned.samples.take(60, seed=1), task.incoming.take(30, seed=2)
    answer = TrainAudit()(task.model, train=train, incoming=incoming)
    np.testing.assert_array_equal(answer.row_numbers, train.row_numbers)
    np.testing.assert_array_equal(answer.labels, train.labels)
