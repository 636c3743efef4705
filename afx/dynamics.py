"""Dynamics: the compressor/expander of the vocal chain."""

from torch import Tensor

from afx import kernels

from .effect import Effect
from .functional import convolve
from .functional.level import rise_to_coef
from .functional.units import db_to_gain
from .param import Free, Linear, Param, RiseTime, Wrapped


class CompressorExpander(Effect):
    """Feed-forward compressor and downward expander with a smoothed power level and lookahead.

    Args:
        lookahead: whether the gain is advanced in time by the parameter of that name, at most 15 ms.

    Source: DiffVox, arXiv 2504.14735.
    """

    MAX_LOOKAHEAD_MS = 15
    # How far the advancing filter reaches beyond the lookahead, both ways.
    MARGIN_MS = 1

    def __init__(self, sr: int, *, lookahead: bool | dict = True, **overrides: dict):
        self.params = (
            Param("cmp_threshold", "dB", -18.0, Free()),
            Param("exp_threshold", "dB", -48.0, Free()),
            Param("makeup", "dB", 0.0, Free()),
            *([Param("lookahead", "ms", 1000 / sr, Wrapped(self.MAX_LOOKAHEAD_MS))] if lookahead else []),
            Param("attack", "ms", 50.0, RiseTime(sr)),
            Param("release", "ms", 50.0, RiseTime(sr)),
            Param("avg_coef", "", 0.3, Linear(0, 1)),
            Param("cmp_ratio", "", 2.0, Linear(1, 20)),
            Param("exp_ratio", "", 0.5, Linear(0, 1)),
        )
        if isinstance(lookahead, dict):
            overrides["lookahead"] = lookahead
        super().__init__(sr, **overrides)

    def forward(self, x: Tensor, *, makeup: Tensor, lookahead: Tensor | None = None, **curve: Tensor) -> Tensor:
        gain = self.gain(x, **curve)
        if lookahead is not None:
            gain = self.advance(gain, lookahead)
        return x * gain * db_to_gain(makeup).reshape(-1, 1, 1)

    @property
    def reach(self) -> tuple[int, int]:
        """Samples that the advancing filter sees before and after the present."""
        before = self.sr * self.MARGIN_MS // 1000
        return before, self.sr * (self.MAX_LOOKAHEAD_MS + self.MARGIN_MS) // 1000 - before

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
        return kernels.compressor_gain(x.reshape(-1, x.shape[-1]), *rows, state=state).reshape(x.shape)
