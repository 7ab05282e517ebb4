"""The verdict on the classes, computed from the norms of the recovered triggers.

A class is an outlier if the norm of its trigger is below the limit of a rule: the rule of the
paper, or a rule that scales with the number of classes. The verdict is a majority vote of the runs.
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
"""The factor that turns the MAD into an estimate of a normal standard deviation."""
MANY_PAIRS = 100
"""With more pairs no class is flagged; the networks of the development zoo have 90 or 1,806."""
CROWDED = 0.75
"""The largest predicted share of the clean images for which a class can be flagged.

With a larger share, a batch may consist of the class alone, which needs no trigger."""
Rule = Callable[[np.ndarray, int], float]
"""(reference norms, number of tested norms) -> the limit below which a norm is an outlier."""


def anomaly_index(norms: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """The distance of norms below the median, in robust standard deviations.

    Wang et al., Neural Cleanse, S&P 2019, section IV: (median - norm) / (1.4826 MAD), with the
    median and the MAD of the reference norms.

    Args:
        norms: (k,) L1 norms; inf if no trigger worked, NaN if none was searched.
        reference: (m,) the norms that the median and the MAD are computed from; None uses `norms`.

    Returns:
        (k,) anomaly indices, positive below the median; -inf for a norm of inf and NaN for a norm
        of NaN.

    >>> anomaly_index(np.array([4.0, 10.0, 12.0, 14.0, 16.0])).round(3)
    array([ 2.698,  0.674,  0.   , -0.674, -1.349])
    """
    median, spread = _center(norms if reference is None else reference)
    return (median - norms) / max(spread, 1e-12)


def paper_limit(norms: np.ndarray, *, threshold: float) -> float:
    """The limit of the paper's rule: the norm whose anomaly index is `threshold`.

    Args:
        norms: (m,) reference norms; inf if no trigger worked, NaN if none was searched.
        threshold: the anomaly index.

    Returns:
        The limit in pixels; NaN if most norms are infinite.

    >>> round(paper_limit(np.array([4.0, 10.0, 12.0, 14.0, 16.0]), threshold=2.0), 2)
    6.07
    """
    median, spread = _center(norms)
    return median - threshold * spread


def scaled_limit(norms: np.ndarray, *, among: int, ratio: float, level: float) -> float:
    """The limit of this package's rule, which scales with the number of tested norms.

    The limit is the smaller of two norms: ratio * median, and the norm whose logarithm is z robust
    standard deviations below the median of the logarithms, where z is the normal quantile of
    1 - level / among.

    The anomaly index of the paper assumes that the norms are distributed symmetrically around the
    median. The MAD of ten classes is a poor estimate, and the index is at most median / spread, so
    with a wide spread even a norm of nearly 0 is no outlier.

    Args:
        norms: (m,) reference norms; inf if no trigger worked, NaN if none was searched.
        among: the number of tested norms.
        ratio: the share of the median.
        level: the expected number of false alarms among all tested norms.

    Returns:
        The limit in pixels; NaN if most norms are infinite.

    >>> round(scaled_limit(np.array([2.0, 30, 40, 50, 55, 60]), among=6, ratio=1 / 3, level=0.05))
    15
    """
    median, _ = _center(norms)
    with np.errstate(divide="ignore"):
        middle, spread = _center(np.log(norms))
    rare = float(np.exp(middle - normal.ppf(1 - level / among) * spread))
    return min(ratio * median, rare) if np.isfinite(median) else float("nan")


def _center(norms: np.ndarray) -> tuple[float, float]:
    """(median, robust standard deviation) of all but NaN; both NaN if the median is infinite."""
    known = norms[~np.isnan(norms)]
    median = float(np.median(known)) if len(known) else np.nan
    if not np.isfinite(median):
        return np.nan, np.nan
    return median, CONSISTENCY * float(np.median(np.abs(known - median)))


@dataclass(frozen=True, eq=False)
class Run:
    """The result of one run, which searches all targets.

    Attributes:
        targets: (s,) the target class of each search.
        sources: (s,) the source class of each search; ANY for images of all classes.
        norms: (s,) L1 norms in pixels; inf if no trigger worked, NaN if the search was not made in
            full.
        reference: (s,) bool, the searches whose norms the median and the spread are computed from.
        kept: (m,) the indices of the searches with the smallest triggers, smallest first.
        masks: (m, h, w, 1) the masks of the smallest triggers.
        patterns: (m, h, w, c) the patterns of the smallest triggers.
        success: the attack success rate of the smallest trigger on the clean images of its source.
            Images that the model assigns to the target without the trigger do not count.
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
        """A run without triggers, by default with one search for each class."""
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
        """The run from the arrays of `as_arrays`."""
        return cls(
            **{
                **arrays,
                "reference": arrays["reference"].astype(bool),
                "success": float(arrays["success"]),
            }  # type: ignore[arg-type]
        )

    def as_arrays(self) -> dict[str, np.ndarray]:
        """The fields of the run as arrays that can be saved."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @property
    def reference_norms(self) -> np.ndarray:
        """(m,) the norms that the median and the spread are computed from."""
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
    """The verdict on the classes, from the norms of one or more runs.

    A class is a suspect if one of its searches is an outlier in most runs. The suspect with the
    smallest norm is flagged. In a network with a backdoor, many classes without a backdoor have
    smaller triggers than in a clean network, so the other suspects are reported as possible
    further targets.

    The answer is inconclusive if no class is flagged and one of these conditions holds:

    - There are more than 100 pairs of classes and a suspect. Some pairs without a backdoor then
      have triggers as small as planted ones, and every suspect is a possible further target.
    - The runs disagree.
    - At least half of the runs have no finite median, because most searches found no trigger.
    - There are fewer than three searches, so none can be an outlier.
    - The outlier is a class that the model predicts for most of the clean images.
    - A norm is below `inconclusive_below`, but is not an outlier.

    Args:
        runs: at least one run; all have the same targets and sources.
        classes: the number of classes.
        rules: name -> rule that computes the limit of a run. The first rule decides; the results of
            the others are only printed.
        flag_all: whether to flag every suspect, including those of pairs, as the paper does.
        inconclusive_below: a rule that computes the limit below which a norm that is not an outlier
            makes the answer inconclusive.
        predicted_share: (k,) the share of the clean images that the model assigns to each class.
    """
    targets, sources = runs[0].targets, runs[0].sources
    norms = np.stack([run.norms for run in runs])
    references = [run.reference_norms for run in runs]
    index = np.stack([anomaly_index(n, r) for n, r in zip(norms, references, strict=True)])
    limits = {
        name: np.array([limit(known, norms.shape[1]) for known in references])
        for name, limit in rules.items()
    }
    outliers = {name: norms < limit[:, None] for name, limit in limits.items()}
    rule, pairs = next(iter(rules)), bool((sources != ANY).any())
    often = outliers[rule].mean(axis=0) > 0.5
    medians = _median_over_runs(norms)
    l1_norm = smallest_by_class(medians, targets, classes)
    suspects = np.isin(np.arange(classes), targets[often])
    crowded = suspects & (False if predicted_share is None else predicted_share > CROWDED)
    suspects &= ~crowded
    too_many_pairs = pairs and norms.shape[1] > MANY_PAIRS and not flag_all
    flagged = suspects if flag_all else smallest(suspects & (not too_many_pairs), l1_norm)
    median = float(np.median([np.median(known[~np.isnan(known)]) for known in references]))
    indices = -smallest_by_class(-_median_over_runs(index), targets, classes)
    ratios = suspicion_of(norms, limits[rule])
    scores = -smallest_by_class(-_median_over_runs(ratios), targets, classes)
    measures = {"l1_norm": l1_norm, "anomaly_index": indices}
    measures["norms"] = np.stack([smallest_by_class(n, targets, classes) for n in norms])
    if pairs:
        measures["pair_norms"] = np.full((classes, classes), np.nan)
        measures["pair_norms"][sources, targets] = medians
    reason = ""
    if crowded.any():
        reason = f"the model puts most clean images in class {listed(crowded)}: give others too"
    elif not flagged.any():
        small = bool(inconclusive_below and _any_below(norms, references, inconclusive_below))
        unsure = np.isin(np.arange(classes), targets[outliers[rule].any(axis=0)])
        reason = _undecided(unsure, limits[rule], norms.shape[1], suspects, too_many_pairs, small)
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
        runs=np.stack([-smallest_by_class(-r, targets, classes) for r in ratios]),
        measures=measures,
        summary=_summary(runs, outliers, l1_norm, norms, indices, median),
        inconclusive="" if flagged.any() else reason,
        about=about,
    )


def _undecided(
    unsure: np.ndarray,
    limits: np.ndarray,
    searches: int,
    suspects: np.ndarray,
    too_many_pairs: bool,
    small: bool,
) -> str:
    """The reason why an answer without a flagged class is inconclusive; empty if it is not.

    Args:
        unsure: (k,) bool, the classes that are outliers in a run.
        limits: (r,) the limits of the runs; NaN for a run without a finite median.
        searches: the number of searches of a run.
        suspects: (k,) bool, the classes that are outliers in most runs.
        too_many_pairs: whether there are too many pairs to flag a class.
        small: whether there is a small norm that is not an outlier.
    """
    reasons = {
        "fewer than three classes: none can be an outlier": searches < 3,
        "pairs of many classes: ordinary ones have triggers as small as planted ones": (
            too_many_pairs and suspects.any()
        ),
        f"the runs disagree about class {listed(unsure)}: raise runs": (
            unsure.any() and not suspects.any()
        ),
        "most classes have no trigger yet: raise schedule.steps": np.isnan(limits).mean() >= 0.5,
        "a class has a small trigger, but the norms spread too widely to call it an outlier": small,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _any_below(norms: np.ndarray, references: list[np.ndarray], limit: Rule) -> bool:
    """Whether a norm is below the limit in most runs."""
    limits = np.array([limit(known, norms.shape[1]) for known in references])
    return bool(((norms < limits[:, None]).mean(axis=0) > 0.5).any())


def smallest(suspects: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Select the suspect with the smallest norm.

    Args:
        suspects: (k,) bool.
        norms: (k,) the norm of each class.

    Returns:
        (k,) bool with one True; all False if no suspect has a finite norm.

    >>> smallest(np.array([False, True, True]), np.array([1.0, 3.0, 2.0])).tolist()
    [False, False, True]
    """
    chosen = np.zeros(len(suspects), bool)
    if np.isfinite(norms[suspects]).any():
        chosen[np.argmin(np.where(suspects, norms, np.inf))] = True
    return chosen


