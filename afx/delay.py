"""The ping-pong delay."""

import copy
from typing import ClassVar, NotRequired, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from reknob.afx import kernels
from reknob.runtime.errors import UsageError

from .effect import Effect, Part, Tensors, Values, own_values, part_values
from .eq import Biquad
from .functional import biquad, convolve, echo
from .functional.fft import irfft, rfft
from .options import Choice, Flag, Number
from .param import Linear, Negative, Param, Precise
from .stages import Stage, convolution
from .stereo import Panning, pan_gains

RENDERS = ("sinc", "fs", "realtime")


class DelayValues(TypedDict):
    """The values of a ping-pong delay."""

    delay: Tensor
    feedback: Tensor
    gain: Tensor
    odd_pan: Tensors
    even_pan: Tensors
    eq: NotRequired[Tensors]
    damping: NotRequired[Tensor]


class PingPongDelay(Effect):
    """Echoes that alternate between two pan positions: each is the previous one times `feedback`, filtered by `eq`.

    Args:
        render: "sinc", exact fractional delays in a response of `ir_duration`; "fs", the infinite loop sampled in
            frequency, exact where the echoes decay within the response; "realtime", sample by sample, no gradient.
        eq: a filter of the echoes, or None.
        recursive_eq: whether the filter is in the feedback loop, or after it.
        surrogate: in training, use a damped delay, whose gradient is useful far from the optimum; the parameter
            `damping` sets the amount.
        straight_through: with the surrogate, use the exact delay in the forward pass, the damped one for gradients.
        regularise: add (1 - e^damping)² to the loss.
        ir_duration: length of the response in s, at least 2.

    Source: DiffVox, arXiv 2504.14735.
    """

    label, family = "DLY", "delay"
    realtime_options: ClassVar = {"render": "realtime"}
    FASTEST_MS, SLOWEST_MS = 100, 1000
    # Each echo within the response costs one term, so a shorter delay would be slow; and it would be no echo.
    LEAST_MS = 10
    options = {
        "render": Choice(RENDERS),
        "eq": Part(Biquad),
        "recursive_eq": Flag(),
        "surrogate": Flag(),
        "straight_through": Flag(),
        "regularise": Flag(),
        "ir_duration": Number(0.1, 60, "s"),
    }
    input_channels, output_channels = (1,), 2

    def __init__(
        self,
        sr: int,
        *,
        render: str = "sinc",
        eq: Biquad | None = None,
        recursive_eq: bool = True,
        surrogate: bool = False,
        straight_through: bool = True,
        regularise: bool = False,
        ir_duration: float = 4.0,
        **overrides: dict,
    ) -> None:
        if render not in RENDERS:
            raise UsageError(f"unknown render {render!r}; known: {', '.join(RENDERS)}")
        # The infinite loop has to decay by 60 dB within 3/4 of the response, or its tail wraps around audibly.
        most_feedback = 10 ** (-3 * self.SLOWEST_MS / 1000 / (0.75 * ir_duration)) if render == "fs" else 1.0
        self.params = (
            Param("delay", "ms", 400.0, Precise(self.FASTEST_MS, self.SLOWEST_MS), multimodal=True),
            Param("feedback", "", min(0.1, most_feedback / 2), Linear(0, most_feedback)),
            Param("gain", "", 0.1, Linear(0, 1)),
            *([Param("damping", "", -0.01, Negative(), preset=False)] if surrogate else []),
        )
        super().__init__(sr, **overrides)
        self.render, self.recursive_eq, self.surrogate = render, recursive_eq, surrogate
        self.straight_through, self.regularise = straight_through, regularise
        self.ir_length = int(max(ir_duration, 2) * sr)
        delays = next(p.mapping for p in self.params if isinstance(p.mapping, Precise))
        longest_ms = 1000 * self.ir_length / sr
        # A delay as long as the response would leave no echo in it, see `_count`.
        if delays.lo < self.LEAST_MS or delays.hi >= longest_ms:
            raise UsageError(
                f"delay: the range {delays.allowed} ms does not fit into the response of {longest_ms / 1000:g} s; "
                f"allowed: {self.LEAST_MS} to below {longest_ms:g} ms"
            )
        self._shortest = int(delays.lo / 1000 * sr)
        # Echoes that the response can hold at the shortest delay.
        self._max_echoes = self.ir_length // (self._shortest + 1)
        if render == "realtime" and eq is not None and not recursive_eq:
            raise UsageError("render='realtime' filters inside the loop only; use recursive_eq=true")
        if eq is not None:
            self.eq = eq
        self.odd_pan, self.even_pan = Panning(sr), Panning(sr)

    def penalty(self, values: DelayValues) -> Tensor | float:
        damping = values.get("damping")
        # 1 - e^damping is 0 for the exact delay, so the penalty draws the surrogate towards it.
        return (1 - damping.exp()).square() if damping is not None and self.regularise else 0.0

    @property
    def runs_by_sample(self) -> bool:
        return self.render == "realtime"

    @property
    def grouped(self) -> bool:
        # The sample loop takes values per row; the impulse responses are computed once per group.
        return not self.runs_by_sample

    def off_values(self) -> dict[str, float]:
        return {"gain": 0.0}

    def limit_loop_q(self, values: Values, most: float) -> Values:
        if "eq" not in values:
            return values
        eq = part_values(values, "eq")
        Q = own_values(eq).get("Q")
        # A low-pass of Q > 0.707 amplifies around its corner, where the loop gain then exceeds the feedback.
        return values if Q is None else values | {"eq": eq | {"Q": Q.clamp(max=most)}}

    def stage(self, values: DelayValues) -> Stage:
        if not self.runs_by_sample:
            return convolution(self.response(**values))
        state = kernels.DelayState.fresh(1, self._delay_in_samples(values["delay"]))

        def process(x: Tensor, last: bool) -> Tensor:
            return self.realtime(x.unsqueeze(0), values, state).squeeze(0)

        return process

    def forward(self, x: Tensor, **values: Unpack[DelayValues]) -> Tensor:
        if self.runs_by_sample:
            return self.realtime(x, values)
        return convolve.convolve(x, self.response(**values))

    def realtime(self, x: Tensor, values: DelayValues, state: kernels.DelayState | None = None) -> Tensor:
        """The sample-by-sample form, mono (B, 1, T) to stereo; echo k passes the filter k - 1 times.

        Without gradients. A `state`, for one item, is updated in place and continues from block to block.
        """
        eq, delay, feedback = values.get("eq"), values["delay"], values["feedback"]
        identity = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
        coefs = (identity if eq is None else self.eq.coefs(**eq)).reshape(-1, 5)
        echoes = kernels.realtime_delay(x[:, 0], self._delay_in_samples(delay), feedback.reshape(-1), coefs, state)
        odd, even = pan_gains(values["odd_pan"]["pan"]), pan_gains(values["even_pan"]["pan"])
        pans = torch.stack(torch.broadcast_tensors(odd, even), -1)
        return values["gain"].reshape(-1, 1, 1) * (pans @ echoes)

    def _delay_in_samples(self, delay: Tensor) -> Tensor:
        """The delay rounded to whole samples, (B or 1,)."""
        return (delay.double() * (self.sr / 1000)).round().long().reshape(-1)

    def response(self, **values: Unpack[DelayValues]) -> Tensor:
        """Impulse response from mono to stereo, (…, 2, 1, ir_length)."""
        odd, even = self._echoes(values)
        h = pan_gains(values["odd_pan"]["pan"]).unsqueeze(-1) * odd.unsqueeze(-2)
        h = h + pan_gains(values["even_pan"]["pan"]).unsqueeze(-1) * even.unsqueeze(-2)
        return (h * values["gain"][..., None, None]).unsqueeze(-2)

    @property
    def response_start(self) -> int:
        return self._shortest

    def shortened(self, samples: int) -> Self:
        short = copy.deepcopy(self)
        short.ir_length = samples
        return short

    def _echoes(self, values: DelayValues) -> tuple[Tensor, Tensor]:
        """Impulse responses of the odd and the even echoes, (…, ir_length)."""
        # In float64: at 44100 samples float32 resolves 0.004 samples only, and echo k multiplies the error by k.
        samples, feedback = values["delay"].double() * (self.sr / 1000), values["feedback"]
        # In evaluation the delay is exact: the damped one exists for its gradient only.
        damping = values.get("damping") if self.training else None
        coefs = self.eq.coefs(**values["eq"]).unsqueeze(-2) if "eq" in values else None
        in_loop = coefs if self.recursive_eq else None
        if self.render == "fs":
            odd, even = self._infinite(samples, feedback, damping, in_loop)
        elif in_loop is not None:
            odd, even = self._filtered(samples, feedback, damping, in_loop)
        else:
            odd, even = self._unfiltered(samples, feedback, damping)
        # After the loop every echo passes the filter once: filtering the two sums is the same, and two passes in all.
        if coefs is not None and in_loop is None:
            odd, even = self._equalise(odd, coefs), self._equalise(even, coefs)
        return odd, even

    def _filtered(
        self, samples: Tensor, feedback: Tensor, damping: Tensor | None, coefs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Echoes of a loop with a filter, as a finite geometric series of spectra."""
        if damping is None:
            tap = echo.sinc_delay(samples, self.ir_length)
        elif self.straight_through:
            tap = echo.straight_through_delay(samples, damping, self.ir_length)
        else:
            tap = irfft(echo.damped_spectrum(samples, damping, self.ir_length), self.ir_length)
        # Filtered in time, where the response of the filter is truncated and does not wrap around.
        tap = rfft(self._equalise(tap.to(feedback.dtype), coefs))
        return self._to_time(*echo.finite_echoes(tap, feedback, *self._count(samples)))

    def _unfiltered(self, samples: Tensor, feedback: Tensor, damping: Tensor | None) -> tuple[Tensor, Tensor]:
        """Echoes of a loop without a filter, as a finite sum of sinc functions."""
        # In time: powers of a spectrum are circular convolutions, in which the slowly decaying sinc would wrap around.
        odd, even = echo.sinc_echoes(samples, feedback, *self._count(samples), self.ir_length)
        odd, even = odd.to(feedback.dtype), even.to(feedback.dtype)
        if damping is None:
            return odd, even
        tap = echo.damped_spectrum(samples, damping, self.ir_length).to(feedback.dtype.to_complex())
        damped_odd, damped_even = self._to_time(*echo.finite_echoes(tap, feedback, *self._count(samples)))
        return self._surrogate(odd, damped_odd), self._surrogate(even, damped_even)

    def _infinite(
        self, samples: Tensor, feedback: Tensor, damping: Tensor | None, coefs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Echoes of the infinite loop, sampled in frequency."""
        loop = feedback.unsqueeze(-1)
        if coefs is not None:
            loop = loop * rfft(biquad.impulse_response(coefs, self.ir_length, feedback.dtype))
        odd, even = self._infinite_echoes(samples, loop, 0.0)
        if damping is None:
            return odd, even
        damped_odd, damped_even = self._infinite_echoes(samples, loop, damping)
        return self._surrogate(odd, damped_odd), self._surrogate(even, damped_even)

    def _infinite_echoes(self, samples: Tensor, loop: Tensor, damping: Tensor | float) -> tuple[Tensor, Tensor]:
        """The same for one damping; `loop` is the gain of one pass without the delay, (…, 1) or (…, bins)."""
        delay = echo.damped_spectrum(samples, damping, self.ir_length).to(loop.dtype.to_complex())
        return self._to_time(*echo.endless_echoes(delay, delay * loop))

    def _count(self, samples: Tensor) -> tuple[Tensor, int]:
        """Number of echoes within the response, (…), and its upper limit."""
        # floor + 1 exceeds the delay, so the last echo lies within the response; a count has no gradient.
        return self.ir_length // (samples.detach().floor() + 1).long(), self._max_echoes

    def _surrogate(self, exact: Tensor, damped: Tensor) -> Tensor:
        """The damped response or, if straight-through, the exact response with the gradient of the damped one."""
        return damped + (exact - damped).detach() if self.straight_through else damped

    def _equalise(self, h: Tensor, coefs: Tensor) -> Tensor:
        """Responses (…, ir_length) through biquads in series, (…, K, 5)."""
        # numpy's function, as the first call of torch's takes a second to import sympy.
        batch = np.broadcast_shapes(h.shape[:-1], coefs.shape[:-2])
        rows = h.expand(*batch, -1).reshape(-1, 1, h.shape[-1])
        filters = coefs.expand(*batch, -1, -1).reshape(-1, *coefs.shape[-2:])
        return biquad.cascade(rows, filters).reshape(*batch, -1)

    def _to_time(self, odd: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
        return irfft(odd, self.ir_length), irfft(even, self.ir_length)
