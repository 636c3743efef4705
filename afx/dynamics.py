"""Dynamics: the compressor/expander of the vocal chain, and the compressors of blind estimation."""

from torch import Tensor

from afx import kernels

from .effect import Effect
from .functional import convolve
from .functional.level import gain_reduction, rise_to_coef, tau_to_coef
from .functional.units import db_to_gain, gain_to_db
from .options import Flag, Number
from .param import Free, Linear, Log, Param, RiseTime, Wrapped


class CompressorExpander(Effect):
    """Feed-forward compressor and downward expander with a smoothed power level and lookahead.

    Args:
        lookahead: whether the gain is advanced in time by the parameter of that name.
        max_lookahead: below which that parameter stays, in ms.

    Source: DiffVox, arXiv 2504.14735.
    """

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
    FLOOR = 1e-4

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
