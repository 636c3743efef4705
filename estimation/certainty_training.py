"""Fits the certainty of a trained estimator to processed excerpts, and calibrates it on other recordings."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.estimation.controls import in_order, less
from reknob.estimation.distribution import (
    LEVELS,
    Calibration,
    Certainty,
    fit_subspace,
    log_density,
    pooled,
    position,
)
from reknob.estimation.estimator import Estimator
from reknob.estimation.statistics_cache import Trials
from reknob.estimation.statistics_training import StatisticsSet, percentile_encoder
from reknob.estimation.trials import AMOUNTS

STEPS, BATCH, LR, DECAY = 200, 64, 1e-3, 0.1
EXPONENTS = [k / 10 for k in range(11)]
SCALES = [k / 10 for k in range(1, 11)]
AXES = 24  # of the subspace of features beside which a recording is strange
STRANGEST = 0.99  # share of held-out excerpts that are not called strange
WORSE = 0.1  # largest share of the processed ones that an estimate may make worse
STEPS_OF_CERTAINTY = 20
PENALTIES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(q), (BATCH,), generator=generator)
        loss = certainty_loss(model, hidden[chosen], q[chosen], off[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def certainty_loss(model: Certainty, hidden: Tensor, q: Tensor, off: Tensor) -> Tensor:
    """Mean negative log likelihood of the controls q (B, P), and of which excerpts (B,) are untouched."""
    information, processed = model(hidden)
    return F.binary_cross_entropy_with_logits(processed, (~off).float()) - log_density(information, q).mean()


@torch.no_grad()
def calibrate(estimator: Estimator, model: Certainty, train: StatisticsSet, trials: Trials) -> Calibration:
    """The calibration of a model of certainty: the subspace from `train`, everything else from held-out trials."""
    centre, axes, spread = fit_subspace(percentile_encoder(estimator).describe(train.spectral, train.wave), AXES)
    q, off = in_order(estimator.synthesis, trials.q), untouched(estimator, trials.q)
    information, processed = model(estimator.from_features(trials.features)[1])
    parts, _ = model(estimator.from_features(trials.parts.flatten(0, 1))[1])
    parts = parts.unflatten(0, trials.parts.shape[:2])[~off]
    exponent, scale = choose_pooling(parts, information[~off], q[~off])
    together = torch.stack([pooled(each, exponent, scale) for each in parts])
    # Of one window and of three, so that the intervals hold for both.
    scores = torch.cat([position(each, q[~off]) for each in (scale * information[~off], together)]).sub(0.5).abs()
    unset = torch.zeros(())
    pooling = (torch.tensor(exponent), torch.tensor(scale))
    subspace = (centre, axes, spread)
    found = Calibration(*pooling, conformal(scores), *subspace, unset, unset, unset, torch.tensor([0.0, *AMOUNTS]))
    strangeness = found.strangeness(trials.features)
    penalty, edges = choose_edges(processed, strangeness, trials.mel, off)
    return replace(found, strange=strangeness.quantile(STRANGEST), penalty=torch.tensor(penalty), edges=edges)


def choose_pooling(parts: Tensor, information: Tensor, q: Tensor) -> tuple[float, float]:
    """Exponent and scale of `pooled` with the largest likelihoods of q (M, P).

    The scale, for which a model that is too sure of itself has to be corrected, given the information (M, P, 2) of one
    window; then the exponent given that of several, `parts` (M, W, P, 2).
    """
    scale = max(SCALES, key=lambda each: float(log_density(each * information, q).mean()))

    def likelihood(exponent: float) -> float:
        together = torch.stack([pooled(each, exponent, scale) for each in parts])
        return float(log_density(together, q).mean())

    return max(EXPONENTS, key=likelihood), scale


def conformal(scores: Tensor) -> Tensor:
    """The scores (len(LEVELS), P) that a share `LEVELS` of new ones do not exceed, from n held-out ones (n, P).

    The ceil(level (n + 1))-th smallest; where there is none, 0.5, the largest possible.
    """
    ranked = torch.cat([scores.sort(dim=0).values, torch.full((1, scores.shape[1]), 0.5)])
    ranks = [min(math.ceil(level * (len(scores) + 1)), len(scores) + 1) for level in LEVELS]
    return ranked[[rank - 1 for rank in ranks]]


def choose_edges(processed: Tensor, strangeness: Tensor, mel: Tensor, off: Tensor) -> tuple[float, Tensor]:
    """The penalty of strangeness, and the edges (len(AMOUNTS),) of certainty between no effect and the amounts.

    Those with the lowest mean of `mel` (M, 1 + len(AMOUNTS)), of trials with logits `processed` and `strangeness`, both
    (M,), for which at most a share `WORSE` of those that are not `off`, untouched, comes out worse than without an
    effect.
    """
    best, found = float(mel[:, 0].mean()), (0.0, torch.full((len(AMOUNTS),), float(processed.max()) + 1))
    shares = torch.linspace(0, 1, STEPS_OF_CERTAINTY + 1)
    for penalty in PENALTIES:
        certainties = processed - penalty * strangeness
        ends = torch.cat([certainties.quantile(shares[:-1]) - 1e-4, certainties.max()[None] + 1])
        for edges in torch.combinations(ends, len(AMOUNTS), with_replacement=True):
            chosen = mel.gather(1, (certainties[:, None] > edges).sum(1, keepdim=True))[:, 0]
            worse = float((chosen > mel[:, 0])[~off].float().mean())
            if worse <= WORSE and float(chosen.mean()) < best:
                best, found = float(chosen.mean()), (penalty, edges)
    return found
