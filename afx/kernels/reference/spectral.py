"""Magnitude spectra and their deviations from a target in plain torch: the definition, vectorised."""

import torch
import torch.nn.functional as F
from torch import Tensor

POWER_FLOOR = 1e-8  # keeps the logarithm and its gradient finite in silence


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Filter (R, T) without delay; see afx.kernels.spectral.fir."""
    return F.conv1d(x[:, None], taps.to(x)[None, None], padding=taps.shape[0] // 2)[:, 0]


def stft_magnitude(x: Tensor, window: Tensor, hop: int, mid_side: bool = False) -> Tensor:
    """Magnitudes (B, S, F, K) of (B, C, T); see afx.kernels.spectral.stft_magnitude."""
    size = window.shape[0]
    spectra = torch.stft(x.flatten(0, 1), size, hop, window=window.to(x), return_complex=True)
    spectra = spectra.transpose(1, 2).unflatten(0, x.shape[:2])
    if mid_side:
        # Of the spectra: the transform is linear, so that two transforms serve four signals.
        left, right = spectra.unbind(1)
        spectra = torch.stack([left, right, left + right, left - right], 1)
    return (spectra.real.square() + spectra.imag.square()).clamp(min=POWER_FLOOR).sqrt()


def stft_deviation(
    x: Tensor, target: Tensor, index: Tensor, window: Tensor, hop: int, mid_side: bool = False
) -> Tensor:
    """Deviations (B, S, 2) of (B, C, T) from a target; see afx.kernels.spectral.stft_deviation."""
    magnitude, target = stft_magnitude(x, window, hop, mid_side), target[index]
    square = (magnitude - target).square().sum((2, 3), dtype=torch.float64)
    log = (magnitude.log() - target.log()).abs().sum((2, 3), dtype=torch.float64)
    return torch.stack([square, log], 2)
