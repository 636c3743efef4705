"""Conditions in which recordings reach an estimator, at random: band limits, low levels at 16 bits."""

import torch
from torch import Tensor

from reknob.data.bandwidth import band_limit

EDGES = (3400.0, 20000.0)  # Hz, of the band limits
#: Width of a limit's slope, relative to its frequency, and the attenuation in dB above it: from the brick wall of a
#: resampler to the low-pass of a lossy codec.
SLOPES, STOP = (0.01, 0.2), (50.0, 120.0)
LOWEST = -50.0  # dB, of the levels at which 16 bits are rounded


def round_to_16_bits(x: Tensor, level_db: float) -> Tensor:
    """`x` `(..., N)` as 16-bit samples hold it with its peak at `level_db` relative to full scale, at its own level."""
    scale = 32767 * 10 ** (level_db / 20) / x.abs().max().clamp(min=1e-9)
    return (x * scale).round() / scale


def random_band_limit(x: Tensor, sr: int, share: float, generator: torch.Generator) -> Tensor:
    """`x` `(B, 1, N)` at `sr` Hz, a `share` of its items with a random band limit below half their rate."""
    limited = x.clone()
    for i, (chosen, edge, slope, stop) in enumerate(torch.rand((len(x), 4), generator=generator).tolist()):
        if chosen < share:
            freq = EDGES[0] * (EDGES[1] / EDGES[0]) ** edge
            steep = SLOPES[0] * (SLOPES[1] / SLOPES[0]) ** slope
            limited[i] = band_limit(x[i], sr, freq, steep, STOP[0] + (STOP[1] - STOP[0]) * stop)
    return limited


def random_level(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`x` `(B, 1, N)`, a `share` of its items rounded to 16 bits at a random level."""
    rounded = x.clone()
    for i, (chosen, level) in enumerate(torch.rand((len(x), 2), generator=generator).tolist()):
        if chosen < share:
            rounded[i] = round_to_16_bits(x[i], LOWEST * level)
    return rounded
