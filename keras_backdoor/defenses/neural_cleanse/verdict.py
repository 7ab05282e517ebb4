"""From the norms of the triggers to a verdict on the classes.

A class is an outlier where the norm of its trigger is below the limit of a rule: the paper's, or
one that scales with the number of classes. The verdict is the majority of several runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm as normal

from keras_backdoor.answers import FlaggedClasses
from keras_backdoor.answers.flagged_classes import listed
from keras_backdoor.defenses.neural_cleanse.images import ANY
from keras_backdoor.triggers.base import Stamp

CONSISTENCY = 1.4826
"""The MAD times this estimates the standard deviation of a normal distribution."""
MANY_PAIRS = 100
"""Among more pairs than these none is flagged; the development zoo has 90 and 1,806."""
CROWDED = 0.75
"""Share of the clean images from which on a class needs no trigger: a batch may hold it alone."""
Rule = Callable[[np.ndarray, int], float]
"""(reference norms, how many norms are judged) -> the norm below which one is an outlier."""


def anomaly_index(norms: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """How far norms lie below the median, in robust standard deviations.

    Wang et al., Neural Cleanse, S&P 2019, section IV: (median - norm) / (1.4826 MAD), with the
    median and the MAD of the reference.

    Args:
        norms: (k,) L1 norms; inf where no trigger was found, NaN where none was searched.
        reference: (m,) the norms that give median and MAD; None takes `norms`.

    Returns:
        (k,) index, positive below the median; -inf and NaN where the norm is inf and NaN.

    >>> anomaly_index(np.array([4.0, 10.0, 12.0, 14.0, 16.0])).round(3)
    array([ 2.698,  0.674,  0.   , -0.674, -1.349])
    """
    median, spread = _center(norms if reference is None else reference)
    return (median - norms) / max(spread, 1e-12)


def paper_limit(norms: np.ndarray, *, threshold: float) -> float:
    """The norm whose anomaly index is `threshold`; NaN where most norms are infinite.

    >>> round(paper_limit(np.array([4.0, 10.0, 12.0, 14.0, 16.0]), threshold=2.0), 2)
    6.07
    """
    median, spread = _center(norms)
    return median - threshold * spread


def scaled_limit(norms: np.ndarray, *, among: int, ratio: float, level: float) -> float:
    """The rule of this package: much smaller than the median, and rare among so many norms.

    The smaller of ratio * median and of the norm whose logarithm lies below the median of the
    logarithms by the normal quantile of 1 - level / among, in robust standard deviations. The
    paper's index assumes norms that spread evenly around the median; among ten classes its MAD
    is too uncertain, and a wide spread hides a norm of nearly 0, as median / spread is all that
    the index can reach.

    Args:
        norms: (m,) reference norms; inf where no trigger was found, NaN where none was searched.
        among: how many norms are judged.
        ratio: share of the median.
        level: expected number of false alarms among all of them.

    Returns:
        Pixels; NaN where most norms are infinite.

    >>> round(scaled_limit(np.array([2.0, 30, 40, 50, 55, 60]), among=6, ratio=1 / 3, level=0.05))
    15
    """
    median, _ = _center(norms)
    with np.errstate(divide="ignore"):
        middle, spread = _center(np.log(norms))
    rare = float(np.exp(middle - normal.ppf(1 - level / among) * spread))
    return min(ratio * median, rare) if np.isfinite(median) else float("nan")


def _center(norms: np.ndarray) -> tuple[float, float]:
    """(median, robust standard deviation) of the known ones; NaN where the median is infinite."""
    known = norms[~np.isnan(norms)]
    median = float(np.median(known)) if len(known) else np.nan
    if not np.isfinite(median):
        return np.nan, np.nan
    return median, CONSISTENCY * float(np.median(np.abs(known - median)))


@dataclass(frozen=True, eq=False)
class Run:
    """One run over all targets.

    Attributes:
        targets: (s,) the class that each trigger leads to.
        sources: (s,) the class that it works on; ANY for all.
        norms: (s,) L1 norms; inf where no trigger was found, NaN where none was searched in full.
        reference: (s,) bool, the searches whose norms give median and spread.
        kept: (m,) positions of the smallest triggers, the smallest first.
        masks: (m, h, w, 1) their masks.
        patterns: (m, h, w, c) their patterns.
        success: share of the clean images of its source that the smallest trigger sends to its
            target, of those that do not reach it without the trigger.
    """

    targets: np.ndarray
    sources: np.ndarray
    norms: np.ndarray
    reference: np.ndarray
    kept: np.ndarray
    masks: np.ndarray
    patterns: np.ndarray
    success: float

    @classmethod
    def of_norms(
        cls,
        norms: np.ndarray,
        targets: np.ndarray | None = None,
        sources: np.ndarray | None = None,
        reference: np.ndarray | None = None,
    ) -> "Run":
        """A run of which only the norms are known, by default one for each class."""
        number = len(norms)
        return cls(
            np.arange(number) if targets is None else targets,
            np.full(number, ANY) if sources is None else sources,
            np.asarray(norms, float),
            np.ones(number, bool) if reference is None else reference,
            *(np.zeros(0, int), np.empty((0, 1, 1, 1)), np.empty((0, 1, 1, 1))),
            float("nan"),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Run":
        """A run that was kept as arrays."""
        return cls(
            **{
                **arrays,
                "reference": arrays["reference"].astype(bool),
                "success": float(arrays["success"]),
            }  # type: ignore[arg-type]
        )

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The run as arrays."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @property
    def reference_norms(self) -> np.ndarray:
        """(m,) the norms that give median and spread."""
        return self.norms[self.reference]


def judge(
    runs: list[Run],
    classes: int,
    rules: Mapping[str, Rule],
    *,
    flag_all: bool = False,
    inconclusive_below: Rule | None = None,
    predicted_share: np.ndarray | None = None,
) -> FlaggedClasses:
    """Classes with a search that is an outlier in most runs are suspects.

    The suspect with the smallest norm is flagged. In a network with a backdoor many classes have
    smaller triggers than in a clean one, without a backdoor of their own; the other suspects are
    reported as possible further targets.

    Among many classes ordinary pairs have triggers as small as planted ones: where there are more
    than 100 pairs nothing is flagged, suspects are further ones and the answer is inconclusive. It
    is inconclusive, too, where the runs disagree, where half of them have no median, because most
    searches found no trigger, where there are fewer than three searches, none of which can be an
    outlier, and where the outlier is a class that has most of the images without a trigger.

    Args:
        runs: at least one, with the same targets and sources.
        classes: number of classes.
        rules: name -> limit of one run. The first decides; the others are shown beside it.
        flag_all: flag every suspect, of pairs too, as the paper does.
        inconclusive_below: limit below which a norm that is no outlier makes the answer
            inconclusive.
        predicted_share: (k,) share of the clean images that the model puts in each class.
    """
    targets, sources = runs[0].targets, runs[0].sources
    norms = np.stack([run.norms for run in runs])
    references = [run.reference_norms for run in runs]
    index = np.stack([anomaly_index(n, r) for n, r in zip(norms, references, strict=True)])
    limits = {
        name: np.array([limit(known, norms.shape[1]) for known in references])
        for name, limit in rules.items()
    }
    marked = {name: norms < limit[:, None] for name, limit in limits.items()}
    rule, pairs = next(iter(rules)), bool((sources != ANY).any())
    often = marked[rule].mean(axis=0) > 0.5
    medians = _median_over_runs(norms)
    l1_norm = smallest_by_class(medians, targets, classes)
    suspects = np.isin(np.arange(classes), targets[often])
    crowded = suspects & (False if predicted_share is None else predicted_share > CROWDED)
    suspects &= ~crowded
    ranked_only = pairs and norms.shape[1] > MANY_PAIRS and not flag_all
    flagged = suspects if flag_all else smallest(suspects & (not ranked_only), l1_norm)
    median = float(np.median([np.median(known[~np.isnan(known)]) for known in references]))
    scores = -smallest_by_class(-_median_over_runs(index), targets, classes)
    measures = {"l1_norm": l1_norm, "anomaly_index": scores}
    measures["norms"] = np.stack([smallest_by_class(n, targets, classes) for n in norms])
    if pairs:
        measures["pair_norms"] = np.full((classes, classes), np.nan)
        measures["pair_norms"][sources, targets] = medians
    reason = ""
    if crowded.any():
        reason = f"the model puts most clean images in class {listed(crowded)}: give others too"
    elif not flagged.any():
        small = inconclusive_below and _any_below(norms, references, inconclusive_below)
        reason = _undecided(marked[rule], limits[rule], suspects, bool(ranked_only), bool(small))
    source = sources_of(often, targets, sources, medians)
    about: dict[str, Any] = {
        "limits": {name: float(np.median(limit)) for name, limit in limits.items()},
        "median_norm": median,
    }
    if not all(run.reference.all() for run in runs):
        about["reference_norms"] = [known.tolist() for known in references]
    return FlaggedClasses(
        scores=scores,
        flagged=flagged,
        further=suspects & ~flagged,
        triggers=best_triggers(runs, source),
        source=source,
        runs=np.stack([-smallest_by_class(-i, targets, classes) for i in index]),
        measures=measures,
        summary=_summary(runs, marked, l1_norm, norms, median),
        inconclusive="" if flagged.any() else reason,
        about=about,
    )


def _undecided(
    marked: np.ndarray, limits: np.ndarray, suspects: np.ndarray, ranked_only: bool, small: bool
) -> str:
    """Why a verdict cannot be given where nothing is flagged; empty where it can.

    Args:
        marked: (r, s) outliers of each run.
        limits: (r,) limits of the runs; NaN without a median.
        suspects: (k,) classes that most runs mark.
        ranked_only: whether there are too many pairs to flag one.
        small: whether there is a small norm that is no outlier.
    """
    reasons = {
        "fewer than three classes: none can be an outlier": marked.shape[1] < 3,
        "pairs of many classes: ordinary ones have triggers as small as planted ones": ranked_only
        and suspects.any(),
        "the runs disagree: raise runs": marked.any() and not suspects.any(),
        "most classes have no trigger yet: raise schedule.steps": np.isnan(limits).mean() >= 0.5,
        "a class has a small trigger, but the norms spread too widely to call it an outlier": small,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _any_below(norms: np.ndarray, references: list[np.ndarray], limit: Rule) -> bool:
    """Whether a norm lies below the limit in most runs."""
    limits = np.array([limit(known, norms.shape[1]) for known in references])
    return bool(((norms < limits[:, None]).mean(axis=0) > 0.5).any())


def smallest(suspects: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """(k,) bool, the suspect with the smallest norm.

    >>> smallest(np.array([False, True, True]), np.array([1.0, 3.0, 2.0])).tolist()
    [False, False, True]
    """
    chosen = np.zeros(len(suspects), bool)
    if np.isfinite(norms[suspects]).any():
        chosen[np.argmin(np.where(suspects, norms, np.inf))] = True
    return chosen


def _median_over_runs(values: np.ndarray) -> np.ndarray:
    """(s,) median over the runs that searched in full; NaN where none did.

    >>> _median_over_runs(np.array([[1.0, np.nan], [3.0, np.nan], [9.0, np.nan]]))
    array([ 3., nan])
    """
    out = np.full(values.shape[1], np.nan)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanmedian(values[:, known], axis=0)
    return out


def smallest_by_class(values: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """(k,) the smallest value of the searches of each target.

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
        for at, mask, pattern in zip(run.kept, run.masks, run.patterns, strict=True):
            norm, target = float(run.norms[at]), int(run.targets[at])
            if source.get(target, run.sources[at]) != run.sources[at]:
                continue
            if np.isfinite(norm) and norm < best.get(target, (np.inf, None))[0]:
                best[target] = (norm, Stamp(mask, pattern))
    return {target: stamp for target, (_, stamp) in sorted(best.items())}


