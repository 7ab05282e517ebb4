"""The steps of a check, each of which is a command that could have been typed."""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_backdoor.answers import Answer, FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.defenses.auto import Auto
from keras_backdoor.defenses.label_disagreement import LabelDisagreement
from keras_backdoor.defenses.staged_scan import StagedScan
from keras_backdoor.evaluation import Evaluation, evaluate
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.network.classifier import Classifier
from keras_backdoor.progress import duration, tell
from keras_backdoor.samples import Samples

T = TypeVar("T")
LEFT = 0.01
"""The largest success of a suspected trigger on the repaired model that is accepted."""
LOST = 0.01
"""The largest loss of clean accuracy that is accepted."""
AUDIT, SCAN, REPAIR, AGAIN = "audit", "scan", "repair", "scan of the repaired model"


@dataclass(frozen=True)
class Given:
    """What is checked.

    Attributes:
        path: the model file.
        model: the model.
        clean: the trusted images.
        test: labeled test images, or None.
        train: the training data, or None.
        options: kind of data -> the words that describe it on a command line.
        opening: the words that describe how the model is opened.
        out: the folder of the results.
        quick: whether only a first answer is wanted.
        always: whether the model is repaired even if nothing is found.
    """

    path: str
    model: Classifier
    clean: Samples
    test: Samples | None
    train: Samples | None
    options: dict[str, tuple[str, ...]]
    opening: tuple[str, ...]
    out: Path
    quick: bool = False
    always: bool = False

    @property
    def measured(self) -> Samples | None:
        """The labeled images on which accuracies are measured: test, or clean if it has labels."""
        if self.test is not None:
            return self.test
        return self.clean if self.clean.labels is not None else None


@dataclass
class Checked:
    """What the steps yield; what was not done is None.

    Attributes:
        given: what is checked.
        inspection: the inspection of the file.
        audit, scan, repair, again: the answers.
        before, after: the evaluations of the model and of the repaired one.
        attacks: class -> (success before, success after) of the suspected triggers.
        steps: (name, command line, seconds) of each step.
    """

    given: Given
    inspection: Inspection
    audit: FlaggedSamples | None = None
    scan: FlaggedClasses | None = None
    repair: RepairedModel | None = None
    again: FlaggedClasses | None = None
    before: Evaluation | None = None
    after: Evaluation | None = None
    attacks: dict[int, tuple[float, float | None]] = field(default_factory=dict)
    steps: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def answers(self) -> list[Any]:
        """The inspection and the answers, in order."""
        made = (self.inspection, self.audit, self.scan, self.repair, self.again)
        return [answer for answer in made if answer is not None]

    @property
    def found(self) -> bool:
        """Whether the scan or the audit found something."""
        return any(a is not None and a.verdict == "found" for a in (self.scan, self.audit))


def run(given: Given, inspection: Inspection) -> Checked:
    """Make all steps; finished ones are loaded from the work folder of an earlier run."""
    checked = Checked(given, inspection)
    for _ in _steps(checked):
        pass
    return checked


def _steps(checked: Checked) -> Iterator[None]:
    given = checked.given
    work = given.out / "work"
    if given.train is not None and not given.quick:
        checked.audit = _step(
            checked, AUDIT, _line(given, "audit", "train", out="audit"),
            lambda: LabelDisagreement()(given.model, train=given.train, workdir=work),
        )  # fmt: skip
        yield
    scan = StagedScan(search=None) if given.quick else StagedScan()
    extra = ("--method", "staged-scan", *(("--set", "search=none") if given.quick else ()))
    checked.scan = _step(
        checked, SCAN, _line(given, "scan", "clean", *extra, out="scan"),
        lambda: scan(given.model, clean=given.clean, workdir=work),
    )  # fmt: skip
    yield
    _measure(checked)
    if given.quick or not (checked.found or given.always):
        return
    evidence: dict[str, Any] = {"clean": given.clean, "train": given.train}
    found = checked.scan if checked.scan.verdict == "found" else None
    evidence = {name: data for name, data in evidence.items() if data is not None}
    words = () if found is None else ("--found", str(given.out / "scan"))
    kinds = ("clean", "train") if given.train is not None else ("clean",)
    checked.repair = _step(
        checked, REPAIR, _line(given, "repair", *kinds, *words, out="repaired"),
        lambda: Auto()(given.model, **evidence, found=found, workdir=work),
    )  # fmt: skip
    yield
    _measure(checked)
    repaired = checked.repair.classifier
    checked.again = _step(
        checked, AGAIN, _line(
            given, "scan", "clean", "--method", "staged-scan", out="scan-again", model="repaired"
        ),
        lambda: StagedScan()(repaired, clean=given.clean, workdir=work),
    )  # fmt: skip
    yield


def _step(checked: Checked, name: str, line: str, compute: Callable[[], T]) -> T:
    """Make a step, save its answer, and note its command and its time."""
    start = time.perf_counter()
    answer = compute()
    seconds = time.perf_counter() - start
    if isinstance(answer, Answer):
        folder = {AUDIT: "audit", SCAN: "scan", REPAIR: "repaired", AGAIN: "scan-again"}[name]
        answer.save(checked.given.out / folder, force=True)
        tell(f"{name}: {answer.verdict}, {duration(seconds)}")
    checked.steps.append((name, line, round(seconds, 1)))
    return answer


def _measure(checked: Checked) -> None:
    """Measure the accuracy and the suspected triggers, before or after the repair."""
    given, scan = checked.given, checked.scan
    samples = given.measured
    model = given.model if checked.repair is None else checked.repair.classifier
    if samples is not None:
        measured = evaluate(model, samples)
        if checked.repair is None:
            checked.before = measured
        else:
            checked.after = measured
    if scan is None:
        return
    images = samples if samples is not None else given.clean
    labelled = images if images.labels is not None else images.labelled(given.model.predict(images))
    for number in np.flatnonzero(scan.flagged | scan.suspects).tolist():
        if number not in scan.triggers:
            continue
        rate = evaluate(
            model, labelled, trigger=scan.triggers[number], target=number,
            source=scan.source.get(number),
        ).attack_success_rate  # fmt: skip
        assert rate is not None
        before = checked.attacks.get(number, (float(rate), None))[0]
        checked.attacks[number] = (before, None if checked.repair is None else float(rate))


def _line(given: Given, command: str, *words: str, out: str, model: str | None = None) -> str:
    """The command line of a step; words that name a kind of data become its options."""
    path = given.path if model is None else str(given.out / model)
    parts = [command, path, *(given.opening if model is None else ())]
    for word in words:
        parts += given.options.get(word, (word,))
    return "keras-backdoor " + shlex.join([*parts, "--out", str(given.out / out)])
