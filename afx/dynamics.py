"""Dynamics: the compressor/expander of the vocal chain, and the compressors of blind estimation."""

import numpy as np
import torch
from torch import Tensor

from reknob.afx import kernels

from .curve import LEVELS, Curve, scalars
from .effect import Effect, Tensors
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
        max_lookahead: upper limit of that parameter in ms.

    Source: DiffVox, arXiv 2504.14735.
    """

    label = "COMP"
    level_dependent = True
    options = {"lookahead": Flag(), "max_lookahead": Number(1, 100, "ms")}
    # Length of the sinc filter that advances the gain, before and after its centre, in ms.
    MARGIN_MS = 1

    def __init__(self, sr: int, *, lookahead: bool | dict = True, max_lookahead: float = 15, **overrides: dict) -> None:
        self.params = (
            Param("cmp_threshold", "dB", -18.0, Free()),
            Param("exp_threshold", "dB", -48.0, Free()),
            Param("makeup", "dB", 0.0, Free()),
            # One sample, not 0, where the gradient of |raw| is 0 and a fit would never move it.
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
        # Lookahead 0 too: the truncated sinc filter is exact for whole samples only.
        no_lookahead = {"lookahead": 0.0} if any(p.name == "lookahead" for p in self.params) else {}
        return {"cmp_ratio": 1.0, "exp_ratio": 1.0, "makeup": 0.0} | no_lookahead

    def switches(self) -> dict[str, dict[str, float | tuple[float, ...]]]:
        # Without the makeup: often the only gain of a chain, it is needed without any compression too.
        return {"compressor": {"cmp_ratio": 1.0}, "expander": {"exp_ratio": 1.0}}

    def curves(self, values: Tensors) -> list[Curve]:
        """Gain over level, for a stationary signal."""
        T_c, R_c, T_e, R_e = scalars(values, "cmp_threshold", "cmp_ratio", "exp_threshold", "exp_ratio")
        (makeup,) = scalars(values, "makeup")
        gain = np.minimum(0, np.minimum((1 - 1 / R_c) * (T_c - LEVELS), (1 - 1 / R_e) * (T_e - LEVELS)))
        title, note = "Compressor and expander", times_of(values, "attack", "release")
        return [Curve(title, "input level (dB)", "gain (dB)", LEVELS, gain + makeup, log_x=False, note=note)]

    def stage(self, values: Tensors) -> Stage:
        """A stage that delays its output by the reach of the advancing filter.

        As in one call, the gain is continued beyond both ends by its first and last sample.
        """
        curve = {name: value for name, value in values.items() if name not in ("makeup", "lookahead")}
        makeup, lookahead = values["makeup"], values.get("lookahead")
        before, after = self.reach if lookahead is not None else (0, 0)
        # Input without output yet, (C, L), and the gains from `before` samples ahead of it on, (C, before + L).
        state, pending, gains = None, None, None

        def process(x: Tensor, last: bool) -> Tensor:
            nonlocal state, pending, gains
            if state is None:
                state = x.new_tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(x), 1)
            new = self.gain(x.unsqueeze(0), state=state, **curve).squeeze(0)
            gains = torch.cat([new[:, :1].expand(-1, before) if gains is None else gains, new], -1)
            pending = x if pending is None else torch.cat([pending, x], -1)
            if last:
                gains = torch.cat([gains, gains[:, -1:].expand(-1, after)], -1)
            # An output sample needs `after` later gains, so that many samples wait for the next block.
            ready = max(gains.shape[-1] - before - after, 0)
            gain = gains[:, :ready]
            if lookahead is not None and ready:
                gain = self.advance(gains.unsqueeze(0), lookahead).squeeze(0)[:, before : before + ready]
            y = pending[:, :ready] * gain * db_to_gain(makeup)
            gains, pending = gains[:, ready:], pending[:, ready:]
            return y

        return process

    @property
    def reach(self) -> tuple[int, int]:
        """Numbers of samples before and after the current one on which the advanced gain depends."""
        before = self.sr * self.MARGIN_MS // 1000
        return before, int(self.sr * (self.max_lookahead + self.MARGIN_MS) / 1000) - before

    def advance(self, gain: Tensor, lookahead: Tensor) -> Tensor:
        """The gain (B, C, T) advanced by `lookahead` ms."""
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
            # In float64, as the kernel computes: near a ratio of 1 the difference cancels.
            1 - 1 / cmp_ratio.double(),
            exp_threshold,
            1 - 1 / exp_ratio.double(),
            rise_to_coef(attack, self.sr),
            rise_to_coef(release, self.sr),
        )
        # One row per channel: values per item are repeated for its channels, values for all items are broadcast.
        rows = [value.reshape(-1).repeat_interleave(x.shape[1] if value.dim() else 1) for value in per_item]
        return kernels.compressor_gain(x.flatten(0, 1), *rows, state=state).reshape(x.shape)


class Compressor(Effect):
    """Feed-forward compressor with a soft knee that smooths the gain in dB by attack and release.

    Channels are linked: the largest level sets the gain of all. Source: Giannoulis, Massberg and Reiss, Digital Dynamic
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
    level_dependent = True
    # Lowest amplitude that is measured.
    # It is -80 dB, below the knee at every value of the declared ranges, so the reduction there is 0 anyway.
    FLOOR = 1e-4

    def stage(self, values: Tensors) -> Stage:
        # Not block by block: the chains of blind estimation need the complete input anyway (chain.Normalised).
        return at_once(self, values)

    def off_values(self) -> dict[str, float]:
        # A threshold at full scale, which signals within full scale do not exceed.
        return {"threshold": 0.0, "knee": 0.0, "makeup": 0.0}

    def curves(self, values: Tensors) -> list[Curve]:
        """Output level over input level, for a stationary signal."""
        x = torch.from_numpy(10 ** (LEVELS / 20)).reshape(1, 1, -1)
        threshold, ratio, knee = (values[name].detach().cpu() for name in ("threshold", "ratio", "knee"))
        (makeup,) = scalars(values, "makeup")
        y = LEVELS - self.reduction(x, threshold, ratio, knee).flatten().numpy() + makeup
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
        # Negated, as the kernel smooths a gain: its attack is for falling values.
        gain_db = -self.reduction(x, threshold, ratio, knee)
        # In float64: 1 - α of a long release would lose most of its digits in float32.
        attack_coef, release_coef = (1 - tau_to_coef(ms.double().reshape(-1), self.sr) for ms in (attack, release))
        smooth = kernels.ballistics(gain_db.squeeze(1), attack_coef, release_coef, initial=0.0).unsqueeze(1)
        return x * db_to_gain(smooth + makeup.reshape(-1, 1, 1))

    def reduction(self, x: Tensor, threshold: Tensor, ratio: Tensor, knee: Tensor) -> Tensor:
        """Gain reduction (B, 1, T) in dB of the static curve for audio (B, C, T), before attack and release."""
        level_db = gain_to_db(x.abs().amax(1, keepdim=True).clamp(min=self.FLOOR))
        return gain_reduction(level_db, *(v.to(x.dtype).reshape(-1, 1, 1) for v in (threshold, ratio, knee)))


class SimpleCompressor(Compressor):
    """The compressor with one time constant for attack and release, which makes the smoothing linear.

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


def times_of(values: Tensors, *names: str) -> str:
    """Time constants in words: "attack 0.5 ms, release 70 ms"."""
    present = [name for name in names if name in values]
    times = zip(present, scalars(values, *present), strict=True)
    return ", ".join(f"{name.replace('_', ' ')} {ms:{'.0f' if ms >= 10 else '.2g'}} ms" for name, ms in times)
