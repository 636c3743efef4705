"""Timbre encoder: spectral shapes of many sizes, looked for anywhere on the frequency axis."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import LogCQT
from .peaks import conv_max

HEIGHTS = (85, 51, 25)  # bins
WIDTHS = {1: 10, 3: 6, 5: 3, 7: 3}  # frames: filters of that width, for each height


class MultiTimbre(nn.Module):
    """Twelve banks of 2-D filters on the log CQT, each filter's best match: (B, 1, N) -> (B, 66).

    Every filter is correlated with the spectrogram; the maximum over all frequencies and 4 frames is averaged over
    time, then normalised (Pons et al. 2017, "Timbre analysis of music audio signals with CNNs"). Two things differ
    from the published release: all 66 features are alive (there the twelve banks overwrote each other and 10 were
    left), and the frames beyond either end are silence, ln(eps). The release puts 1e-6 there, after the logarithm,
    which is an amplitude of 1; `pad_value=1e-6` does the same.
    """

    out_dim = len(HEIGHTS) * sum(WIDTHS.values())
    frames = 4  # per maximum

    def __init__(self, sr: int = 44100, *, pad_value: float | None = None) -> None:
        super().__init__()
        self.cqt = LogCQT(sr)
        self.pad_value = self.cqt.floor if pad_value is None else pad_value
        self.convs = nn.ModuleList(nn.Conv2d(1, c, (h, w)) for h in HEIGHTS for w, c in WIDTHS.items())
        self.norm = nn.BatchNorm1d(self.out_dim)
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.matches(self.cqt(x))))

    def matches(self, z: Tensor) -> Tensor:
        """Return how well each filter matches at its best, averaged over time: log CQT (B, 113, T) -> (B, 66)."""
        found = []
        for conv in self.convs:
            side = conv.kernel_size[1] // 2
            padded = F.pad(z, (side, side), value=self.pad_value)
            found.append(conv_max(padded, conv.weight, self.frames).mean(2) + conv.bias)
        return torch.cat(found, dim=1)
