"""The neural proxy of the compressor: a temporal convolutional network that is conditioned on the settings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dynamics import Compressor
from .effect import Values
from .functional.units import db_to_gain

CONDITIONS = ("attack", "release", "ratio", "knee")


class Block(nn.Module):
    """Causal dilated convolution, scaled and shifted by the conditions (FiLM), PReLU, and a residual path.

    Only the valid outputs come out: the time axis gets shorter by `reach`.
    """

    def __init__(self, n_in: int, width: int, kernel: int, dilation: int, n_conditions: int):
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.conv = nn.Conv1d(n_in, width, kernel, dilation=dilation, bias=False)
        self.film = nn.Linear(n_conditions, 2 * width)
        self.act = nn.PReLU(width)
        self.res = nn.Conv1d(n_in, width, 1, groups=n_in, bias=False)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        scale, shift = self.film(conditions).unsqueeze(-1).chunk(2, 1)
        return self.act(self.conv(x) * scale + shift) + self.res(x[..., self.reach :])


class TCN(nn.Module):
    """Gain of a compressor over time, in (0, 1), from its input relative to the threshold and its other settings.

    Source: BE-AFX, arXiv 2310.11781: 5 blocks with dilations 1 to 10⁴, 8004 parameters, 3.0 s of past.
    """

    def __init__(self, width: int = 8, kernel: int = 13, dilations: tuple[int, ...] = (1, 10, 100, 1000, 10000)):
        super().__init__()
        sizes = (len(CONDITIONS), 16, 32, 32)
        pairs = zip(sizes, sizes[1:], strict=False)
        self.conditions = nn.Sequential(
            *(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.PReLU()))
        )
        self.blocks = nn.ModuleList(
            Block(width if i else 1, width, kernel, dilation, sizes[-1]) for i, dilation in enumerate(dilations)
        )
        self.output = nn.Conv1d(width, 1, 1)
        self.reach = sum(block.reach for block in self.blocks)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        """Gain (B, 1, T) of audio (B, 1, T) and settings (B, 4) in [0, 1]."""
        conditions = self.conditions(q)
        h = F.pad(x, (self.reach, 0))
        for block in self.blocks:
            h = block(h, conditions)
        return self.output(h).sigmoid()


class ProxyCompressor(Compressor):
    """The compressor with a network in the place of its recursions, whose gradients are those of the network.

    Args:
        hybrid: the network in training only; the compressor itself in evaluation.
    """

    def __init__(self, sr: int, *, hybrid: bool = False, **overrides: dict):
        super().__init__(sr, **overrides)
        self.hybrid = hybrid
        self.network = TCN().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ProxyCompressor":
        """The network's own batch norms stay as they were trained."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        if self.hybrid and not self.training:
            return super().forward(x, **values)
        q = [p.mapping.to_unit(values[p.name]) for p in self.params if p.name in CONDITIONS]
        relative = x / db_to_gain(values["threshold"]).reshape(-1, 1, 1)
        gain = self.network(relative, torch.stack(q, -1))
        return x * gain * db_to_gain(values["makeup"]).reshape(-1, 1, 1)
