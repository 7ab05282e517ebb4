"""From the norms of several runs to a verdict on the classes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.defenses._outliers import anomaly_index
from keras_backdoor.triggers.base import Stamp

Run = dict[str, Any]
"""One run, row by row: `targets`, `sources` (-1 for all), `norms` (NaN = not searched in full),
`reference` (is it part of the yardstick); and of the smallest ones `kept` (row numbers), `masks`,
`patterns` and `success` (share of the clean images that they send to the target)."""
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(norms, norms of the yardstick) -> which are outliers."""


def judge(runs: list[Run], classes: int, rule: Rule) -> FlaggedClasses:
    """A class is flagged where most runs flag it; where runs disagree it is inconclusive.

    Args:
        runs: at least one, with the same rows.
        classes: number of classes.
        rule: what flags a row in one run.
    """
    yardsticks = [run["norms"][run["reference"].astype(bool)] for run in runs]
    index = np.stack([anomaly_index(r["norms"], y) for r, y in zip(runs, yardsticks, strict=True)])
    marked = np.stack([rule(r["norms"], y) for r, y in zip(runs, yardsticks, strict=True)])
    norms = np.stack([run["norms"] for run in runs])
    targets, sources = runs[0]["targets"], runs[0]["sources"]
    votes = np.array([marked[:, targets == c].any(axis=1).sum() for c in range(classes)])
    flagged = votes > len(runs) / 2
    scores = _by_class(median(index), targets, classes, np.fmax)
    l1_norm = _by_class(median(norms), targets, classes, np.fmin)
    unsure = not flagged.any() and bool(votes.any() or np.isnan(index).all())
    summary = _summary(runs, votes, l1_norm, norms)
    if unsure:
        summary["inconclusive"] = (
            "the runs disagree: raise runs"
            if votes.any()
            else "most classes have no trigger yet: raise schedule.steps"
        )
    return FlaggedClasses(
        scores=scores,
        flagged=flagged,
        triggers=smallest(runs),
        source=_sources(marked, targets, sources, np.flatnonzero(flagged)),
        runs=np.stack([_by_class(i, targets, classes, np.fmax) for i in index]),
        measures={"l1_norm": l1_norm, "anomaly_index": scores, "norms": norms},
        about={"inconclusive": unsure, "summary": summary},
    )


def median(values: np.ndarray) -> np.ndarray:
    """(r,) median over the runs that looked; NaN where none did.

    >>> median(np.array([[1.0, np.nan], [3.0, np.nan], [9.0, np.nan]]))
    array([ 3., nan])
    """
    out = np.full(values.shape[1], np.nan)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanmedian(values[:, known], axis=0)
    return out


def smallest(runs: list[Run]) -> dict[int, Stamp]:
    """class -> its smallest trigger over the runs."""
    best: dict[int, tuple[float, Stamp]] = {}
    for run in runs:
        for row, mask, pattern in zip(run["kept"], run["masks"], run["patterns"], strict=True):
            norm, label = float(run["norms"][row]), int(run["targets"][row])
            if np.isfinite(norm) and norm < best.get(label, (np.inf, None))[0]:
                best[label] = (norm, Stamp(mask, pattern))
    return {label: stamp for label, (_, stamp) in sorted(best.items())}


def _by_class(values: np.ndarray, targets: np.ndarray, classes: int, pick: Any) -> np.ndarray:
    """(k,) the picked value of the rows of each target."""
    out = np.full(classes, np.nan)
    pick.at(out, targets, values)
    return out


def _sources(
    marked: np.ndarray, targets: np.ndarray, sources: np.ndarray, flagged: np.ndarray
) -> dict[int, int]:
    """Flagged class -> the one source that most runs flag, where it is a single one."""
    often = marked.sum(axis=0) > len(marked) / 2
    found = {int(c): sources[often & (targets == c) & (sources >= 0)] for c in flagged}
    return {c: int(rows[0]) for c, rows in found.items() if len(rows) == 1}


def _summary(
    runs: list[Run], votes: np.ndarray, l1_norm: np.ndarray, norms: np.ndarray
) -> dict[str, str]:
    examined = int((~np.isnan(l1_norm)).sum())
    order = np.argsort(l1_norm)[: min(5, examined)]
    flagging = [f"class {c}: {votes[c]} of {len(runs)}" for c in np.flatnonzero(votes)]
    searched = int((~np.isnan(norms)).any(axis=0).sum())
    what = "classes" if (runs[0]["sources"] < 0).all() else "pairs of source and target"
    works = [float(run["success"][0]) for run in runs if len(run["success"])]
    reach = f"{min(works):.1%} to {max(works):.1%} of the clean images" if works else "none kept"
    return {
        "smallest trigger works on": reach,
        "smallest norms": ", ".join(f"{l1_norm[c]:.4g} (class {c})" for c in order),
        "median norm": f"{np.nanmedian(norms):.4g}",
        "runs that flag": "; ".join(flagging) or "none",
        f"{what} searched in full": f"{searched} of {norms.shape[1]}",
    }
