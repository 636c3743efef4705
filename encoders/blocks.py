"""Parts of the encoders: level normalisation, the log constant-Q front end, conv-norm-PReLU, initial weights."""

import math

import torch
from torch import Tensor, nn

from .cqt import CQT

SILENCE = 1e-8  # items with a lower peak are not normalised, which would amplify numerical noise


def peak_normalise(x: Tensor) -> Tensor:
    """Return x / max|x| of each item of (B, 1, N); an item whose peak is below `SILENCE` is returned as it is."""
    peak = x.abs().amax(dim=(1, 2), keepdim=True)
    return x / torch.where(peak > SILENCE, peak, 1.0)


class Encoder(nn.Module):
    """A network that ends in a vector of `out_dim` features of each item."""

    out_dim: int


class LogCQT(nn.Module):
    """Logarithmic constant-Q spectrogram ln(|CQT(x / max|x|)| + eps): (B, 1, N) -> (B, 113, N // 512 + 1)."""

    def __init__(self, sr: int = 44100, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.cqt = CQT(sr)

    @property
    def floor(self) -> float:
        """The value of silence, ln(eps)."""
        return math.log(self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.cqt(peak_normalise(x)[:, 0]) + self.eps)


def conv_block(conv: nn.Conv1d | nn.Conv2d) -> nn.Sequential:
    """Return convolution, batch normalisation and a PReLU of one slope, in this order."""
    norm = nn.BatchNorm1d if isinstance(conv, nn.Conv1d) else nn.BatchNorm2d
    # One shared slope and this order: the keys and shapes of the published state dicts.
    return nn.Sequential(conv, norm(conv.out_channels), nn.PReLU())


def init_convolutions(module: nn.Module) -> None:
    """Draw every convolution's weights from the Kaiming normal of gain sqrt(2) (fan in) and set its bias to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
