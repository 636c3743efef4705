"""Convolution by FFT, for signals and responses of any length."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fft import fast_length, irfft, rfft

# Blocks below this many samples cost more than they save.
SHORT = 2**18


def convolve(x: Tensor, h: Tensor) -> Tensor:
    """y = h * x, causal and cut to the input's length, block by block (overlap-add) where x is much longer than h.

    Args:
        x: audio (B, I, T).
        h: responses (…, O, I, N), with no batch dimension or one of B.

    Returns:
        (B, O, T).
    """
    T, N = x.shape[-1], h.shape[-1]
    if T <= max(4 * N, SHORT):
        h = h[..., :T]
        n = fast_length(T + h.shape[-1] - 1)
        return circular(x, rfft(h, n), n)[..., :T]
    n = fast_length(max(2 * N, SHORT))
    block = n - N + 1
    spectrum = rfft(h, n)
    y = x.new_zeros(x.shape[0], h.shape[-3], T + n)
    for start in range(0, T, block):
        y[..., start : start + n] += circular(x[..., start : start + block], spectrum, n)
    return y[..., :T]


def circular(x: Tensor, spectrum: Tensor, n: int) -> Tensor:
    """Circular convolution on n points of (B, I, T) with spectra (…, O, I, n // 2 + 1), to (B, O, n)."""
    paths = zip(spectrum.unbind(-2), rfft(x, n).split(1, 1), strict=True)
    return irfft(sum(H * X for H, X in paths), n)


def in_series(first: Tensor, second: Tensor) -> Tensor:
    """Spectrum of one stereo response after another: first (…, K, I, F), second (…, O, K, F), to (…, O, I, F)."""
    paths = zip(second.split(1, -2), first.split(1, -3), strict=True)
    return sum(b * a for b, a in paths)


def advance(x: Tensor, samples: Tensor, before: int, after: int) -> Tensor:
    """Advances a signal by a fraction of a sample: y[n] = Σ_t sinc(t - samples)·x[n + t], t = -before … after.

    The signal's ends are repeated beyond it. `samples` is () or (B,); x is (B, C, T).
    Source: DiffVox, arXiv 2504.14735, the compressor's lookahead.
    """
    t = torch.arange(-before, after + 1, dtype=torch.float64, device=x.device)
    taps = torch.sinc(t - samples.double().reshape(-1, 1, 1, 1)).to(x.dtype)
    T, n = x.shape[-1], 1 << (4 * len(t)).bit_length()
    hop = n // 2
    blocks = -(-T // hop) + 1
    padded = F.pad(x, (before, blocks * hop - T - before), mode="replicate").unflatten(-1, (blocks, hop))
    frames = torch.cat([padded[:, :, :-1], padded[:, :, 1:]], -1)
    return irfft(rfft(frames) * rfft(taps, n).conj(), n)[..., :hop].flatten(-2)[..., :T]
