"""Dynamics: the compressor/expander of the vocal chain, and the compressors of blind estimation."""

import numpy as np
import torch
from torch import Tensor

from reknob.afx import kernels

from .curve import LEVELS, Curve
from .effect import Effect
from .functional import convolve
from .functional.level import gain_reduction, rise_to_coef, tau_to_coef
from .functional.units import db_to_gain, gain_to_db
from .options import Flag, Number
from .param import Free, Linear, Log, Param, RiseTime, Wrapped
from .stages import Stage, at_once


class CompressorExpander(Effect):
    """Feed-forward compressor and downward expander with a smoothed power level and lookahead.

    Args:
        lookahead: whether the gain is advanced in time by the parameter of that name.
        max_lookahead: below which that parameter stays, in ms.

    Source: DiffVox, arXiv 2504.14735.
    """

    label = "COMP"
    options = {"lookahead": Flag(), "max_lookahead": Number(1, 100, "ms")}
    # How far the advancing filter reaches beyond the lookahead, both ways.
    MARGIN_MS = 1

    def __init__(self, sr: int, *, lookahead: bool | dict = True, max_lookahead: float = 15, **overrides: dict):
        self.params = (
            Param("cmp_threshold", "dB", -18.0, Free()),
            Param("exp_threshold", "dB", -48.0, Free()),
            Param("makeup", "dB", 0.0, Free()),
            *([Param("lookahead", "ms", 1000 / sr, Wrapped(max_lookahead))] if lookahead else []),
            Param("attack", "ms", 50.0, RiseTime(sr)),
            Param("release", "ms", 50.0, RiseTime(sr)),
            Param("avg_coef", "", 0.3, Linear(0, 1)),
            Param("cmp_ratio", "", 2.0, Linear(1, 20)),
            Param("exp_ratio", "", 0.5, Linear(0, 1)),
        )
        if isinstance(lookahead, dict):
            overrides["lookahead"] = lookahead
        super().__init__(sr, **overrides)
        self.max_lookahead = max_lookahead

    def forward(self, x: Tensor, *, makeup: Tensor, lookahead: Tensor | None = None, **curve: Tensor) -> Tensor:
        gain = self.gain(x, **curve)
        if lookahead is not None:
            gain = self.advance(gain, lookahead)
        return x * gain * db_to_gain(makeup).reshape(-1, 1, 1)

    def off_values(self) -> dict[str, float]:
        # Without lookahead, as the filter that advances the gain is exact for whole samples only.
        now = {"lookahead": 0.0} if any(p.name == "lookahead" for p in self.params) else {}
        return {"cmp_ratio": 1.0, "exp_ratio": 1.0, "makeup": 0.0} | now

    def curves(self, values: dict[str, Tensor]) -> list[Curve]:
        """Gain over the level of a steady sound."""
        T_c, R_c, T_e, R_e, makeup = (
            float(values[name]) for name in ("cmp_threshold", "cmp_ratio", "exp_threshold", "exp_ratio", "makeup")
        )
        gain = np.minimum(0, np.minimum((1 - 1 / R_c) * (T_c - LEVELS), (1 - 1 / R_e) * (T_e - LEVELS)))
        title, note = "Compressor and expander", times_of(values, "attack", "release")
        return [Curve(title, "input level (dB)", "gain (dB)", LEVELS, gain + makeup, log_x=False, note=note)]

    def stage(self, values: dict[str, Tensor]) -> Stage:
        """Waits for the future that the lookahead needs; the gain's ends are repeated, as in one call."""
        curve = {name: value for name, value in values.items() if name not in ("makeup", "lookahead")}
        makeup, lookahead = values["makeup"], values.get("lookahead")
        before, after = self.reach if lookahead is not None else (0, 0)
        state, waiting, gains = None, None, None

        def process(x: Tensor, last: bool) -> Tensor:
            nonlocal state, waiting, gains
            if state is None:
                state = x.new_tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(x), 1)
            new = self.gain(x.unsqueeze(0), state=state, **curve).squeeze(0)
            gains = torch.cat([new[:, :1].expand(-1, before) if gains is None else gains, new], -1)
            waiting = x if waiting is None else torch.cat([waiting, x], -1)
            if last:
                gains = torch.cat([gains, gains[:, -1:].expand(-1, after)], -1)
            ready = max(gains.shape[-1] - before - after, 0)
            gain = gains[:, :ready]
            if lookahead is not None and ready:
                gain = self.advance(gains.unsqueeze(0), lookahead).squeeze(0)[:, before : before + ready]
            y = waiting[:, :ready] * gain * db_to_gain(makeup)
            gains, waiting = gains[:, ready:], waiting[:, ready:]
            return y

        return process

    @property
    def reach(self) -> tuple[int, int]:
        """Samples that the advancing filter sees before and after the present."""
        before = self.sr * self.MARGIN_MS // 1000
        return before, int(self.sr * (self.max_lookahead + self.MARGIN_MS) / 1000) - before

    def advance(self, gain: Tensor, lookahead: Tensor) -> Tensor:
        """The gain (B, C, T) `lookahead` ms earlier."""
        return convolve.advance(gain, lookahead * (self.sr / 1000), *self.reach)

    def gain(
        self,
        x: Tensor,
        *,
        state: Tensor | None = None,
        cmp_threshold: Tensor,
        exp_threshold: Tensor,
        attack: Tensor,
        release: Tensor,
        avg_coef: Tensor,
        cmp_ratio: Tensor,
        exp_ratio: Tensor,
    ) -> Tensor:
        """The gain (B, C, T) as a factor, before lookahead and make-up; `state` as in the kernel."""
        per_item = (
            avg_coef,
            cmp_threshold,
            1 - 1 / cmp_ratio.double(),
            exp_threshold,
            1 - 1 / exp_ratio.double(),
            rise_to_coef(attack, self.sr),
            rise_to_coef(release, self.sr),
        )
        rows = [value.reshape(-1).repeat_interleave(x.shape[1] if value.dim() else 1) for value in per_item]
        return kernels.compressor_gain(x.flatten(0, 1), *rows, state=state).reshape(x.shape)


