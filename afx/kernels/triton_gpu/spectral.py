"""Deviations of magnitude spectra on a GPU as passes over short-time spectra; see afx.kernels.spectral.

Pairs of channels x (P, 2, T) are processed in parts of p pairs and f frames: windowed frames (p, 2, f, N) are cut from
the signals extended by reflection and transformed to spectra (p, 2, f, K, 2) of real and imaginary parts. One kernel
then computes, from the spectra of both channels, the magnitudes or deviations of S = 2 signals or, with sum and
difference, four. target (R, F, K) has one signal per row, and rows (P, S) is the row each signal is compared with. Sums
are made per program (p, programs, S, 2), then over programs, always in the same order.

The backward pass transforms again, as the spectra of a batch would take four times the memory of its audio at every
resolution. It replaces the spectra by their gradients, transforms them back to frames, and adds these to grad_x.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor, empty  # empty under its own name, so that a test can poison what is handed out

from .spectral_product import load_complex, store_complex

FLOOR = tl.constexpr(1e-8)
FRAME_SAMPLES = 1 << 25  # samples of all frames that are transformed at once: 128 MB in float32
PAIRS = 1 << 14  # at once, at most, as a grid has less than 1 << 16 rows
BLOCK = 512  # bins or samples per program
QUADS = 128  # groups of four neighbouring outputs of the filter per program


def fir_forward(x: Tensor, taps: Tensor) -> Tensor:
    """Correlate rows (R, T) with an odd number of taps."""
    return _filtered(x, taps, False)


def fir_backward(grad: Tensor, taps: Tensor) -> Tensor:
    """The adjoint: correlate with the taps reversed."""
    return _filtered(grad, taps, True)


def stft_magnitude_forward(x: Tensor, window: Tensor, hop: int, mid_side: bool) -> Tensor:
    """Magnitudes (P, S, F, K) of pairs (P, 2, T)."""
    signals = 4 if mid_side else 2
    shape = len(x), signals, x.shape[2] // hop + 1, window.shape[0] // 2 + 1
    out = empty(shape, dtype=x.dtype, device=x.device)
    for pairs, first, spectra in _spectra(x, window, hop):
        bins = spectra[0, 0, ..., 0].numel()
        grid = triton.cdiv(bins, BLOCK), len(spectra)
        _magnitudes[grid](spectra, out[pairs], first * shape[3], bins, shape[2] * shape[3], signals, BLOCK)
    return out


def stft_deviation_forward(x: Tensor, target: Tensor, rows: Tensor, window: Tensor, hop: int) -> Tensor:
    """Sums (P, S, 2) over bins and frames: squares of magnitude differences, absolute log ratios."""
    sums = torch.zeros((*rows.shape, 2), dtype=torch.float64, device=x.device)
    row = target[0].numel()
    for pairs, first, spectra in _spectra(x, window, hop):
        bins = spectra[0, 0, ..., 0].numel()
        grid = triton.cdiv(bins, BLOCK), len(spectra)
        parts = empty((len(spectra), grid[0], rows.shape[1], 2), dtype=torch.float64, device=x.device)
        _compare[grid](spectra, target, rows[pairs], parts, first * target.shape[2], bins, row, rows.shape[1], BLOCK)
        sums[pairs] += parts.sum(1)
    return sums


def stft_deviation_backward(grad: Tensor, x: Tensor, target: Tensor, rows: Tensor, window: Tensor, hop: int) -> Tensor:
    """Gradient to x of the sums weighted by grad (P, S, 2)."""
    size, samples, row = window.shape[0], x.shape[2], target[0].numel()
    grad_x = empty(x.shape, dtype=x.dtype, device=x.device)
    for pairs, first, spectra in _spectra(x, window, hop):
        count, K = spectra.shape[2:4]
        grid = triton.cdiv(count * K, BLOCK), len(spectra)
        per_pair = rows[pairs], grad[pairs]
        # Into the spectra, which nothing else uses: the gradients need no second array of their size.
        _weigh[grid](spectra, target, *per_pair, first * K, count * K, row, K, rows.shape[1], BLOCK)
        frames = torch.fft.irfft(torch.view_as_complex(spectra), size, norm="forward")
        grid = triton.cdiv(samples, BLOCK), 2 * len(spectra)
        _add_frames[grid](frames, window, grad_x[pairs], first, count, samples, size, hop, BLOCK)
    return grad_x


def _filtered(x: Tensor, taps: Tensor, reverse: bool) -> Tensor:
    y = empty(x.shape, dtype=x.dtype, device=x.device)
    grid = triton.cdiv(x.shape[1], 4 * QUADS), len(x)
    _correlate[grid](x, taps, y, x.shape[1], taps.shape[0], reverse, QUADS)
    return y


def _spectra(x: Tensor, window: Tensor, hop: int) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield slices of the pairs (P, 2, T), the first frame's index and spectra (p, 2, f, K, 2) of some frames."""
    size, samples = window.shape[0], x.shape[2]
    total = samples // hop + 1
    most = min(max(FRAME_SAMPLES // (2 * size), 1), total)
    step = max(min(FRAME_SAMPLES // (2 * size * total), PAIRS), 1)
    for start in range(0, len(x), step):
        pairs = x[start : start + step]
        for first in range(0, total, most):
            count = min(most, total - first)
            frames = empty((len(pairs), 2, count, size), dtype=x.dtype, device=x.device)
            grid = triton.cdiv(count * size, BLOCK), 2 * len(pairs)
            _cut[grid](pairs, window, frames, first, count, samples, size, hop, BLOCK)
            spectra = torch.fft.rfft(frames)
            # Before the caller runs: spectra and its own arrays are then all that is held.
            del frames
            yield slice(start, start + step), first, torch.view_as_real(spectra)


@triton.jit
def _cut(
    x: tl.tensor,
    window: tl.tensor,
    frames: tl.tensor,
    first: int,
    count: int,
    samples: int,
    SIZE: tl.constexpr,
    HOP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Cut windowed frames from rows that are extended by reflection."""
    row = tl.program_id(1).to(tl.int64)
    flat = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = flat < count * SIZE
    k = flat % SIZE
    # The reflection does not repeat the ends: sample -t is t, and T - 1 + t is T - 1 - t.
    t = tl.abs((first + flat // SIZE) * HOP + k - SIZE // 2)
    t = tl.where(t < samples, t, 2 * (samples - 1) - t)
    value = tl.load(x + row * samples + t, mask=mask, other=0.0) * tl.load(window + k)
    tl.store(frames + row * count * SIZE + flat, value, mask=mask)


@triton.jit
def _add_frames(
    frames: tl.tensor,
    window: tl.tensor,
    out: tl.tensor,
    first: int,
    count: int,
    samples: int,
    SIZE: tl.constexpr,
    HOP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Overlap-add windowed frames, with the adjoint of the reflection; parts after the first add to `out`."""
    # Gathered by sample: frames that were added to their samples would need atomic additions, in no fixed order.
    row = tl.program_id(1).to(tl.int64)
    frames += row * count * SIZE
    start = tl.program_id(0) * BLOCK
    t = start + tl.arange(0, BLOCK)
    half: tl.constexpr = SIZE // 2
    # Not read before the first part, which finds it uninitialised.
    total = tl.load(out + row * samples + t, mask=(t < samples) & (first > 0), other=0.0)
    total += _covering(frames, window, t + half, t < samples, first, count, SIZE, HOP)
    # Samples 0 and T - 1 are the axes of the reflection and have no copy.
    if start <= half:
        total += _covering(frames, window, half - t, (t > 0) & (t <= half) & (t < samples), first, count, SIZE, HOP)
    if start + BLOCK >= samples - half:
        mirrored = (t >= samples - 1 - half) & (t < samples - 1)
        total += _covering(frames, window, 2 * (samples - 1) - t + half, mirrored, first, count, SIZE, HOP)
    tl.store(out + row * samples + t, total, mask=t < samples)


@triton.jit
def _covering(
    frames: tl.tensor,
    window: tl.tensor,
    p: tl.tensor,
    mask: tl.tensor,
    first: int,
    count: int,
    SIZE: tl.constexpr,
    HOP: tl.constexpr,
) -> tl.tensor:
    """Sum of the windowed frames that cover sample p of the extended signal."""
    total = tl.zeros(p.shape, frames.dtype.element_ty)
    for back in range((SIZE + HOP - 1) // HOP):
        # Frame p // HOP is the last that begins at or before p; no more than SIZE / HOP, rounded up, can reach it.
        f = p // HOP - back
        k = p - f * HOP
        inside = mask & (k < SIZE) & (f >= first) & (f < first + count)
        value = tl.load(frames + (f - first) * SIZE + k, mask=inside, other=0.0)
        total += value * tl.load(window + k, mask=inside, other=0.0)
    return total


@triton.jit
def _magnitudes(
    spectra: tl.tensor,
    out: tl.tensor,
    first: int,
    bins: int,
    row: int,
    SIGNALS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    pair = tl.program_id(1).to(tl.int64)
    flat = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = flat < bins
    # Two channels of `bins` complex numbers: 4 `bins` real ones per pair.
    left = load_complex(spectra + 4 * pair * bins, flat, mask)
    right = load_complex(spectra + (4 * pair + 2) * bins, flat, mask)
    for s in tl.static_range(SIGNALS):
        power = _power(_signal(left, right, s))
        tl.store(out + (pair * SIGNALS + s) * row + first + flat, tl.sqrt(power), mask=mask)


@triton.jit
def _compare(
    spectra: tl.tensor,
    target: tl.tensor,
    rows: tl.tensor,
    sums: tl.tensor,
    first: int,
    bins: int,
    row: int,
    SIGNALS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    pair = tl.program_id(1).to(tl.int64)
    flat = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = flat < bins
    left = load_complex(spectra + 4 * pair * bins, flat, mask)
    right = load_complex(spectra + (4 * pair + 2) * bins, flat, mask)
    sums += (pair * tl.num_programs(0) + tl.program_id(0)) * (2 * SIGNALS)
    for s in tl.static_range(SIGNALS):
        m = tl.sqrt(_power(_signal(left, right, s)))
        target_row = target + tl.load(rows + pair * SIGNALS + s) * row + first
        # The magnitude itself beyond the last bin: it adds 0 to both sums.
        y = tl.where(mask, tl.load(target_row + flat, mask=mask, other=0.0), m)
        # At least 1, so that its logarithm is the absolute deviation; NaN of either stays NaN.
        ratio = tl.where(m > y, m, y) / tl.where(m > y, y, m)
        tl.store(sums + 2 * s, tl.sum((m - y) * (m - y), 0).to(tl.float64))
        tl.store(sums + 2 * s + 1, tl.sum(tl.log(ratio), 0).to(tl.float64))


@triton.jit
def _weigh(
    spectra: tl.tensor,
    target: tl.tensor,
    rows: tl.tensor,
    grad: tl.tensor,
    first: int,
    bins: int,
    row: int,
    K: int,
    SIGNALS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Replace the spectra by their gradients, halved except at both ends: irfft counts all other bins twice."""
    pair = tl.program_id(1).to(tl.int64)
    flat = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = flat < bins
    left = load_complex(spectra + 4 * pair * bins, flat, mask)
    right = load_complex(spectra + (4 * pair + 2) * bins, flat, mask)
    zero = tl.zeros((BLOCK,), spectra.dtype.element_ty)
    L_re, L_im, R_re, R_im = zero, zero, zero, zero
    for s in tl.static_range(SIGNALS):
        X = _signal(left, right, s)
        y = tl.load(target + tl.load(rows + pair * SIGNALS + s) * row + first + flat, mask=mask, other=0.0)
        weights = grad + 2 * (pair * SIGNALS + s)
        # The halving leaves (m - y) of the derivative 2 (m - y), and half that of the logarithm.
        gain = _gain(_power(X), y, tl.load(weights).to(y.dtype), 0.5 * tl.load(weights + 1).to(y.dtype))
        if s != 1:
            L_re += gain * X[0]
            L_im += gain * X[1]
        if s == 1 or s == 2:
            R_re += gain * X[0]
            R_im += gain * X[1]
        if s == 3:
            R_re -= gain * X[0]
            R_im -= gain * X[1]
    k = flat % K
    # Both ends of a real signal's spectrum are real, whatever the samples: no gradient of an imaginary part.
    end = (k == 0) | (k == K - 1)
    scale = tl.where(end, 2.0, 1.0)
    store_complex(spectra + 4 * pair * bins, flat, (scale * L_re, tl.where(end, 0.0, L_im)), mask)
    store_complex(spectra + (4 * pair + 2) * bins, flat, (scale * R_re, tl.where(end, 0.0, R_im)), mask)


@triton.jit
def _gain(power: tl.tensor, y: tl.tensor, weight_square: tl.tensor, weight_log: tl.tensor) -> tl.tensor:
    """Factor from a spectrum to its gradient; 0 where the power is at the floor."""
    m = tl.sqrt(power)
    inverse = 1.0 / m
    sign = tl.where(m > y, weight_log, tl.where(m < y, -weight_log, 0.0))
    gain = (weight_square * (m - y) + sign * inverse) * inverse
    return tl.where(power > tl.full(power.shape, FLOOR, power.dtype), gain, 0.0)


@triton.jit
def _signal(left: tl.tuple, right: tl.tuple, s: tl.constexpr) -> tl.tuple:
    """L, R, L + R or L - R."""
    if s == 0:
        return left
    elif s == 1:  # noqa: RET505  # a chain: Triton compiles only the branch that is taken
        return right
    elif s == 2:
        return left[0] + right[0], left[1] + right[1]
    else:
        return left[0] - right[0], left[1] - right[1]


@triton.jit
def _power(X: tl.tuple) -> tl.tensor:
    """max(|X|^2, floor), NaN where X is NaN; rounded alike everywhere, so that equal signals deviate by exactly 0."""
    power = tl.fma(X[0], X[0], X[1] * X[1])
    floor = tl.full(power.shape, FLOOR, power.dtype)
    return tl.where(power < floor, floor, power)


@triton.jit
def _correlate(
    x: tl.tensor,
    taps: tl.tensor,
    y: tl.tensor,
    samples: int,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    QUADS: tl.constexpr,
) -> None:
    """Correlate rows with taps: four neighbouring outputs per lane, so that an input is read once for four products."""
    row = tl.program_id(1).to(tl.int64) * samples
    start = tl.program_id(0) * (4 * QUADS)
    quad = start + 4 * tl.arange(0, QUADS)
    y0 = tl.zeros((QUADS,), x.dtype.element_ty)
    y1, y2, y3 = y0, y0, y0
    h1 = tl.full((), 0.0, x.dtype.element_ty)
    h2, h3 = h1, h1
    # Input k meets tap k - i in output i: each tap is kept for three steps more.
    for k in range(TAPS + 3):
        h0 = tl.load(taps + (TAPS - 1 - k if REVERSE else k), mask=k < TAPS, other=0.0).to(h1.dtype)
        source = quad + k - TAPS // 2
        value = tl.load(x + row + source, mask=(source >= 0) & (source < samples), other=0.0)
        y0 += h0 * value
        y1 += h1 * value
        y2 += h2 * value
        y3 += h3 * value
        h3 = h2
        h2 = h1
        h1 = h0
    t = start + tl.arange(0, 4 * QUADS)
    # join appends an axis: at [q, i, j] is output 2 i + j of a lane, in order when flattened.
    out = tl.reshape(tl.join(tl.join(y0, y2), tl.join(y1, y3)), (4 * QUADS,))
    tl.store(y + row + t, out, mask=t < samples)
