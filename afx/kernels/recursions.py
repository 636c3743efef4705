"""Recursive filters over time: biquad cascade, one-pole average, attack/release ballistics, compressor gain."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reknob.afx.kernels.autograd import Context
from reknob.afx.kernels.backends import backend

run = backend("recursions")


def biquad_cascade(x: Tensor, coefs: Tensor, state: Tensor | None = None) -> Tensor:
    """Filter each row by K second-order sections in series.

    Each section, in transposed direct form II from the state (s1, s2) = 0:

        y[n] = b0 x[n] + s1,   s1 <- b1 x[n] - a1 y[n] + s2,   s2 <- b2 x[n] - a2 y[n]

    Args:
        x: (R, T) float32 or float64.
        coefs: (R or 1, K, 5) with b0, b1, b2, a1, a2 of each section (a0 = 1), used in float64.
        state: (R, K, 2) float64, the initial state, or None for zeros. If given, it is updated in place to the final
            state and the output has no gradient: the outputs of consecutive blocks equal those of one call over all.

    Returns:
        y: (R, T), the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above.

    Source: Oppenheim and Schafer, Discrete-Time Signal Processing, chapter 6.
    """
    _check_audio(x)
    if coefs.ndim != 3 or coefs.shape[2] != 5:
        raise ValueError(f"coefs has shape {tuple(coefs.shape)}; give (rows or 1, sections, 5) with b0 b1 b2 a1 a2")
    coefs = _per_row("coefs", coefs, x)
    return _run("biquad_cascade", x, coefs, coefs.new_zeros(*coefs.shape[:2], 2), state)


def one_pole(x: Tensor, coef: Tensor, state: Tensor | None = None) -> Tensor:
    """Average each row exponentially: y[n] = (1 - c) y[n-1] + c x[n], y[-1] = 0.

    Args:
        x: (R, T) float32 or float64.
        coef: (R or 1,) the coefficient c, used in float64.
        state: (R,) float64, y[-1], or None. If given, it is updated in place to y[T-1], and y has no gradient.

    Returns:
        y: (R, T), the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above.
    """
    _check_audio(x)
    coefs = _columns(x, coef=coef)
    return _run("one_pole", x, coefs, coefs.new_zeros(len(x)), state)


def ballistics(x: Tensor, attack: Tensor, release: Tensor, initial: float, state: Tensor | None = None) -> Tensor:
    """Smooth each row with one coefficient downwards and another upwards.

    y[n] = y[n-1] + c (x[n] - y[n-1]) with c = attack where x[n] < y[n-1], else release; y[-1] = initial.
    The gradient treats the choice between the two as fixed.

    Args:
        x: (R, T) float32 or float64, a gain: attack is the coefficient for falling values.
        attack, release: (R or 1,) coefficients, used in float64.
        initial: y[-1] of every row; ignored where `state` is given.
        state: (R,) float64, y[-1], or None. If given, it is updated in place to y[T-1], and y has no gradient.

    Returns:
        y: (R, T), the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above.

    Source: Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design, JAES 60 (2012).
    """
    _check_audio(x)
    coefs = _columns(x, attack=attack, release=release)
    return _run("ballistics", x, coefs, coefs.new_full((len(x),), float(initial)), state)


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
    """Compute the linear gain of a compressor/expander with x as its side-chain input.

        p[n] = (1 - avg) p[n-1] + avg max(x[n]^2, 1e-8),   p[-1] = 0,   L = 10 log10 p
        g = min(0, cmp_slope (cmp_threshold - L), exp_slope (exp_threshold - L))
        gain = ballistics(10^(g / 20), attack, release, initial=1)

    With ratios R_c > 1 and 0 < R_e < 1 the slopes are 1 - 1/R_c and 1 - 1/R_e. Samples below the floor have no
    gradient of x, and samples with g = 0 none of the static curve.

    Args:
        x: (R, T) float32 or float64.
        avg, attack, release: (R or 1,) one-pole coefficients. This and all below are used in float64.
        cmp_threshold, exp_threshold: (R or 1,) in dB of power.
        cmp_slope, exp_slope: (R or 1,) in dB per dB.
        state: (R, 2) float64, p[-1] and gain[-1], or None for (0, 1). If given, it is updated in place to the final
            values and the output has no gradient.

    Returns:
        gain: (R, T), the dtype and device of x.

    Raises:
        ValueError: a shape or dtype other than the above.

    Source: DiffVox, DAFx25, arXiv 2504.14735.
    """
    _check_audio(x)
    coefs = _columns(
        x,
        avg=avg,
        cmp_threshold=cmp_threshold,
        cmp_slope=cmp_slope,
        exp_threshold=exp_threshold,
        exp_slope=exp_slope,
        attack=attack,
        release=release,
    )
    fresh = coefs.new_zeros(len(x), 2)
    # The gain starts at 1: from 0, every recording would be faded in.
    fresh[:, 1] = 1
    return _run("compressor_gain", x, coefs, fresh, state)


class _RecursionContext(Context):
    name: str
    saved: Any  # what a back end's forward pass keeps for its backward pass


class Recursion(torch.autograd.Function):
    """Any recursion over any back end: a forward pass, and a backward pass with time reversed.

    <name>_forward(x, coefs, state) -> y, saved        updates state; `saved` is private to the back end
    <name>_backward(grad_y, x, coefs, saved, want_x, want_coefs) -> grad_x, grad_coefs
    """

    @staticmethod
    def forward(ctx: _RecursionContext, x: Tensor, coefs: Tensor, state: Tensor, name: str) -> Tensor:
        # On the context, as a back end may save a tuple of tensors, which save_for_backward does not take.
        y, ctx.saved = run(f"{name}_forward", x, coefs, state)
        ctx.name = name
        ctx.save_for_backward(x, coefs)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _RecursionContext, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        want_x, want_coefs = ctx.needs_input_grad[:2]
        x, coefs = ctx.saved_tensors
        # Outside autograd's graph: without once_differentiable, a second derivative would miss terms silently.
        grad_x, grad_coefs = run(f"{ctx.name}_backward", grad_y, x, coefs, ctx.saved, want_x, want_coefs)
        # A back end may return an empty or unspecified tensor for a gradient that is not wanted.
        return grad_x if want_x else None, grad_coefs if want_coefs else None, None, None


def _run(name: str, x: Tensor, coefs: Tensor, fresh: Tensor, state: Tensor | None) -> Tensor:
    """Run a recursion: from the fresh state with a gradient, or from a given state, updated in place, without one."""
    if state is None:
        # Contiguous before they are saved, or the backward pass would copy them a second time.
        return Recursion.apply(x.contiguous(), coefs.contiguous(), fresh, name)
    if state.shape != fresh.shape or state.dtype != torch.float64:
        raise ValueError(f"state is {tuple(state.shape)} {state.dtype}; give {tuple(fresh.shape)} torch.float64")
    # On a contiguous copy: a back end updates its argument in place, and would update a hidden copy of a strided state.
    fresh.copy_(state)
    y, _ = run(f"{name}_forward", x, coefs, fresh)
    state.copy_(fresh)
    return y


def _check_audio(x: Tensor) -> None:
    if x.ndim != 2 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}; give (rows, samples) in float32 or float64")


def _per_row(name: str, value: Tensor, x: Tensor) -> Tensor:
    """Expand (rows or 1, ...) to float64 (rows, ...) on x.device; autograd sums the gradients of a shared row."""
    rows = len(x)
    if value.shape[0] not in (1, rows):
        raise ValueError(f"{name} has {value.shape[0]} rows beside {rows} rows of audio; give {rows} or 1")
    # In float64: poles close to the unit circle, as of low-frequency filters and slow averages, amplify rounding.
    return value.to(x.device, torch.float64).expand(rows, *value.shape[1:])


def _columns(x: Tensor, **params: Tensor) -> Tensor:
    """Stack parameters of shape (rows or 1,) to (rows, number of parameters)."""
    for name, value in params.items():
        if value.ndim != 1:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; give ({len(x)},) or (1,)")
    return torch.stack([_per_row(name, value, x) for name, value in params.items()], dim=1)
