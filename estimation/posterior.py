"""What a recording tells of all settings together: their posterior distribution.

The controls that an estimator finds are a noisy statistic of those that were used. In suitable coordinates, of an
equaliser its response, the noise is about Gaussian, and its mean about linear in the coordinates of the true controls;
both are fitted to excerpts whose controls are known. This likelihood weighs draws of the prior. So it is the effects
themselves that say which settings trade off: those with the same response are equally likely.

A likelihood of statistics, fitted to simulations: Wood, Nature 466 (2010). Estimates as these statistics: Fearnhead and
Prangle, JRSS B 74 (2012).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from scipy.stats import qmc
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from reknob.afx.chain import Normalised
from reknob.estimation.controls import in_order, no_effect
from reknob.estimation.descent import descend
from reknob.estimation.responses import equalisers, other_controls

DRAWS = 2**14  # of the prior
UNPROCESSED = 2**10  # of them, without their effects
FREQS = (33.0, 21000.0, 16)  # Hz, lowest and highest, and how many at equal ratios: of a response's coordinates
SAMPLES = 500  # of a posterior, whose responses are compared
CENTRAL = torch.tensor([0.16, 0.84])  # shares at one standard deviation about the mean of a normal distribution
ENDS = 0.01  # of a control's range, which have the same coordinate
BINS = 8  # of the prior, equally likely, in which the information on a control is counted
RIDGE, FLOOR = 10.0, 0.01  # of the regression, and of variances relative to their mean
STEPS, RATE = 60, 0.1  # of `settle`
#: Weight of the distance from the mean. Of 240 excerpts with peq, the error of the settings and the distance of the
#: response from the true one in nepers were 0.103 and 0.358 of the estimates, 0.080 and 0.359 with a weight of 5, 0.079
#: and 0.360 with 8, 0.076 and 0.380 of the means.
PULL = 8.0


class Coordinates:
    """Coordinates of the controls of a chain at `sr` Hz: (M, P) -> (M, D).

    Of an equaliser its gains in nepers at `FREQS`, less their mean, as estimators do not hear the overall gain; of
    every other control the position in its range, as the quantile of a normal distribution.
    """

    def __init__(self, chain: Normalised, sr: int) -> None:
        self.equalisers = equalisers(chain, sr)
        self.others = other_controls(chain, self.equalisers)
        lowest, highest, count = FREQS
        self.freqs = torch.linspace(math.log(lowest), math.log(min(highest, 0.49 * sr)), count).exp()

    def __call__(self, q: Tensor) -> Tensor:
        gains = [equaliser.gains(q, self.freqs) for equaliser in self.equalisers]
        others = torch.special.ndtri(q[:, self.others].clamp(ENDS, 1 - ENDS))
        return torch.cat([*(g - g.mean(1, keepdim=True) for g in gains), others], 1)


class Likelihood(NamedTuple):
    """The distribution of the coordinates of estimates, given those of the true controls."""

    mean: Tensor  # (D + 1, D): its mean is the true coordinates and 1, times this
    root: Tensor  # (D, D): of which the covariance's inverse is `root @ root.T`

    @classmethod
    def fit(cls, true: Tensor, estimated: Tensor) -> "Likelihood":
        """The likelihood of coordinates (M, D) of true controls and of their estimates."""
        x = _with_one(true)
        mean = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ estimated)
        covariance = (estimated - x @ mean).T.cov(correction=0)
        covariance += FLOOR * covariance.diag().mean() * torch.eye(len(covariance))
        return cls(mean, torch.linalg.cholesky(torch.linalg.inv(covariance)))

    def log(self, true: Tensor, estimated: Tensor) -> Tensor:
        """Its logarithm (M, N), but for a constant, of estimated coordinates (M, D) for each of N true ones (N, D)."""
        return torch.cdist(estimated @ self.root, _with_one(true) @ self.mean @ self.root).square() / -2

    def log_pairs(self, true: Tensor, estimated: Tensor) -> Tensor:
        """The same (M,) of each estimate for its own true coordinates (M, D)."""
        return ((estimated - _with_one(true) @ self.mean) @ self.root).square().sum(1) / -2


class Prior:
    """Draws of the controls of a chain at `sr` Hz, uniform but for the order of an equaliser's peaks.

    Attributes:
        draws: (N, P).
        coordinates: of the draws, (N, D).
        unprocessed: coordinates of some of the draws without their effects.
        order: (N, P), indices of the draws by rising control.
    """

    def __init__(self, chain: Normalised, sr: int) -> None:
        sobol = qmc.Sobol(len(chain.controls()), rng=0)
        self.draws = in_order(chain, torch.from_numpy(sobol.random(DRAWS)).float())
        self.of = Coordinates(chain, sr)
        self.coordinates = self.of(self.draws)
        self.unprocessed = self.of(no_effect(chain, self.draws[:UNPROCESSED]))
        self.order = self.draws.argsort(0)

    def posterior(self, likelihood: Likelihood, estimated: Tensor) -> "Posterior":
        """The posterior of an estimate with coordinates (D,)."""
        log = likelihood.log(self.coordinates, estimated[None])[0]
        without = likelihood.log(self.unprocessed, estimated[None])[0]
        processed = _log_mean(log) - _log_mean(without)
        return Posterior(self, log.double().softmax(0), float(processed), estimated)

    def without_evidence(self) -> "Posterior":
        """The prior as a posterior: that of a recording which tells nothing."""
        equal = torch.full((len(self.draws),), 1 / len(self.draws)).double()
        return Posterior(self, equal, 0.0, self.coordinates.mean(0))


class Posterior(NamedTuple):
    """Weighted draws of a prior."""

    prior: Prior
    weights: Tensor  # (N,) in float64, with the sum 1
    processed: float  # logarithm of how much likelier the estimate is if there was an effect than if there was none
    estimated: Tensor  # (D,), coordinates of the estimate

    def mean(self) -> Tensor:
        """The mean of the controls, (P,)."""
        return (self.weights @ self.prior.draws.double()).float()

    def position(self, q: Tensor) -> Tensor:
        """The cumulative probability (P,) of controls q (P,)."""
        draws = self.prior.draws
        return self.weights @ ((draws < q).double() + (draws <= q)) / 2

    def quantiles(self, shares: Tensor) -> Tensor:
        """The controls (K, P) at cumulative probabilities (K, P)."""
        order = self.prior.order
        below = self.weights[order].cumsum(0)
        ranks = torch.searchsorted(below.T.contiguous(), shares.T.double().contiguous()).clamp(max=len(order) - 1)
        return self.prior.draws.gather(0, order.gather(0, ranks.T))

    def sample(self, count: int) -> Tensor:
        """Settings (count, P) of the posterior, the same ones in every call: systematic resampling of the draws."""
        steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        ranks = torch.searchsorted(self.weights.cumsum(0), steps).clamp(max=len(self.weights) - 1)
        return self.prior.draws[ranks]

    def response_range(self, q: Tensor, freqs: Tensor) -> Tensor | None:
        """The central 68 % (2, F) in dB of the responses of all equalisers together, at frequencies (F,) in Hz.

        About the response of controls q (1, P): each has its mean over the frequencies, as the overall gain is not
        heard. None without an equaliser.
        """
        if not (found := self.prior.of.equalisers):
            return None
        both = torch.cat([self.sample(SAMPLES), q])
        gains, own = torch.stack([each.gains(both, freqs) for each in found]).sum(0).split((SAMPLES, 1))
        ends = (gains - gains.mean(1, keepdim=True)).quantile(CENTRAL, 0) + own.mean()
        return 20 / math.log(10) * ends

    @property
    def effective_draws(self) -> float:
        """The number of draws of equal weights that tell as much (Kish, Survey Sampling (1965))."""
        return float(1 / self.weights.square().sum())

    def information(self) -> Tensor:
        """How much is known of each control, (P,): the divergence from its prior in nats.

        Less what so many draws would diverge by chance (Miller, Note on the bias of information estimates (1955)).
        """
        shares = self.weights[self.prior.order].unflatten(0, (BINS, -1)).sum(1)
        divergence = (shares * (BINS * shares).clamp(min=1e-9).log()).sum(0).float()
        return divergence - (BINS - 1) / (2 * self.effective_draws)


@torch.enable_grad()
def settle(posteriors: Sequence[Posterior]) -> Tensor:
    """The controls (B, P) of estimates: those that sound like them, as near to the posteriors' means as that allows.

    Of the many settings with about the coordinates of an estimate, this takes the most expected ones: what the sound
    does not determine comes from the mean. Adam on the mean absolute difference of coordinates and the squared distance
    from the means.
    """
    of, mean = posteriors[0].prior.of, torch.stack([each.mean() for each in posteriors])
    estimated = torch.stack([each.estimated for each in posteriors])
    free = mean.clamp(ENDS, 1 - ENDS).logit().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=RATE)

    def losses() -> Iterator[Tensor]:
        for _ in range(STEPS):
            q = free.sigmoid()
            yield (of(q) - estimated).abs().mean(1).sum() + PULL * (q - mean).square().mean(1).sum()

    for _ in descend(losses(), optimiser, CosineAnnealingLR(optimiser, STEPS)):
        pass
    return free.sigmoid().detach()


def log_density(prior: Prior, likelihood: Likelihood, true: Tensor, estimated: Tensor) -> Tensor:
    """Log density (M,) of the true controls of M estimates, relative to the prior's; both as coordinates (M, D)."""
    return likelihood.log_pairs(true, estimated) - _log_mean(likelihood.log(prior.coordinates, estimated))


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1)


def _log_mean(log: Tensor) -> Tensor:
    """The logarithm of the mean of exp(log) over the last dimension."""
    return log.logsumexp(-1) - math.log(log.shape[-1])
