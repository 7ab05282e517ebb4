"""The command to run after a command, ready to paste."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Given:
    """What a command was called with.

    Attributes:
        model: the model file.
        options: the options that describe the model and the data that the next command needs,
            ready to paste.
        out: the folder in which the answer was saved, or None.
    """

    model: str
    options: tuple[str, ...]
    out: Path | None


def next_step(command: str, answer: Any, given: Given) -> str:
    """Return what to run next, as one line of text; empty if there is nothing to say.

    Args:
        command: the command that was run.
        answer: its answer.
        given: what it was called with.
    """
    if command == "scan":
        return _after_scan(answer, given)
    if command == "audit":
        return _after_audit(answer, given)
    if command in ("repair", "guard"):
        return _after_repair(answer, given)
    return ""


def _after_scan(answer: Any, given: Given) -> str:
    data = () if {"--clean", "--train"} & set(given.options) else ("--clean", "DATA")
    if answer.verdict == "inconclusive":
        return f"no decision yet: {answer.inconclusive}"
    if answer.verdict == "nothing":
        repair = _line("repair", given.model, *given.options, *data, "--out", "repaired")
        return (
            "nothing found by this scan, which does not see every backdoor (see its page, --report "
            f"DIR); {repair} removes small triggers without a scan, and "
            f"{_line('evaluate', given.model, '--test', 'DATA')} measures the accuracy"
        )
    if given.out is None:
        return "save the scan with --out DIR, then repair the model with --found DIR"
    return _line(
        "repair", given.model, *given.options, *data, "--found", str(given.out), "--out", "repaired"
    )


def _after_audit(answer: Any, given: Given) -> str:
    if answer.verdict == "inconclusive":
        return f"no decision: {answer.inconclusive}"
    if "--train" not in given.options:
        return ""
    if answer.verdict == "nothing":
        return "nothing found by this audit, which does not see every backdoor (see its page)"
    if given.out is None:
        return (
            "save the audit with --out DIR, look at the flagged images (--report DIR), and train "
            "the network without them: repair --method retrain --found DIR"
        )
    return _line(
        "repair", given.model, *given.options, "--method", "retrain", "--found", str(given.out),
        "--out", "retrained",
    )  # fmt: skip


def _after_repair(answer: Any, given: Given) -> str:
    evaluated = _line("evaluate", str(given.out), "--test", "DATA")
    if answer.verdict == "inconclusive":
        measured = "" if given.out is None else f"; {evaluated} measures its accuracy"
        return f"do not deploy it yet: {answer.inconclusive}{measured}"
    if given.out is None:
        return "save the repaired model with --out DIR"
    return f"{evaluated} && {_line('export', str(given.out), '--out', 'serving/model')}"


def _line(*words: str) -> str:
    return "keras-backdoor " + " ".join(map(shlex.quote, words))
