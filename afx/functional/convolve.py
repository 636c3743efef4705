"""Convolution by FFT, for signals and responses of any length."""

import torch
from scipy.fft import next_fast_len
from torch import Tensor


def fast_length(n: int) -> int:
    """The smallest length >= n whose real FFT is fast."""
    return next_fast_len(n, real=True)


def apply_spectrum(x: Tensor, spectrum: Tensor, n: int) -> Tensor:
    """Filters audio by a response that is given as the spectrum of n points.

    Args:
        x: audio (B, I, T).
        spectrum: (…, O, I, n // 2 + 1), with no batch dimension or one of B.
        n: at least T plus the response's length minus 1, or the end wraps around onto the start.

    Returns:
        (B, O, T): causal, cut to the input's length.
    """
    X = torch.fft.rfft(x, n=n)
    Y = torch.einsum("...oif,...if->...of", spectrum, X) if X.shape[1] > 1 else spectrum[..., 0, :] * X
    return torch.fft.irfft(Y, n=n)[..., : x.shape[-1]]


def convolve(x: Tensor, h: Tensor) -> Tensor:
    """y = h * x, causal and cut to the input's length, block by block (overlap-add) where x is much longer than h.

    Args:
        x: audio (B, I, T).
        h: responses (…, O, I, N), with no batch dimension or one of B.

    Returns:
        (B, O, T).
    """
    T, N = x.shape[-1], h.shape[-1]
    if T <= 4 * N:
        h = h[..., :T]
        n = fast_length(T + h.shape[-1] - 1)
        return apply_spectrum(x, torch.fft.rfft(h, n=n), n)
    n = fast_length(2 * N)
    block = n - N + 1
    spectrum = torch.fft.rfft(h, n=n)
    y = x.new_zeros(x.shape[0], h.shape[-3], T + N)
    for start in range(0, T, block):
        piece = torch.nn.functional.pad(x[..., start : start + block], (0, N - 1))
        out = apply_spectrum(piece, spectrum, n)
        y[..., start : start + out.shape[-1]] += out
    return y[..., :T]


def advance(x: Tensor, samples: Tensor, before: int, after: int) -> Tensor:
    """Advances a signal by a fraction of a sample: y[n] = Σ_t sinc(t - samples)·x[n + t], t = -before … after.

    The signal's ends are repeated beyond it. `samples` is () or (B,); x is (B, C, T).
    Source: DiffVox, arXiv 2504.14735, the compressor's lookahead.
    """
    t = torch.arange(-before, after + 1, dtype=torch.float64, device=x.device)
    taps = torch.sinc(t - samples.double().reshape(-1, 1, 1)).to(x.dtype)
    T = x.shape[-1]
    n = fast_length(T + before + after)
    padded = torch.nn.functional.pad(x, (before, after), mode="replicate")
    return torch.fft.irfft(torch.fft.rfft(padded, n=n) * torch.fft.rfft(taps, n=n).conj(), n=n)[..., :T]