class Compressor(Effect):
    """Feed-forward compressor with a soft knee that smooths the gain in dB by attack and release.

    Channels are linked: the loudest one sets the gain of all. Source: Giannoulis, Massberg and Reiss, Digital Dynamic
    Range Compressor Design, JAES 60 (2012), the smooth branching detector; ranges of BE-AFX, arXiv 2310.11781.
    """

    params = (
        Param("threshold", "dB", -20.0, Linear(-40, 0)),
        Param("attack", "ms", 8.0, Log(1, 60)),
        Param("release", "ms", 70.0, Log(10, 500)),
        Param("ratio", "", 4.0, Log(2, 10)),
        Param("knee", "dB", 6.0, Linear(0, 12)),
        Param("makeup", "dB", 10.0, Linear(0, 20)),
    )
    label = "COMP"
    FLOOR = 1e-4

    def stage(self, values: dict[str, Tensor]) -> Stage:
        # In the chains of blind estimation every effect takes the whole sound anyway (chain.Normalised).
        return at_once(self, values)

    def off_values(self) -> dict[str, float]:
        # Nothing at or below full scale exceeds this threshold.
        return {"threshold": 0.0, "knee": 0.0, "makeup": 0.0}

    def curves(self, values: dict[str, Tensor]) -> list[Curve]:
        """Output level over the level of a steady sound."""
        x = torch.from_numpy(10 ** (LEVELS / 20)).reshape(1, 1, -1)
        static = (values[name].detach().cpu() for name in ("threshold", "ratio", "knee"))
        y = LEVELS - self.reduction(x, *static).flatten().numpy() + float(values["makeup"])
        note = times_of(values, "attack", "release", "time_constant")
        return [Curve("Compressor", "input level (dB)", "output level (dB)", LEVELS, y, log_x=False, note=note)]

    def forward(
        self,
        x: Tensor,
        *,
        threshold: Tensor,
        attack: Tensor,
        release: Tensor,
        ratio: Tensor,
        knee: Tensor,
        makeup: Tensor,
    ) -> Tensor:
        gain_db = -self.reduction(x, threshold, ratio, knee)
        coefs = (1 - tau_to_coef(ms.double().reshape(-1), self.sr) for ms in (attack, release))
        smooth = kernels.ballistics(gain_db.squeeze(1), *coefs, initial=0.0).unsqueeze(1)
        return x * db_to_gain(smooth + makeup.reshape(-1, 1, 1))

    def reduction(self, x: Tensor, threshold: Tensor, ratio: Tensor, knee: Tensor) -> Tensor:
        """The static curve's gain reduction (B, 1, T) in dB of audio (B, C, T), before it is smoothed."""
        level_db = gain_to_db(x.abs().amax(1, keepdim=True).clamp(min=self.FLOOR))
        return gain_reduction(level_db, *(v.to(x.dtype).reshape(-1, 1, 1) for v in (threshold, ratio, knee)))


class SimpleCompressor(Compressor):
    """The same with one time constant for attack and release, which makes the smoothing linear.

    Source: BE-AFX, arXiv 2310.11781, its simplified compressor.
    """

    params = (
        Param("threshold", "dB", -20.0, Linear(-40, 0)),
        Param("time_constant", "ms", 22.0, Log(1, 500)),
        Param("ratio", "", 6.0, Linear(2, 10)),
        Param("knee", "dB", 6.0, Linear(0, 12)),
        Param("makeup", "dB", 10.0, Linear(0, 20)),
    )
    FLOOR = 1e-6

    def forward(
        self, x: Tensor, *, threshold: Tensor, time_constant: Tensor, ratio: Tensor, knee: Tensor, makeup: Tensor
    ) -> Tensor:
        reduction = self.reduction(x, threshold, ratio, knee)
        coef = 1 - tau_to_coef(time_constant.double().reshape(-1), self.sr)
        smooth = kernels.one_pole(reduction.squeeze(1), coef).unsqueeze(1)
        return x * db_to_gain(makeup.reshape(-1, 1, 1) - smooth)


def times_of(values: dict[str, Tensor], *names: str) -> str:
    """Time constants in words: "attack 8 ms, release 70 ms"."""
    return ", ".join(f"{name.replace('_', ' ')} {float(values[name]):.0f} ms" for name in names if name in values)
