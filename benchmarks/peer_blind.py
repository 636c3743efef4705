"""The plain build of a blind-estimation step: an FFT pair for every band, everything in float32, torch.stft.

It computes what the published training computes, in the same way: RBJ coefficients in float32, a transform of 2^20
points for 10 s, normalisation between bands, a mel loss whose target requires a gradient.
"""

import math

import torch
from torch import Tensor, nn

from benchmarks.peer_encoders import PEERS
from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.encoders import Controller

SR = 44100
TAIL = 3019
RANGES = ((30, 160), (100, 2000), (500, 6000), (2000, 16000), (5000, 20000))


def normalised(x: Tensor) -> Tensor:
    """Audio without DC, at a peak of 1."""
    x = x - x.mean(-1, keepdim=True)
    return x / x.abs().amax(-1, keepdim=True)


def band(number: int, freq: Tensor, gain_db: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator (B, 3) of a low shelf (0), a peak (1 to 3) or a high shelf (4)."""
    A, omega = 10 ** (gain_db / 40), 2 * math.pi * freq / SR
    cos, alpha = torch.cos(omega), torch.sin(omega) / (2 * Q)
    if 0 < number < 4:
        b = (1 + alpha * A, -2 * cos, 1 - alpha * A)
        return torch.stack(b, -1), torch.stack((1 + alpha / A, -2 * cos, 1 - alpha / A), -1)
    side = 1 if number == 0 else -1
    cos, slope = side * cos, 2 * A.sqrt() * alpha
    up, down = (A + 1) + (A - 1) * cos, (A + 1) - (A - 1) * cos
    b = (A * (down + slope), 2 * side * A * ((A - 1) - (A + 1) * cos), A * (down - slope))
    a = (up + slope, -2 * side * ((A - 1) + (A + 1) * cos), up - slope)
    return torch.stack(b, -1), torch.stack(a, -1)


def equalise(x: Tensor, q: Tensor) -> Tensor:
    """Five bands of audio (B, 1, T) at controls q (B, 15), each by sampling its response."""
    size = x.shape[-1]
    n = 2 ** math.ceil(math.log2(size))
    n = 2 * n if n > size + TAIL else n
    for number, ((lo, hi), controls) in enumerate(zip(RANGES, q.split(3, 1), strict=True)):
        f, g, w = controls.unbind(1)
        b, a = band(number, lo * (hi / lo) ** f, 30 * g - 15, 0.1 + 1.9 * w)
        response = torch.fft.rfft(b, n) / torch.fft.rfft(a, n)
        x = torch.fft.irfft(torch.fft.rfft(normalised(x), n) * response.unsqueeze(1), n)[..., :size]
    return x


class Mel(nn.Module):
    """Mean distance of log mel magnitudes of signals (B, 1, T) brought to an RMS of 1."""

    def __init__(self) -> None:
        super().__init__()
        options = {"norm": "slaney", "mel_scale": "slaney"}
        self.register_buffer("bank", torchaudio.functional.melscale_fbanks(2049, 0.0, SR / 2, 128, SR, **options).T)
        self.register_buffer("window", torch.hann_window(4096))

    def log_mel(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = (x / x.square().mean(-1, keepdim=True).sqrt())[:, 0]
        X = torch.stft(x, 4096, 1024, window=self.window, return_complex=True)
        return (self.bank @ (X.real**2 + X.imag**2).clamp(min=1e-8).sqrt()).log()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return (self.log_mel(pred) - self.log_mel(target)).abs().mean()


class PlainTraining(nn.Module):
    """Encoder, controller, parametric equaliser and mel loss."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        front = PEERS[encoder]()
        front.out_dim = {"multitimbre_cqt": 66, "time_frequency": 128, "mee": 2048}[encoder]
        self.controller, self.mel = Controller(front, 15), Mel()

    def forward(self, dry: Tensor, wet: Tensor) -> Tensor:
        """The loss of one batch (B, 1, T)."""
        wet.requires_grad_()
        return self.mel(equalise(dry, self.controller(wet)), wet)
