"""The steps of a check, each of which is a command that could have been typed."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.commands.check.quick import quick_scan
from keras_backdoor.commands.options import DataOptions
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.neural_cleanse.images import labels_of
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.metrics import Rate, attack_success_rate, clean_accuracy
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.network.units import at_chance
from keras_backdoor.progress import duration, tell
from keras_backdoor.samples import Samples

T = TypeVar("T", bound=Answer)
INSPECT, MEASURE, MEASURE_AGAIN = "inspection", "measurement", "measurement of the repaired model"
AUDIT, SCAN, REPAIR, AGAIN = "audit", "scan", "repair", "scan of the repaired model"
FOLDERS = {AUDIT: "audit", SCAN: "scan", REPAIR: "repaired", AGAIN: "scan-again"}
"""Step -> the folder of its answer."""


@dataclass(frozen=True)
class Given:
    """What is checked.

    Attributes:
        path: the model file.
        model: the model, with a known preprocessing.
        clean: the trusted images.
        test: labeled test images, or None.
        train: the training data, or None.
        sources: kind of data -> its path and its options on the command line.
        opening: the words that describe how the model is opened, with its preprocessing.
        out: the folder of the results.
        quick: whether only a first answer is wanted.
        always: whether the model is repaired even if nothing is found.
        structure: the words of `opening` without the preprocessing, which `inspect` takes, too.
    """

    path: str
    model: Classifier
    clean: Samples
    test: Samples | None
    train: Samples | None
    sources: dict[str, tuple[Path, DataOptions]]
    opening: tuple[str, ...]
    out: Path
    quick: bool = False
    always: bool = False
    structure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attack:
    """A suspected trigger on images of other classes than its target.

    Attributes:
        before: the share that it moves to the target in the given model.
        after: the same in the repaired model; None if it was not measured.
        anyway: the share that the repaired model, or the given one if there is none, assigns to the
            target without the trigger; None if it was not measured.
        on: the images, in words.
    """

    before: Rate
    after: Rate | None = None
    anyway: Rate | None = None
    on: str = ""


@dataclass
class Checked:
    """What the steps yield; what was not done is None.

    Attributes:
        given: what is checked.
        inspection: the inspection of the file.
        audit, scan, repair, again: the answers.
        accuracy: the clean accuracy before and after the repair, or the agreement of the repaired
            model with the given one, which has none before.
        agreement: whether `accuracy` is an agreement, because there are no labels.
        at_chance: whether the accuracy of the given model is that of guessing.
        measured_on: the images that `accuracy` was measured on, in words.
        attacks: class -> what its suspected trigger does.
        kept: the share of the flagged training images that get their label from the given and from
            the repaired model.
        steps: (name, command line, seconds) of each step.
    """

    given: Given
    inspection: Inspection
    audit: FlaggedSamples | None = None
    scan: FlaggedClasses | None = None
    repair: RepairedModel | None = None
    again: FlaggedClasses | None = None
    accuracy: tuple[Rate | None, Rate | None] | None = None
    agreement: bool = False
    at_chance: bool = False
    measured_on: str = ""
    attacks: dict[int, Attack] = field(default_factory=dict)
    kept: tuple[Rate, Rate] | None = None
    steps: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def answers(self) -> dict[str, Any]:
        """Step -> its answer, of the steps that were made."""
        made = {AUDIT: self.audit, SCAN: self.scan, REPAIR: self.repair, AGAIN: self.again}
        return {name: answer for name, answer in made.items() if answer is not None}

    @property
    def trained_anew(self) -> bool:
        """Whether the repaired network was trained from new weights."""
        return self.repair is not None and bool(self.repair.figures.get("trained_anew"))

    @property
    def found(self) -> bool:
        """Whether the scan or the audit found something."""
        return any(a is not None and a.verdict == "found" for a in (self.scan, self.audit))


def run(given: Given, inspection: Inspection) -> Checked:
    """Make all steps; finished ones are loaded from the work folder of an earlier run."""
    checked, work = Checked(given, inspection), given.out / "work"
    model, clean, train = given.model, given.clean, given.train
    checked.steps.append((INSPECT, _command("inspect", given.path, *given.structure), 0.0))
    if train is not None:
        line = _line(given, "audit", "train", out=AUDIT)
        audit = LabelDisagreement()
        checked.audit = _step(checked, AUDIT, line, lambda: audit(model, train=train, workdir=work))
    scan = StagedScan()
    more: tuple[str, ...] = ()
    if given.quick:
        scan, more = quick_scan(model, clean)
    line = _line(given, "scan", "clean", *more, out=SCAN)
    checked.scan = _step(checked, SCAN, line, lambda: scan(model, clean=clean, workdir=work))
    if given.test is not None:
        _measure_on_test(checked, MEASURE)
    if given.quick or not (checked.found or given.always):
        return checked
    _repair(checked, work)
    assert checked.repair is not None
    if given.test is not None:
        _measure_on_test(checked, MEASURE_AGAIN)
    elif checked.trained_anew and clean.labels is not None:  # it has not seen the clean images
        _measure(checked, clean)
    else:
        _from_the_repair(checked, checked.repair)
    _measure_flagged(checked)
    again, repaired, more = StagedScan(), checked.repair.classifier, ()
    if not checked.trained_anew:  # the weights keep the mark of a backdoor that no longer works
        again, more = StagedScan(weights=None), ("--set", "weights=none")
    line = _line(given, "scan", "clean", *more, out=AGAIN, model=FOLDERS[REPAIR])
    checked.again = _step(checked, AGAIN, line, lambda: again(repaired, clean=clean, workdir=work))
    return checked


def _repair(checked: Checked, work: Path) -> None:
    """Repair the model with what was found: the audit if it flags images, else the scan."""
    given, audit = checked.given, checked.audit
    by_audit = audit is not None and audit.verdict == "found"
    found: Any = audit if by_audit else checked.scan
    evidence: dict[str, Any] = {"clean": given.clean}
    if by_audit:
        evidence["train"] = given.train
    words = (*evidence, "--found", str(given.out / FOLDERS[AUDIT if by_audit else SCAN]))
    line = _line(given, "repair", *words, out=REPAIR)
    checked.repair = _step(
        checked, REPAIR, line, lambda: Auto()(given.model, **evidence, found=found, workdir=work)
    )


def _step(checked: Checked, name: str, line: str, compute: Callable[[], T]) -> T:
    """Make a step, save its answer, and note its command and its time."""
    start = time.perf_counter()
    answer = compute()
    # An answer that an earlier run computed is only loaded.
    seconds = answer.about.get("seconds", time.perf_counter() - start)
    answer.save(checked.given.out / FOLDERS[name], force=True)
    tell(f"{name}: {answer.verdict}, {duration(seconds)}")
    checked.steps.append((name, line, round(seconds, 1)))
    return answer


def _models(checked: Checked) -> list[Classifier]:
    """The given model, and the repaired one if there is one."""
    repair = checked.repair
    return [checked.given.model, *([] if repair is None else [repair.classifier])]


def _measure_on_test(checked: Checked, name: str) -> None:
    """Measure the models on the test images, and note the command that does so."""
    given, start = checked.given, time.perf_counter()
    assert given.test is not None and checked.scan is not None
    _measure(checked, given.test)
    model = None if name == MEASURE else FOLDERS[REPAIR]
    words = ("test", "--trigger", str(given.out / FOLDERS[SCAN]))
    line = _line(given, "evaluate", *words[: 3 if checked.attacks else 1], model=model)
    checked.steps.append((name, line, round(time.perf_counter() - start, 1)))


def _measure(checked: Checked, images: Samples) -> None:
    """Measure both models and the suspected triggers on labeled images."""
    labels, models = images.known_labels, _models(checked)
    rates = [clean_accuracy(m.predict(images), labels) for m in models]
    checked.accuracy = (rates[0], rates[1] if len(rates) > 1 else None)
    checked.at_chance = at_chance(rates[0], labels, models[0].classes)
    kind = "test" if images is checked.given.test else "clean"
    checked.measured_on = f"the {len(images):,} {kind} images"
    checked.attacks = {}
    _measure_triggers(checked, images, checked.measured_on)


def _measure_triggers(checked: Checked, images: Samples, on: str) -> None:
    """Measure the triggers of the suspected classes that are not measured yet."""
    scan, models = checked.scan, _models(checked)
    assert scan is not None
    labels = labels_of(models[0], images)
    predicted = models[-1].predict(images)
    for number in np.flatnonzero(scan.flagged | scan.suspects).tolist():
        if number not in scan.triggers or number in checked.attacks:
            continue
        stamped = images.stamped(scan.triggers[number])
        source = scan.source.get(number)

        def success(answers: np.ndarray, c: int = number, of: int | None = source) -> Rate:
            return attack_success_rate(answers, labels, c, source=of)

        moved = [success(model.predict(stamped)) for model in models]
        after = moved[1] if len(moved) > 1 else None
        checked.attacks[number] = Attack(moved[0], after, success(predicted), on)


def _from_the_repair(checked: Checked, repair: RepairedModel) -> None:
    """What the repair measured itself, on clean images that it held out.

    Triggers that the repair did not know are measured on all clean images.
    """

    def rate(found: dict[str, Any]) -> Rate:
        return Rate(int(found["hits"]), int(found["of"]))

    figures = repair.figures
    checked.measured_on = "clean images that the repair held out"
    if "accuracy_after" in figures:
        before, after = (rate(figures[f"accuracy_{when}"]) for when in ("before", "after"))
        checked.accuracy = (before, after)
    elif "agreement" in figures:
        checked.accuracy, checked.agreement = (None, rate(figures["agreement"])), True
    for number, rates in figures.get("recovered_triggers", {}).items():
        before, after = (rate(rates[when]) for when in ("before", "after"))
        checked.attacks[int(number)] = Attack(before, after, on=checked.measured_on)
    clean = checked.given.clean
    on = f"the {len(clean):,} clean images, with which it was repaired"
    _measure_triggers(checked, clean, on)


def _measure_flagged(checked: Checked) -> None:
    """Measure whether the training images that the audit flags still get their labels."""
    audit, train = checked.audit, checked.given.train
    if audit is None or train is None or audit.verdict != "found":
        return
    images = train.subset(np.flatnonzero(audit.flagged))
    labels = images.known_labels
    before, after = (clean_accuracy(m.predict(images), labels) for m in _models(checked))
    checked.kept = (before, after)


def _command(*words: str) -> str:
    return f"keras-backdoor {shlex.join(words)}"


def _line(
    given: Given, command: str, *words: str, out: str | None = None, model: str | None = None
) -> str:
    """The command line of a step; words that name a kind of data become its options.

    Args:
        given: what is checked.
        command: the command.
        *words: kinds of data, and other words.
        out: the step, whose folder is written, or None.
        model: the folder of the examined model, or None for the given one.
    """
    path = given.path if model is None else str(given.out / model)
    parts = [command, path, *(given.opening if model is None else ())]
    common: list[str] = []
    for word in words:
        if word not in given.sources:
            parts.append(word)
            continue
        source, options = given.sources[word]
        parts += [f"--{word}", str(source)]
        kind = "" if command == "evaluate" else f"{word}-"  # which has one kind of data only
        for name in ("split", "take"):
            value = getattr(options, name)
            if value is not None:
                parts += [f"--{kind}{name}", f"{value:g}" if name == "take" else value]
        common = options.common_words()
    written = () if out is None else ("--out", str(given.out / FOLDERS[out]))
    return _command(*parts, *common, *written)
