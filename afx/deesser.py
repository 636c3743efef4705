"""The de-esser: a compressor of the band in which sibilants lie."""

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .curve import LEVELS, Curve, scalars
from .effect import Effect, Tensors
from .functional import biquad
from .functional.level import rise_to_coef
from .param import Free, Linear, Param, RiseTime
from .stages import Stage

#: Averaging coefficient of the power level, and a threshold in dB below all levels, which disables the expander.
AVERAGE, NO_EXPANSION = 0.3, -200.0


class DeEsser(Effect):
    """De-esser: attenuates a frequency band by a compressor of the level in that band.

    band = BP(x), y = x + (g - 1)·band, where g is the gain of a feed-forward compressor of the level of band. With a
    constant g this is a peaking filter with that gain; below the threshold, y = x exactly. The gain is computed
    separately for each channel.

    Source: the band as in P. Regalia and S. Mitra, Tunable digital frequency response equalization filters, IEEE
    Trans. ASSP 35 (1987); the gain as in `afx.dynamics.CompressorExpander`.
    """

    label = "DE-ESS"
    level_dependent = True

    def __init__(self, sr: int, **overrides: dict) -> None:
        self.params = (
            Param("freq", "Hz", 6500.0, Linear(2000, 12000)),
            Param("Q", "", 1.0, Linear(0.3, 5)),
            Param("threshold", "dB", -30.0, Free()),
            Param("ratio", "", 4.0, Linear(1, 20)),
            Param("attack", "ms", 1.0, RiseTime(sr)),
            Param("release", "ms", 60.0, RiseTime(sr)),
        )
        super().__init__(sr, **overrides)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        band = biquad.cascade(x, biquad.band_pass(values["freq"], values["Q"], self.sr).unsqueeze(-2))
        return x + (self._gain(band, values) - 1) * band

    def _gain(self, band: Tensor, values: Tensors, state: Tensor | None = None) -> Tensor:
        """The gain (B, C, T) as a factor; `state` (B C, 2) as in the kernel."""
        per_item = (
            torch.full_like(values["ratio"], AVERAGE),
            values["threshold"],
            # In float64, as the kernel computes: near a ratio of 1 the difference cancels.
            1 - 1 / values["ratio"].double(),
            torch.full_like(values["ratio"], NO_EXPANSION),
            torch.zeros_like(values["ratio"]),
            rise_to_coef(values["attack"], self.sr),
            rise_to_coef(values["release"], self.sr),
        )
        # One row per channel: values per item are repeated for its channels, values for all items are broadcast.
        rows = [value.reshape(-1).repeat_interleave(band.shape[1] if value.dim() else 1) for value in per_item]
        return kernels.compressor_gain(band.flatten(0, 1), *rows, state=state).reshape(band.shape)

    def stage(self, values: Tensors) -> Stage:
        # One row and one section: a stream has one set of values, which the kernel broadcasts to the channels.
        coefs = biquad.band_pass(values["freq"], values["Q"], self.sr).reshape(1, 1, 5)
        filters, gains = None, None

        def process(x: Tensor, last: bool) -> Tensor:
            nonlocal filters, gains
            if filters is None:
                # Silence, and a power of 0 with a gain of 1: what the kernels begin with when they get no state.
                filters = torch.zeros(len(x), 1, 2, dtype=torch.float64)
                gains = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(x), 1)
            band = kernels.biquad_cascade(x, coefs, filters)
            return x + (self._gain(band.unsqueeze(0), values, gains).squeeze(0) - 1) * band

        return process

    def curves(self, values: Tensors) -> list[Curve]:
        """Gain of the band over its level, for a stationary signal."""
        threshold, ratio, freq = scalars(values, "threshold", "ratio", "freq")
        gain = np.minimum(0, (1 - 1 / ratio) * (threshold - LEVELS))
        label = f"level around {freq:.0f} Hz (dB)"
        return [Curve("De-esser", label, "gain of the band (dB)", LEVELS, gain, log_x=False)]

    def off_values(self) -> dict[str, float]:
        return {"ratio": 1.0}
