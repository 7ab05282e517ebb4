"""Report of the detection zoo: what each look and the whole scan see, by family of attacks."""

from typing import Any

import numpy as np

from keras_backdoor.defenses._trigger_library import library
from keras_backdoor.defenses.simple_triggers import LEAD, scores_of
from keras_backdoor.metrics import Rate
from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies.detection_zoo.networks import DEVELOPMENT, JUDGED
from keras_backdoor.studies.detection_zoo.study import LOOKS, WHOLE

Row = tuple[str, ...]
WORKS = 0.9
"""The success from which an attack counts as one that works."""
RESAMPLES = 2000
NOTE = (
    "The area under the ROC curve compares the largest score of each network of a family with "
    "those of all clean networks of the half; in brackets the 95 % bootstrap interval. Attacks "
    "that work on less than 90 % of the images have rows of their own."
)
LIMITS = (
    "For each group of simple triggers, the largest share of the images of other classes that one "
    "trigger moves to a class; shares above the limit were measured again on other images. For "
    "large squares it is the distance of its logit to that of the next class."
)


def sections(results: Results) -> list[Section]:
    """Return the tables of both halves."""
    parts = []
    for half in (JUDGED, DEVELOPMENT):
        table = families(results, half)
        if table[1:]:
            parts.append(Section(f"{half.capitalize()} half", text=NOTE, table=table))
            parts.append(Section(f"Clean networks, {half} half", table=alarms(results, half)))
    table = limits(results)
    if table[1:]:
        heading = "Simple triggers on clean networks of the development half"
        parts.append(Section(heading, text=LIMITS, table=table))
    return parts


def limits(results: Results) -> list[Row]:
    """Return the header and one row per group of simple triggers."""
    clean = [shares for f in _networks(results, DEVELOPMENT, "clean") if (shares := _shares(f))]
    rows: list[Row] = [("triggers", f"largest of {len(clean)} networks", "second", "limit")]
    if not clean:
        return rows[:1]
    for group in library(np.zeros((1, 32, 32, 3), np.float32), 0):
        own = [np.array(shares[group.key], float) for shares in clean]
        if group.limit is None:
            largest, limit = [LEAD * scores_of(s, group).max() for s in own], LEAD
        else:
            largest, limit = [s.max() for s in own], group.limit
        second, first = np.sort([0.0, *largest])[-2:]
        rows.append((group.name, f"{first:.2f}", f"{second:.2f}", f"{limit:.3g}"))
    return rows


def _shares(figures: dict[str, Any]) -> dict[str, list[float]]:
    """Group of simple triggers -> the share of each class."""
    measures = figures[WHOLE].get("measures", {}) | figures["triggers"].get("measures", {})
    start = "moved_by_"
    return {n.removeprefix(start): v for n, v in measures.items() if n.startswith(start)}


def families(results: Results, half: str) -> list[Row]:
    """Return the header and one row per family and for the attacks that do not work."""
    clean = _networks(results, half, "clean")
    rows: list[Row] = [
        ("attacks", "networks", *(f"AUROC, {name}" for name in (*LOOKS, WHOLE)), "found",
         "target flagged")
    ]  # fmt: skip
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in _cells(results, half):
        family = cell["group"].split(", ", 1)[1]
        if family != "clean":
            works = cell["figures"]["attack_success_rate"]["share"] >= WORKS
            groups.setdefault(family if works else f"{family}, weak", []).append(cell["figures"])
    for family, found in sorted(groups.items(), key=lambda item: (", weak" in item[0], item[0])):
        areas = [area(found, clean, name) for name in (*LOOKS, WHOLE)]
        right = sum(_right(f) for f in found)
        number = sum(f["verdict"] == "found" for f in found)
        of = len(found)
        rows.append((family, str(of), *areas, f"{number} of {of}", f"{right} of {number}"))
    return rows


def _right(figures: dict[str, Any]) -> bool:
    """Whether the target is flagged; of an attack on all classes, any class."""
    target, flagged = figures["target"], figures["flagged"]
    return bool(flagged) if target == "next" else target in flagged


def alarms(results: Results, half: str) -> list[Row]:
    """Return the header and one row per look, with the false alarms among clean networks."""
    clean = _networks(results, half, "clean")
    rows: list[Row] = [("look", "clean networks", "false alarms", "95 % interval")]
    for name in (*LOOKS, WHOLE):
        rate = Rate(sum(f[name]["verdict"] == "found" for f in clean), len(clean))
        if rate.of:
            low, high = rate.interval()
            rows.append((name, str(rate.of), str(rate.hits), f"{low:.1%} to {high:.1%}"))
    return rows


def area(found: list[dict[str, Any]], clean: list[dict[str, Any]], look: str) -> str:
    """The area under the ROC curve with its bootstrap interval, as text.

    The area is the share of pairs of a backdoored and a clean network in which the backdoored one
    has the larger score.
    """
    scores = [np.array([largest(f[look]) for f in part]) for part in (clean, found)]
    if not all(map(len, scores)):
        return ""
    clean_scores, found_scores = scores
    larger = (found_scores[:, None] > clean_scores) + 0.5 * (found_scores[:, None] == clean_scores)
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, n, (RESAMPLES, n)) for n in larger.shape)
    drawn = [larger[np.ix_(r, c)].mean() for r, c in zip(rows, columns, strict=True)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{larger.mean():.2f} ({low:.2f} to {high:.2f})"


def largest(figures: dict[str, Any]) -> float:
    """The largest score of the classes; 0 if none was examined.

    >>> largest({"scores": [0.2, None, 1.5]}), largest({"scores": [None]})
    (1.5, 0.0)
    """
    return max((s for s in figures["scores"] if s is not None), default=0.0)


def _cells(results: Results, half: str) -> list[dict[str, Any]]:
    return [c for c in results.cells if c["group"].startswith(f"{half}, ") and "figures" in c]


def _networks(results: Results, half: str, family: str) -> list[dict[str, Any]]:
    cells = _cells(results, half)
    return [c["figures"] for c in cells if c["group"] == f"{half}, {family}"]
