"""The published transfer: style embeddings and a Gaussian of presets, and the baselines it is compared with."""

from collections.abc import Callable

import torch
from torch import Tensor

from reknob.analysis.prior import Prior
from reknob.transfer.embeddings import Embedding, angles, mid_side
from reknob.transfer.space import Renderer

STEPS, RATE, ALPHA = 1000, 0.01, 0.1
PASSAGES = 4  # of the reference, whose angles give the deviation
LEAST_ANGLE = 0.01  # rad
OnStep = Callable[[int, float], None]


def optimise(
    renderer: Renderer,
    objective: Callable[[Tensor, Tensor], Tensor],
    starts: Tensor,
    *,
    steps: int,
    rate: float,
    on_step: OnStep = lambda step, loss: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Tensor]:
    """Adam from several starts (G, F) in one batch: the rows (G, F) of the lowest losses, and these losses (G,).

    Args:
        renderer: of the raw recording.
        objective: from rows (G, F) and their output (G, 2, T) to losses (G,), each of its own row alone.
        starts: where it begins.
        steps, rate: of Adam.
        on_step: called with the steps done and the lowest loss so far.
        stopped: called between steps; the best so far is returned once it is true.

    A row whose loss or gradient is not finite stays where it is.
    """
    rows = starts.clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=rate)
    best, lowest = starts.clone(), torch.full((len(starts),), torch.inf)
    for step in range(1, steps + 1):
        losses = objective(rows, renderer(rows))
        with torch.no_grad():
            better = losses.detach() < lowest
            best[better], lowest[better] = rows.detach()[better], losses.detach()[better]
        (gradient,) = torch.autograd.grad(losses.nan_to_num(0.0, 0.0, 0.0).sum(), rows)
        is_finite = (losses.isfinite() & gradient.isfinite().all(1)).detach()
        rows.grad = torch.where(is_finite[:, None], gradient, 0.0)
        optimiser.step()
        on_step(step, float(lowest.min()))
        if stopped():
            break
    return best, lowest


def style_objective(
    embedding: Embedding, reference: Tensor, prior: Prior, sr: int, alpha: float = ALPHA
) -> Callable[[Tensor, Tensor], Tensor]:
    """The published loss of rows (G, F) and their output (G, 2, T): -log p(style) - α·log p(row), (G,).

    The angle between the embeddings of output and reference (2, T) is Gaussian about 0, for mid and side each with the
    root mean square of the angles between passages of the reference as its deviation. Source: Yu et al.,
    arXiv 2505.11315, section 3; the publication's deviations may be of other passages.
    """
    targets, deviations = mid_side(embedding, reference[None], sr)[0], passage_angles(embedding, reference, sr)

    def losses(rows: Tensor, y: Tensor) -> Tensor:
        found = angles(mid_side(embedding, y, sr), targets)
        return (found / deviations).square().sum(1) / 2 - alpha * prior.log_density(rows).to(y.dtype)

    return losses


def passage_angles(embedding: Embedding, reference: Tensor, sr: int) -> Tensor:
    """The root mean square (2,) of the angles between the embeddings of passages of a reference, mid and side."""
    length = reference.shape[-1] // PASSAGES
    passages = torch.stack(reference[:, : length * PASSAGES].split(length, 1))
    found = mid_side(embedding, passages, sr)
    first, second = torch.triu_indices(PASSAGES, PASSAGES, 1)
    return angles(found[first], found[second]).square().mean(0).sqrt().clamp(min=LEAST_ANGLE)


def nearest_in_embedding(renderer: Renderer, embedding: Embedding, reference: Tensor, rows: Tensor) -> Tensor:
    """The squared angles of mid and side together, (N,), between the reference and the output of every row (N, F)."""
    target = mid_side(embedding, reference[None], renderer.sr)[0]
    found = []
    with torch.no_grad():
        for row in rows.split(1):
            y = renderer(row).nan_to_num(0.0, 0.0, 0.0)
            found.append(angles(mid_side(embedding, y, renderer.sr), target).square().sum(1))
    return torch.cat(found)


def nearest_in_parameters(rows: Tensor, own: Tensor) -> int:
    """The number of the row (N, F) nearest to parameters (F,), in standard deviations of the rows."""
    deviations = rows.std(0).clamp(min=1e-6)
    return int(((rows - own) / deviations).square().mean(1).argmin())
