"""Levels and the time constants of one-pole averages."""

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
