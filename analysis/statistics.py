"""Statistics of rows (N, F): principal components, rank correlations, tests of multivariate normality."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from scipy import stats

from reknob.runtime.errors import UsageError

MOST_DISTANCES = 1 << 22  # between rows that are held at once, 32 MB


@dataclass(frozen=True)
class Components:
    """The K principal components of rows (N, F), K their rank after centring (at most N - 1), largest first."""

    mean: np.ndarray  # (F,)
    axes: np.ndarray  # (K, F), orthonormal
    deviations: np.ndarray  # (K,), standard deviations along the axes, unbiased

    def project(self, rows: np.ndarray) -> np.ndarray:
        """The coordinates (N, K) of rows (N, F) along the axes."""
        return (rows - self.mean) @ self.axes.T

    def whiten(self, rows: np.ndarray) -> np.ndarray:
        """The coordinates (N, K) of rows (N, F) along the axes, divided by the standard deviations."""
        return self.project(rows) / self.deviations


def principal_components(rows: np.ndarray) -> Components:
    """The principal components of rows (N, F), by singular value decomposition; UsageError for fewer than two rows."""
    if len(rows) < 2:
        raise UsageError(f"a variance takes two or more presets; given: {len(rows)}")
    mean = rows.mean(0)
    # Of the rows: their covariance has the squares of these sizes, and the small ones would be lost to rounding.
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    # Centring reduces the rank; the sizes beyond it are zero up to rounding.
    count = int(np.sum(sizes > 1e-9 * sizes[0]))
    return Components(mean, axes[:count], sizes[:count] / math.sqrt(len(rows) - 1))


def variance_shares(rows: np.ndarray, components: Components) -> np.ndarray:
    """The fraction (K,) of the rows' mean square about the components' mean that lies along each axis.

    For the rows that the components were computed from, it is the fraction of the variance explained by each.
    """
    power = np.square(components.project(rows)).sum(0)
    return power / power.sum()


def components_needed(shares: np.ndarray, level: float = 0.99) -> int:
    """The number of leading components whose fractions of the variance sum to at least `level`."""
    return min(int(np.sum(np.cumsum(shares) < level)) + 1, len(shares))


def cumulative(shares: np.ndarray) -> np.ndarray:
    """The cumulative sum (K + 1,) of fractions (K,), with a leading 0."""
    return np.concatenate([[0.0], np.cumsum(shares)])


def area_under(shares: np.ndarray) -> float:
    """The area under the cumulative curve by the trapezoidal rule, as a fraction of the unit square."""
    return float(np.trapezoid(cumulative(shares)) / len(shares))


def rank_correlation(rows: np.ndarray) -> np.ndarray:
    """Spearman's correlation (F, F) of the columns of rows (N, F); 0 for constant columns, also with themselves."""
    ranks = stats.rankdata(rows, axis=0)
    ranks -= ranks.mean(0)
    sizes = np.linalg.norm(ranks, axis=0)
    return ranks.T @ ranks / np.maximum(np.outer(sizes, sizes), np.finfo(float).tiny)


