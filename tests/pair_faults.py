"""Faults that recordings from a desk have, made out of the built-in pair: functions of (dry, wet), both at 44.1 kHz."""

import numpy as np
import torch
from scipy.signal import butter, resample_poly, sosfiltfilt
from torch import Tensor
from torch.nn.functional import pad

SR = 44100


def late(x: Tensor, samples: int) -> Tensor:
    return pad(x, (samples, 0))


def fraction_late(x: Tensor) -> Tensor:
    """x, 0.75 samples later."""
    return _each(x, lambda c: resample_poly(np.concatenate([np.zeros(3), resample_poly(c, 4, 1)]), 1, 4)[: len(c)])


def faster(x: Tensor, ppm: float) -> Tensor:
    """x by a clock that runs `ppm` off."""
    t = np.arange(x.shape[-1])
    return _each(x, lambda c: np.interp(t * (1 + 1e-6 * ppm), t, c))


def cut_out(x: Tensor, start: int, samples: int) -> Tensor:
    return torch.cat([x[:, :start], x[:, start + samples :]], dim=1)


def low_passed(x: Tensor, freq: float) -> Tensor:
    return _each(x, lambda c: sosfiltfilt(butter(12, freq, fs=SR, output="sos"), c))


def at_rate(x: Tensor, up: int, down: int) -> Tensor:
    return _each(x, lambda c: resample_poly(c, up, down))


def with_other_sound(x: Tensor, gain: float = 0.5) -> Tensor:
    return x + gain * x.flip(1).roll(12345, 1)


def _each(x: Tensor, function: object) -> Tensor:
    return torch.from_numpy(np.stack([function(channel) for channel in x.double().numpy()])).float()