def sources_of(
    often: np.ndarray, targets: np.ndarray, sources: np.ndarray, norms: np.ndarray
) -> dict[int, int]:
    """Class -> the source of its smallest pair: of those that most runs mark, where there are any.

    A class to which at least half of the sources have such a pair serves all of them, and has none.
    """
    out: dict[int, int] = {}
    for target in np.unique(targets[sources != ANY]):
        own = np.flatnonzero(targets == target)
        marked = own[often[own]]
        chosen = marked if len(marked) else own
        known = chosen[np.isfinite(norms[chosen])]
        if 2 * len(marked) < len(own) and len(known):
            out[int(target)] = int(sources[known[np.argmin(norms[known])]])
    return out


def _summary(
    runs: list[Run],
    marked: dict[str, np.ndarray],
    l1_norm: np.ndarray,
    norms: np.ndarray,
    median: float,
) -> dict[str, str]:
    targets = runs[0].targets
    votes = {
        name: [int(m[:, targets == c].any(axis=1).sum()) for c in range(len(l1_norm))]
        for name, m in marked.items()
    }
    examined = int((~np.isnan(l1_norm)).sum())
    order = np.argsort(l1_norm)[: min(5, examined)]
    searched = int((~np.isnan(norms)).any(axis=0).sum())
    pairs = (runs[0].sources != ANY).any()
    unseen = np.setdiff1d(np.arange(len(l1_norm)) if pairs else [], runs[0].sources)
    works = [run.success for run in runs]
    known = [f"{share:.1%}" for share in sorted(works) if not np.isnan(share)]
    share = " to ".join(dict.fromkeys(known[:1] + known[-1:])) or "an unknown share"
    whose = "of its source class" if pairs else "of other classes"
    lines = {
        "smallest trigger works on": f"{share} of the clean images {whose}",
        "smallest norms": ", ".join(f"{l1_norm[c]:.4g} (class {c})" for c in order),
        "median norm": f"{median:.4g}",
    }
    for rule, vote in votes.items():
        text = "; ".join(f"class {c}: {vote[c]} of {len(runs)}" for c in np.flatnonzero(vote))
        lines[f"runs that mark a class ({rule} rule)"] = text or "none"
    what = "pairs of source and target" if pairs else "classes"
    lines[f"{what} searched in full"] = f"{searched} of {norms.shape[1]}"
    if len(unseen):
        lines["no clean image of source class"] = ", ".join(map(str, unseen))
    return lines
