"""The project's transfer: presets near in level statistics, refined, and the best of them by expected loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.analysis.prior import Prior
from reknob.losses import VocalLoss
from reknob.transfer.levels import Metric, embed, passage_differences
from reknob.transfer.published import OnStep, optimise
from reknob.transfer.space import Renderer, at_level

SAMPLED = 60  # rows whose passages give the metric
TEMPERATURE = 0.3  # of the weights of presets, in units of the smallest distance


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search.

    Args:
        nearest: presets that are compared by expected loss.
        starts: of them, those that are refined.
        steps, rate: of Adam.
        alpha: weight of the prior, whose log density is divided by the number of parameters.
    """

    nearest: int = 8
    starts: int = 3
    steps: int = 60
    rate: float = 0.02
    alpha: float = 0.1


@dataclass(frozen=True)
class Retrieval:
    """Squared distances (N,) of presets from a reference, and the metric that they are in."""

    distances: Tensor
    metric: Metric

    def nearest(self, count: int) -> list[int]:
        """The numbers of the nearest presets, the nearest first."""
        return self.distances.argsort()[:count].tolist()


def retrieve(
    renderer: Renderer, reference: Tensor, rows: Tensor, on_row: Callable[[int], None] = lambda done: None
) -> Retrieval:
    """Renders the raw recording with every row (N, F) and compares level statistics with the reference's (2, T).

    The metric is estimated from passages of up to `SAMPLED` of these renders: they are of the voice at hand.
    """
    every = max(len(rows) // SAMPLED, 1)
    embeddings, differences, broken = [], [], []
    for number, row in enumerate(rows.split(1)):
        with torch.no_grad():
            y = renderer(row)
            is_sound = bool(y.isfinite().all() and y.abs().max() > 0)
            broken.append(not is_sound)
            embeddings.append(embed(y if is_sound else torch.zeros_like(y), renderer.sr))
            if is_sound and number % every == 0:
                differences.append(passage_differences(y, renderer.sr))
        on_row(number + 1)
    differences.append(passage_differences(reference[None], renderer.sr))
    metric = Metric(torch.cat(differences))
    distances = metric(torch.cat(embeddings), embed(reference[None], renderer.sr)[0])
    return Retrieval(torch.where(torch.tensor(broken), torch.inf, distances), metric)


def search(
    renderer: Renderer,
    reference: Tensor,
    rows: Tensor,
    prior: Prior,
    retrieval: Retrieval,
    options: SearchOptions,
    *,
    on_step: OnStep = lambda step, loss: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The row (F,) of the least expected loss among the nearest presets and those refined from the first of them.

    Refining minimises distance² / (that of the nearest) - α·log p(row) / F. Then every candidate is scored by the mean
    vocal loss of its output to those of all, weighted by how near they are: as the true settings are not known, the
    candidate that is close to many likely ones is better than one close to the likeliest only (minimum Bayes risk).
    A refined row whose loss to the nearest presets is above the largest of theirs is left out.
    """
    numbers = retrieval.nearest(options.nearest)
    nearest, distances = rows[numbers], retrieval.distances[numbers]
    target = embed(reference[None], renderer.sr)[0]
    lowest = distances[0].clamp(min=1e-6)

    def objective(moved: Tensor, y: Tensor) -> Tensor:
        style = retrieval.metric(embed(y, renderer.sr), target) / lowest
        return style - options.alpha / moved.shape[1] * prior.log_density(moved).to(y.dtype)

    candidates, found = nearest, distances
    if options.steps and options.starts:
        refined, _ = optimise(
            renderer,
            objective,
            nearest[: options.starts],
            steps=options.steps,
            rate=options.rate,
            on_step=on_step,
            stopped=stopped,
        )
        with torch.no_grad():
            moved = retrieval.metric(torch.cat([embed(renderer(row), renderer.sr) for row in refined.split(1)]), target)
        candidates, found = torch.cat([nearest, refined]), torch.cat([distances, moved.nan_to_num(torch.inf)])
    losses = _mutual_losses(renderer, candidates)
    # What descends on a distance may be near in it and sound like no preset: such a row counts for nothing.
    to_presets = losses[:, : len(nearest)].mean(1)
    strange = to_presets > to_presets[: len(nearest)].max()
    found = found.masked_fill(strange, torch.inf)
    weights = (-(found - found.min()) / lowest / TEMPERATURE).exp()
    return candidates[int((losses @ weights).masked_fill(strange, torch.inf).argmin())]


def _mutual_losses(renderer: Renderer, rows: Tensor) -> Tensor:
    """Vocal losses (N, N) of the outputs of rows (N, F) to each other's: entry i, j of output i to target j."""
    loss = VocalLoss(renderer.sr)
    with torch.no_grad():
        outputs = torch.stack([at_level(renderer(row)[0], renderer.sr) for row in rows.split(1)])
        targets = [loss.prepare(y[None]) for y in outputs]
        losses = [torch.stack([loss(y[None], target)[0] for target in targets]) for y in outputs]
    return torch.stack(losses).nan_to_num(1e6, 1e6)
