"""Time and frequency encoders: temporal and spectral profiles of the log CQT; and the equaliser encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reknob.runtime.errors import UsageError

from .blocks import Encoder, LogCQT, conv_block
from .cqt import N_BINS
from .peaks import ConvNormMax


class TimeProfile(Encoder):
    """Temporal filters, maximum over frequency, second filters and mean over time: log CQT (B, 113, T) -> (B, 64)."""

    out_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNormMax(64, (1, 128))
        self.conv2 = conv_block(nn.Conv1d(64, 64, 31))
        # Neither convolution is padded: one output frame takes 128 + 31 - 1 input frames.
        self.min_frames = 128 + 31 - 1

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[2] < self.min_frames:
            raise UsageError(
                f"an excerpt of {z.shape[2]} frames is too short for the time encoder; "
                f"give at least {self.min_frames} frames (1.9 s)"
            )
        return self.conv2(self.conv1(z)).mean(2)


class FrequencyProfile(Encoder):
    """Spectral filters, maximum over time, then filters over all frequencies: log CQT (B, 113, T) -> (B, 64)."""

    out_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNormMax(64, (37, 1))
        # As long as the axis that conv1 leaves: one output per channel, whose axis is then dropped.
        self.conv2 = conv_block(nn.Conv1d(64, 64, N_BINS - 37 + 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.conv2(self.conv1(z.transpose(1, 2))).squeeze(2)


class _Profiles(Encoder):
    """Several profiles of one log CQT, concatenated: (B, 1, N) -> (B, out_dim)."""

    def __init__(self, sr: int, *profiles: Encoder) -> None:
        super().__init__()
        self.cqt = LogCQT(sr)
        self.profiles = nn.ModuleList(profiles)
        self.out_dim = sum(profile.out_dim for profile in profiles)

    def forward(self, x: Tensor) -> Tensor:
        # Computed once: the transform is common to all profiles.
        z = self.cqt(x)
        return torch.cat([profile(z) for profile in self.profiles], dim=1)


class Time(_Profiles):
    """The temporal profile alone: (B, 1, N) -> (B, 64)."""

    def __init__(self, sr: int = 44100) -> None:
        super().__init__(sr, TimeProfile())


class Frequency(_Profiles):
    """The spectral profile alone: (B, 1, N) -> (B, 64)."""

    def __init__(self, sr: int = 44100) -> None:
        super().__init__(sr, FrequencyProfile())


class TimeFrequency(_Profiles):
    """Temporal and spectral profile: (B, 1, N) -> (B, 128)."""

    def __init__(self, sr: int = 44100) -> None:
        super().__init__(sr, TimeProfile(), FrequencyProfile())


class Equaliser(Encoder):
    """Mean over time of 2-D filters on the log CQT, then over all frequencies: (B, 1, N) -> (B, 128).

    The frames beyond either end have the level of silence, ln(1e-4). The published release pads with 1e-4 after the
    logarithm, which is the level of an amplitude of 1; `pad_value=1e-4` reproduces it.
    """

    out_dim = 128

    def __init__(self, sr: int = 44100, *, pad_value: float | None = None) -> None:
        super().__init__()
        self.cqt = LogCQT(sr, eps=1e-4)
        self.pad_value = self.cqt.floor if pad_value is None else pad_value
        self.conv1 = conv_block(nn.Conv2d(1, 64, (25, 5)))
        self.conv2 = conv_block(nn.Conv1d(64, self.out_dim, N_BINS - 25 + 1))

    def forward(self, x: Tensor) -> Tensor:
        # By 2 for filters of 5 frames: as many outputs as frames.
        z = F.pad(self.cqt(x), (2, 2), value=self.pad_value)
        return self.conv2(self.conv1(z[:, None]).mean(3)).squeeze(2)
