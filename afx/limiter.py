"""The peak limiter."""

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .curve import LEVELS, Curve, scalars
from .dynamics import times_of
from .effect import Effect, Tensors
from .functional.level import tau_to_coef
from .functional.units import db_to_gain, gain_to_db
from .param import Linear, Log, Param
from .stages import Stage

FLOOR = 1e-4  # lowest amplitude that is measured, below every threshold


class Limiter(Effect):
    """Peak limiter: turns peaks above the threshold down to it, as fast as its attack allows.

    reduction = max(0, level - threshold) of the largest sample of all channels, in dB. The gain in dB is smoothed by
    attack and release, both the times to 63 % of a step. Without lookahead, a peak that is shorter than the attack
    passes in part.

    Source: a compressor with an infinite ratio and no knee in Giannoulis, Massberg and Reiss, Digital Dynamic Range
    Compressor Design, JAES 60 (2012), with its smooth branching detector.
    """

    label, level_dependent = "LIMIT", True
    params = (
        Param("threshold", "dB", -6.0, Linear(-30, 0)),
        Param("attack", "ms", 0.5, Log(0.05, 20)),
        Param("release", "ms", 50.0, Log(5, 1000)),
    )

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        return x * self._gain(x, values)

    def _gain(self, x: Tensor, values: Tensors, state: Tensor | None = None) -> Tensor:
        """The gain (B, 1, T) as a factor for audio (B, C, T); `state` (B,) as in the kernel."""
        level = gain_to_db(x.abs().amax(1).clamp(min=FLOOR))
        reduction = (level - values["threshold"].to(x.dtype).reshape(-1, 1)).relu()
        times = (values[name].double().reshape(-1) for name in ("attack", "release"))
        attack, release = (1 - tau_to_coef(ms, self.sr) for ms in times)
        smooth = kernels.ballistics(-reduction, attack, release, initial=0.0, state=state)
        return db_to_gain(smooth).unsqueeze(1)

    def stage(self, values: Tensors) -> Stage:
        state = torch.zeros(1, dtype=torch.float64)

        def process(x: Tensor, last: bool) -> Tensor:
            return x * self._gain(x.unsqueeze(0), values, state).squeeze(0)

        return process

    def curves(self, values: Tensors) -> list[Curve]:
        """Output level over input level, for a stationary signal."""
        (threshold,) = scalars(values, "threshold")
        output, note = np.minimum(LEVELS, threshold), times_of(values, "attack", "release")
        return [Curve("Limiter", "input level (dB)", "output level (dB)", LEVELS, output, log_x=False, note=note)]

    def off_values(self) -> dict[str, float]:
        # At full scale, which signals within full scale do not exceed.
        return {"threshold": 0.0}
