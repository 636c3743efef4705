"""Stereo panning and stereo width."""

import math

import torch
from torch import Tensor

from .effect import Effect, Tensors
from .param import Linear, Param
from .stages import Stage, overlapping


def pan_gains(pan: Tensor) -> Tensor:
    """Constant-power gains (…, 2) of positions (…) in [0, 1], 0 dB at 0.5: √2·cos(π·pan/2), √2·sin(π·pan/2)."""
    # A quarter turn: cos² + sin² = 1 keeps the power at every position, and √2 makes both gains 1 at the centre.
    angle = pan * (math.pi / 2)
    return math.sqrt(2) * torch.stack([torch.cos(angle), torch.sin(angle)], -1)


class Placement(Effect):
    """A memoryless effect with one parameter, a position between left and right or between mid and side."""

    label = ""
    params = (Param("pan", "", 0.5, Linear(0, 1)),)
    output_channels = 2

    def stage(self, values: Tensors) -> Stage:
        return overlapping(self, values)

    def off_values(self) -> dict[str, float]:
        return {"pan": 0.5}


class Panning(Placement):
    """Constant-power panning, 0 dB at the centre; mono is copied to both sides, stereo is balanced."""

    def forward(self, x: Tensor, *, pan: Tensor) -> Tensor:
        # (…, 2, 1) against (B, 1 or 2, T): a mono channel is broadcast to both gains.
        return x * pan_gains(pan).unsqueeze(-1)

    def response(self, *, pan: Tensor) -> Tensor:
        """Impulse response from mono to stereo, (…, 2, 1, 1): the two gains."""
        return pan_gains(pan)[..., None, None]


class StereoWidth(Placement):
    """Stereo width: the constant-power law between mid and side; 0.5 leaves the signal as it is."""

    label = "WIDTH"
    input_channels = (2,)

    def forward(self, x: Tensor, *, pan: Tensor) -> Tensor:
        # Over √2 both here and back: the transform is then orthogonal, its own inverse.
        mid_side = torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], 1) / math.sqrt(2)
        mid, side = (mid_side * pan_gains(pan).unsqueeze(-1)).unbind(1)
        return torch.stack([mid + side, mid - side], 1) / math.sqrt(2)
