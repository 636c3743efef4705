"""How certain the parameters of a fitted chain are: a 68 % interval for each, and a word.

A parameter is as certain as a change of it is audible in a loud excerpt beside what the fit leaves unexplained, and as
changes of other parameters cannot undo it: the Gauss-Newton approximation of the posterior at the fitted values.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Values
from reknob.data.chunks import Chunks
from reknob.fitting.certainty_features import Axis, Features
from reknob.formats.certainty import BOUNDED, FOUND, UNKNOWN, Certainty
from reknob.losses import FitLoss

LEVEL = 0.6827  # of an interval: one standard deviation on both sides
#: Widths, relative to those without any sound: of an interval from which a parameter is only bounded, and of each of
#: its two sides from which the parameter is not identifiable.
WIDE, WIDEST = 0.3, 0.75
OTHERS = 24  # values of a multimodal parameter that are compared with the fitted one
STANDS_OUT = 0.5  # by how many of their standard deviations its loss has to be below theirs


@torch.no_grad()
def certainty(chain: Effect, chunks: Chunks, loss: FitLoss, values: Values) -> dict[str, Certainty]:
    """Intervals and words of the parameters of a fitted chain, by name.

    The log powers f of a render, their derivatives J by the positions z of the parameters, the standard deviation σ of
    what is unexplained, the number κ of features per independent one and the variances τ² of the prior give the
    covariance (Jᵀ J / (κ σ²) + diag 1/τ²)⁻¹. On either side of a scalar its standard deviation s is corrected
    by the change that a move by s really makes, so that an end of what is audible is seen. The interval holds 68 %
    of the density on both sides of the fitted value, inside the range. Where the loss at other values of a multimodal
    parameter is hardly higher, nothing is known of it.

    Args:
        chain: the effects.
        chunks: of the pair.
        loss: of the fit, which decides whether other values of a multimodal parameter explain the sound as well.
        values: fitted, on the chain's device.

    Left out are parameters that presets do not store, ambiguous ones (see `Param`) and large arrays.

    Source: the Laplace approximation, MacKay, A Practical Bayesian Framework for Backpropagation Networks, Neural
    Computation 4 (1992), with the Gauss-Newton Hessian.
    """
    features = Features(chain, chunks, values, loss.least_samples)
    axes = [features.axes[name] for name, _ in features.columns]
    if not axes:
        return {}
    centre = torch.tensor([features.positions[name].reshape(-1)[i] for name, i in features.columns])
    prior = torch.tensor([axis.width**-2 for axis in axes], dtype=torch.float64)
    steps = torch.tensor([axis.step(z) for axis, z in zip(axes, centre.tolist(), strict=True)])
    slopes = features.changes(list(enumerate((centre + steps).tolist()))).double().cpu() / steps[:, None]
    information = slopes @ slopes.mT / features.correlated
    precision = 1 / torch.linalg.inv(information + prior.diag()).diagonal()
    sides = _sides(features, axes, centre, precision, information.diagonal(), prior)
    for k, axis in enumerate(axes):
        if axis.p.multimodal and axis.has_range and _fits_elsewhere(features, loss, k):
            sides[:, k] = 0
    return _by_name(features, *_intervals(axes, centre, sides, prior))


def _sides(
    features: Features, axes: Sequence[Axis], centre: Tensor, precision: Tensor, own: Tensor, prior: Tensor
) -> Tensor:
    """Precisions (2, P) of the likelihood below and above the fitted positions.

    Args:
        precision: of the posterior by the derivatives, (P,).
        own: the part of each parameter alone in it, (P,).
        prior: its precision, (P,).
    """
    sides = (precision - prior).clamp(min=0).repeat(2, 1)
    scalars = [k for k, axis in enumerate(axes) if not axis.p.shape and not axis.p.multimodal]
    moves = {}
    for k in scalars:
        lowest, highest = axes[k].ends
        for side, sign in enumerate((-1, 1)):
            position = min(max(centre[k].item() + sign * precision[k].item() ** -0.5, lowest), highest)
            # At an end of the range there is no other side.
            if abs(position - centre[k].item()) * precision[k] ** 0.5 > 0.1:
                moves[side, k] = position
    changes = features.changes([(k, position) for (_, k), position in moves.items()]).double().cpu()
    for (side, k), change in zip(moves, changes, strict=True):
        real = change.square().sum() / features.correlated / (moves[side, k] - centre[k]) ** 2
        sides[side, k] = (precision[k] * (real + prior[k]) / (own[k] + prior[k]) - prior[k]).clamp(min=0)
    return sides


def _fits_elsewhere(features: Features, loss: FitLoss, k: int) -> bool:
    """Whether the loss at the fitted position of a parameter does not stand out from those all over its range."""
    name, i = features.columns[k]
    positions = torch.linspace(0, 1, OTHERS + 2)[1:-1].tolist()
    here, *others = features.losses(loss, k, [features.positions[name].reshape(-1)[i].item(), *positions])
    elsewhere = torch.stack(others)
    return not bool(here < elsewhere.min() - STANDS_OUT * elsewhere.std())


def _intervals(axes: Sequence[Axis], centre: Tensor, sides: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Lowest and highest positions (P,) of the intervals, and what they say.

    On either side of the fitted position an interval holds 68 % of what that side of the density does.
    """
    ends = torch.tensor([axis.ends for axis in axes], dtype=torch.float64).T
    uniform = ends[1].isfinite()
    # A uniform prior only truncates.
    deviations = (torch.where(uniform, sides, sides + prior) + 1e-6).rsqrt()
    room = (ends - centre).abs()
    inside = torch.special.ndtr(room / deviations) - 0.5
    reach = torch.minimum(deviations * torch.special.ndtri(0.5 + LEVEL * inside), room)
    of_prior = torch.where(uniform, LEVEL * room, prior.rsqrt())  # the reach without any sound
    shares = torch.where(of_prior > 0, reach / of_prior, 1.0).amin(0), reach.sum(0) / of_prior.sum(0)
    at_end = (room < deviations).any(0)
    words = [
        UNKNOWN if side > WIDEST else BOUNDED if whole > WIDE or end else FOUND
        for side, whole, end in zip(*(each.tolist() for each in (*shares, at_end)), strict=True)
    ]
    return centre - reach[0], centre + reach[1], words


def _by_name(features: Features, low: Tensor, high: Tensor, words: list[str]) -> dict[str, Certainty]:
    """Intervals in physical units, and words, from what `_intervals` gives, (P,) each."""
    result, first = {}, 0
    for name, axis in features.axes.items():
        shape, count = axis.p.shape, math.prod(axis.p.shape)
        part, first = slice(first, first + count), first + count
        # Some raw parameters fall where the value rises.
        ends = torch.stack([axis.value(z[part].reshape(shape)).double() for z in (low, high)])
        lowest, highest = ends.sort(0).values.tolist()
        result[name] = Certainty(lowest, highest, np.array(words[part], dtype=object).reshape(shape).tolist())
    return result
