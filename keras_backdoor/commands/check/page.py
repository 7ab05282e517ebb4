"""The page and the JSON of a check."""

from dataclasses import replace
from typing import Any

from keras_backdoor.commands.check.decision import Decision
from keras_backdoor.commands.check.steps import AGAIN, AUDIT, REPAIR, SCAN, Checked
from keras_backdoor.reports import page_of, sarif
from keras_backdoor.reports.page import Page, Section

SHOWN = (
    "Suspicion of the classes",
    "Weights of the last layer",
    "Norms of the triggers",
    "Triggers",
    "Triggered examples",
    "Groups",
    "Embedding",
    "Before and after",
    "What random triggers do",
)
"""The sections of the pages of the answers that are part of the page of a check."""


def page(checked: Checked, decision: Decision, exported: str | None) -> Page:
    """The page of a check.

    Args:
        checked: the steps.
        decision: the decision.
        exported: the folder of the exported model, or None.
    """
    inspection = checked.inspection
    reasons = [(str(n), reason) for n, reason in enumerate(decision.reasons, 1)]
    sections = [
        Section("Reasons", table=[("", ""), *reasons]),
        Section("What was measured", table=measured(checked)),
        Section(
            "Steps",
            text="Each step is a command.",
            table=[("step", "command", "seconds"),
                   *((name, line, f"{s:g}") for name, line, s in checked.steps)],
        ),
        Section("The model file", table=[("", ""), *inspection.rows()]),
    ]  # fmt: skip
    if exported is not None:
        sections.insert(1, Section("Exported", text=exported))
    for name, answer in _named(checked).items():
        if answer is None:
            continue
        own = page_of(answer)
        sections.append(Section(f"{name[:1].upper()}{name[1:]}", text=own.lead,
                                table=[("", ""), *answer.rows()]))  # fmt: skip
        if name != AGAIN:
            chosen = [
                s for s in own.sections if s.heading in SHOWN or s.heading.startswith("Samples")
            ]
            sections += [replace(s, heading=f"{s.heading} ({name})") for s in chosen]
    return Page(f"{inspection.path}: check", str(decision), sections, decision.tone)


def _named(checked: Checked) -> dict[str, Any]:
    """The answers by step; None for a step that was not made."""
    return {
        AUDIT: checked.audit,
        SCAN: checked.scan,
        REPAIR: checked.repair,
        AGAIN: checked.again,
    }


def measured(checked: Checked) -> list[tuple[str, ...]]:
    """The header and the rows of what was measured before and after the repair."""
    rows: list[tuple[str, ...]] = [("", "given model", "repaired model")]
    if checked.before is not None:
        after = "" if checked.after is None else f"{checked.after.clean_accuracy:.2%}"
        rows.append(("clean accuracy", f"{checked.before.clean_accuracy:.2%}", after))
    for number, (first, second) in checked.attacks.items():
        after = "" if second is None else f"{second:.2%}"
        rows.append((f"success of the trigger of class {number}", f"{first:.2%}", after))
    return rows


def facts(checked: Checked, decision: Decision, exported: str | None) -> dict[str, Any]:
    """The content of `check.json`."""
    given, named = checked.given, _named(checked)
    identifiers = {
        catalog["name"]: catalog
        for answer in checked.answers
        for catalog in sarif.identifiers(answer)
    }
    return {
        "kind": "Check",
        "verdict": decision.verdict,
        "action": decision.action,
        "reasons": list(decision.reasons),
        "model": given.path,
        "model_sha256": given.model.sha256(),
        "repaired_sha256": None if checked.repair is None else checked.repair.classifier.sha256(),
        "exported": exported,
        "accuracy": {
            when: None if e is None else e.clean_accuracy.as_dict()
            for when, e in (("before", checked.before), ("after", checked.after))
        },
        "triggers": {
            str(c): {"before": before, "after": after}
            for c, (before, after) in checked.attacks.items()
        },
        "steps": [
            {"name": name, "command": line, "seconds": seconds}
            for name, line, seconds in checked.steps
        ],
        "answers": {name: answer.verdict for name, answer in named.items() if answer is not None},
        "identifiers": list(identifiers.values()),
    }
