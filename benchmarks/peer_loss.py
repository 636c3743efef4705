"""The published loss built from auraloss and torchcomp: the reference for the speed of our losses."""

import math

import torch
import torch.nn.functional as F
from auraloss.freq import MultiResolutionSTFTLoss, SumAndDifferenceSTFTLoss
from torch import Tensor, nn
from torchcomp import avg, ms2coef

SR = 44100
MLDR_MS = ((50.0, 1000.0), (100.0, 2000.0))


def peer_mss(sum_and_difference: bool) -> nn.Module:
    """auraloss's multi-resolution STFT loss with A-weighting, on left and right or on their sum and difference."""
    kind = SumAndDifferenceSTFTLoss if sum_and_difference else MultiResolutionSTFTLoss
    return kind([128, 512, 2048], [32, 128, 512], [128, 512, 2048], sample_rate=SR, perceptual_weighting=True)


def log_ratio(x: Tensor, short_ms: float, long_ms: float) -> Tensor:
    """Loudness dynamic range of x (B, C, T): log of the short over the advanced long power average, (B C, T)."""
    power = x.square().clamp_min(1e-8).flatten(0, 1)
    short, long = (avg(power, ms2coef(torch.tensor(ms), SR)) for ms in (short_ms, long_ms))
    # Without a dimension the roll runs over the flattened rows, as in the release.
    return short.log() - torch.roll(long, -int(SR * (long_ms - short_ms) * 0.0005)).log()


def peer_mldr(pred: Tensor, target: Tensor) -> Tensor:
    """L1 distance of the loudness dynamic ranges of (B, C, T), summed over the two pairs of time constants."""
    return sum(F.l1_loss(log_ratio(pred, *pair), log_ratio(target, *pair)) for pair in MLDR_MS)


def mid_side(x: Tensor) -> Tensor:
    """(L ± R) / sqrt 2 of x (B, 2, T)."""
    left, right = x.unbind(1)
    return torch.stack([left + right, left - right], 1) * math.sqrt(0.5)


class PeerLoss(nn.Module):
    """1 MSS(L,R) + 1/2 MSS(M,S) + 1/2 MLDR(L,R) + 1/4 MLDR(M,S) of pred and target (B, 2, T), sharing nothing.

    `onednn` False selects ATen's own convolution for the A-weighting: on some CPUs it is faster for one or two rows.
    Source: DiffVox, arXiv 2504.14735, section 3.
    """

    def __init__(self, onednn: bool = True) -> None:
        super().__init__()
        self.onednn = onednn
        self.mss_lr, self.mss_ms = peer_mss(sum_and_difference=False), peer_mss(sum_and_difference=True)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.spectral(pred, target) + 0.5 * self.loudness(pred, target)

    def spectral(self, pred: Tensor, target: Tensor) -> Tensor:
        """1 MSS(L,R) + 1/2 MSS(M,S)."""
        with torch.backends.mkldnn.flags(enabled=self.onednn):
            return self.mss_lr(pred, target) + 0.5 * self.mss_ms(pred, target)

    def loudness(self, pred: Tensor, target: Tensor) -> Tensor:
        """1 MLDR(L,R) + 1/2 MLDR(M,S)."""
        return peer_mldr(pred, target) + 0.5 * peer_mldr(mid_side(pred), mid_side(target))
