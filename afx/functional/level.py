"""Levels, the static curve of compressors, and the time constants of one-pole averages."""

import math
from typing import overload

import torch
from torch import Tensor


@overload
def rise_to_coef(ms: Tensor, sr: int) -> Tensor: ...
@overload
def rise_to_coef(ms: float, sr: int) -> float: ...
def rise_to_coef(ms: float | Tensor, sr: int) -> float | Tensor:
    """Coefficient c of y[n] = y[n-1] + c·(x[n] - y[n-1]) that rises from 10 to 90 % of a step in `ms`.

    c = 1 - exp(-2200 / (ms·sr)), ln 9 being about 2.2. Source: DiffVox, arXiv 2504.14735, section 2.
    """
    # expm1: c of an average over 1 s is 5e-5, where 1 - exp in float32 would be wrong by about 0.1 %.
    exponent = -2200 / (ms * sr)
    return -torch.expm1(exponent) if isinstance(exponent, Tensor) else -math.expm1(exponent)


def tau_to_coef(ms: Tensor, sr: int) -> Tensor:
    """Pole α of y[n] = α·y[n-1] + (1 - α)·x[n] that reaches 63 % of a step in `ms`.

    α = exp(-1000 / (ms·sr)). Source: BE-AFX, arXiv 2310.11781, the compressor's attack and release.
    """
    return torch.exp(-1000 / (ms * sr))


def centre_and_peak(x: Tensor) -> Tensor:
    """Audio (B, C, T) minus its mean over time, scaled to a peak of 1 over all channels.

    Items whose peak is at most 1e-8 are not scaled. Source: BE-AFX, arXiv 2310.11781, the input of every effect.
    """
    # The mean first, as it changes the peak.
    x = x - x.mean(-1, keepdim=True)
    peak = x.abs().amax((1, 2), keepdim=True)
    # By 1, not by a small floor, which would amplify what rounding leaves of a constant signal.
    return x / torch.where(peak > 1e-8, peak, 1.0)


def gain_reduction(level_db: Tensor, threshold_db: Tensor, ratio: Tensor, knee_db: Tensor) -> Tensor:
    """Gain reduction of a compressor's static curve in dB, >= 0.

    With the excess e = level - threshold: 0 below e = -knee/2, (1 - 1/ratio)·e above e = knee/2, and between them the
    parabola (1 - 1/ratio)·(e + knee/2)² / (2·knee). Arguments broadcast.

    Source: Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design, JAES 60 (2012), equation 4.
    """
    excess = level_db - threshold_db
    # Both pieces are written with clamps, which have a gradient everywhere and no division at a knee of 0 dB.
    in_knee = torch.minimum((excess + knee_db / 2).relu(), knee_db)
    return (1 - 1 / ratio) * (in_knee.square() / (2 * knee_db).clamp(min=1e-9) + (excess - knee_db / 2).relu())
