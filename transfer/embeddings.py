"""Style embeddings: functions from audio to a vector that describes how it sounds, by name."""

import math
from typing import Protocol

import torch
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

N_FFT, HOP = 2048, 1024
N_MELS, N_MFCC = 128, 25
RANGE_DB = 80.0  # of the levels in bands, below the highest of an item
TINY = 1e-8


class Embedding(Protocol):
    """Mid and side (B, 2, T) at `sr` Hz to a vector of each, (B, 2, E), with gradients."""

    def __call__(self, x: Tensor, sr: int) -> Tensor: ...


def mfcc(x: Tensor, sr: int) -> Tensor:
    """Moments over time of 25 MFCC, (B, 2, 100), as `torchaudio.transforms.MFCC` defines them and the release uses it.

    128 mel bands from 0 Hz to sr / 2 of 2048-point spectra, hop 1024; power in dB, at most 80 dB below the highest of
    mid and side; orthonormal cosine transform. Source: Yu et al., arXiv 2505.11315, and its release.
    """
    bands = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, 0.0, sr / 2, N_MELS, sr)
    mel = torch.einsum("bckt,km->bcmt", _magnitudes(x).square(), bands.to(x)).clamp(min=1e-10)
    level = 10 * mel.log10()
    level = level.maximum(level.amax((1, 2, 3), keepdim=True) - RANGE_DB)
    index = torch.arange(N_MELS, dtype=torch.float64)
    basis = (math.pi / N_MELS * (index[:, None] + 0.5) * torch.arange(N_MFCC)).cos() * math.sqrt(2 / N_MELS)
    basis[:, 0] *= math.sqrt(0.5)
    return _moments(torch.einsum("bcmt,mk->bckt", level, basis.to(x)))


def mir(x: Tensor, sr: int) -> Tensor:
    """Moments over time of six features of frames, in natural logarithms, (B, 2, 24).

    Root mean square, crest factor, mean distance of |x| from it, spectral centroid, bandwidth and flatness; the same
    at any `sr`. Source: the release of Yu et al., arXiv 2505.11315.
    """
    frames = x.unfold(-1, N_FFT, HOP)
    rms = (frames.square().mean(-1) + TINY**2).sqrt().log()
    crest = (frames.abs().amax(-1) + TINY).log() - rms
    distance = (frames.abs() + TINY).log().mean(-1) - rms
    spectra = _magnitudes(x)
    shares = spectra / spectra.sum(-2, keepdim=True).clamp(min=TINY)
    freq = torch.linspace(0, 1, spectra.shape[-2], dtype=x.dtype, device=x.device)[:, None]
    centroid = (shares * freq).sum(-2)
    width = (shares * (freq - centroid[..., None, :]).square()).sum(-2)
    power = spectra.clamp(min=TINY).square()
    flatness = power.log().mean(-2) - power.mean(-2).log()
    features = [rms, crest, distance, (centroid + TINY).log(), (width + TINY).log() / 2, flatness]
    return _moments(torch.stack(features, 2))


#: By name; `register` adds others, as a network with weights of your own (AFx-Rep, Fx-Encoder++).
EMBEDDINGS: dict[str, Embedding] = {"mfcc": mfcc, "mir": mir}


def register(name: str, embedding: Embedding) -> None:
    """Adds an embedding by a name of its own; UsageError for a name that is taken."""
    if name in EMBEDDINGS:
        raise UsageError(f"an embedding {name!r} exists already; give another name than {', '.join(EMBEDDINGS)}")
    EMBEDDINGS[name] = embedding


def mid_side(y: Tensor) -> Tensor:
    """Mid and side (B, 2, T), of equal total power, of stereo audio (B, 2, T)."""
    return torch.stack([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]], 1) * math.sqrt(0.5)


def angles(a: Tensor, b: Tensor) -> Tensor:
    """The angle in rad between vectors (…, E) and (…, E), (…)."""
    # Of the half distance of unit vectors: the arccosine of their product has no digits, and no gradient, near zero.
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12) for v in (a, b))
    half = ((a - b).square().sum(-1) + 1e-12).sqrt() / 2
    return 2 * half.clamp(max=1 - 1e-6).arcsin()


def _magnitudes(x: Tensor) -> Tensor:
    """Magnitudes (B, 2, 1025, frames) of the spectra of x (B, 2, T), with a gradient where they are zero."""
    window = torch.hann_window(N_FFT, dtype=x.dtype, device=x.device)
    spectra = torch.stft(x.flatten(0, 1), N_FFT, HOP, window=window, center=False, return_complex=True)
    return (torch.view_as_real(spectra).square().sum(-1) + 1e-20).sqrt().unflatten(0, (-1, 2))


def _moments(x: Tensor) -> Tensor:
    """Mean, standard deviation, skewness and excess kurtosis over the last dimension of x (B, 2, K, T), (B, 2, 4 K)."""
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean).square().mean(-1, keepdim=True) + 1e-12).sqrt()
    z = (x - mean) / deviation
    third, fourth = (z**power for power in (3, 4))
    moments = [mean, deviation, third.mean(-1, keepdim=True), fourth.mean(-1, keepdim=True) - 3]
    return torch.cat(moments, -1).flatten(2)
