"""Percentile encoder: percentiles of levels and of their changes over time, without learned weights."""

import math

import torch
from torch import Tensor, nn

from reknob.runtime.errors import UsageError

from .blocks import Encoder, LogCQT, peak_normalise
from .cqt import N_BINS

LEVELS = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
CHANGES = (0.02, 0.25, 0.50, 0.75, 0.98)
SAMPLES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)
N_CHANGES, N_LEVELS = len(CHANGES) + 1, len(LEVELS) + 5  # statistics per bin; see spectral_statistics
POOLED = 4  # frames of the constant-Q transform: 46 ms
ONSETS = (0.05, 0.15)  # shares of the frames that count as strongest onsets and as onsets
DEEPEST = 12.0  # nepers below the loudest bin (104 dB), at which levels are limited
ENVELOPES = (128, 512, 2048, 8192)  # samples: 3 to 190 ms
CRESTS = ENVELOPES[1:3]
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)  # of 128 samples: 3 to 370 ms
SHORTEST = ENVELOPES[0] * (LAGS[-1] + 1)  # samples
NEAR_PEAK = (0.01, 0.03, 0.1)  # distances from the peak of 1 within which samples are counted
EVERY = 7  # percentiles of the waveform are computed from every seventh sample: fewer to sort
QUIET = 1e-5  # added to amplitudes before their logarithm


class Percentiles(Encoder):
    """Percentiles of spectrum and waveform that effects change: (B, 1, N) -> (B, 2127).

    An equaliser adds its gain at a frequency to every percentile of the level there and to the mean level at onsets,
    where drums dominate, whose spectra vary less than those of notes; it does not alter the changes of level. A
    compressor narrows the distribution of levels and skews that of their changes, at lags near its time constants. A
    clipper alters the distribution of the samples: how many are close to the peak, and how asymmetric it is.

    Data flow: the log CQT (B, 113, T), pooled to (B, 113, T // 4), gives 18 statistics per semitone (B, 18, 113). Six
    describe the changes of level: 5 percentiles and the standard deviation. Twelve describe the level relative to the
    loudest bin: 7 percentiles, the mean, the means at the strongest onsets, at more onsets and before the strongest
    ones, and the level of the mean power. The waveform gives 93 statistics: the level, and percentiles of its samples,
    envelopes, crest factors and changes of level. 18 x 113 + 93 = 2127.

    The excerpt's length may differ from that of training. The only trained layer is a batch normalisation.
    """

    def __init__(self, sr: int = 44100) -> None:
        super().__init__()
        self.cqt = LogCQT(sr)
        shares = [SAMPLES, NEAR_PEAK, *[LEVELS] * len(ENVELOPES), *[CHANGES] * (len(CRESTS) + len(LAGS))]
        self.n_wave = 1 + sum(map(len, shares))
        self.out_dim = N_BINS * (N_CHANGES + N_LEVELS) + self.n_wave
        self.norm = nn.BatchNorm1d(self.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.describe(*self.statistics(x))

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return spectral statistics (B, 18, 113) and waveform statistics (B, 93) of x (B, 1, N)."""
        return spectral_statistics(pooled(self.cqt(x))), wave_statistics(x)

    def describe(self, spectral: Tensor, wave: Tensor) -> Tensor:
        """Return the normalised features (B, out_dim) of spectral (B, 18, 113) and waveform statistics (B, 93)."""
        return self.norm(torch.cat([relative(spectral).flatten(1), wave], dim=1))


def pooled(z: Tensor) -> Tensor:
    """Return the log amplitude of the mean power of every 4 frames of log amplitudes: (…, T) -> (…, max(T // 4, 1))."""
    size = min(POOLED, z.shape[-1])
    return (2 * z).unfold(-1, size, size).logsumexp(-1).sub(math.log(size)) / 2


def spectral_statistics(z: Tensor) -> Tensor:
    """Statistics over time of log amplitudes z (B, F, T), in nepers: (B, 18, F).

    A gain of a bin does not alter the first `N_CHANGES` statistics and is added to each of the `N_LEVELS` others.
    Onsets are the frames with the largest rise of level, each bin's limited to 3 nepers and summed over the bins.
    """
    change = z.diff(dim=-1, prepend=z[..., :1])
    changes = [*percentiles(change, CHANGES).unbind(-1), (change.var(-1, correction=0) + QUIET**2).sqrt()]
    order = change.clamp(0.0, 3.0).sum(1).argsort(dim=-1, descending=True)[:, None].expand_as(z)
    strongest, strong = (order[..., : max(round(share * z.shape[-1]), 1)] for share in ONSETS)
    at = [z.gather(2, frames).mean(-1) for frames in (strongest, strong, (strongest - 1).clamp(min=0))]
    power = ((2 * z).logsumexp(-1) - math.log(z.shape[-1])) / 2
    return torch.stack([*changes, *percentiles(z, LEVELS).unbind(-1), z.mean(-1), *at, power], dim=1)


def relative(spectral: Tensor) -> Tensor:
    """Return the statistics (B, 18, F) with levels in nepers relative to the loudest bin's mean power, >= -DEEPEST."""
    changes, levels = spectral.split((N_CHANGES, N_LEVELS), dim=1)
    return torch.cat([changes, (levels - levels[:, -1:].amax(-1, keepdim=True)).clamp(min=-DEEPEST)], dim=1)


def wave_statistics(x: Tensor) -> Tensor:
    """Statistics of waveforms (B, 1, N), normalised to a peak of 1: (B, 93); UsageError where N < `SHORTEST`."""
    if x.shape[-1] < SHORTEST:
        raise UsageError(f"an excerpt of {x.shape[-1]} samples is too short; give {SHORTEST} or more")
    x = peak_normalise(x - x.mean(-1, keepdim=True))[:, 0]
    level = log_rms(x)[:, None]
    samples, size = x[:, ::EVERY], x[:, ::EVERY].abs()
    near = [(size > 1 - depth).float().mean(-1).add(QUIET).log() for depth in NEAR_PEAK]
    envelopes = {length: log_rms(frames(x, length)) for length in ENVELOPES}
    crests = [frames(x.abs(), length).amax(-1).add(QUIET).log() - envelopes[length] for length in CRESTS]
    fast = envelopes[ENVELOPES[0]]
    changes = [fast[:, lag:] - fast[:, :-lag] for lag in LAGS]
    return torch.cat(
        [
            level,
            percentiles(samples / level.exp(), SAMPLES),
            torch.stack(near, dim=-1),
            *(percentiles(envelope - level, LEVELS) for envelope in envelopes.values()),
            *(percentiles(values, CHANGES) for values in (*crests, *changes)),
        ],
        dim=-1,
    )


def log_rms(x: Tensor) -> Tensor:
    """Root mean square of x (…, T) in nepers, (…)."""
    return x.square().mean(-1).add(QUIET**2).log() / 2


def frames(x: Tensor, size: int) -> Tensor:
    """Cut x (B, N) into frames (B, N // size, size); an incomplete last frame is dropped."""
    return x[:, : x.shape[-1] // size * size].unflatten(-1, (-1, size))


def percentiles(x: Tensor, shares: tuple[float, ...]) -> Tensor:
    """Return the quantiles of x (…, T) at these shares of its sorted values: (…, len(shares))."""
    ranks = [round(share * (x.shape[-1] - 1)) for share in shares]
    return x.sort(dim=-1).values[..., ranks]
