"""The sentence that a report page starts with, and the facts and settings that it lists."""

from pathlib import Path
from typing import Any, Literal

from keras_backdoor._internals import discovery, typed_settings
from keras_backdoor.answers import Answer, FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.evaluation import Evaluation
from keras_backdoor.loading.inspection import Inspection

Tone = Literal["good", "bad", "unsure", ""]
WORKS = 0.02
"""Success of an attack above which a page says that it works."""
FAINT = 0.5
"""Largest mask value below which a trigger is a faint change of the image rather than a mark."""


def class_label(number: int, about: dict[str, Any]) -> str:
    """The number of a class, with its name if it has one.

    >>> class_label(1, {"class_names": ["cat", "dog"]}), class_label(1, {})
    ('class 1 (dog)', 'class 1')
    """
    names = about.get("class_names") or []
    if number < len(names) and names[number] != str(number):
        return f"class {number} ({names[number]})"
    return f"class {number}"


def incomplete(answer: Any) -> str:
    """What the headline of an answer that found nothing adds; the page has a section about it."""
    kind = "scan" if isinstance(answer, FlaggedClasses) else "audit"
    return f" This {kind} does not see every backdoor; see below."


def headline(answer: Any) -> tuple[Tone, str]:
    """(tone, sentence) of an answer, an evaluation or an inspection."""
    about = getattr(answer, "about", {})
    if isinstance(answer, Inspection):
        tone: Tone = "good" if answer.verdict == "safe" else "bad"
        return tone, f"{answer.meaning[:1].upper()}{answer.meaning[1:]}."
    if isinstance(answer, Answer) and answer.verdict == "inconclusive":
        start = "Do not deploy yet" if isinstance(answer, RepairedModel) else "No decision"
        return "unsure", f"{start}: {answer.inconclusive or 'no class was examined'}."
    if isinstance(answer, FlaggedClasses):
        return _of_scan(answer, about)
    if isinstance(answer, RepairedModel):
        return "good", _of_repair(answer)
    if isinstance(answer, FlaggedSamples):
        number, total = int(answer.flagged.sum()), len(answer.flagged)
        if not number:
            text = f"None of the {total:,} images is flagged."
            return "unsure", text + incomplete(answer)
        text = f"{number:,} of the {total:,} images are flagged"
        if answer.verdict == "nothing":
            return "unsure", f"{text}, no more than of clean images."
        return "bad", f"{text} as poisoned."
    if isinstance(answer, Evaluation):
        return _of_evaluation(answer, about)
    return "", ""


def advice(answer: Any) -> str:
    """What to do next, for an answer that was not made on the command line."""
    if isinstance(answer, FlaggedClasses):
        return {
            "found": "Repair the model with this scan as 'found', and measure it again on images "
            "that neither the scan nor the repair has seen.",
            "nothing": "Measure the accuracy on your own images. If the training data is at hand, "
            "examine it too.",
        }.get(answer.verdict, f"Give what is missing: {answer.inconclusive}.")
    if isinstance(answer, RepairedModel) and answer.verdict == "repaired":
        return "Measure the repaired model on your own images before you deploy it."
    if isinstance(answer, FlaggedSamples) and answer.verdict == "found":
        return "Look at the flagged images, leave them out, and train the network again."
    return ""


def _of_scan(answer: FlaggedClasses, about: dict[str, Any]) -> tuple[Tone, str]:
    if answer.verdict == "nothing":
        return "unsure", "Nothing found." + incomplete(answer)
    flagged = [c for c in answer.ranked() if answer.flagged[c]]
    number = flagged[0] if flagged else int(answer.flagged.argmax())
    smallest = answer.figures.get("smallest_trigger", {})
    label = class_label(number, about)
    trigger = answer.triggers.get(number)
    if trigger is None:
        return "bad", f"Do not deploy: {label} stands out among the classes."
    if smallest.get("class") == number and smallest.get("success") is not None:
        pixels = max(1, round(smallest["l1_norm"]))
        what = f"a mark of {pixels} pixel{'' if pixels == 1 else 's'}"
        if trigger.mask.max() < FAINT:
            what = "a faint change of the whole image"
        return "bad", (
            f"Do not deploy: {what} turns {smallest['success']:.0%} of the images into {label}."
        )
    return "bad", f"Do not deploy: {label} has an unusually small trigger."


def _of_repair(answer: RepairedModel) -> str:
    triggers = answer.figures.get("recovered_triggers", {})
    if not triggers:
        return "Repaired."
    before, after = (
        max(rates[when]["share"] for rates in triggers.values()) for when in ("before", "after")
    )
    text = (
        f"Repaired: the recovered triggers work on {after:.1%} of the images, {before:.1%} before"
    )
    if "accuracy_after" in answer.figures:
        accuracy = [answer.figures[f"accuracy_{when}"]["share"] for when in ("after", "before")]
        text += "; the clean accuracy is {:.1%}, {:.1%} before".format(*accuracy)
    return text + "."


def _of_evaluation(answer: Evaluation, about: dict[str, Any]) -> tuple[Tone, str]:
    text = f"{answer.clean_accuracy:.1%} of the clean images are classified correctly"
    rates = [m.attack_success_rate for m in answer.attacks.values()] or [answer.attack_success_rate]
    known = [float(rate) for rate in rates if rate is not None]
    if not known:
        return "", f"{text}. No trigger was measured."
    text += f", and {max(known):.1%} of the triggered images go to the target"
    if max(known) > WORKS:
        return "bad", f"Do not deploy: the trigger works. {text}."
    return "good", f"The trigger does not work. {text}."


def facts(answer: Any) -> list[tuple[str, str]]:
    """(name, value) rows that say what was examined and when."""
    about = getattr(answer, "about", {})
    images = about.get("images")
    if isinstance(images, dict):
        images = ", ".join(f"{number:,} {kind}" for kind, number in images.items())
    rows = {
        "model": about.get("model") and Path(str(about["model"])).name,
        "SHA-256 of the model": about.get("model_sha256"),
        "pixels": about.get("pixels"),
        "images": images,
        "date": about.get("date"),
        "seconds": about.get("seconds"),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def class_table(about: dict[str, Any]) -> list[tuple[str, str]]:
    """(number, name) rows of classes that have names; empty if the names are the numbers."""
    names = about.get("class_names") or []
    return [(str(n), name) for n, name in enumerate(names) if name != str(n)]


def settings(about: dict[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(changed, default): settings that differ from the defaults of the method, and the rest."""
    given = dict(about.get("settings", {}))
    method = given.pop("method", None)
    usual = _flat(_defaults(method))
    rows = [(key, str(value)) for key, value in _flat(given).items()]
    changed = [(key, value) for key, value in rows if usual.get(key, value) != value]
    return changed, [row for row in rows if row not in changed]


def _defaults(method: str | None) -> dict[str, Any]:
    for folder in ("defenses", "explanations"):
        for key in discovery.keys(folder):
            cls = discovery.load(folder, key)
            if cls.__name__ == method:
                return typed_settings.as_dict(cls())
    return {}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def name_of(answer: Any) -> str:
    """The name of the examined file or model, for the title of a page."""
    path = answer.path if isinstance(answer, Inspection) else answer.about.get("model")
    return Path(str(path)).name if path else ""
