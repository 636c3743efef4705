"""FIR filtering, magnitude spectra, and their deviations from a target summed over a signal, with gradient."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reknob.afx.kernels.autograd import Context
from reknob.afx.kernels.backends import backend

run = backend("spectral")


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Filter each row by an odd number of taps without delay.

    y[n] = sum_k taps[k] x[n + k - M], k = 0 .. 2M; x (R, T) is 0 outside; taps (2M + 1,) get no gradient.
    Returns y (R, T).
    """
    if x.ndim != 2 or taps.ndim != 1 or taps.shape[0] % 2 == 0:
        raise ValueError(f"got {tuple(x.shape)} and {tuple(taps.shape)}; give (rows, samples) and odd taps")
    return _Fir.apply(x, taps)


def stft_magnitude(x: Tensor, window: Tensor, hop: int, mid_side: bool = False) -> Tensor:
    """Magnitudes of short-time spectra, sqrt(max(|X|^2, 1e-8)), of signals x (B, C, T); no gradient.

    Frames are centred, `hop` samples apart, on the signal extended by reflection; window (N,), N even, is also the
    transform's size. `mid_side` (two channels) appends the spectra of L + R and of L - R.
    Returns (B, S, F, K): S = C or 4 signals, F = T // hop + 1 frames, K = N // 2 + 1 bins.
    Raises ValueError where T <= N / 2: reflection cannot extend so short a signal.
    """
    _check(x, window, mid_side)
    pairs, _ = pair_up(x.detach(), torch.arange(len(x), device=x.device), mid_side)
    return unpair(run("stft_magnitude_forward", pairs, window.to(x), hop, mid_side), x.shape, mid_side)


def stft_deviation(
    x: Tensor, target: Tensor, index: Tensor, window: Tensor, hop: int, mid_side: bool = False
) -> Tensor:
    """Sums over bins and frames of (|X| - |Y|)^2 and of |log |X| - log |Y||.

    x (B, C, T) as in `stft_magnitude`; target (N, S, F, K) is the result of that function for N items, and item b is
    compared with target[index[b]], index (B,). Magnitudes at the floor have no gradient.
    Returns (B, S, 2), float64, with a gradient of x only.
    """
    _check(x, window, mid_side)
    signals = 4 if mid_side else x.shape[1]
    check_target(x, target, index, (signals, x.shape[2] // hop + 1, window.shape[0] // 2 + 1))
    pairs, rows = pair_up(x, index, mid_side)
    # The targets of all items and row numbers, not target[index]: items that share a target do not copy it.
    sums = _StftDeviation.apply(pairs, target.flatten(0, 1), rows, window.to(x), hop)
    return unpair(sums, x.shape, mid_side)


def pair_up(x: Tensor, index: Tensor, mid_side: bool) -> tuple[Tensor, Tensor]:
    """Regroup x (B, C, T) to pairs of channels (P, 2, T), the unit of the compiled passes.

    With `mid_side` a pair is the two channels of an item, P = B and S = 4 signals. Else the channels of all items are
    concatenated and paired in order, the last one with itself if their number is odd, S = 2. Also returns the rows
    (P, S) of the flattened target (N S, ...) that the signals are compared with.
    """
    # Four rows of the target per item: left, right, sum and difference.
    if mid_side:
        return x.contiguous(), 4 * index[:, None] + torch.arange(4, device=index.device)
    flat = x.flatten(0, 1)
    rows = (x.shape[1] * index[:, None] + torch.arange(x.shape[1], device=index.device)).flatten()
    # The duplicate only fills the last pair: `unpair` drops its values, and with them its gradient.
    if len(flat) % 2:
        flat, rows = torch.cat([flat, flat[-1:]]), torch.cat([rows, rows[-1:]])
    return flat.unflatten(0, (-1, 2)).contiguous(), rows.view(-1, 2)


def unpair(values: Tensor, shape: tuple[int, ...], mid_side: bool) -> Tensor:
    """Regroup values (P, S, ...) of pairs to (B, S, ...), the inverse of `pair_up` for x of shape (B, C, T)."""
    if mid_side:
        return values
    batch, channels = shape[:2]
    return values.flatten(0, 1)[: batch * channels].unflatten(0, (batch, channels))


def check_target(x: Tensor, target: Tensor, index: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless each item has a target of this shape and of the dtype of x."""
    if target.shape[1:] != shape or target.dtype != x.dtype:
        raise ValueError(
            f"an item's target is {tuple(target.shape[1:])} {target.dtype}; x {tuple(x.shape)} needs {shape} {x.dtype}"
        )
    if index.shape != x.shape[:1]:
        raise ValueError(f"index has shape {tuple(index.shape)}; give one target for each of {x.shape[0]} items")


def _check(x: Tensor, window: Tensor, mid_side: bool) -> None:
    if x.ndim != 3 or x.dtype not in (torch.float32, torch.float64) or (mid_side and x.shape[1] != 2):
        channels = 2 if mid_side else "channels"
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}; give (items, {channels}, samples) in float32 or float64")
    # An odd transform has no last real bin, which the backward passes scale apart from the others.
    if window.shape[0] % 2:
        raise ValueError(f"a transform of {window.shape[0]} samples is not supported; give an even number")
    half = window.shape[0] // 2
    if x.shape[2] <= half:
        raise ValueError(f"{x.shape[2]} samples are too few for a transform of {2 * half}; give more than {half}")


class _FirContext(Context):
    taps: Tensor


class _Fir(torch.autograd.Function):
    """The filter and its adjoint by a back end."""

    @staticmethod
    def forward(ctx: _FirContext, x: Tensor, taps: Tensor) -> Tensor:
        ctx.taps = taps
        return run("fir_forward", x, taps)

    @staticmethod
    @once_differentiable
    def backward(ctx: _FirContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        return run("fir_backward", grad, ctx.taps), None


class _StftContext(Context):
    hop: int


class _StftDeviation(torch.autograd.Function):
    """The sums and their gradient by a back end; only the inputs are stored for the backward pass."""

    @staticmethod
    def forward(ctx: _StftContext, pairs: Tensor, target: Tensor, rows: Tensor, window: Tensor, hop: int) -> Tensor:
        # Not the spectra, which take several times the memory of the audio: the backward pass transforms again.
        ctx.save_for_backward(pairs, target, rows, window)
        ctx.hop = hop
        return run("stft_deviation_forward", pairs, target, rows, window, hop)

    @staticmethod
    @once_differentiable
    def backward(ctx: _StftContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Targets, rows and window are data without a gradient.
        return run("stft_deviation_backward", grad, *ctx.saved_tensors, ctx.hop), None, None, None, None
