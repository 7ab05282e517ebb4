"""Report of the detection zoo: what each look and the whole scan see, by family of attacks."""

from typing import Any

import numpy as np

from keras_backdoor._safe.files import plain
from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._trigger_library import library
from keras_backdoor.defenses.simple_triggers import leads
from keras_backdoor.defenses.staged_scan import NAMES, Look, combined
from keras_backdoor.metrics import Rate
from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies._engine.results import percent, text
from keras_backdoor.studies.detection_zoo.networks import (
    ALL_TO_ONE,
    BLEND,
    CLEAN_LABEL,
    DEVELOPMENT,
    JUDGED,
    SINUSOID,
    WARP,
)
from keras_backdoor.studies.detection_zoo.study import LOOKS, QUICK, SEARCH
from keras_backdoor.triggers.base import Stamp

Row = tuple[str, ...]
WHOLE = "whole scan"
KNOWN = Stamp(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32))
"""Stands for a trigger, which results do not store."""
WORKS = 0.9
"""The success from which an attack counts as one that works."""
FROM_ALL = (ALL_TO_ONE, BLEND, WARP, SINUSOID, CLEAN_LABEL)
"""The families whose trigger leads from all classes to one."""
KINDS = ("Patch", "Checkerboard", "Warp", "Sinusoid")
"""The kinds of triggers that are also in the library of the simple triggers, in other settings."""
ALARMS = 0.001
"""The probability with which a limit of simple triggers raises a false alarm, by `limit_from`.

Two limits for each of nine groups have about 2 % together, as the weights have."""
RESAMPLES = 2000
NOTE = (
    "The area under the ROC curve compares the largest score of each network of a family with "
    "those of all clean networks of the half; in brackets the 95 % bootstrap interval. Attacks "
    "that work on less than 90 % of the images have rows of their own. The library of the simple "
    "triggers has squares, checkerboards, warps and sinusoids, too, of other sizes, places and "
    "strengths; other triggers are pixel patterns, squares of noise and blends. There is no "
    "decision if a class is only suspicious, or too close to the limit."
)
ERRORS = (
    "Clean networks with a flagged class, and backdoored ones in which the target is not flagged, "
    "weak attacks among them. In %; scores above 1 are outliers."
)
LIMITS = (
    "For each group of simple triggers, the largest share of the images of other classes that one "
    "trigger moves to a class, and the largest distance of its logit to that of the next class "
    "(lead); shares above half the limit were measured on other images. The rule is the value that "
    "a clean network exceeds with a probability of 0.1 %, if the figures above their median follow "
    "an exponential distribution. A share above 1 is never reached: there, only the lead counts."
)


def sections(results: Results) -> list[Section]:
    """Return the tables of both halves."""
    parts = []
    for half in (JUDGED, DEVELOPMENT):
        table = families(results, half)
        if table[1:]:
            parts.append(Section(f"{half.capitalize()} half", text=NOTE, table=table))
            parts.append(Section(f"Clean networks, {half} half", table=alarms(results, half)))
            parts.append(Section(f"Errors, {half} half", text=ERRORS, table=errors(results, half)))
    table = limits(results)
    if table[1:]:
        heading = "Simple triggers on clean networks of the development half"
        parts.append(Section(heading, text=LIMITS, table=table))
    return [part for part in parts if part.table and part.table[1:]]


def families(results: Results, half: str) -> list[Row]:
    """Return the header and one row per family and for the attacks that do not work."""
    found = networks(results, half)
    clean = [f for f in found.values() if f["family"] == "clean"]
    rows: list[Row] = [
        ("attacks", "networks", *(f"AUROC, {name}" for name in (*LOOKS, WHOLE)), "found",
         "target flagged", "no decision")
    ]  # fmt: skip
    groups: dict[str, list[dict[str, Any]]] = {}
    for figures in found.values():
        family = figures["family"]
        if family != "clean":
            groups.setdefault(family if _works(figures) else f"{family}, weak", []).append(figures)
    from_all = [f for name in FROM_ALL for f in groups.get(name, [])]
    others = [f for f in from_all if not any(kind in f["attack"] for kind in KINDS)]
    together = [("from all classes to one", from_all), ("of these, other triggers", others)]
    ordered = sorted(groups.items(), key=lambda item: (", weak" in item[0], item[0]))
    for family, own in [*((name, own) for name, own in together if own), *ordered]:
        areas = [area(own, clean, name) for name in (*LOOKS, WHOLE)]
        number = sum(f[WHOLE]["verdict"] == "found" for f in own)
        right = sum(f[WHOLE]["verdict"] == "found" and _right(f) for f in own)
        rows.append((family, str(len(own)), *areas, f"{number} of {len(own)}",
                     f"{right} of {number}", str(_undecided(own, WHOLE))))  # fmt: skip
    return rows