def group_correlation(correlation: np.ndarray, groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The groups, and the mean |correlation| (G, G) over all pairs of different columns, one of each group.

    `groups` names the group of each of the F columns; those of "" are left out. NaN for a group of a single column
    with itself.
    """
    labels = [label for label in dict.fromkeys(groups) if label]
    member = np.array([[group == label for group in groups] for label in labels], dtype=float)
    # The pairs between two groups, without those of a column with itself.
    pairs = member @ (1 - np.eye(len(groups))) @ member.T
    total = member @ np.where(np.eye(len(groups)), 0, np.abs(correlation)) @ member.T
    return labels, np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan)


def ranked_groups(labels: Sequence[str], matrix: np.ndarray) -> list[tuple[str, float]]:
    """The finite entries of a symmetric matrix (G, G) with the names of their groups ("PK2–HS"), largest first."""
    rows, columns = np.triu_indices(len(labels))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    named = [(f"{labels[i]}–{labels[j]}", float(matrix[i, j])) for i, j in pairs if np.isfinite(matrix[i, j])]
    return sorted(named, key=itemgetter(1), reverse=True)


def strongest_pairs(correlation: np.ndarray, columns: Sequence[str], count: int) -> list[tuple[int, int]]:
    """The `count` pairs of columns with the largest |correlation|, largest first; none within one array parameter.

    `columns` are the names of the columns; elements of an array parameter differ only after "[".
    """
    array = np.array([name.split("[")[0] for name in columns])
    i, j = np.nonzero(np.triu(array[:, None] != array))
    # Stable, so that pairs of equal correlation have the same order on every machine.
    order = np.argsort(-np.abs(correlation[i, j]), kind="stable")[:count]
    return list(zip(i[order].tolist(), j[order].tolist(), strict=True))


class NormalityTest(NamedTuple):
    """The statistic of a test of normality, and its p-value: the probability of a larger one under normality."""

    statistic: float
    p: float


def royston(rows: np.ndarray) -> NormalityTest:
    """Royston's H test of multivariate normality, of rows (N, F), 12 ≤ N ≤ 2000, F ≥ 2.

    With p_j the p-value of Shapiro and Wilk's test of column j and ψ_j = Φ⁻¹(p_j / 2)², the statistic H = e·mean ψ
    follows χ² with e = F / (1 + (F - 1)·c) degrees of freedom. c is the mean over pairs of columns of the correlation
    of their ψ, |r|⁵ (1 - 0.715 / ν·(1 - |r|)^0.715), where ν = 0.21364 + 0.015124 ln²N - 0.0018034 ln³N.

    UsageError for other sizes. Sources: J. P. Royston, Some techniques for assessing multivariate normality based on
    the Shapiro-Wilk W, Applied Statistics 32 (1983); the p-values: Algorithm AS R94, Applied Statistics 44 (1995).
    """
    count, width = rows.shape
    if not 12 <= count <= 2000 or width < 2:
        raise UsageError(f"{count} rows of {width} numbers: Royston's test takes 12 to 2000 rows of at least 2")
    psi = stats.norm.ppf(np.array([stats.shapiro(column).pvalue for column in rows.T]) / 2) ** 2
    log = math.log(count)
    nu = 0.21364 + 0.015124 * log**2 - 0.0018034 * log**3
    r = np.abs(np.corrcoef(rows.T)[np.triu_indices(width, 1)]).clip(max=1)
    c = np.mean(r**5 * (1 - 0.715 / nu * (1 - r) ** 0.715))
    freedom = width / (1 + (width - 1) * c)
    H = freedom * psi.mean()
    return NormalityTest(float(H), float(stats.chi2.sf(H, freedom)))


def henze_zirkler(rows: np.ndarray) -> NormalityTest:
    """Henze and Zirkler's test of multivariate normality, of rows (N, F), N > F.

    With D_jk the squared Mahalanobis distance of rows j and k, D_j that of row j from the mean (covariance over N),
    and β² = ((2F + 1)·N / 4)^(2 / (F + 4)) / 2,
    HZ = 1/N Σ_jk e^(-β² D_jk / 2) - 2 (1 + β²)^(-F/2) Σ_j e^(-β² D_j / (2 + 2β²)) + N (1 + 2β²)^(-F/2),
    whose logarithm is approximately normal. The N diagonal terms of the first sum contribute exactly 1; with many
    columns all other terms are tiny, so HZ - 1 is computed, which keeps their digits.

    UsageError for rows without a regular covariance. Source: N. Henze and B. Zirkler, A class of invariant consistent
    tests for multivariate normality, Communications in Statistics 19 (1990), theorem 2.2 for mean and variance.
    """
    count, width = rows.shape
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / count
    if count <= width or np.linalg.matrix_rank(covariance) < width:
        raise UsageError(f"{count} rows of {width} numbers have no regular covariance; give more rows")
    b = ((2 * width + 1) * count / 4) ** (2 / (width + 4)) / 2
    weighted = np.linalg.solve(covariance, centred.T)
    from_mean = np.einsum("jf,fj->j", centred, weighted)  # D_j
    pair_sum = 0.0
    # A block of rows at a time: all N² distances would not fit into memory.
    rows_at_once = max(MOST_DISTANCES // count, 1)
    for at in range(0, count, rows_at_once):
        block = np.arange(at, min(at + rows_at_once, count))
        between = from_mean[block, None] + from_mean - 2 * centred[block] @ weighted  # D_jk
        between[block - at, block] = np.inf  # j = k, which contributes nothing here
        pair_sum += np.exp(-b / 2 * between).sum() / count
    above_one = pair_sum - 2 * (1 + b) ** (-width / 2) * np.exp(-b / (2 + 2 * b) * from_mean).sum()
    above_one += count * (1 + 2 * b) ** (-width / 2)
    below_one, variance = _henze_zirkler_moments(b, width)
    log_variance = np.log1p(variance / (1 - below_one) ** 2)
    log_mean = np.log1p(-below_one) - log_variance / 2
    p = stats.norm.sf((np.log1p(above_one) - log_mean) / np.sqrt(log_variance))
    return NormalityTest(float(1 + above_one), float(p))


def _henze_zirkler_moments(b: float, width: int) -> tuple[float, float]:
    """(1 - mean, variance) of HZ under normality; b = β². 1 - mean, as the mean is close to 1."""
    d, a, w = width, 1 + 2 * b, (1 + b) * (1 + 3 * b)
    below_one = a ** (-d / 2) * (1 + d * b / a + d * (d + 2) * b**2 / (2 * a**2))
    variance = 2 * (1 + 4 * b) ** (-d / 2)
    variance += 2 * a**-d * (1 + 2 * d * b**2 / a**2 + 3 * d * (d + 2) * b**4 / (4 * a**4))
    variance -= 4 * w ** (-d / 2) * (1 + 3 * d * b**2 / (2 * w) + d * (d + 2) * b**4 / (2 * w**2))
    return below_one, variance
