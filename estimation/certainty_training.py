"""Calibrates a trained estimator on excerpts whose settings are known."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from reknob.estimation.calibration import LEVELS, Calibration, fit_subspace
from reknob.estimation.controls import in_order, no_effect
from reknob.estimation.estimator import Estimator
from reknob.estimation.posterior import Likelihood, Prior, log_density
from reknob.estimation.statistics_training import StatisticsSet, percentile_encoder
from reknob.estimation.trials import Trials

SCALES = [0.01, 0.02, 0.05, *(k / 10 for k in range(1, 13))]  # of the logarithm of the likelihood
ENOUGH = 100  # effective draws of a posterior, below which its mean and its density are those of a few lucky draws
AXES = 24  # of the subspace of features beside which a recording is strange
STRANGEST = 0.99  # share of held-out excerpts that are not called strange
#: Largest share of processed excerpts that estimates may make worse, of untouched ones that they may change, and
#: largest probability that it is more. Of kinds of recordings that no trial is of, about twice as many are changed.
WORSE, CHANGED, RISK = 0.1, 0.05, 0.1
TESTS = 41  # edges that are tested
NEVER = 1e9  # an edge that no certainty exceeds
RIDGE = 0.01  # penalty on the squared weights of certainty


def untouched(estimator: Estimator, q: Tensor) -> Tensor:
    """Which excerpts (M,) were not processed: their controls q (M, P) are those of no effect."""
    # Within what half precision rounds in the cached controls.
    return (no_effect(estimator.synthesis, q) - q).abs().amax(1) < 2e-3


class Pairs(NamedTuple):
    """Excerpts processed by controls q (M, P), in order, with the coordinates (M, D) of these and of estimates."""

    q: Tensor
    true: Tensor
    estimated: Tensor


@torch.no_grad()
def pair(estimator: Estimator, statistics: StatisticsSet) -> Pairs:
    """The processed ones of excerpts, with their estimates."""
    chosen = statistics.take(~untouched(estimator, statistics.q))
    q, features = in_order(estimator.synthesis, chosen.q), features_of(estimator, chosen)
    return Pairs(q, estimator.prior.of(q), estimator.prior.of(estimator.controller.mlp(features)))


def features_of(estimator: Estimator, statistics: StatisticsSet) -> Tensor:
    """The encoder's features (M, F) of statistics."""
    return percentile_encoder(estimator).describe(statistics.spectral, statistics.wave)


@torch.no_grad()
def calibrate(estimator: Estimator, train: StatisticsSet, held_out: StatisticsSet) -> Calibration:
    """The calibration of an estimator that keeps nothing yet (`choose_edge`).

    The likelihood and the subspace are fitted to `train`; how sure the likelihood is, the intervals, and what counts as
    strange, to excerpts of other recordings, which the estimator was not trained on.
    """
    prior, known, others = estimator.prior, pair(estimator, train), pair(estimator, held_out)
    sure = Likelihood.fit(known.true, known.estimated)
    likelihoods = [Likelihood(sure.mean, scale**0.5 * sure.root) for scale in SCALES]
    settled = [each for each in likelihoods if typical_draws(prior, each, others.estimated) >= ENOUGH]
    likelihood = max(settled or likelihoods[:1], key=lambda each: float(log_density(prior, each, *others[1:]).mean()))
    posteriors = [prior.posterior(likelihood, estimated) for estimated in others.estimated]
    places = torch.stack([each.position(q) for each, q in zip(posteriors, others.q, strict=True)])
    subspace = fit_subspace(features_of(estimator, train), AXES)
    reach = conformal((places - 0.5).abs())
    found = Calibration(*likelihood, reach, *subspace, torch.zeros(()), torch.zeros(3), torch.tensor(NEVER))
    strange = found.strangeness(features_of(estimator, held_out)).quantile(STRANGEST)
    return replace(found, strange=strange)


