"""Levels, the static curve of compressors, and the time constants of one-pole averages."""

import math

import torch
from torch import Tensor


def rise_to_coef(ms: float | Tensor, sr: int) -> float | Tensor:
    """Coefficient c of y[n] = y[n-1] + c·(x[n] - y[n-1]) that rises from 10 to 90 % of a step in `ms`.

    c = 1 - exp(-2200 / (ms·sr)), ln 9 being about 2.2. Source: DiffVox, arXiv 2504.14735, section 2.
    """
    exponent = -2200 / (ms * sr)
    return -torch.expm1(exponent) if isinstance(exponent, Tensor) else -math.expm1(exponent)


def tau_to_coef(ms: float | Tensor, sr: int) -> float | Tensor:
    """Pole α of y[n] = α·y[n-1] + (1 - α)·x[n] that reaches 63 % of a step in `ms`.

    α = exp(-1000 / (ms·sr)). Source: BE-AFX, arXiv 2310.11781, the compressor's attack and release.
    """
    exponent = -1000 / (ms * sr)
    return torch.exp(exponent) if isinstance(exponent, Tensor) else math.exp(exponent)


def centre_and_peak(x: Tensor) -> Tensor:
    """Audio (B, C, T) without its mean over time and at a peak of 1 over all channels; below 1e-8 it is left so quiet.

    Source: BE-AFX, arXiv 2310.11781: what every effect of its chains is fed.
    """
    x = x - x.mean(-1, keepdim=True)
    peak = x.abs().amax((1, 2), keepdim=True)
    return x / torch.where(peak > 1e-8, peak, 1.0)


def gain_reduction(level_db: Tensor, threshold_db: Tensor, ratio: Tensor, knee_db: Tensor) -> Tensor:
    """What a compressor's static curve takes away, in dB, >= 0.

    With the excess e = level - threshold: nothing below e = -knee/2, (1 - 1/ratio)·e above knee/2, and the parabola
    (1 - 1/ratio)·(e + knee/2)² / (2·knee) that joins them. Arguments broadcast.

    Source: Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design, JAES 60 (2012), equation 4.
    """
    excess = level_db - threshold_db
    in_knee = torch.minimum((excess + knee_db / 2).relu(), knee_db)
    return (1 - 1 / ratio) * (in_knee.square() / (2 * knee_db).clamp(min=1e-9) + (excess - knee_db / 2).relu())
