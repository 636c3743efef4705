"""Scores of finished renders, each item by itself."""

from collections.abc import Callable

import torch
from torch import Tensor

from reknob.losses.mel import MelLoss, norm_signal
from reknob.losses.stft import MultiResolutionSTFT
from reknob.losses.vocal import VocalLoss

FFT_SIZES = (256, 1024, 4096)


class VocalMetrics:
    """mss_lr, mss_ms, mldr_lr and mldr_ms of the vocal loss, (B,) each; `mldr_rows` as `rows` of `MLDR`."""

    def __init__(self, sr: int, mldr_rows: str = "separate") -> None:
        self.loss = VocalLoss(sr, mldr_rows=mldr_rows)
        self.term_names = self.loss.term_names

    def __call__(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score pred against target, (B, 2, T) both."""
        return self.loss.per_item(pred, target)


class LossMetrics:
    """A loss `loss(pred, target)`, (B, C, T) twice, as a metric: the value of each item, (B,), by its name."""

    def __init__(self, loss: Callable[..., Tensor], name: str) -> None:
        self.loss, self.term_names = loss, (name,)

    @torch.no_grad()
    def __call__(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Score pred against target, (B, C, T) both."""
        # One by one: a loss may depend on its batch, as one Frobenius ratio over all items does.
        items = zip(pred.split(1), target.split(1), strict=True)
        return {self.term_names[0]: torch.stack([self.loss(*item).reshape(()) for item in items])}


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
            # Per item, unlike the release, whose scores depend on how the test set is split into batches.
            "mrstft": self.stft(pred, target, per_item=True),
            "mse": (pred - target).square().mean((1, 2)),
            # Normalises again, which leaves a normalised signal as it is.
            "mel": self.mel.distances(pred, target),
        }