def _median_over_runs(values: np.ndarray) -> np.ndarray:
    """The median over the runs, without NaN.

    Args:
        values: (r, s) values; NaN for a search that was not made in full.

    Returns:
        (s,) medians; NaN if no run made the search in full.

    >>> _median_over_runs(np.array([[1.0, np.nan], [3.0, np.nan], [9.0, np.nan]]))
    array([ 3., nan])
    """
    out = np.full(values.shape[1], np.nan)
    known = ~np.isnan(values).all(axis=0)
    out[known] = np.nanmedian(values[:, known], axis=0)
    return out


def smallest_by_class(values: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    """The smallest value of the searches of each target class.

    Args:
        values: (s,) values of the searches; NaN is ignored.
        targets: (s,) the target class of each search.
        classes: the number of classes, k.

    Returns:
        (k,) smallest values; NaN for a class without a value.

    >>> smallest_by_class(np.array([4.0, 2.0, np.nan]), np.array([0, 0, 1]), 2)
    array([ 2., nan])
    """
    out = np.full(classes, np.nan)
    np.fmin.at(out, targets, values)
    return out


def best_triggers(runs: list[Run], source: dict[int, int]) -> dict[int, Stamp]:
    """The smallest trigger of each target class over all runs.

    Args:
        runs: the runs.
        source: target class -> source class. Triggers of other sources of this target are ignored.

    Returns:
        Target class -> trigger.
    """
    best: dict[int, tuple[float, Stamp]] = {}
    for run in runs:
        for search, mask, pattern in zip(run.kept, run.masks, run.patterns, strict=True):
            norm, target = float(run.norms[search]), int(run.targets[search])
            if source.get(target, run.sources[search]) != run.sources[search]:
                continue
            if np.isfinite(norm) and norm < best.get(target, (np.inf, None))[0]:
                best[target] = (norm, Stamp(mask, pattern))
    return {target: stamp for target, (_, stamp) in sorted(best.items())}


def sources_of(
    often: np.ndarray, targets: np.ndarray, sources: np.ndarray, norms: np.ndarray
) -> dict[int, int]:
    """The source class of each target class whose trigger works on images of one class.

    It is the source of the pair with the smallest norm, chosen among the outliers of the target if
    it has any. A target for which at least half of the pairs are outliers is not source-specific
    and has no source class.

    Args:
        often: (s,) bool, the searches that are outliers in most runs.
        targets: (s,) the target class of each search.
        sources: (s,) the source class of each search, or ANY.
        norms: (s,) the norm of each search.

    Returns:
        Target class -> source class.
    """
    out: dict[int, int] = {}
    for target in np.unique(targets[sources != ANY]):
        own = np.flatnonzero(targets == target)
        outliers = own[often[own]]
        chosen = outliers if len(outliers) else own
        finite = chosen[np.isfinite(norms[chosen])]
        if 2 * len(outliers) < len(own) and len(finite):
            out[int(target)] = int(sources[finite[np.argmin(norms[finite])]])
    return out


def suspicion_of(norms: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How far norms are below the limit of a rule: limit / norm, above 1 for an outlier.

    Args:
        norms: (r, s) norms of the runs; inf if no trigger worked, NaN if none was searched.
        limits: (r,) the limit of each run; NaN or negative if nothing can be an outlier.

    Returns:
        (r, s) ratios; 0 where nothing can be an outlier, NaN for a norm of NaN.

    >>> suspicion_of(np.array([[5.0, 20.0, np.inf, np.nan]]), np.array([10.0]))
    array([[2. , 0.5, 0. , nan]])
    """
    usable = np.where(np.isfinite(limits) & (limits > 0), limits, 0.0)
    ratios: np.ndarray = usable[:, None] / np.maximum(norms, 1e-9)
    return ratios


def _summary(
    runs: list[Run],
    outliers: dict[str, np.ndarray],
    l1_norm: np.ndarray,
    norms: np.ndarray,
    indices: np.ndarray,
    median: float,
) -> dict[str, str]:
    targets = runs[0].targets
    votes = {
        name: [int(m[:, targets == c].any(axis=1).sum()) for c in range(len(l1_norm))]
        for name, m in outliers.items()
    }
    examined = int((~np.isnan(l1_norm)).sum())
    order = np.argsort(l1_norm)[: min(5, examined)]
    searched = int((~np.isnan(norms)).any(axis=0).sum())
    pairs = (runs[0].sources != ANY).any()
    missing = np.setdiff1d(np.arange(len(l1_norm)) if pairs else [], runs[0].sources)
    rates = [run.success for run in runs]
    known = [f"{rate:.1%}" for rate in sorted(rates) if not np.isnan(rate)]
    share = " to ".join(dict.fromkeys(known[:1] + known[-1:])) or "an unknown share"
    whose = "of its source class" if pairs else "of other classes"
    lines = {
        "smallest trigger works on": f"{share} of the clean images {whose}",
        "smallest norms": ", ".join(f"{l1_norm[c]:.4g} (class {c})" for c in order),
        "median norm": f"{median:.4g}",
    }
    rule, *others = votes
    marked = "; ".join(
        f"class {c}: {votes[rule][c]} of {len(runs)}" for c in np.flatnonzero(votes[rule])
    )
    lines["runs with a trigger below the limit"] = marked or "none"
    if "paper" in others:
        high = np.argsort(-np.nan_to_num(indices, nan=-np.inf))[:3]
        shown = ", ".join(f"{indices[c]:.3g} (class {c})" for c in high if np.isfinite(indices[c]))
        lines["for comparison, the paper's anomaly index, which flags above 2"] = shown or "unknown"
    what = "pairs of source and target" if pairs else "classes"
    lines[f"{what} searched in full"] = f"{searched} of {norms.shape[1]}"
    if len(missing):
        lines["no clean image of source class"] = ", ".join(map(str, missing))
    return lines
