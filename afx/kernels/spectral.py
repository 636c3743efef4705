"""Distances between spectra and between loudness ratios: sums over a whole signal with their gradient."""

import torch
from torch import Tensor

from afx.kernels.reference import spectral as reference


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Filter each row by an odd number of taps without delay: y[n] = sum_k taps[k] x[n + k - M], k = 0..2M.

    x (R, T) is zero outside; taps (2M + 1,) are constants. Returns y (R, T).
    """
    return reference.fir(x, taps)


def stft_magnitude(x: Tensor, window: Tensor, hop: int, mid_side: bool = False) -> Tensor:
    """Magnitudes of short-time spectra, sqrt(max(|X|^2, 1e-8)), of signals x (B, C, T).

    Frames are centred, hop samples apart, on the signal extended by reflection; window (N,) is also the transform's
    size. `mid_side` (two channels) appends the spectra of L + R and of L - R.
    Returns (B, S, K, F): S = C or 4 signals, K = N // 2 + 1 bins, F = T // hop + 1 frames.
    Raises ValueError where T <= N // 2, which reflection cannot extend.
    """
    return reference.stft_magnitude(x, window, hop, mid_side)


def stft_deviation(
    x: Tensor, target: Tensor, index: Tensor, window: Tensor, hop: int, mid_side: bool = False
) -> Tensor:
    """Sums over bins and frames of (|X| - |Y|)^2 and of |log |X| - log |Y||.

    x (B, C, T) as in `stft_magnitude`; target (N, S, K, F) is what that function gave for N signals, and item b is
    compared with target[index[b]], index (B,). Returns (B, S, 2), float64, with a gradient to x alone.
    """
    return reference.stft_deviation(x, target, index, window, hop, mid_side)


def loudness_ratio(x: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False) -> Tensor:
    """Ratios of a short to a long average of power, r[n] = a[n] / b[n + shift], of signals x (B, C, T).

    a and b are one-pole averages of max(x^2, 1e-8) with the coefficients coefs (P, 2) of P pairs; shifts (P,) in samples.
    `mid_side` (two channels) appends the signals (L + R) / sqrt(2) and (L - R) / sqrt(2).
    Returns (B, S, P, T), 1 where n + shift is beyond the end.
    """
    return reference.loudness_ratio(x, coefs, shifts, mid_side)


def loudness_deviation(
    x: Tensor, target: Tensor, index: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False
) -> Tensor:
    """Sums over time of |log r - log q| between the loudness ratios r of x and q of a target.

    x (B, C, T) as in `loudness_ratio`; target (N, S, P, T) is what that function gave for N signals, and item b is
    compared with target[index[b]], index (B,). Returns (B, S, P), float64, with a gradient to x alone.
    """
    return reference.loudness_deviation(x, target, index, coefs, shifts, mid_side)
