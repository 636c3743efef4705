"""Distance between log mel spectra of normalised signals."""

import torch
from torch import Tensor

from reknob.afx.functional.fft import stft
from reknob.afx.functional.torchaudio_import import torchaudio


def norm_signal(x: Tensor) -> Tensor:
    """Remove the mean of x (..., T) over time and scale it to an RMS of 1; silence stays silence."""
    centred = x - x.mean(-1, keepdim=True)
    power = centred.square().mean(-1, keepdim=True)
    # A floor below every audible power: silence becomes 0 times a finite number, where 0 / 0 would be NaN.
    return centred * power.clamp(min=torch.finfo(x.dtype).tiny).rsqrt()


class MelLoss:
    """Mean absolute difference of log mel magnitudes of the normalised signals.

        mean |ln M|X| - ln M|Y||,   |X| = max(sqrt(re² + im²), 1e-4)

    with a Hann window of 4096 samples, hop 1024, and 128 Slaney mel bands over magnitudes from 0 to sr/2.
    Source: Peladeau and Peeters, BE-AFX, arXiv 2310.11781.
    """

    fft_size, hop, mels = 4096, 1024, 128

    def __init__(self, sr: int) -> None:
        self.bank = torchaudio.functional.melscale_fbanks(
            self.fft_size // 2 + 1, 0.0, sr / 2, self.mels, sr, norm="slaney", mel_scale="slaney"
        )

    @property
    def least_samples(self) -> int:
        """The shortest signals that it compares: the transform is padded by reflection."""
        return self.fft_size // 2 + 1

    @torch.no_grad()
    def prepare(self, target: Tensor) -> Tensor:
        """Compute the log mel spectrum (B, C, frames, 128) of the target (B, C, T) once."""
        return self.log_mel(target)

    def log_mel(self, x: Tensor) -> Tensor:
        """Log mel spectrum (B, C, frames, 128) of the normalised x (B, C, T)."""
        window = torch.hann_window(self.fft_size, dtype=x.dtype, device=x.device)
        # 1e-4 is the root of the published floor of the power, 1e-8; log and its gradient stay finite in silence.
        magnitude = stft(norm_signal(x).flatten(0, 1), window, self.hop).abs().clamp(min=1e-4)
        if self.bank.device != x.device:  # once: a copy at every call would stall the device
            self.bank = self.bank.to(x.device)
        return (magnitude @ self.bank.to(x)).log().unflatten(0, x.shape[:2])

    def distances(self, pred: Tensor, target: Tensor) -> Tensor:
        """Distance of every item, (B,), between pred (B, C, T) and a target, (B, C, T) or prepared."""
        target = self.prepare(target) if target.ndim == 3 else target
        return (self.log_mel(pred) - target).abs().mean((1, 2, 3))

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean distance between pred (B, C, T) and a target, (B, C, T) or prepared: a scalar."""
        return self.distances(pred, target).mean()