def alarms(results: Results, half: str) -> list[Row]:
    """Return the header and one row per look, with the false alarms among clean networks."""
    clean = [f for f in networks(results, half).values() if f["family"] == "clean"]
    rows: list[Row] = [("look", "clean networks", "false alarms", "95 % interval", "no decision")]
    for name in (*LOOKS, WHOLE):
        rate = Rate(sum(f[name]["verdict"] == "found" for f in clean), len(clean))
        if rate.of:
            low, high = rate.interval()
            bounds = f"{low:.1%} to {high:.1%}"
            undecided = str(_undecided(clean, name))
            rows.append((name, str(rate.of), str(rate.hits), bounds, undecided))
    return rows


def errors(results: Results, half: str) -> list[Row]:
    """Return the header and one row per network that the whole scan is wrong about."""
    rows: list[Row] = [
        ("network", "attack", "attack %", "verdict", "flagged", *(f"score, {n}" for n in LOOKS))
    ]
    for name, figures in networks(results, half).items():
        whole, clean = figures[WHOLE], figures["family"] == "clean"
        found = whole["verdict"] == "found"
        if found if clean else not (found and _right(figures)):
            scores = (f"{largest(figures[look]):.2f}" for look in LOOKS)
            rate = percent(figures.get("attack_success_rate"))
            rows.append(
                (name.removeprefix(f"{half}, "), figures["attack"], rate, whole["verdict"],
                 text(whole["flagged"]), *scores)
            )  # fmt: skip
    return rows


def limits(results: Results) -> list[Row]:
    """Return the header and two rows per group of simple triggers."""
    half = networks(results, DEVELOPMENT)
    clean = [f["triggers"]["measures"] for f in half.values() if f["family"] == "clean"]
    rows: list[Row] = [
        ("triggers", "figure", f"largest of {len(clean)} networks", "second", "rule", "limit")
    ]
    if len(clean) < 2:
        return rows
    for group in library(32, 32, 3, 0):
        own = [np.array(measures[f"moved_by_{group.key}"], float) for measures in clean]
        for name, figures, limit in (
            ("share", [s.max() for s in own], group.limit),
            ("lead", [leads(s).max() for s in own], group.lead_limit),
        ):
            second, first = np.sort(figures)[-2:]
            rule = limit_from(np.array(figures))
            numbers = (f"{value:.2f}" for value in (first, second, rule, limit))
            rows.append((group.name, name, *numbers))
    return rows


def limit_from(largest: np.ndarray) -> float:
    """The value that the largest figure of a clean network exceeds with the probability `ALARMS`.

    The figures above their median are taken as exponentially distributed (Pickands, Statistical
    inference using extreme order statistics, Annals of Statistics 1975, with a shape of 0): half of
    the networks exceed the median m, and m + x is exceeded by exp(-x / s) / 2 of them, where s is
    the mean distance to the median.

    >>> drawn = np.random.default_rng(0).exponential(2.0, 100_000)
    >>> round(limit_from(drawn))  # -2 log(0.001) = 13.8
    14
    """
    median = float(np.median(largest))
    above = largest[largest > median] - median
    scale = above.mean() if len(above) else 0.0
    return float(median + scale * np.log(0.5 / ALARMS))


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


def networks(results: Results, half: str) -> dict[str, dict[str, Any]]:
    """The networks of a half of which both cells are finished, with the whole scan of each."""
    parts: dict[str, dict[str, Any]] = {}
    for cell in results.cells:
        if cell["group"].startswith(f"{half}, ") and "figures" in cell:
            end = next(e for e in (QUICK, SEARCH) if cell["name"].endswith(f", {e}"))
            family = cell["group"].split(", ", 1)[1]
            own = parts.setdefault(cell["name"].removesuffix(f", {end}"), {"family": family})
            own |= cell["figures"]
    return {n: f | {WHOLE: whole(f)} for n, f in parts.items() if all(k in f for k in LOOKS)}


def whole(figures: dict[str, Any]) -> dict[str, Any]:
    """What `StagedScan` says, whose looks are these."""
    looks = (Look(NAMES[name], _answer(figures[name])) for name in LOOKS)
    answer = combined(looks, len(figures["weights"]["scores"]))
    return {
        "scores": plain(answer.scores),
        "flagged": np.flatnonzero(answer.flagged).tolist(),
        "verdict": answer.verdict,
    }


def _answer(figures: dict[str, Any]) -> FlaggedClasses:
    """The answer of a look, with stand-ins for its triggers."""
    scores = np.array(figures["scores"], float)  # None becomes NaN
    flagged, suspects = (
        np.isin(np.arange(len(scores)), figures[k]) for k in ("flagged", "suspects")
    )
    return FlaggedClasses(
        scores=scores,
        flagged=flagged,
        further=suspects,
        triggers=dict.fromkeys(figures["triggers"], KNOWN),
        inconclusive=figures["inconclusive"],
    )


def _undecided(own: list[dict[str, Any]], look: str) -> int:
    return sum(f[look]["verdict"] == "inconclusive" for f in own)


def _works(figures: dict[str, Any]) -> bool:
    return bool(figures["attack_success_rate"]["share"] >= WORKS)


def _right(figures: dict[str, Any]) -> bool:
    """Whether the target is flagged; of an attack on all classes, any class."""
    target, flagged = figures["target"], figures[WHOLE]["flagged"]
    return bool(flagged) if target == "next" else target in flagged
