"""What is done to two files before they are a pair: channels, offset, gain, drift and place in time."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from reknob.data.audio import loudness
from reknob.runtime.errors import UsageError

LOUDEST_SIDE = -10.0  # dB; a dry file whose side signal peaks higher is not a mono recording
CANCELLED = 1e-3  # peak of the mean of two channels, relative to theirs, below which they cancel
OFFSET = 0.05  # mean of a recording, relative to its RMS, from which it is removed
FAINT = 1e-2  # peak of a file whose loudness is measured at a peak of 1: the absolute gate of BS.1770 would end it
LONGEST_TAIL = 10.0  # s of wet after the end of dry
RINGING = 1e-3  # level of a tail's end, relative to the peak of wet


class Mono(NamedTuple):
    """A recording `(1, T)`, and how many channels it was made of."""

    x: Tensor
    channels: int


def to_mono(x: Tensor, name: object) -> Mono:
    """`x` `(1|2, T)` as `(1, T)`.

    The mean of the channels, or the one that holds sound. UsageError where the side signal,
    0.707 (L / max|L| - R / max|R|), peaks above -10 dB, and where the channels cancel.
    """
    if x.shape[0] == 1:
        return Mono(x, 1)
    peaks = x.abs().amax(dim=1, keepdim=True)
    if peaks.min() == 0:
        return Mono(x.sum(dim=0, keepdim=True), 1)
    side = 0.707 * (x[0] / peaks[0] - x[1] / peaks[1])
    level = 20 * math.log10(max(float(side.abs().max()), 1e-10))
    if x.mean(dim=0).abs().max() < CANCELLED * peaks.max():
        raise UsageError(
            f"{name}: the right channel is the left one inverted, their mono sum is silent, and its side signal peaks "
            f"at {level:.1f} dB; give the left channel alone, for example sox in.wav out.wav remix 1"
        )
    if level > LOUDEST_SIDE:
        raise UsageError(
            f"{name} is no mono recording: its side signal peaks at {level:.1f} dB, dry files may have at most "
            f"{LOUDEST_SIDE:g} dB; give the mono take (or are dry and wet swapped?)"
        )
    return Mono(x.mean(dim=0, keepdim=True), 2)


def without_offset(x: Tensor) -> tuple[Tensor, float]:
    """`x` `(C, T)` without its DC offset, and the largest offset; 0 where there is none worth removing."""
    offset = x.mean(dim=1, keepdim=True)
    rms = torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5
    if not (offset.abs() > OFFSET * rms).any():
        return x, 0.0
    return x - offset, float(offset[offset.abs().argmax()])


def gain_to(x: Tensor, sr: int, lufs: float | None, name: object) -> float:
    """The factor that brings `x` `(C, T)` to `lufs` LUFS, 1 for None; UsageError where it is silent or too short."""
    peak = float(x.abs().max())
    scale = 1 / peak if 1e-12 < peak < FAINT else 1.0
    try:
        level = loudness(x * scale, sr) - 20 * math.log10(scale)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    if level == -math.inf:
        raise UsageError(f"{name} is silent: nothing lies above -70 LUFS")
    return 1.0 if lufs is None else 10 ** ((lufs - level) / 20)


def ringing(wet: Tensor, after: int, sr: int) -> int:
    """How many samples of `wet` `(C, T)` behind the sample `after` still ring: 60 dB below its peak, 10 s at most."""
    tail = wet[:, max(0, after) : max(0, after) + round(LONGEST_TAIL * sr)].abs().amax(dim=0)
    loud = (tail > RINGING * wet.abs().max()).nonzero()
    return int(loud[-1]) + 1 if len(loud) else 0


def undo_drift(wet: Tensor, drift_ppm: float, lag_samples: float = 0.0, taps: int = 48) -> Tensor:
    """`wet` `(C, T)` resampled so that its lag stays what it is at the start of dry, by a Kaiser-windowed sinc."""
    share = 1e-6 * drift_ppm
    length = int((wet.shape[-1] - lag_samples) / (1 - share) + lag_samples) if share else wet.shape[-1]
    steps = torch.arange(1 - taps // 2, taps // 2 + 1)
    filters = _sinc_filters(steps, min(1.0, 1 / (1 - share)))
    padded = pad(wet, (taps, 2 * taps))
    y = wet.new_empty(len(wet), length)
    for start in range(0, length, 65536):
        n = torch.arange(start, min(start + 65536, length), dtype=torch.float64)
        place = (lag_samples + (n - lag_samples) * (1 - share)).clamp(0, wet.shape[-1] - 1)
        phase = place.frac() * (len(filters) - 1)
        lower = phase.long().clamp(max=len(filters) - 2)
        weights = torch.lerp(filters[lower], filters[lower + 1], (phase - lower).float()[:, None])
        y[:, start : start + len(n)] = (padded[:, place.long()[:, None] + steps + taps] * weights).sum(-1)
    return y


def _sinc_filters(steps: Tensor, cutoff: float, phases: int = 1024, beta: float = 9.0) -> Tensor:
    """Sincs `(phases + 1, K)` around the taps `steps` `(K,)`, for fractions of a sample from 0 to 1."""
    distance = torch.linspace(0, 1, phases + 1)[:, None] - steps
    inside = (1 - (2 * distance / len(steps)).square()).clamp(min=0).sqrt()
    return cutoff * torch.sinc(cutoff * distance) * torch.i0(beta * inside) / torch.i0(torch.tensor(beta))


def crop_to_overlap(dry: Tensor, wet: Tensor, shift: int, tail: int) -> tuple[Tensor, Tensor]:
    """`dry` `(1, T1)` and `wet` `(C, T2)` from where both begin, with dry `shift` samples later, in one length.

    Where wet goes on after the end of dry, up to `tail` samples of it stay, beside silence: what rings there is wet.
    """
    dry, wet = dry[:, max(0, -shift) :], wet[:, max(0, shift) :]
    wet = wet[:, : dry.shape[-1] + tail]
    dry = pad(dry, (0, max(0, wet.shape[-1] - dry.shape[-1])))
    return dry[:, : wet.shape[-1]], wet
