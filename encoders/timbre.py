"""Timbre encoder: filters of many sizes on the log CQT, max-pooled over the whole frequency axis."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Encoder, LogCQT
from .peaks import conv_max

HEIGHTS = (85, 51, 25)  # bins
WIDTHS = {1: 10, 3: 6, 5: 3, 7: 3}  # width in frames: number of filters of that width, for each height


class MultiTimbre(Encoder):
    """Twelve banks of 2-D filters on the log CQT, max-pooled: (B, 1, N) -> (B, 66).

    Every filter is correlated with the spectrogram; the maximum over all frequencies and 4 frames is averaged over
    time, then normalised (Pons et al. 2017, "Timbre analysis of music audio signals with CNNs"). Two differences from
    the published release: all 66 features are used (there the twelve banks overwrote each other, which left 10), and
    the frames beyond either end have the level of silence, ln(eps). The release pads with 1e-6 after the logarithm,
    which is the level of an amplitude of 1; `pad_value=1e-6` reproduces it.
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
        """Return each filter's maxima over frequency and 4 frames, averaged over time: (B, 113, T) -> (B, 66)."""
        means = []
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            side = conv.kernel_size[1] // 2
            padded = F.pad(z, (side, side), value=self.pad_value)
            # The bias does not move the maximum and is added after it.
            means.append(conv_max(padded, conv.weight, self.frames).mean(2) + conv.bias)
        return torch.cat(means, dim=1)
