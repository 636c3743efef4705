"""Statistics of levels of stereo audio in bands: how a recording is processed, apart from who sings."""

import torch
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

N_FFT, HOP = 2048, 1024
BANDS, LOWEST_HZ, HIGHEST_HZ = 40, 60.0, 15_000.0  # lossy codecs remove what is above
GROUPS = 8  # of neighbouring bands, for the changes of level
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
CHANGES = (0.05, 0.2, 0.5, 0.8, 0.95)
LAG = 5  # of HOP samples: 116 ms at 44.1 kHz
QUIET = 1e-6  # floor of power, as a share of the mean power of the mid: pauses and noise of codecs do not count
SHORTEST_S = 2.5
EVERY = 4  # frames of which one counts in the long-term levels
WEIGHTS = (1.0, 1.0, 0.3)  # of the three groups of statistics


def band_power(y: Tensor, sr: int) -> Tensor:
    """Mean power (B, 4, F, frames) of left, right, mid and side in bands, of stereo audio (B, 2, T).

    Raises UsageError for audio shorter than 2.5 s.
    """
    if y.shape[-1] < SHORTEST_S * sr:
        raise UsageError(f"{y.shape[-1] / sr:.1f} s of audio: level statistics need {SHORTEST_S:g} s or more")
    window = torch.hann_window(N_FFT, dtype=y.dtype, device=y.device)
    spectra = torch.stft(
        y.flatten(0, 1), N_FFT, HOP, window=window * (2 / window.sum()), center=False, return_complex=True
    )
    left, right = torch.view_as_real(spectra).unflatten(0, (-1, 2)).unbind(1)
    products = torch.stack([left.square().sum(-1), right.square().sum(-1), (left * right).sum(-1)], 1)
    ll, rr, lr = torch.einsum("bckt,kf->bcft", products, band_weights(sr).to(y)).unbind(1)
    # Mid and side from the powers of left and right and their product: two spectra instead of four.
    return torch.stack([ll, rr, (ll + rr + 2 * lr) / 4, ((ll + rr - 2 * lr) / 4).clamp(min=0)], 1)


def style_statistics(power: Tensor) -> Tensor:
    """Statistics in dB of `band_power` (B, 4, F, frames) that a voice changes less than effects do, (B, E).

    - How much weaker the side is than the mid, 6 × F: percentiles over time of its level in each band, less those of
      the mid. It shows width, echoes and reverb; a voice is the same in both.
    - How the mid changes over 116 ms, 5 × 8: percentiles in groups of bands, which compression and reverb narrow.
    - The long-term levels in each band relative to the mean of the mid's, 4 × F, which equalisers and pans set, but
      voices as well; they weigh 0.3.

    Each group is divided by the root of its size.
    """
    mid, side = power[:, 2], power[:, 3]
    floor = QUIET * mid.mean((1, 2), keepdim=True) + 1e-20
    levels = [10 * (each + floor).log10() for each in (mid, side)]
    width = _percentiles(levels[1], LEVELS) - _percentiles(levels[0], LEVELS)
    grouped = levels[0].unflatten(1, (GROUPS, -1)).mean(2)
    changes = _percentiles(grouped[..., LAG:] - grouped[..., :-LAG], CHANGES)
    spectrum = (10 * (power[..., ::EVERY] + 1e-10).log10()).mean(3)
    spectrum = spectrum - spectrum[:, 2:3].mean(2, keepdim=True)
    groups = zip(WEIGHTS, (width, changes, spectrum), strict=True)
    return torch.cat([weight * group.flatten(1) / group[0].numel() ** 0.5 for weight, group in groups], 1)


def band_weights(sr: int) -> Tensor:
    """Weights (N_FFT / 2 + 1, BANDS) of triangular bands, equally spaced on the mel scale, each of sum 1."""
    high = min(HIGHEST_HZ, sr / 2)
    bands = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, LOWEST_HZ, high, BANDS, sr)
    weights = bands.double() + 1e-9
    return (weights / weights.sum(0)).float()


def _percentiles(x: Tensor, shares: tuple[float, ...]) -> Tensor:
    """The values of x (B, F, T) at these shares of their sorted order, (B, len(shares), F).

    Each is the mean of the 5 % of values around it, which is less noisy than one value.
    """
    ordered = x.sort(-1).values
    size = x.shape[-1]
    half = round(0.025 * size)
    middle = [round(share * (size - 1)) for share in shares]
    return torch.stack([ordered[..., max(m - half, 0) : m + half + 1].mean(-1) for m in middle], 1)
