"""The page and the JSON of a check."""

from dataclasses import replace
from typing import Any

from keras_backdoor.commands.check.decision import Decision
from keras_backdoor.commands.check.steps import AGAIN, Checked
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.metrics import Rate
from keras_backdoor.reports import page_of, sarif, sentences
from keras_backdoor.reports.page import Page, Section

SHOWN = (
    "Suspicion of the classes", "Weights of the last layer", "Norms of the triggers", "Triggers",
    "Triggered examples", "Groups", "Embedding", "Before and after", "What random triggers do",
    "What this method does not see",
)  # fmt: skip
"""The sections of the pages of the answers that are part of the page of a check."""


def page(checked: Checked, decision: Decision, exported: str | None) -> Page:
    """The page of a check.

    Args:
        checked: the steps.
        decision: the decision.
        exported: the folder of the exported model, or None.
    """
    steps = [(name, line, f"{seconds:g}") for name, line, seconds in checked.steps]
    rows = measured(checked)
    what = f"The model for TensorFlow Serving is in {exported}."
    sections = [
        _reasons(decision),
        *([] if exported is None else [Section("Exported", text=what)]),
        Section("What was measured", text=_on(checked), table=rows if rows[1:] else ()),
        Section("Steps", text="Each step is a command.",
                table=[("step", "command", "seconds"), *steps]),
        _file(checked.inspection),
    ]  # fmt: skip
    for name, answer in checked.answers.items():
        own = page_of(answer)
        heading = f"{name[:1].upper()}{name[1:]}"
        lead = own.lead.removesuffix(sentences.incomplete(answer)) if name == AGAIN else own.lead
        sections.append(Section(heading, text=lead, table=[("", ""), *answer.rows()]))
        if name != AGAIN:
            chosen = [s for s in own.sections if s.heading.startswith(("Samples of", *SHOWN))]
            sections += [replace(s, heading=f"{s.heading} ({name})") for s in chosen]
    title = f"{checked.inspection.path}: check"
    return Page(title, str(decision), sections, decision.tone)


def page_of_hostile(inspection: Inspection, decision: Decision) -> Page:
    """The page of a check of a file that must not be opened."""
    sections = [_reasons(decision), _file(inspection)]
    return Page(f"{inspection.path}: check", str(decision), sections, decision.tone)


def _reasons(decision: Decision) -> Section:
    rows = [(str(number), reason) for number, reason in enumerate(decision.reasons, 1)]
    return Section("Reasons", table=[("", ""), *rows])


def _file(inspection: Inspection) -> Section:
    return Section("The model file", table=[("", ""), *inspection.rows()])


def _on(checked: Checked) -> str:
    return f"Measured on {checked.measured_on}." if checked.measured_on else "Nothing was measured."


def measured(checked: Checked) -> list[tuple[str, ...]]:
    """The header and the rows of what was measured before and after the repair."""
    rows: list[tuple[str, ...]] = [("", "given model", "repaired model")]
    if checked.accuracy is not None:
        name = "agreement with the given model" if checked.agreement else "clean accuracy"
        rows.append((name, *map(_percent, checked.accuracy)))
    for number, attack in checked.attacks.items():
        name = f"success of the trigger of class {number}"
        rows.append((name, _percent(attack.before), _percent(attack.after)))
    if checked.kept is not None:
        rows.append(("flagged training images that get their label", *map(_percent, checked.kept)))
    return rows


def _percent(rate: Rate | None) -> str:
    """A share with its counts.

    >>> _percent(Rate(9, 1200)), _percent(None)
    ('0.75% (9 of 1,200)', '')
    """
    return "" if rate is None else f"{rate:.2%} ({rate.hits:,} of {rate.of:,})"


def facts(checked: Checked, decision: Decision, exported: str | None) -> dict[str, Any]:
    """The content of `check.json`."""
    given, answers = checked.given, checked.answers
    accuracy = _rates(*checked.accuracy or (None, None))
    return {
        **facts_of_hostile(checked.inspection, decision),
        "model_sha256": given.model.sha256(),
        "repaired_sha256": None if checked.repair is None else checked.repair.classifier.sha256(),
        "exported": exported,
        "measured_on": checked.measured_on,
        ("agreement" if checked.agreement else "accuracy"): accuracy,
        "triggers": {
            str(c): _rates(attack.before, attack.after)
            | {"anyway": attack.anyway and attack.anyway.as_dict(), "on": attack.on}
            for c, attack in checked.attacks.items()
        },
        "flagged_images": _rates(*checked.kept or (None, None)),
        "steps": [
            {"name": name, "command": line, "seconds": seconds}
            for name, line, seconds in checked.steps
        ],
        "answers": {name: answer.verdict for name, answer in answers.items()},
        "identifiers": _merged([checked.inspection, *answers.values()]),
    }


def _rates(before: Rate | None, after: Rate | None) -> dict[str, Any]:
    return {"before": before and before.as_dict(), "after": after and after.as_dict()}


def facts_of_hostile(inspection: Inspection, decision: Decision) -> dict[str, Any]:
    """The content of `check.json` for a file that must not be opened."""
    return {
        "kind": "Check",
        "verdict": decision.verdict,
        "action": decision.action,
        "reasons": list(decision.reasons),
        "model": inspection.path,
        "file_sha256": inspection.sha256,
        "file": inspection.verdict,
        "identifiers": sarif.identifiers(inspection),
    }


def _merged(answers: list[Any]) -> list[dict[str, Any]]:
    """The identifiers of several answers, one dictionary for each catalog."""
    found: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for catalog in sarif.identifiers(answer):
            known = found.setdefault(catalog["name"], {**catalog, "ids": []})
            known["ids"] += [i for i in catalog["ids"] if i not in known["ids"]]
    return list(found.values())
