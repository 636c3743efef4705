"""The compressor of chains for instruments and mixes: a soft knee over a power level, channels linked."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .curve import LEVELS, Curve
from .dynamics import times_of
from .effect import Effect, Tensors
from .functional.level import tau_to_coef
from .functional.units import db_to_gain
from .param import Free, Linear, Log, Param
from .stages import Stage

#: Lowest power that is measured, and least knee in dB, below which it is a corner at any level that audio has.
FLOOR, LEAST_KNEE = 1e-8, 0.1


class SoftKneeCompressor(Effect):
    """Feed-forward compressor with a smooth knee over the averaged power of all channels.

    level = 10·log10(average of the power), reduction = (1 - 1 / ratio)·k·log(1 + exp((level - threshold) / k)) with
    k = knee / (8·log 2): at the threshold it equals that of the usual parabola of width `knee`, and it has a gradient
    at every level. The gain in dB is smoothed by attack and release. All times are those to 63 % of a step. The level
    of a sine is 3 dB below its peak.

    Source: detector and smoothing as in Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design, JAES
    60 (2012).
    """

    label, level_dependent = "COMP", True
    params = (
        Param("threshold", "dB", -24.0, Free()),
        Param("ratio", "", 2.0, Linear(1, 20)),
        Param("knee", "dB", 6.0, Linear(0, 40)),
        Param("attack", "ms", 10.0, Log(0.1, 500)),
        Param("release", "ms", 150.0, Log(2, 10000)),
        Param("average", "ms", 5.0, Log(0.05, 300)),
        Param("makeup", "dB", 0.0, Free()),
    )

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        return self._render(x, values, lambda kernel, *arguments, **options: kernel(*arguments, **options))

    def off_values(self) -> dict[str, float]:
        return {"ratio": 1.0, "makeup": 0.0}

    def stage(self, values: Tensors) -> Stage:
        states: dict[str, Tensor] = {}

        def remembering(kernel: Callable[..., Tensor], *arguments: Tensor, **options: float) -> Tensor:
            # Both recursions begin with 0: a power of 0, and a gain of 0 dB.
            state = states.setdefault(kernel.__name__, torch.zeros(1, dtype=torch.float64))
            return kernel(*arguments, **options, state=state)

        def process(x: Tensor, last: bool) -> Tensor:
            return self._render(x.unsqueeze(0), values, remembering).squeeze(0)

        return process

    def curves(self, values: Tensors) -> list[Curve]:
        """Gain over level, for a stationary signal."""
        level = torch.from_numpy(LEVELS)
        values = {name: value.detach().cpu().double() for name, value in values.items()}
        gain = values["makeup"] - reduction(level, values["threshold"], values["ratio"], values["knee"])
        note = times_of(values, "attack", "release")
        return [Curve("Compressor", "input level (dB)", "gain (dB)", LEVELS, np.asarray(gain), log_x=False, note=note)]

    def _render(self, x: Tensor, values: Tensors, run: Callable[..., Tensor]) -> Tensor:
        """The output (B, C, T); `run` calls a kernel."""
        column = {name: value.reshape(-1, 1) for name, value in values.items()}
        # In float64: 1 - α of a long release would lose most of its digits in float32.
        average, attack, release = (
            1 - tau_to_coef(values[name].double().reshape(-1), self.sr) for name in ("average", "attack", "release")
        )
        power = run(kernels.one_pole, x.square().mean(1), average)
        level = 10 * power.clamp(min=FLOOR).log10()
        gain = -reduction(level, column["threshold"], column["ratio"], column["knee"])
        smooth = run(kernels.ballistics, gain, attack, release, initial=0.0)
        return x * db_to_gain(smooth + column["makeup"]).unsqueeze(1).to(x.dtype)


def reduction(level: Tensor, threshold: Tensor, ratio: Tensor, knee: Tensor) -> Tensor:
    """Gain reduction in dB, >= 0, at a level in dB, by the formula of `SoftKneeCompressor`. Arguments broadcast."""
    k = knee.clamp(min=LEAST_KNEE) / (8 * np.log(2))
    return (1 - 1 / ratio) * k * F.softplus((level - threshold) / k, threshold=80)
