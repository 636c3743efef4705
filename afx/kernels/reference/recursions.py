"""Recursive filters in plain torch, one Python step per sample: the definition, differentiated by autograd."""

import torch
from torch import Tensor


def biquad_cascade(x: Tensor, coefs: Tensor, state: Tensor | None = None) -> Tensor:
    """Filter (R, T) by sections (R or 1, K, 5) in series; see afx.kernels.recursions.biquad_cascade."""
    b0, b1, b2, a1, a2 = coefs.double().expand(x.shape[0], -1, -1).unbind(2)
    start = x.new_zeros(*b0.shape, 2, dtype=torch.float64) if state is None else state
    outputs, ends = x.double(), []
    for k in range(coefs.shape[1]):
        s1, s2 = start[:, k].unbind(1)
        section = []
        for v in outputs.unbind(1):
            y = b0[:, k] * v + s1
            s1, s2 = b1[:, k] * v - a1[:, k] * y + s2, b2[:, k] * v - a2[:, k] * y
            section.append(y)
        outputs = torch.stack(section, 1)
        ends.append(torch.stack([s1, s2], 1))
    return _finish(outputs, torch.stack(ends, 1), x, state)


def one_pole(x: Tensor, coef: Tensor, state: Tensor | None = None) -> Tensor:
    """Average (R, T) exponentially; see afx.kernels.recursions.one_pole."""
    c = coef.double()
    y = x.new_zeros(x.shape[0], dtype=torch.float64) if state is None else state
    outputs = []
    for v in x.double().unbind(1):
        y = (1 - c) * y + c * v
        outputs.append(y)
    return _finish(torch.stack(outputs, 1), y, x, state)


def ballistics(x: Tensor, attack: Tensor, release: Tensor, initial: float, state: Tensor | None = None) -> Tensor:
    """Smooth (R, T) with one coefficient down, another up; see afx.kernels.recursions.ballistics."""
    y = x.new_full((x.shape[0],), initial, dtype=torch.float64) if state is None else state
    outputs = []
    for v in x.double().unbind(1):
        # The comparison has no gradient, so that the choice is a constant, as in the published gradient.
        y = y + torch.where(v < y, attack.double(), release.double()) * (v - y)
        outputs.append(y)
    return _finish(torch.stack(outputs, 1), y, x, state)


def compressor_gain(
    x: Tensor,
    avg: Tensor,
    cmp_threshold: Tensor,
    cmp_slope: Tensor,
    exp_threshold: Tensor,
    exp_slope: Tensor,
    attack: Tensor,
    release: Tensor,
    state: Tensor | None = None,
) -> Tensor:
    """Compute the linear gain (R, T) of a compressor/expander; see afx.kernels.recursions.compressor_gain."""
    level_state, gain_state = (None, None) if state is None else state.unbind(1)
    level_db = 10 * one_pole(x.double().square().clamp(min=1e-8), avg, level_state).log10()
    compressed = cmp_slope.double()[:, None] * (cmp_threshold.double()[:, None] - level_db)
    expanded = exp_slope.double()[:, None] * (exp_threshold.double()[:, None] - level_db)
    # Not torch.minimum, which divides the gradient between both curves where they are equal.
    g = torch.where(compressed < expanded, compressed, expanded)
    g = torch.where(g < 0, g, torch.zeros_like(g))
    return ballistics(10 ** (g / 20), attack, release, 1.0, gain_state).to(x.dtype)


def _finish(outputs: Tensor, end: Tensor, x: Tensor, state: Tensor | None) -> Tensor:
    """Return the outputs in the dtype of x, or, with a state, update it and return them without a gradient."""
    if state is None:
        return outputs.to(x.dtype)
    with torch.no_grad():
        state.copy_(end)
    return outputs.detach().to(x.dtype)
