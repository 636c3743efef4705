"""Fits the certainty of a trained estimator to processed excerpts, and calibrates it on other recordings."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from reknob.estimation.controls import in_order, less
from reknob.estimation.descent import descend
from reknob.estimation.distribution import (
    LEVELS,
    Calibration,
    Certainty,
    fit_subspace,
    log_density,
    position,
)
from reknob.estimation.estimator import Estimator
from reknob.estimation.statistics_cache import Trials
from reknob.estimation.statistics_training import StatisticsSet, percentile_encoder
from reknob.estimation.trials import AMOUNTS

PASSES, BATCH, LR, DECAY = 32, 64, 1e-3, 0.1
SCALES = [k / 10 for k in range(1, 11)]
AXES = 24  # of the subspace of features beside which a recording is strange
STRANGEST = 0.99  # share of held-out excerpts that are not called strange
#: Largest share of excerpts that estimates may make worse, and largest probability that they make more worse.
WORSE, RISK = 0.1, 0.1
STEPS_OF_CERTAINTY, TESTS = 20, 41  # edges that are tried, and shifts that are tested
NEVER = 1e9  # an edge that no certainty exceeds
PENALTIES, SIZE_WEIGHTS = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])


def untouched(estimator: Estimator, q: Tensor) -> Tensor:
    """Which excerpts (M,) were not processed: their controls q (M, P) are those of no effect."""
    # Within what half precision rounds in the cached controls.
    return (less(estimator.synthesis, q, 0.0) - q).abs().amax(1) < 2e-3


def fit_certainty(estimator: Estimator, train: StatisticsSet, seed: int) -> Certainty:
    """The certainty of an estimator, trained by maximum likelihood; the estimator is left as it is."""
    torch.manual_seed(seed)
    with torch.no_grad():
        _, hidden = estimator.from_features(percentile_encoder(estimator).describe(train.spectral, train.wave))
    q, off = in_order(estimator.synthesis, train.q), untouched(estimator, train.q)
    model = Certainty(hidden.shape[1], q.shape[1]).train()
    model.standardise(hidden)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    steps = max(PASSES * len(q) // BATCH, 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    batches = (torch.randint(len(q), (BATCH,), generator=generator) for _ in range(steps))
    losses = (certainty_loss(model, hidden[chosen], q[chosen], off[chosen]) for chosen in batches)
    for _ in descend(losses, optimiser, schedule):
        pass
    return model.eval()


def certainty_loss(model: Certainty, hidden: Tensor, q: Tensor, off: Tensor) -> Tensor:
    """Mean negative log likelihood of the controls q (B, P), and of which excerpts (B,) are untouched."""
    information, processed = model(hidden)
    return F.binary_cross_entropy_with_logits(processed, (~off).float()) - log_density(information, q).mean()


@torch.no_grad()
def calibrate(
    estimator: Estimator, model: Certainty, train: StatisticsSet, features: Tensor, trials: Trials
) -> Calibration:
    """The calibration of a model of certainty: the subspace from `train`, everything else from held-out trials.

    `features` (M, F) are those of the trials.
    """
    subspace = fit_subspace(percentile_encoder(estimator).describe(train.spectral, train.wave), AXES)
    q, off = in_order(estimator.synthesis, trials.q), untouched(estimator, trials.q)
    information, processed = model(estimator.from_features(features)[1])
    scale = max(SCALES, key=lambda each: float(log_density(each * information, q)[~off].mean()))
    reach = conformal((position(scale * information, q) - 0.5)[~off].abs())
    unset = torch.zeros(())
    found = Calibration(torch.tensor(scale), reach, *subspace, unset, unset, unset, torch.tensor([0.0, *AMOUNTS]))
    strangeness = found.strangeness(features)
    found = replace(found, strange=strangeness.quantile(STRANGEST))
    return choose_edges(found, processed, strangeness, trials, off)


def conformal(scores: Tensor) -> Tensor:
    """The scores (len(LEVELS), P) that a share `LEVELS` of new ones do not exceed, from n held-out ones (n, P).

    The ceil(level (n + 1))-th smallest; where there is none, 0.5, the largest possible.
    """
    ranked = torch.cat([scores.sort(dim=0).values, torch.full((1, scores.shape[1]), 0.5)])
    ranks = [min(math.ceil(level * (len(scores) + 1)), len(scores) + 1) for level in LEVELS]
    return ranked[[rank - 1 for rank in ranks]]


def choose_edges(
    found: Calibration, processed: Tensor, strangeness: Tensor, trials: Trials, off: Tensor
) -> Calibration:
    """A calibration with the weights of certainty, and its edges between no effect and the amounts.

    Every third trial, of those with logits `processed` and `strangeness`, both (M,), takes part in the choice of
    weights and edges by their Mel. The other two thirds test these edges, shifted from the highest certainty downwards:
    edges pass until one of them fails `few_worse` in a group, and of those that passed the ones with the lowest Mel are
    taken. So a share of more than `WORSE` becomes worse at a probability of `RISK` at most, for excerpts that are
    independent (Angelopoulos et al., Learn then test, arXiv 2110.01052, fixed sequence testing).
    Groups are the processed ones of each data set, of which the mean Mel may not rise, and those that are `off`,
    untouched.
    """
    groups = torch.stack([off, *(~off & (trials.source == source) for source in trials.source.unique())])
    first = torch.arange(len(off)) % 3 == 0
    found = _lowest_mel(found, processed, strangeness, trials, groups, first)
    if found.edges[0] == NEVER:
        return found
    certainties = found.certainty(processed, strangeness, trials.size)
    tested = certainties[first].quantile(torch.linspace(1, 0, TESTS))
    edges = torch.cat([torch.full((1, len(AMOUNTS)), NEVER), found.edges + (tested - found.edges[0])[:, None]])
    mel, none, members = _kept(trials, certainties, edges)[~first], trials.mel[~first, :1], groups[:, ~first].float()
    few = few_worse(members @ (mel > none).float(), members.sum(1, keepdim=True)).all(0)
    few[0] = True  # without an effect nothing becomes worse, however few excerpts there are
    allowed = (few.cumprod(0) > 0) & (members[1:] @ (mel - none) <= 0).all(0)
    return replace(found, edges=edges[mel.mean(0).where(allowed, torch.inf).argmin()])


def few_worse(worse: Tensor, counts: Tensor) -> Tensor:
    """Whether of n excerpts, `counts` (G, 1), so few became `worse` (G, E) that a share below `WORSE` is certain.

    Where it is `WORSE`, as few or fewer have a probability of at most `RISK`: the bound of Clopper and Pearson, for
    which 22 excerpts are the fewest.
    """
    return torch.from_numpy(special.bdtr(worse.double().numpy(), counts.long().numpy(), WORSE) <= RISK)


def _lowest_mel(
    found: Calibration, processed: Tensor, strangeness: Tensor, trials: Trials, groups: Tensor, chosen: Tensor
) -> Calibration:
    """The weights and edges with the lowest mean Mel of the `chosen` trials (M,), arguments as of `choose_edges`.

    Of each of the `groups` (G, M), the untouched ones and those of each data set, a share of at most `WORSE` becomes
    worse, and the mean Mel of a data set does not. Without such weights and edges every edge is `NEVER`.
    """
    members = (groups & chosen).float()
    most = WORSE * members.sum(1, keepdim=True)
    none = trials.mel[:, :1]
    best = none[chosen].mean()
    found = replace(found, weights=torch.zeros(2), edges=torch.full((len(AMOUNTS),), NEVER))
    shares = torch.linspace(0, 1, STEPS_OF_CERTAINTY + 1)
    for weights in torch.cartesian_prod(PENALTIES, SIZE_WEIGHTS):
        tried = replace(found, weights=weights)
        certainties = tried.certainty(processed, strangeness, trials.size)
        ends = torch.cat([certainties[chosen].quantile(shares[:-1]) - 1e-4, torch.tensor([NEVER])])
        edges = torch.combinations(ends, len(AMOUNTS), with_replacement=True)
        mel = _kept(trials, certainties, edges)
        allowed = (members @ (mel > none).float() <= most).all(0) & (members[1:] @ (mel - none) <= 0).all(0)
        means = mel[chosen].mean(0).where(allowed, torch.inf)
        if means.min() < best:
            best, found = means.min(), replace(tried, edges=edges[means.argmin()])
    return found


def _kept(trials: Trials, certainties: Tensor, edges: Tensor) -> Tensor:
    """Mel (M, E) of trials with `certainties` (M,) after the amount that each of the `edges` (E, K - 1) keeps."""
    return trials.mel.gather(1, (certainties[:, None, None] > edges).sum(-1))
