"""Scores of finished renders, every item by itself."""

import torch
from torch import Tensor

from reknob.losses.mel import MelLoss, norm_signal
from reknob.losses.stft import MultiResolutionSTFT
from reknob.losses.vocal import VocalLoss

FFT_SIZES = (256, 1024, 4096)


class VocalMetrics:
    """mss_lr, mss_ms, mldr_lr and mldr_ms of the vocal loss, (B,) each; `mldr_rows` is explained in `MLDR`."""

    def __init__(self, sr: int, mldr_rows: str = "separate") -> None:
        self.loss = VocalLoss(sr, mldr_rows=mldr_rows)

    def __call__(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score pred against target, (B, 2, T) both."""
        return self.loss.per_item(pred, target)


class BlindMetrics:
    """mrstft, mse and mel between normalised signals, (B,) each.

    mrstft is the STFT distance with FFT 256, 1024, 4096 and a quarter as hop. Source: BE-AFX, arXiv 2310.11781.
    """

    def __init__(self, sr: int) -> None:
        self.stft = MultiResolutionSTFT(sr, FFT_SIZES, [n // 4 for n in FFT_SIZES], FFT_SIZES)
        self.mel = MelLoss(sr)

    @torch.no_grad()
    def __call__(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score pred against target, (B, C, T) both."""
        pred, target = norm_signal(pred), norm_signal(target)
        return {
            "mrstft": self.stft(pred, target, per_item=True),
            "mse": (pred - target).square().mean((1, 2)),
            "mel": self.mel.distances(pred, target),
        }
