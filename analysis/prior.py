"""Densities of presets: one Gaussian, as published, and a heavy-tailed one that fits presets it has not seen better."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError

SHRINKAGE = 0.3  # share of the diagonal in the covariance
FREEDOM = 8.0  # of Student's t; 4 to 16 differ by less than 0.01 nats a parameter
SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
LEAST_VARIANCE = 1e-6  # of a parameter in units of its variance, where presets do not vary in some direction
PRIORS = ("student", "gaussian")
FOLDS = 5


@dataclass(frozen=True)
class Prior:
    """A density of rows (…, F): Gaussian, or Student's t where `freedom` is finite.

    Args:
        mean: (F,) float64.
        factor: (F, F) float64, lower triangular; factor·factorᵀ is the covariance, or the scale matrix of the t.
        freedom: degrees of freedom; infinite for a Gaussian.
    """

    mean: Tensor
    factor: Tensor
    freedom: float = math.inf

    def log_density(self, rows: Tensor) -> Tensor:
        """The natural logarithm of the density at rows (…, F), (…), with gradients."""
        width = len(self.mean)
        difference = (rows.double() - self.mean).reshape(-1, width)
        z = torch.linalg.solve_triangular(self.factor, difference.mT, upper=False)
        square = z.square().sum(0).reshape(rows.shape[:-1])
        volume = self.factor.diagonal().log().sum()
        if math.isinf(self.freedom):
            return -0.5 * square - volume - 0.5 * width * math.log(2 * math.pi)
        n = self.freedom
        constant = math.lgamma((n + width) / 2) - math.lgamma(n / 2) - 0.5 * width * math.log(n * math.pi)
        return constant - volume - 0.5 * (n + width) * (square / n).log1p()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows (count, F) float32 drawn from it."""
        rows = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64) @ self.factor.mT
        if math.isfinite(self.freedom):
            # A t is a Gaussian whose size varies: divided by the root of a χ² over its freedom.
            normal = torch.randn(count, round(self.freedom), generator=generator, dtype=torch.float64)
            rows = rows / normal.square().mean(1, keepdim=True).sqrt()
        return (self.mean + rows).float()


def fit_prior(rows: Tensor, kind: str = "student") -> Prior:
    """The density of presets, rows (N, F) of free raw parameters.

    `gaussian` has their mean and unbiased covariance, as published (arXiv 2505.11315); of a set with no more presets
    than parameters, whose covariance is singular, with 30 % of its diagonal mixed in. `student` is a multivariate
    Student's t of 8 degrees of freedom, a continuous mixture of Gaussians of one shape and many sizes; the shape is
    the covariance with 30 % of its diagonal mixed in in any case, its size is the most likely of some.

    Raises UsageError for fewer than two rows, and rows that are not finite.
    """
    if kind not in PRIORS:
        raise UsageError(f"unknown prior {kind!r}; known: {', '.join(PRIORS)}")
    if len(rows) < 2 or not rows.isfinite().all():
        raise UsageError(f"a prior takes two or more presets, all finite; given: {len(rows)}")
    rows = rows.double()
    mean, covariance = rows.mean(0), rows.mT.cov()
    diagonal = torch.diag(covariance.diagonal().clamp(min=1e-12))
    share = SHRINKAGE if kind == "student" or len(rows) <= rows.shape[1] else 0.0
    shape = (1 - share) * covariance + (share + LEAST_VARIANCE) * diagonal
    factor = torch.linalg.cholesky(shape)
    if kind == "gaussian":
        return Prior(mean, factor)
    fits = [Prior(mean, scale * factor, FREEDOM) for scale in SCALES]
    return max(fits, key=lambda prior: float(prior.log_density(rows).mean()))


def held_out(rows: Tensor, kind: str, folds: int = FOLDS) -> Tensor:
    """The log density of every row (N, F) under a prior of the other folds, (N,); every `folds`-th row is one fold."""
    if len(rows) < 2 * folds:
        raise UsageError(f"{folds} folds take {2 * folds} or more presets; given: {len(rows)}")
    fold = torch.arange(len(rows)) % folds
    found = torch.empty(len(rows), dtype=torch.float64)
    for k in range(folds):
        found[fold == k] = fit_prior(rows[fold != k], kind).log_density(rows[fold == k])
    return found
