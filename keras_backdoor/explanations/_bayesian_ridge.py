"""Weighted Bayesian ridge regression with a prior mean, for many small data sets at once."""

from dataclasses import dataclass, field

import numpy as np

LEAST, MOST = 1e-6, 1e6
"""The bounds of the precisions."""
ITERATIONS, TOLERANCE = 1000, 1e-5
"""The largest number of iterations, and the relative change of the precisions that ends them."""
SEED_ITERATIONS, SEED_TOLERANCE, SEED_FIRST = 5000, 1e-3, 0.1
"""The settings of `Regressions.fitted_as_seed`."""


@dataclass(frozen=True)
class Posterior:
    """The posterior of the coefficients of each data set.

    Attributes:
        mean: (b, m) float64.
        covariance: (b, m, m) float64.
        noise: (b,) the precision of the answers, alpha.
        prior: (b,) the precision of the prior, lambda.
        converged: (b,) bool, whether the precisions converged.
        diverged: (b,) bool, whether a precision became infinite; the posterior is then the prior.
    """

    mean: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    prior: np.ndarray
    converged: np.ndarray
    diverged: np.ndarray


@dataclass(frozen=True)
class Regressions:
    """Linear regressions y = X beta + e with e_i ~ N(0, 1 / (alpha w_i)) and a prior of beta.

    The prior is beta ~ N(mu_0, I / lambda). Zhao et al., BayLIME, UAI 2021, equations 7 to 9: the
    posterior of beta is a normal distribution with the covariance
    S = (lambda I + alpha X' W X)^-1 and the mean S (lambda mu_0 + alpha X' W y). All data sets are
    computed at once, in the eigenvectors of X' W X. Data sets with fewer columns than the others
    have columns of zeros.

    Args:
        x: (b, n, m) float64.
        y: (b, n) float64.
        weights: (b, n) float64, the weights w of the rows.
        prior_mean: (b, m) float64, mu_0.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    prior_mean: np.ndarray
    values: np.ndarray = field(init=False, repr=False)
    vectors: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weighted = self.x * self.weights[..., None]
        values, vectors = np.linalg.eigh(_transposed(weighted) @ self.x)
        object.__setattr__(self, "values", np.maximum(values, 0.0))
        object.__setattr__(self, "vectors", vectors)

    def rotated(self, answers: np.ndarray) -> np.ndarray:
        """(b, m), X' W times answers (b, n), in the eigenvectors."""
        sums = np.einsum("bni,bn->bi", self.x, self.weights * answers)
        return np.einsum("bij,bi->bj", self.vectors, sums)

    def posterior(self, noise: np.ndarray, prior: np.ndarray, converged: np.ndarray) -> Posterior:
        """The posterior for given precisions, each of the shape (b,)."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            variances = 1.0 / (prior[:, None] + noise[:, None] * self.values)
            diverged = ~np.isfinite(variances * (1.0 + prior + noise)[:, None]).all(axis=1)
        variances[diverged], noise, prior = 0.0, np.nan_to_num(noise), np.nan_to_num(prior)
        start = np.einsum("bij,bi->bj", self.vectors, self.prior_mean)
        with np.errstate(invalid="ignore", over="ignore"):
            inner = variances * (prior[:, None] * start + noise[:, None] * self.rotated(self.y))
        mean = np.einsum("bij,bj->bi", self.vectors, inner)
        covariance = (self.vectors * variances[:, None]) @ _transposed(self.vectors)
        mean[diverged] = self.prior_mean[diverged]
        return Posterior(mean, covariance, noise, prior, converged & ~diverged, diverged)

    def fitted(self) -> Posterior:
        """The posterior with the precisions that maximize the evidence.

        MacKay, Bayesian Interpolation, 1992: with the eigenvalues d of X' W X,
        gamma = sum alpha d / (lambda + alpha d), lambda = gamma / |mu - mu_0|^2 and
        alpha = (n - gamma) / sum w (y - X mu)^2, until both change by less than `TOLERANCE`, within
        the bounds `LEAST` and `MOST`.
        """
        residual = self.y - np.einsum("bni,bi->bn", self.x, self.prior_mean)
        rotated, d = self.rotated(residual), self.values
        total = np.einsum("bn,bn->b", self.weights, residual**2)
        number = self.x.shape[1]
        noise = np.clip(number / np.maximum(total, 1e-300), LEAST, MOST)
        prior = np.ones(len(self.x))
        converged = np.zeros(len(self.x), bool)
        for _ in range(ITERATIONS):
            total_precision = prior[:, None] + noise[:, None] * d
            change = noise[:, None] * rotated / total_precision
            gamma = (noise[:, None] * d / total_precision).sum(axis=1)
            error = total - 2 * (change * rotated).sum(axis=1) + (d * change**2).sum(axis=1)
            new_prior = _bounded(gamma, (change**2).sum(axis=1))
            new_noise = _bounded(number - gamma, error)
            moved = np.maximum(np.abs(np.log(new_prior / prior)), np.abs(np.log(new_noise / noise)))
            prior = np.where(converged, prior, new_prior)
            noise = np.where(converged, noise, new_noise)
            converged |= moved < TOLERANCE
            if converged.all():
                break
        return self.posterior(noise, prior, converged)

    def fitted_as_seed(self) -> Posterior:
        """The posterior with precisions that ignore the prior mean, and the weights in part.

        As `fitted`, but mu_0 is 0, and the eigenvalues and the error are those of X' X and of
        unweighted rows, although mu is weighted. Nothing is bounded, and the iteration ends when
        both precisions change by less than 0.001, however large they are. The notebook from which
        the experiment with a single pixel is known computed them like this; it is kept to compare.
        """
        number = self.x.shape[1]
        plain = _transposed(self.x) @ self.x
        plain_values = np.linalg.eigvalsh(plain)
        inner = _transposed(self.vectors) @ plain @ self.vectors
        weighted = self.rotated(self.y)
        sums = np.einsum("bij,bi->bj", self.vectors, np.einsum("bni,bn->bi", self.x, self.y))
        total = (self.y**2).sum(axis=1)
        noise, prior = (np.full(len(self.x), SEED_FIRST) for _ in range(2))
        last = np.zeros((2, len(self.x)))
        converged = np.zeros(len(self.x), bool)
        for _ in range(SEED_ITERATIONS):
            own = np.flatnonzero(~converged & np.isfinite(noise) & np.isfinite(prior))
            if not len(own):
                break
            a, p, d = noise[own, None], prior[own, None], plain_values[own] * noise[own, None]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                gamma = (d / (p + d)).sum(axis=1)
                mean = a * weighted[own] / (p + a * self.values[own])
                error = total[own] - 2 * (mean * sums[own]).sum(axis=1)
                error += np.einsum("bi,bij,bj->b", mean, inner[own], mean)
                prior[own] = gamma / (mean**2).sum(axis=1)
                noise[own] = (number - gamma) / error
                now = np.stack([prior[own], noise[own]])
                converged[own] = (np.abs(now - last[:, own]) < SEED_TOLERANCE).all(axis=0)
            last[:, own] = now
        return self.posterior(noise, prior, converged)


def _transposed(matrices: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrices, 1, 2)


def _bounded(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below within the bounds of a precision."""
    quotient: np.ndarray = np.clip(np.maximum(above, 0.0) / np.maximum(below, 1e-300), LEAST, MOST)
    return quotient
