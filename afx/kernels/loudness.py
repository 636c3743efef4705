"""Loudness ratios, of a short to a long average of power, and their deviations from a target, with gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reknob.afx.kernels.autograd import Context
from reknob.afx.kernels.backends import backend
from reknob.afx.kernels.spectral import check_target, pair_up, unpair

run = backend("loudness")


def loudness_ratio(x: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False) -> Tensor:
    """Ratios of a short to a long average of power, r[n] = a[n] / b[n + shift], of signals x (B, C, T); no gradient.

    a and b are one-pole averages, from zero, of max(x^2, 1e-8) with the coefficients of P pairs, coefs (P, 2); shifts
    (P,) in samples. `mid_side` (two channels) appends the signals (L + R) / sqrt(2) and (L - R) / sqrt(2).
    Returns (B, S, P, T), S = C or 4 signals; 1 where n + shift is beyond the end.
    Raises ValueError where T is not longer than the longest shift.
    """
    _check(x, shifts, mid_side)
    pairs, _, mix = _pair_up(x.detach(), torch.arange(len(x), device=x.device), mid_side)
    # Coefficients in float64: those of long averages are small, and 1 - c in float32 would lose their last digits.
    return unpair(run("loudness_ratio_forward", pairs, coefs.double(), shifts, mix), x.shape, mid_side)


def loudness_deviation(
    x: Tensor, target: Tensor, index: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False
) -> Tensor:
    """Sums over time of |log r - log q| between the loudness ratios r of x and q of a target.

    x (B, C, T) as in `loudness_ratio`; target (N, S, P, T) is the result of that function for N items, and item b is
    compared with target[index[b]], index (B,). Samples below the floor of the power get no gradient. Only n < T - shift
    is summed, where both averages exist.
    Returns (B, S, P), float64, with a gradient of x only.
    """
    _check(x, shifts, mid_side)
    signals = 4 if mid_side else x.shape[1]
    check_target(x, target, index, (signals, len(shifts), x.shape[2]))
    pairs, rows, mix = _pair_up(x, index, mid_side)
    sums = _LoudnessDeviation.apply(pairs, target.flatten(0, 1), rows, coefs.double(), shifts, mix)
    return unpair(sums, x.shape, mid_side)


def _pair_up(x: Tensor, index: Tensor, mid_side: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As `pair_up`, and the weights (S, 2) of both channels in each signal; mid and side preserve the total power."""
    half = 0.5**0.5
    mix = [[1.0, 0.0], [0.0, 1.0], [half, half], [half, -half]]
    # The weights stay on the host: the GPU's kernels take them as compile-time constants.
    return *pair_up(x, index, mid_side), torch.tensor(mix[: 4 if mid_side else 2], dtype=x.dtype)


def _check(x: Tensor, shifts: Tensor, mid_side: bool) -> None:
    if x.ndim != 3 or x.dtype not in (torch.float32, torch.float64) or (mid_side and x.shape[1] != 2):
        channels = 2 if mid_side else "channels"
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}; give (items, {channels}, samples) in float32 or float64")
    if x.shape[2] <= max(shifts.tolist()):
        raise ValueError(
            f"{x.shape[2]} samples are too few for averages {max(shifts.tolist())} samples apart; give longer signals"
        )


class _LoudnessContext(Context):
    checkpoints: Any  # what a back end's forward pass keeps for its backward pass


class _LoudnessDeviation(torch.autograd.Function):
    """The sums and their gradient by a back end; averages at chunk starts are stored for the backward pass."""

    @staticmethod
    def forward(ctx: _LoudnessContext, *tensors: Tensor) -> Tensor:
        # On the context, as the checkpoints of a back end may be a list of pairs, which save_for_backward does not
        # take.
        sums, ctx.checkpoints = run("loudness_deviation_forward", *tensors)
        ctx.save_for_backward(*tensors)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: _LoudnessContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = run("loudness_deviation_backward", grad, *ctx.saved_tensors, ctx.checkpoints)
        # No gradient of the target: it is the result of loudness_ratio, which has none.
        return grad_x, None, None, None, None, None
