"""An embedding of how audio is processed, that depends little on what is sung: distributions of levels over time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

N_FFT, HOP = 2048, 1024
BANDS, LOWEST_HZ, HIGHEST_HZ = 40, 60.0, 15_000.0  # lossy codecs remove what is above
GROUPS = 8  # of neighbouring bands, for the changes of level
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
CHANGES = (0.05, 0.2, 0.5, 0.8, 0.95)
LAGS = (1, 2, 5, 12)  # of HOP samples: 23 to 280 ms
RANGES_MS = ((50.0, 1000.0), (100.0, 2000.0))  # of the loudness dynamic range, as in `losses.mldr`
RANGE_HOP_MS = 10.0
RANGE_LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
QUIET = 1e-6  # floor of power, as a share of the mean power of the mid: pauses and noise of codecs do not count
BLOCKS = ("levels", "changes", "ranges")
SHORTEST_S = 2.5
LEAST_DB = 0.3  # smallest deviation of a statistic between passages that counts
KEPT = 0.02  # of the largest variance between passages, added to that in all directions


def level_statistics(y: Tensor, sr: int) -> dict[str, Tensor]:
    """Statistics of stereo audio y (B, 2, T) in dB, with gradients, by block of `BLOCKS`, (B, 4, …) each.

    The four channels are left, right, mid and side.

    - levels (B, 4, 6, 40): percentiles over time of the level in each band, from 60 Hz to 15 kHz. All levels are
      relative to the mean level of the mid, so that the gain of the output does not matter.
    - changes (B, 4, 4, 5, 8): percentiles of the change of level over 23 to 280 ms, in groups of bands: decay of a
      reverb, attack of a compressor.
    - ranges (B, 4, 2, 6): percentiles of the loudness dynamic range, the ratio of a short to a long average of power.

    Raises UsageError for audio shorter than 2.5 s.
    """
    if y.shape[-1] < SHORTEST_S * sr:
        raise UsageError(f"{y.shape[-1] / sr:.1f} s of audio: level statistics need {SHORTEST_S:g} s or more")
    channels = torch.stack([y[:, 0], y[:, 1], (y[:, 0] + y[:, 1]) / 2, (y[:, 0] - y[:, 1]) / 2], 1)
    power = band_power(y, sr)
    floor = QUIET * power[:, 2:3].mean((2, 3), keepdim=True) + 1e-20
    level = 10 * (power + floor).log10()  # (B, 4, F, frames)
    level = level - level[:, 2:3].mean((2, 3), keepdim=True)
    grouped = level.unflatten(2, (GROUPS, -1)).mean(3)
    changes = [_percentiles(grouped[..., lag:] - grouped[..., :-lag], CHANGES) for lag in LAGS]
    return {
        "levels": _percentiles(level, LEVELS).movedim(-1, 2),
        "changes": torch.stack(changes, 2).movedim(-1, 3),
        "ranges": _dynamic_ranges(channels, sr),
    }


def embed(y: Tensor, sr: int) -> Tensor:
    """The statistics of `level_statistics` as vectors (B, E); each block counts by the root of its size."""
    blocks = level_statistics(y, sr)
    return torch.cat([blocks[name].flatten(1) / math.sqrt(blocks[name][0].numel()) for name in BLOCKS], 1)


def passage_differences(y: Tensor, sr: int) -> Tensor:
    """How the embeddings of two overlapping passages of each audio (B, 2, T) differ, (B, E)."""
    length = max(math.ceil(SHORTEST_S * sr), round(0.6 * y.shape[-1]))
    return embed(y[..., :length], sr) - embed(y[..., -length:], sr)


class Metric:
    """The distance of embeddings from that of a reference, in units of what differs between passages of a voice.

    With S the mean of d·dᵀ over differences d of passages, scaled to unit variance by statistic, and λ the largest
    eigenvalue of S times `KEPT`: distance² = mean over dimensions of Δᵀ (S + λ)⁻¹ Δ. What singing changes from passage
    to passage counts little, what it does not change counts much, without a model of either.

    Args:
        differences: (N, E), as of `passage_differences`.
    """

    def __init__(self, differences: Tensor) -> None:
        # Each block is scaled by the root of its size, and so is the floor of its deviations.
        size = 1 / differences.shape[1] ** 0.5
        self.scale = 1 / differences.square().mean(0).sqrt().clamp(min=LEAST_DB * size)
        scaled = (differences * self.scale).double()
        # By the few differences, not the many statistics: (S + λ)⁻¹ = (1 - V V ᵀ · s / (s + λ)) / λ.
        _, sizes, axes = torch.linalg.svd(scaled / len(scaled) ** 0.5, full_matrices=False)
        self.floor = max(float(sizes[0].square()) * KEPT, 1e-9)
        self.axes = axes.float()
        self.shares = (sizes.square() / (sizes.square() + self.floor)).float()

    def __call__(self, embeddings: Tensor, reference: Tensor) -> Tensor:
        """The squared distances (B,) of embeddings (B, E) from that of the reference (E,), with gradients."""
        difference = (embeddings - reference) * self.scale
        along = difference @ self.axes.mT
        return (difference.square().sum(1) - (self.shares * along.square()).sum(1)) / (self.floor * len(reference))


def band_power(y: Tensor, sr: int) -> Tensor:
    """Mean power (B, 4, F, frames) of left, right, mid and side in bands, of stereo audio (B, 2, T)."""
    window = torch.hann_window(N_FFT, dtype=y.dtype, device=y.device)
    spectra = torch.stft(
        y.flatten(0, 1), N_FFT, HOP, window=window * (2 / window.sum()), center=False, return_complex=True
    )
    left, right = torch.view_as_real(spectra).unflatten(0, (-1, 2)).unbind(1)
    products = torch.stack([left.square().sum(-1), right.square().sum(-1), (left * right).sum(-1)], 1)
    ll, rr, lr = torch.einsum("bckt,kf->bcft", products, band_weights(sr).to(y)).unbind(1)
    # Mid and side from the powers of left and right and their product: two spectra instead of four.
    return torch.stack([ll, rr, (ll + rr + 2 * lr) / 4, ((ll + rr - 2 * lr) / 4).clamp(min=0)], 1)


def band_weights(sr: int) -> Tensor:
    """Weights (N_FFT / 2 + 1, BANDS) of triangular bands, equally spaced on the mel scale, each of sum 1."""
    high = min(HIGHEST_HZ, sr / 2)
    bands = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, LOWEST_HZ, high, BANDS, sr)
    weights = bands.double() + 1e-9
    return (weights / weights.sum(0)).float()


def _dynamic_ranges(channels: Tensor, sr: int) -> Tensor:
    """Percentiles of the loudness dynamic range of channels (B, 4, T) in dB, (B, 4, 2, 6)."""
    hop = round(sr * RANGE_HOP_MS / 1000)
    frames = F.avg_pool1d(channels.square(), hop)
    frames = frames + QUIET * frames[:, 2:3].mean(2, keepdim=True) + 1e-20
    found = []
    for short, long in RANGES_MS:
        sizes = [max(round(ms / RANGE_HOP_MS), 1) for ms in (short, long)]
        averages = [F.avg_pool1d(frames, size, 1) for size in sizes]
        # The middle of both averages at one time.
        start = (sizes[1] - sizes[0]) // 2
        ratio = averages[0][..., start : start + averages[1].shape[-1]] / averages[1]
        found.append(_percentiles(10 * ratio.log10(), RANGE_LEVELS))
    return torch.stack(found, 2)


def _percentiles(x: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The values of x (…, T) at these shares of their sorted order, (…, len(shares)).

    Each is the mean of the 5 % of values around it, whose gradient is less noisy than that of one value.
    """
    ordered = x.sort(-1).values
    size = x.shape[-1]
    half = max(round(0.025 * size), 0)
    middle = [round(share * (size - 1)) for share in shares]
    return torch.stack([ordered[..., max(m - half, 0) : m + half + 1].mean(-1) for m in middle], -1)
