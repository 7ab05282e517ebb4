"""Which norms are suspiciously small: the rule of Neural Cleanse, and one that scales."""

import numpy as np
from scipy.stats import norm

TINY = 0.01
"""Norms below this many pixels count as this many."""
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
    known = norms if reference is None else reference
    known = known[~np.isnan(known)]
    median = np.median(known)
    if not np.isfinite(median):
        return np.full(len(norms), np.nan)
    spread = CONSISTENCY * np.median(np.abs(known - median))
    return (median - norms) / max(float(spread), 1e-12)


def small_outliers(
    norms: np.ndarray, reference: np.ndarray | None = None, *, ratio: float, level: float
) -> np.ndarray:
    """Norms that are both much smaller than the median and rare among so many classes.

    The rule of this package: norm < ratio * median, and the robust z score of log(norm) above
    the normal quantile of 1 - level / k for k classes. The paper's index assumes norms that
    spread evenly around the median; among ten classes its MAD is too uncertain, and a wide
    spread hides a norm of nearly 0, as (median - 0) / spread is all that it can reach.

    Args:
        norms: (k,) L1 norms; inf where no trigger was found, NaN where none was looked for.
        reference: (m,) norms that are the yardstick; None takes the known ones of `norms`.
        ratio: share of the median.
        level: expected number of false alarms among all classes.

    Returns:
        (k,) bool.

    >>> small_outliers(np.array([2.0, 30, 40, 50, 55, 60]), ratio=1 / 3, level=0.05)
    array([ True, False, False, False, False, False])
    """
    known = norms if reference is None else reference
    known = known[~np.isnan(known)]
    median = np.median(known)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = anomaly_index(np.log(np.maximum(norms, TINY)), np.log(np.maximum(known, TINY)))
        found: np.ndarray = (norms < ratio * median) & (z > norm.ppf(1 - level / len(norms)))
    return found
