"""Distortion: a parametric clipper and two polynomial waveshapers."""

import torch
from torch import Tensor

from .curve import Curve
from .effect import Effect, Tensors
from .functional.units import db_to_gain
from .functional.waveshape import chebyshev_series, clip, power_series
from .param import Linear, Param
from .stages import Stage, at_once, overlapping

HARMONICS = 24


class Waveshaper(Effect):
    """A memoryless effect, whose curve is output over input."""

    label = "DIST"
    level_dependent = True

    def stage(self, values: Tensors) -> Stage:
        return overlapping(self, values)

    def curves(self, values: Tensors) -> list[Curve]:
        # Symmetric, so that the mean that a series subtracts from its input is 0 here.
        x = torch.linspace(-1, 1, 201)
        y = self(x.reshape(1, 1, -1), **{name: value.detach().cpu() for name, value in values.items()})
        return [Curve("Distortion", "input", "output", x.numpy(), y.flatten().numpy(), log_x=False)]


class Series(Waveshaper):
    """A polynomial series in the signal minus its mean over time; streaming therefore needs the complete input."""

    params = (Param("weights", "", 0.01, Linear(-1, 1), (HARMONICS,)),)
    #: Index of the weight of x itself, the linear term.
    FIRST: int

    def stage(self, values: Tensors) -> Stage:
        return at_once(self, values)

    def off_values(self) -> dict[str, tuple[float, ...]]:
        return {"weights": tuple(float(k == self.FIRST) for k in range(HARMONICS))}


class Clipper(Waveshaper):
    """Clipper with a curve from tanh through a cubic to a hard clip, and an offset that adds even harmonics.

    y = (s(g·x + offset) - s(offset)) / g, g = 10^(drive / 20). Source: BE-AFX, arXiv 2310.11781.
    """

    params = (
        Param("drive", "dB", 0.0, Linear(-10, 20)),
        Param("offset", "", 0.5, Linear(0, 1)),
        Param("hardness", "", 1.0, Linear(0, 2)),
    )

    def off_values(self) -> dict[str, float]:
        # A hard clip at full scale, which signals within full scale do not reach.
        return {"drive": 0.0, "offset": 0.0, "hardness": 2.0}

    def forward(self, x: Tensor, *, drive: Tensor, offset: Tensor, hardness: Tensor) -> Tensor:
        one_each = (v.reshape(-1, 1, 1) for v in (db_to_gain(drive), offset, hardness))
        gain, offset, hardness = torch.broadcast_tensors(*one_each)
        # Subtracting s(offset) maps silence to silence; dividing by g keeps faint signals at one level for any g.
        return (clip(gain * x + offset, hardness) - clip(offset, hardness)) / gain


class Taylor(Series):
    """Power series in the centred signal: y = Σ w_k·x^k, k = 1 … 24. Source: BE-AFX, arXiv 2310.11781."""

    FIRST = 0

    def forward(self, x: Tensor, *, weights: Tensor) -> Tensor:
        return power_series(x - x.mean(-1, keepdim=True), weights)


class Chebyshev(Series):
    """Chebyshev series in the centred signal: y = Σ w_k·T_k(x), k = 0 … 23, where T_0 is a constant.

    Source: BE-AFX, arXiv 2310.11781.
    """

    FIRST = 1

    def forward(self, x: Tensor, *, weights: Tensor) -> Tensor:
        return chebyshev_series(x - x.mean(-1, keepdim=True), weights)
