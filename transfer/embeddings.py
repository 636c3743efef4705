"""Style embeddings: functions from audio to a vector that describes how it sounds, by name."""

import math
from typing import Protocol

import torch
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

N_FFT, HOP = 2048, 1024
N_MELS, N_MFCC = 128, 25
FLOOR = 1e-8  # of power: -80 dB
#: What is subtracted from the MIR features and what they are divided by, so that all count alike in an angle:
#: level in dB, crest factor in dB, centroid and bandwidth in octaves above 1 Hz, flatness in dB, flux in dB.
MIR_CENTRES = (-30.0, 12.0, 10.5, 10.5, -20.0, 3.0)
MIR_SCALES = (10.0, 3.0, 0.7, 0.5, 6.0, 1.5)


class Embedding(Protocol):
    """Mono audio (B, T) at `sr` Hz to vectors (B, E), with gradients."""

    def __call__(self, x: Tensor, sr: int) -> Tensor: ...


def mfcc(x: Tensor, sr: int) -> Tensor:
    """Mean, standard deviation and maximum over time of 25 MFCC, (B, 75).

    128 mel bands from 0 Hz to sr / 2 of 2048-point spectra, hop 1024; power in dB; orthonormal cosine transform. The
    coefficients are those named by Yu et al., arXiv 2505.11315; the statistics over time are this project's choice.
    """
    bands = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, 0.0, sr / 2, N_MELS, sr)
    mel = torch.einsum("bkt,km->bmt", _power(x), bands.to(x)).clamp(min=FLOOR)
    index = torch.arange(N_MELS, dtype=torch.float64)
    basis = (math.pi / N_MELS * (index[:, None] + 0.5) * torch.arange(N_MFCC)).cos() * math.sqrt(2 / N_MELS)
    basis[:, 0] *= math.sqrt(0.5)
    coefs = torch.einsum("bmt,mc->bct", 10 * mel.log10(), basis.to(x))
    return torch.cat([coefs.mean(-1), _deviation(coefs), coefs.amax(-1)], 1)


def mir(x: Tensor, sr: int) -> Tensor:
    """Mean and standard deviation over time of six features of frames, each centred and scaled, (B, 12).

    Level and crest factor in dB, spectral centroid and bandwidth in octaves, flatness in dB, and the mean change of
    the spectrum's levels from frame to frame in dB.
    """
    frames = x.unfold(-1, N_FFT, HOP)
    level = 10 * (frames.square().mean(-1) + FLOOR).log10()
    crest = 20 * (frames.abs().amax(-1) + FLOOR**0.5).log10() - level
    power = _power(x) + FLOOR
    freq = torch.linspace(0, sr / 2, power.shape[1], dtype=x.dtype, device=x.device)[:, None]
    shares = power / power.sum(1, keepdim=True)
    centroid = (shares * freq).sum(1)
    width = ((shares * (freq - centroid[:, None]).square()).sum(1) + 1).sqrt()
    decibels = 10 * power.log10()
    flatness = decibels.mean(1) - 10 * power.mean(1).log10()
    flux = decibels.diff(dim=-1, prepend=decibels[..., :1]).abs().mean(1)
    features = torch.stack([level, crest, centroid.log2(), width.log2(), flatness, flux], 1)
    centres, scales = (features.new_tensor(numbers)[:, None] for numbers in (MIR_CENTRES, MIR_SCALES))
    features = (features - centres) / scales
    return torch.cat([features.mean(-1), _deviation(features)], 1)


#: By name; `register` adds others, as a network with weights of your own (AFx-Rep, Fx-Encoder++).
EMBEDDINGS: dict[str, Embedding] = {"mfcc": mfcc, "mir": mir}


def register(name: str, embedding: Embedding) -> None:
    """Adds an embedding by a name of its own; UsageError for a name that is taken."""
    if name in EMBEDDINGS:
        raise UsageError(f"an embedding {name!r} exists already; give another name than {', '.join(EMBEDDINGS)}")
    EMBEDDINGS[name] = embedding


def mid_side(embedding: Embedding, y: Tensor, sr: int) -> Tensor:
    """Embeddings of mid and side of stereo audio (B, 2, T), (B, 2, E)."""
    channels = torch.stack([y[:, 0] + y[:, 1], y[:, 0] - y[:, 1]], 1) / 2
    return embedding(channels.flatten(0, 1), sr).unflatten(0, (-1, 2))


def angles(a: Tensor, b: Tensor) -> Tensor:
    """The angle in rad between vectors (…, E) and (…, E), (…)."""
    # Of the half distance of unit vectors: the arccosine of their product has no digits, and no gradient, near zero.
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp(min=1e-12) for v in (a, b))
    half = ((a - b).square().sum(-1) + 1e-12).sqrt() / 2
    return 2 * half.clamp(max=1 - 1e-6).arcsin()


def _power(x: Tensor) -> Tensor:
    """Power spectra (B, 1025, frames) of x (B, T), of a full-scale sine 1 at its peak."""
    window = torch.hann_window(N_FFT, dtype=x.dtype, device=x.device)
    spectra = torch.stft(x, N_FFT, HOP, window=window * (2 / window.sum()), center=False, return_complex=True)
    return torch.view_as_real(spectra).square().sum(-1)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation over the last dimension, with a gradient where it is zero."""
    return (x.var(-1, correction=0) + 1e-12).sqrt()
