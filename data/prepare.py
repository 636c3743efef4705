"""Preparation of the two files of a pair: channels, DC offset, gain, drift and position in time."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from reknob.data.audio import loudness
from reknob.runtime.errors import UsageError

LOUDEST_SIDE = -10.0  # dB; a dry file whose side signal peaks higher is not a mono recording
CANCELLED = 1e-3  # peak of the mean of two channels, relative to theirs, below which they cancel
OFFSET = 0.05  # mean of a recording, relative to its RMS, above which it is removed
FAINT = 1e-2  # peak below which loudness is measured on a scaled copy: the gate of BS.1770 at -70 LUFS is absolute
LONGEST_TAIL = 10.0  # s of wet after the end of dry
RINGING = 1e-3  # level at which a tail ends, relative to the peak of wet


class Mono(NamedTuple):
    """A recording `(1, T)`, and how many channels were averaged for it."""

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
            f"{name}: the right channel is the left one inverted, so that their sum is silent (the side signal peaks "
            f"at {level:.1f} dB); give the left channel alone, for example sox in.wav out.wav remix 1"
        )
    if level > LOUDEST_SIDE:
        raise UsageError(
            f"{name} is no mono recording: its side signal peaks at {level:.1f} dB, dry files may have at most "
            f"{LOUDEST_SIDE:g} dB; give a mono recording (or are dry and wet swapped?)"
        )
    return Mono(x.mean(dim=0, keepdim=True), 2)


def without_offset(x: Tensor) -> tuple[Tensor, float]:
    """`x` `(C, T)` without its DC offset, and the largest offset; unchanged and 0 where it is below 5 % of the RMS."""
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
    """Length in samples of the tail of `wet` `(C, T)` from the sample `after` to its decay by 60 dB, at most 10 s."""
    tail = wet[:, max(0, after) : max(0, after) + round(LONGEST_TAIL * sr)].abs().amax(dim=0)
    loud = (tail > RINGING * wet.abs().max()).nonzero()
    return int(loud[-1]) + 1 if len(loud) else 0


def undo_drift(wet: Tensor, drift_ppm: float, lag_samples: float = 0.0, taps: int = 48) -> Tensor:
    """`wet` `(C, T)` resampled so that its lag is constant: `lag_samples`, as at the start of dry.

    Interpolation by a Kaiser-windowed sinc of `taps` taps, whose filters are interpolated linearly between 1024 phases.
    """
    drift = 1e-6 * drift_ppm
    length = int((wet.shape[-1] - lag_samples) / (1 - drift) + lag_samples) if drift else wet.shape[-1]
    steps = torch.arange(1 - taps // 2, taps // 2 + 1)
    filters = _sinc_filters(steps, min(1.0, 1 / (1 - drift)))
    padded = pad(wet, (taps, 2 * taps))
    y = wet.new_empty(len(wet), length)
    for start in range(0, length, 65536):
        # In float64: float32 has no fractions of a sample after a few minutes.
        n = torch.arange(start, min(start + 65536, length), dtype=torch.float64)
        position = (lag_samples + (n - lag_samples) * (1 - drift)).clamp(0, wet.shape[-1] - 1)
        phase = position.frac() * (len(filters) - 1)
        lower = phase.long().clamp(max=len(filters) - 2)
        weights = torch.lerp(filters[lower], filters[lower + 1], (phase - lower).float()[:, None])
        y[:, start : start + len(n)] = (padded[:, position.long()[:, None] + steps + taps] * weights).sum(-1)
    return y


def _sinc_filters(steps: Tensor, cutoff: float, phases: int = 1024, beta: float = 9.0) -> Tensor:
    """Windowed sincs `(phases + 1, K)` at the taps `steps` `(K,)`, delayed by fractions of a sample from 0 to 1.

    `cutoff` is relative to half the sample rate; `beta` is that of the Kaiser window.
    """
    distance = torch.linspace(0, 1, phases + 1)[:, None] - steps
    inside = (1 - (2 * distance / len(steps)).square()).clamp(min=0).sqrt()
    return cutoff * torch.sinc(cutoff * distance) * torch.i0(beta * inside) / torch.i0(torch.tensor(beta))


def crop_to_overlap(dry: Tensor, wet: Tensor, shift: int, tail: int) -> tuple[Tensor, Tensor]:
    """The overlaps `(C, T)` of `dry` `(C, T1)`, delayed by `shift` samples, and `wet` `(C, T2)`.

    Where wet continues after the end of dry, up to `tail` samples of it are kept and dry is padded with silence.
    """
    dry, wet = dry[:, max(0, -shift) :], wet[:, max(0, shift) :]
    wet = wet[:, : dry.shape[-1] + tail]
    dry = pad(dry, (0, max(0, wet.shape[-1] - dry.shape[-1])))
    return dry[:, : wet.shape[-1]], wet
