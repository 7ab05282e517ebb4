"""From the norms of several runs to a verdict on the classes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses.neural_cleanse.by_class import (
    Run,
    best_triggers,
    median,
    smallest,
    smallest_by_class,
    sources_of,
)
from keras_backdoor.defenses.neural_cleanse.outliers import anomaly_index
from keras_backdoor.defenses.neural_cleanse.rows import ANY

MANY_PAIRS = 100
"""More pairs than these are ranked, and none is flagged; the zoo has 90 and 1,806."""
CROWDED = 0.75
"""Share of the clean images beyond which a batch may hold a single class: it needs no trigger."""
Rule = Callable[[np.ndarray, int], float]
"""(norms of the yardstick, how many norms are judged) -> the norm below which one is an outlier."""


def judge(
    runs: list[Run],
    classes: int,
    rules: Mapping[str, Rule],
    *,
    every: bool = False,
    doubt: Rule | None = None,
    answered: np.ndarray | None = None,
) -> FlaggedClasses:
    """Classes with a row that is an outlier in most runs are suspects.

    The suspect with the smallest norm is flagged. In a network with a backdoor many classes have
    smaller triggers than in a clean one, without a backdoor of their own; the other suspects are
    reported as possible further targets.

    Among many classes ordinary pairs have triggers as small as planted ones: where there are more
    than 100 pairs nothing is flagged, suspects are further ones and the answer is inconclusive. It
    is inconclusive, too, where the runs disagree, where half of them have no median, because most
    rows have no trigger, where there are fewer than three rows, none of which can be an outlier,
    and where the outlier is a class that has most of the images without a trigger: it needs none.

    Args:
        runs: at least one, with the same rows.
        classes: number of classes.
        rules: name -> limit of one run. The first decides; the others are shown beside it.
        every: flag every suspect, of pairs too, as the paper does.
        doubt: limit below which a row that is no outlier makes the answer inconclusive.
        answered: (k,) share of the clean images that the model puts in each class.
    """
    targets, sources = runs[0]["targets"], runs[0]["sources"]
    norms = np.stack([run["norms"] for run in runs])
    yardsticks = [run["norms"][run["reference"].astype(bool)] for run in runs]
    index = np.stack([anomaly_index(n, y) for n, y in zip(norms, yardsticks, strict=True)])
    limits = {
        name: np.array([limit(known, norms.shape[1]) for known in yardsticks])
        for name, limit in rules.items()
    }
    marked = {name: norms < limit[:, None] for name, limit in limits.items()}
    often = {name: rows.mean(axis=0) > 0.5 for name, rows in marked.items()}
    rule, pairs = next(iter(rules)), bool((sources != ANY).any())
    middles = median(norms)
    l1_norm = smallest_by_class(middles, targets, classes)
    suspects = np.isin(np.arange(classes), targets[often[rule]])
    crowded = suspects & (False if answered is None else answered > CROWDED)
    suspects &= ~crowded
    ranked = pairs and norms.shape[1] > MANY_PAIRS and not every
    flagged = suspects if every else smallest(suspects & (not ranked), l1_norm)
    scores = -smallest_by_class(-median(index), targets, classes)
    unsure = None
    if not flagged.any():
        near = doubt is not None and _near(norms, yardsticks, doubt)
        unsure = _why_unsure(marked[rule], limits[rule], suspects, ranked=ranked, near=near)
        if crowded.any():
            unsure = f"the model puts most clean images in class {listed(crowded)}: give others too"
    middle = float(np.median([np.median(known[~np.isnan(known)]) for known in yardsticks]))
    about: dict[str, Any] = {
        "inconclusive": unsure is not None,
        "limits": {name: float(np.median(limit)) for name, limit in limits.items()},
        "median_norm": middle,
        "summary": _summary(runs, marked, l1_norm, norms, middle),
    }
    if not all(run["reference"].all() for run in runs):
        about["yardsticks"] = [known.tolist() for known in yardsticks]
    if unsure is not None:
        about["summary"]["inconclusive"] = unsure
    measures = {"l1_norm": l1_norm, "anomaly_index": scores}
    measures["norms"] = np.stack([smallest_by_class(n, targets, classes) for n in norms])
    if pairs:
        measures["pair_norms"] = np.full((classes, classes), np.nan)
        measures["pair_norms"][sources, targets] = middles
    source = sources_of(often[rule], targets, sources, middles)
    return FlaggedClasses(
        scores=scores,
        flagged=flagged,
        further=suspects & ~flagged,
        triggers=best_triggers(runs, source),
        source=source,
        runs=np.stack([-smallest_by_class(-i, targets, classes) for i in index]),
        measures=measures,
        about=about,
    )


def _why_unsure(
    marked: np.ndarray, limits: np.ndarray, suspects: np.ndarray, *, ranked: bool, near: bool
) -> str | None:
    """Why nothing is flagged and yet nothing is acquitted, or None.

    Args:
        marked: (r, rows) outliers of each run.
        limits: (r,) limits of the runs; NaN without a median.
        suspects: (k,) classes that most runs mark.
        ranked: whether there are too many pairs to flag one.
        near: whether a row has a small norm and is no outlier.
    """
    reasons = {
        "fewer than three classes: none can be an outlier": marked.shape[1] < 3,
        "pairs of many classes: ordinary ones have triggers as small as planted ones": ranked
        and suspects.any(),
        "the runs disagree: raise runs": marked.any() and not suspects.any(),
        "most classes have no trigger yet: raise schedule.steps": np.isnan(limits).mean() >= 0.5,
        "a class has a small trigger, but the norms spread too widely to call it an outlier": near,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def bare_run(
    norms: np.ndarray, targets: np.ndarray, sources: np.ndarray, reference: np.ndarray
) -> Run:
    """A run of which only the norms are kept."""
    nothing, unknown = np.empty((0, 1, 1, 1)), np.array(np.nan)
    rows = {"norms": norms, "targets": targets, "sources": sources, "reference": reference}
    kept = {"kept": np.zeros(0, int), "masks": nothing, "patterns": nothing, "success": unknown}
    return rows | kept


def _near(norms: np.ndarray, yardsticks: list[np.ndarray], limit: Rule) -> bool:
    """Whether a row lies below the limit in most runs."""
    limits = np.array([limit(known, norms.shape[1]) for known in yardsticks])
    return bool(((norms < limits[:, None]).mean(axis=0) > 0.5).any())


def _summary(
    runs: list[Run],
    marked: dict[str, np.ndarray],
    l1_norm: np.ndarray,
    norms: np.ndarray,
    middle: float,
) -> dict[str, str]:
    targets = runs[0]["targets"]
    votes = {
        name: [int(rows[:, targets == c].any(axis=1).sum()) for c in range(len(l1_norm))]
        for name, rows in marked.items()
    }
    examined = int((~np.isnan(l1_norm)).sum())
    order = np.argsort(l1_norm)[: min(5, examined)]
    searched = int((~np.isnan(norms)).any(axis=0).sum())
    pairs = (runs[0]["sources"] != ANY).any()
    what = "pairs of source and target" if pairs else "classes"
    unseen = np.setdiff1d(np.arange(len(l1_norm)) if pairs else [], runs[0]["sources"])
    without = {"no clean image of source class": ", ".join(map(str, unseen))} if len(unseen) else {}
    works = [float(run["success"]) for run in runs]
    whose = "of its source class" if pairs else "of other classes"
    known = [f"{share:.1%}" for share in sorted(works) if not np.isnan(share)]
    share = " to ".join(dict.fromkeys(known[:1] + known[-1:])) or "an unknown share"
    return {
        "smallest trigger works on": f"{share} of the clean images {whose}",
        "smallest norms": ", ".join(f"{l1_norm[c]:.4g} (class {c})" for c in order),
        "median norm": f"{middle:.4g}",
        **{
            f"runs that mark a class ({rule} rule)": "; ".join(
                f"class {c}: {v[c]} of {len(runs)}" for c in np.flatnonzero(v)
            )
            or "none"
            for rule, v in votes.items()
        },
        f"{what} searched in full": f"{searched} of {norms.shape[1]}",
        **without,
    }
