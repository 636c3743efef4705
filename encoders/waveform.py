"""Musical effects encoder: residual convolutions on the waveform itself."""

from torch import Tensor, nn
from torch.nn import functional as F

from reknob.runtime.errors import UsageError

from .blocks import Encoder, conv_block, peak_normalise

KERNELS = (25, 25, 15, 15, 10, 10, 10, 10, 5, 5, 5, 5)
CHANNELS = (16, 32, 64, 128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
STRIDES = (4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1)


class ResidualBlock(nn.Module):
    """h = x + block(x) at the same length, then a strided block: (B, in, T) -> (B, out, (T - k) // stride + 1)."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_block(nn.Conv1d(n_in, n_in, kernel_size))
        self.conv2 = conv_block(nn.Conv1d(n_in, n_out, kernel_size, stride))
        # k - 1 in all, one more on the right where k is even: the sum with x needs the same length.
        self.pad = (kernel_size - 1) // 2, kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(F.pad(x, self.pad)) + x)


class MusicalEffects(Encoder):
    """Twelve residual blocks and the mean over time: (B, 1, N) -> (B, 2048).

    The encoder of Koo et al. 2023, "Music mixing style transfer: a contrastive learning approach". It does not depend
    on the sample rate: `sr` is accepted for the common signature and not used.
    """

    out_dim = CHANNELS[-1]

    def __init__(self, sr: int = 44100) -> None:
        super().__init__()
        inputs = (1, *CHANNELS[:-1])
        self.blocks = nn.Sequential(*map(ResidualBlock, inputs, CHANNELS, KERNELS, STRIDES))
        # From the last block to the first: n outputs of a strided convolution need (n - 1) stride + kernel inputs.
        self.min_samples = 1
        for kernel_size, stride in reversed(list(zip(KERNELS, STRIDES, strict=True))):
            self.min_samples = (self.min_samples - 1) * stride + kernel_size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] < self.min_samples:
            raise UsageError(f"an excerpt of {x.shape[-1]} samples is too short for mee; give {self.min_samples}")
        return self.blocks(peak_normalise(x)).mean(2)
