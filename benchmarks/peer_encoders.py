"""The published encoders built plainly from torch and nnAudio: the reference for the speed of ours.

Every feature map is stored for the backward pass; the constant-Q transform is nnAudio's dense convolution. The timbre
encoder is the intended one, its twelve banks side by side. Source: arXiv 2310.11781.
"""

import math

import torch
from nnAudio.features.cqt import CQT1992v2
from torch import Tensor, nn
from torch.nn import functional as F


def block(conv: nn.Conv1d | nn.Conv2d) -> nn.Sequential:
    """Convolution, batch normalisation, PReLU."""
    norm = nn.BatchNorm1d if isinstance(conv, nn.Conv1d) else nn.BatchNorm2d
    return nn.Sequential(conv, norm(conv.out_channels), nn.PReLU())


class LogCQT(nn.Module):
    """ln(CQT + 1e-6) of the waveform over its peak: (B, 1, N) -> (B, 1, 113, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.cqt = CQT1992v2(sr=44100, n_bins=113, hop_length=512, fmin=32.70, verbose=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.cqt(x / x.abs().amax(dim=2, keepdim=True)) + 1e-6)[:, None]


class Timbre(nn.Module):
    """The timbre encoder: (B, 1, N) -> (B, 66)."""

    def __init__(self) -> None:
        super().__init__()
        self.cqt = LogCQT()
        shapes = [(c, h, w) for h in (85, 51, 25) for w, c in ((1, 10), (3, 6), (5, 3), (7, 3))]
        self.convs = nn.ModuleList(nn.Conv2d(1, c, (h, w)) for c, h, w in shapes)
        self.norm, self.act = nn.BatchNorm1d(66), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        z = self.cqt(x)
        pooled = []
        for conv in self.convs:
            side = conv.kernel_size[1] // 2
            y = conv(F.pad(z, (side, side), value=math.log(1e-6)))
            pooled.append(F.max_pool2d(y, (y.shape[2], 4)).mean((2, 3)))
        return self.act(self.norm(torch.cat(pooled, dim=1)))


class TimeFrequency(nn.Module):
    """The time-frequency encoder: (B, 1, N) -> (B, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.cqt = LogCQT()
        self.time = nn.ModuleList([block(nn.Conv2d(1, 64, (1, 128))), block(nn.Conv1d(64, 64, 31))])
        self.frequency = nn.ModuleList([block(nn.Conv2d(1, 64, (37, 1))), block(nn.Conv1d(64, 64, 77))])

    def forward(self, x: Tensor) -> Tensor:
        z = self.cqt(x)
        time = self.time[1](self.time[0](z).max(dim=2).values)
        frequency = self.frequency[1](self.frequency[0](z).max(dim=3).values)
        return torch.cat([time.mean(2), frequency.mean(2)], dim=1)


class Residual(nn.Module):
    """One block of the musical effects encoder."""

    def __init__(self, n_in: int, n_out: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = block(nn.Conv1d(n_in, n_in, k, padding="same"))
        self.conv2 = block(nn.Conv1d(n_in, n_out, k, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x) + x)


class MusicalEffects(nn.Module):
    """The musical effects encoder: (B, 1, N) -> (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        outs = (16, 32, 64, 128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
        kernels, strides = (25,) * 2 + (15,) * 2 + (10,) * 4 + (5,) * 4, (4,) * 2 + (2,) * 8 + (1,) * 2
        self.blocks = nn.Sequential(*map(Residual, (1, *outs), outs, kernels, strides))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x / x.abs().amax(dim=2, keepdim=True)).mean(2)


PEERS = {"multitimbre_cqt": Timbre, "time_frequency": TimeFrequency, "mee": MusicalEffects}
