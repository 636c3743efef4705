"""Spectra, loudness ratios and what they deviate by, as plain torch programs: the definition, vectorised."""

import torch
import torch.nn.functional as F
from torch import Tensor

POWER_FLOOR = 1e-8  # of |X|^2 and of x^2: keeps logarithms and their gradients finite in silence
BLOCK = 256  # samples that one matrix product averages


def fir(x: Tensor, taps: Tensor) -> Tensor:
    """Filter (R, T) without delay; see afx.kernels.spectral.fir."""
    return F.conv1d(x[:, None], taps.to(x)[None, None], padding=taps.shape[0] // 2)[:, 0]


def stft_magnitude(x: Tensor, window: Tensor, hop: int, mid_side: bool = False) -> Tensor:
    """Magnitudes (B, S, K, F) of (B, C, T); see afx.kernels.spectral.stft_magnitude."""
    size = window.shape[0]
    spectra = torch.stft(x.flatten(0, 1), size, hop, window=window.to(x), return_complex=True)
    spectra = spectra.unflatten(0, x.shape[:2])
    if mid_side:
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


def loudness_ratio(x: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False) -> Tensor:
    """Ratios (B, S, P, T) of (B, C, T); see afx.kernels.spectral.loudness_ratio."""
    if mid_side:
        left, right = x.unbind(1)
        x = torch.stack([left, right, (left + right) * 0.5**0.5, (left - right) * 0.5**0.5], 1)
    power = x.double().square().clamp(min=POWER_FLOOR)
    ratios = []
    for (short, long), shift in zip(coefs.tolist(), shifts.tolist(), strict=True):
        kept = x.shape[-1] - shift
        ratio = one_pole(power, short)[..., :kept] / one_pole(power, long)[..., shift:]
        ratios.append(F.pad(ratio, (0, shift), value=1.0))
    return torch.stack(ratios, 2).to(x.dtype)


def loudness_deviation(
    x: Tensor, target: Tensor, index: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False
) -> Tensor:
    """Deviations (B, S, P) of (B, C, T) from a target; see afx.kernels.spectral.loudness_deviation."""
    return (loudness_ratio(x, coefs, shifts, mid_side).log() - target[index].log()).abs().sum(3, dtype=torch.float64)


def one_pole(x: Tensor, coef: float) -> Tensor:
    """Average (..., T) by y[n] = (1 - c) y[n-1] + c x[n], y[-1] = 0, as products with triangular matrices.

    The samples of a block are averaged from zero; the blocks' ends, averaged in turn, are what each block starts from.
    """
    samples = x.shape[-1]
    blocks = F.pad(x, (0, -samples % BLOCK)).unflatten(-1, (-1, BLOCK))
    within = blocks @ _decay(BLOCK, 1 - coef, x).T * coef
    starts = within[..., :-1, -1] @ _decay(blocks.shape[-2] - 1, (1 - coef) ** BLOCK, x).T
    carried = F.pad(starts, (1, 0))[..., None] * (1 - coef) ** torch.arange(1, BLOCK + 1).to(x)
    return (within + carried).flatten(-2)[..., :samples]


def _decay(size: int, pole: float, like: Tensor) -> Tensor:
    """Lower triangular (size, size) matrix of pole^(i - j)."""
    steps = torch.arange(size, device=like.device)
    lag = steps[:, None] - steps
    return torch.where(lag >= 0, pole ** lag.clamp(min=0).to(like), 0.0)