def typical_draws(prior: Prior, likelihood: Likelihood, estimated: Tensor) -> float:
    """The median over estimates (M, D) of how many draws their posteriors effectively have."""
    weights = likelihood.log(prior.coordinates, estimated).softmax(1)
    return float((1 / weights.square().sum(1)).median())


def conformal(scores: Tensor) -> Tensor:
    """The scores (len(LEVELS), P) that a share `LEVELS` of new ones do not exceed, from n held-out ones (n, P).

    The ceil(level (n + 1))-th smallest; where there is none, 0.5, the largest possible.
    """
    ranked = torch.cat([scores.sort(dim=0).values, torch.full((1, scores.shape[1]), 0.5)])
    ranks = [min(math.ceil(level * (len(scores) + 1)), len(scores) + 1) for level in LEVELS]
    return ranked[[rank - 1 for rank in ranks]]


def choose_edge(found: Calibration, trials: Trials, off: Tensor) -> Calibration:
    """A calibration with the weights of certainty, and the edge up to which estimates are left out.

    Every third trial takes part in `fit_weights`. The other two thirds test edges from the highest certainty downwards:
    edges pass until one of them fails `few_worse` in a group, and of those that passed the one with the lowest Mel is
    taken. So a share of more than `WORSE` or `CHANGED` is so at a probability of `RISK` at most, for excerpts that are
    independent (Angelopoulos et al., Learn then test, arXiv 2110.01052, fixed sequence testing). Groups are the
    processed ones of each data set, of which the mean Mel may not rise, and those that are `off`, untouched.
    """
    signs, change = trials.signs, trials.mel[:, 1] - trials.mel[:, 0]
    first = torch.arange(len(off)) % 3 == 0
    found = replace(found, weights=fit_weights(signs[first], change[first]))
    certainty = found.certainty(signs)
    edges = torch.cat([torch.tensor([NEVER]), certainty[first].quantile(torch.linspace(1, 0, TESTS))])
    changes = ((certainty[:, None] > edges) * change[:, None])[~first]
    groups = torch.stack([off, *(~off & (trials.source == source) for source in trials.source.unique())])
    members, shares = groups[:, ~first].float(), torch.tensor([CHANGED] + [WORSE] * (len(groups) - 1))
    few = few_worse(members @ (changes > 0).float(), members.sum(1, keepdim=True), shares[:, None]).all(0)
    few[0] = True  # without an effect nothing becomes worse, however few excerpts there are
    allowed = (few.cumprod(0) > 0) & (members[1:] @ changes <= 0).all(0)
    return replace(found, edge=edges[changes.mean(0).where(allowed, torch.inf).argmin()])


def fit_weights(signs: Tensor, change: Tensor) -> Tensor:
    """Weights (3,) of a logistic regression of whether an estimate helps on the evidence `signs` (M, 3).

    A trial counts by how much its estimate changes its Mel, `change` (M,), which is negative where it helps.
    """
    centre, spread = signs.mean(0), signs.std(0).clamp(min=1e-3)
    weights = torch.zeros(signs.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = (signs - centre) / spread @ weights[:-1] + weights[-1]
        loss = F.binary_cross_entropy_with_logits(logits, (change < 0).float(), weight=change.abs())
        loss = loss / change.abs().mean() + RIDGE * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return weights.detach()[:-1] / spread


def few_worse(worse: Tensor, counts: Tensor, shares: Tensor) -> Tensor:
    """Whether of n excerpts, `counts` (G, 1), so few became `worse` (G, E) that less than `shares` (G, 1) is certain.

    Where it is that share, as few or fewer have a probability of at most `RISK`: the bound of Clopper and Pearson, for
    which 22 excerpts are the fewest at a share of 0.1, and 45 at 0.05.
    """
    chance = special.bdtr(worse.double().numpy(), counts.long().numpy(), shares.double().numpy())
    return torch.from_numpy(chance <= RISK)
