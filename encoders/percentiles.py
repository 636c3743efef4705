"""Percentile encoder: how levels are distributed over time, by frequency and at several speeds; nothing is learned."""

import math

import torch
from torch import Tensor, nn

from reknob.runtime.errors import UsageError

from .blocks import LogCQT, peak_normalise
from .cqt import N_BINS

LEVELS = (0.02, 0.10, 0.25, 0.50, 0.75, 0.90, 0.98)
CHANGES = (0.02, 0.25, 0.50, 0.75, 0.98)
SAMPLES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)
N_CHANGES, N_LEVELS = len(CHANGES) + 1, len(LEVELS) + 5
POOLED = 4  # frames of the constant-Q transform: 46 ms
ONSETS = (0.05, 0.15)  # of all frames
DEEPEST = 12.0  # below the loudest bin, in nepers: 104 dB
ENVELOPES = (128, 512, 2048, 8192)  # samples: 3 to 190 ms
CRESTS = ENVELOPES[1:3]
LAGS = (1, 2, 4, 8, 16, 32, 64, 128)  # of 128 samples: 3 to 370 ms
SHORTEST = ENVELOPES[0] * (LAGS[-1] + 1)  # samples
NEAR_PEAK = (0.01, 0.03, 0.1)
EVERY = 7  # samples, of those whose distribution is taken
QUIET = 1e-5  # added to amplitudes before their logarithm


class Percentiles(nn.Module):
    """What an effect leaves behind in distributions: (B, 1, N) -> (B, 2127).

    An equaliser adds its gain at a frequency to every percentile of the level there, and to the level at onsets, when
    drums strike, whose spectra vary less than those of notes; it leaves alone by how much levels change. A compressor
    narrows the distribution of levels and skews that of their changes, at lags about its time constants. A clipper
    shows in the samples themselves: how many come near the peak, and how far the two sides differ.

    Each of the 113 semitones has 5 percentiles and the deviation of the changes of its level; and of the level itself,
    relative to the loudest bin, 7 percentiles, the mean, that at onsets, at a wider choice of them and before them, and
    the level of the mean power. The waveform has percentiles of its samples, envelopes, crest factors and changes of
    level. Excerpts need not be as long as those of training. All that is learned here is a batch normalisation; the
    perceptron after it does the rest.
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
        """Spectral statistics (B, 18, 113) of x (B, 1, N), and those of its waveform (B, 93)."""
        return spectral_statistics(pooled(self.cqt(x))), wave_statistics(x)

    def describe(self, spectral: Tensor, wave: Tensor) -> Tensor:
        """The vector (B, out_dim) of spectral statistics (B, 18, 113) and the waveform's (B, 93)."""
        return self.norm(torch.cat([relative(spectral).flatten(1), wave], dim=1))


def pooled(z: Tensor) -> Tensor:
    """Log amplitudes (…, T) of the mean power of every four frames: (…, T // 4), at least one."""
    size = min(POOLED, z.shape[-1])
    return (2 * z).unfold(-1, size, size).logsumexp(-1).sub(math.log(size)) / 2


def spectral_statistics(z: Tensor) -> Tensor:
    """Statistics over time of log amplitudes z (B, F, T), in nepers: (B, 18, F).

    A gain of a bin leaves the first `N_CHANGES` as they are and is added to each of the `N_LEVELS` others. Onsets are
    the frames in which levels rise most, summed over all bins, each by 3 nepers at most.
    """
    change = z.diff(dim=-1, prepend=z[..., :1])
    changes = [*percentiles(change, CHANGES).unbind(-1), (change.var(-1, correction=0) + QUIET**2).sqrt()]
    order = change.clamp(0.0, 3.0).sum(1).argsort(dim=-1, descending=True)[:, None].expand_as(z)
    sharpest, sharp = (order[..., : max(round(share * z.shape[-1]), 1)] for share in ONSETS)
    at = [z.gather(2, frames).mean(-1) for frames in (sharpest, sharp, (sharpest - 1).clamp(min=0))]
    power = ((2 * z).logsumexp(-1) - math.log(z.shape[-1])) / 2
    return torch.stack([*changes, *percentiles(z, LEVELS).unbind(-1), z.mean(-1), *at, power], dim=1)


def relative(spectral: Tensor) -> Tensor:
    """The statistics (B, 18, F), levels relative to the loudest bin's mean power, the last of them; none too deep."""
    changes, levels = spectral.split((N_CHANGES, N_LEVELS), dim=1)
    return torch.cat([changes, (levels - levels[:, -1:].amax(-1, keepdim=True)).clamp(min=-DEEPEST)], dim=1)


def wave_statistics(x: Tensor) -> Tensor:
    """Statistics of a waveform (B, 1, N) at a peak of 1: (B, 93); UsageError where it is shorter than `SHORTEST`."""
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
    """x (B, N) in whole frames, (B, N // size, size)."""
    return x[:, : x.shape[-1] // size * size].unflatten(-1, (-1, size))


def percentiles(x: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The values of x (…, T) which these shares of all do not exceed: (…, len(shares))."""
    ranks = [round(share * (x.shape[-1] - 1)) for share in shares]
    return x.sort(dim=-1).values[..., ranks]
