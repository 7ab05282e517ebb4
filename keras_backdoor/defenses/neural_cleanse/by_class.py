"""From rows of targets, or of sources and targets, to classes."""

from typing import Any

import numpy as np

from keras_backdoor.defenses.neural_cleanse.rows import ANY
from keras_backdoor.triggers.base import Stamp

Run = dict[str, Any]
"""One run, row by row: `targets`, `sources` (-1 for all), `norms` (NaN = not searched in full),
`reference` (is it part of the yardstick); of the smallest ones `kept` (row numbers, the smallest
first), `masks` and `patterns`; and `success`, of the smallest: the share of the clean images of its
source that it sends to its target, of those that do not go there without it."""


def smallest(suspects: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """(k,) bool, the suspect with the smallest norm.

    >>> smallest(np.array([False, True, True]), np.array([1.0, 3.0, 2.0])).tolist()
    [False, False, True]
    """
    chosen = np.zeros(len(suspects), bool)
    if np.isfinite(norms[suspects]).any():
        chosen[np.argmin(np.where(suspects, norms, np.inf))] = True
    return chosen


def median(values: np.ndarray) -> np.ndarray:
    """(r,) median over the runs that looked; NaN where none did.

    >>> median(np.array([[1.0, np.nan], [3.0, np.nan], [9.0, np.nan]]))
    array([ 3., nan])
    """
    out = np.full(values.shape[1], np.nan)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanmedian(values[:, known], axis=0)
    return out


def smallest_by_class(values: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """(k,) the smallest value of the rows of each target.

    >>> smallest_by_class(np.array([4.0, 2.0, np.nan]), np.array([0, 0, 1]), 2)
    array([ 2., nan])
    """
    out = np.full(classes, np.nan)
    np.fmin.at(out, targets, values)
    return out


def best_triggers(runs: list[Run], source: dict[int, int]) -> dict[int, Stamp]:
    """class -> its smallest trigger over the runs, from its source where it has a single one."""
    best: dict[int, tuple[float, Stamp]] = {}
    for run in runs:
        for row, mask, pattern in zip(run["kept"], run["masks"], run["patterns"], strict=True):
            norm, label = float(run["norms"][row]), int(run["targets"][row])
            if source.get(label, run["sources"][row]) != run["sources"][row]:
                continue
            if np.isfinite(norm) and norm < best.get(label, (np.inf, None))[0]:
                best[label] = (norm, Stamp(mask, pattern))
    return {label: stamp for label, (_, stamp) in sorted(best.items())}


def sources_of(
    often: np.ndarray, targets: np.ndarray, sources: np.ndarray, norms: np.ndarray
) -> dict[int, int]:
    """Class -> the source of its smallest pair: of those that most runs mark, where there are any.

    A class to which at least half of the sources have such a pair serves all of them, and has none.
    """
    found: dict[int, int] = {}
    for target in np.unique(targets[sources != ANY]):
        rows = np.flatnonzero(targets == target)
        marked = rows[often[rows]]
        chosen = marked if len(marked) else rows
        known = chosen[np.isfinite(norms[chosen])]
        if 2 * len(marked) < len(rows) and len(known):
            found[int(target)] = int(sources[known[np.argmin(norms[known])]])
    return found
