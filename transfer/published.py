"""The published transfer: style embeddings and a Gaussian of presets, and the baselines it is compared with."""

from collections.abc import Callable

import torch
from torch import Tensor

from reknob.transfer.embeddings import Embedding, angles, mid_side
from reknob.transfer.space import Renderer

STEPS, RATE, ALPHA = 1000, 0.01, 0.1
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


def style_distance(embedding: Embedding, reference: Tensor, sr: int) -> Callable[[Tensor], Tensor]:
    """The published distance of output (G, 2, T) from a reference (2, T) in style, -log p(style) + const, (G,).

    The angle between the embeddings of output and reference is Gaussian about 0, for mid and side each with its own
    root mean square as the deviation: of one passage, the sum of the logarithms of the two angles remains. Both are
    scaled by the peak of the reference. Source: Yu et al., arXiv 2505.11315, section 3, and its release.
    """
    gain = 1 / reference.abs().max().clamp(min=1e-6)
    target = embedding(mid_side(gain * reference[None]), sr)

    def distance(y: Tensor) -> Tensor:
        return angles(embedding(mid_side(gain * y), sr), target).log().sum(1)

    return distance


def nearest_in_parameters(rows: Tensor, own: Tensor) -> int:
    """The number of the row (N, F) nearest to parameters (F,), in standard deviations of the rows."""
    deviations = rows.std(0).clamp(min=1e-6)
    return int(((rows - own) / deviations).square().mean(1).argmin())
