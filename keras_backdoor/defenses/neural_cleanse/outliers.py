"""Which norms are suspiciously small: the rule of Neural Cleanse, and one that scales.

Both give a limit in pixels; a class whose trigger has a smaller norm is an outlier.
"""

import numpy as np
from scipy.stats import norm

CONSISTENCY = 1.4826
"""The MAD times this estimates the standard deviation of a normal distribution."""


def anomaly_index(norms: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """How far norms lie below the median, in robust standard deviations.

    Wang et al., Neural Cleanse, S&P 2019, section IV: (median - norm) / (1.4826 MAD), with the
    median and the MAD of the reference.

    Args:
        norms: (k,) L1 norms; inf where no trigger was found, NaN where none was looked for.
        reference: (m,) norms that are the yardstick; None takes the known ones of `norms`.

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
        norms: (m,) the yardstick; inf where no trigger was found, NaN where none was looked for.
        among: how many norms are judged by it.
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
    rare = float(np.exp(middle - norm.ppf(1 - level / among) * spread))
    return min(ratio * median, rare) if np.isfinite(median) else float("nan")


def _center(norms: np.ndarray) -> tuple[float, float]:
    """(median, robust standard deviation) of the known ones; NaN where the median is infinite."""
    known = norms[~np.isnan(norms)]
    median = float(np.median(known)) if len(known) else np.nan
    if not np.isfinite(median):
        return np.nan, np.nan
    return median, CONSISTENCY * float(np.median(np.abs(known - median)))
