"""Distortion: a parametric clipper and two polynomial waveshapers."""

from torch import Tensor

from .effect import Effect
from .functional.units import db_to_gain
from .functional.waveshape import chebyshev_series, clip, power_series
from .param import Linear, Param

HARMONICS = 24


class Clipper(Effect):
    """Clipper whose curve goes from tanh over a cubic to a hard one, driven off centre for even harmonics.

    y = (s(g·x + offset) - s(offset)) / g, g = 10^(drive / 20). Source: BE-AFX, arXiv 2310.11781.
    """

    params = (
        Param("drive", "dB", 0.0, Linear(-10, 20)),
        Param("offset", "", 0.5, Linear(0, 1)),
        Param("hardness", "", 1.0, Linear(0, 2)),
    )

    def forward(self, x: Tensor, *, drive: Tensor, offset: Tensor, hardness: Tensor) -> Tensor:
        gain, offset, hardness = (v.reshape(-1, 1, 1) for v in (db_to_gain(drive), offset, hardness))
        return (clip(gain * x + offset, hardness) - clip(offset, hardness)) / gain


class Taylor(Effect):
    """Power series in the centred signal: y = Σ w_k·x^k, k = 1 … 24. Source: BE-AFX, arXiv 2310.11781."""

    params = (Param("weights", "", 0.01, Linear(-1, 1), (HARMONICS,)),)

    def forward(self, x: Tensor, *, weights: Tensor) -> Tensor:
        return power_series(x - x.mean(-1, keepdim=True), weights)


class Chebyshev(Effect):
    """Chebyshev series in the centred signal: y = Σ w_k·T_k(x), k = 0 … 23, of which T_0 is a mere DC.

    Source: BE-AFX, arXiv 2310.11781.
    """

    params = (Param("weights", "", 0.01, Linear(-1, 1), (HARMONICS,)),)

    def forward(self, x: Tensor, *, weights: Tensor) -> Tensor:
        return chebyshev_series(x - x.mean(-1, keepdim=True), weights)
