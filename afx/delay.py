"""The ping-pong delay."""

from typing import ClassVar

import torch
from torch import Tensor

from reknob.afx import kernels
from reknob.runtime.errors import UsageError

from .effect import Effect, Values
from .eq import Biquad
from .functional import biquad, convolve, echo
from .functional.fft import irfft, rfft
from .options import Choice, Flag, Number, Part
from .param import Linear, Negative, Param, Precise
from .stages import Stage, convolution
from .stereo import Panning, pan_gains

RENDERS = ("sinc", "fs", "realtime")


class PingPongDelay(Effect):
    """Echoes that alternate between two positions, each `feedback` times the one before and through the loop's filter.

    Args:
        render: "sinc", exact fractional echoes in a response of `ir_duration`; "fs", the endless loop sampled in
            frequency, exact where the echoes die within the response; "realtime", sample by sample, no gradient.
        eq: a filter of the echoes, or None.
        recursive_eq: whether the filter sits in the feedback loop, or after it.
        surrogate: in training, use a damped delay whose gradient leads to the right delay from afar; a trained
            `damping` says how damped.
        straight_through: with the surrogate, keep the exact value and take only the gradient from the damped delay.
        regularise: add (1 - e^damping)² to the loss.
        ir_duration: length of the response in s, at least 2.

    Source: DiffVox, arXiv 2504.14735.
    """

    label, family = "DLY", "delay"
    realtime_options: ClassVar = {"render": "realtime"}
    FASTEST_MS, SLOWEST_MS = 100, 1000
    # An echo every few samples is no echo, and costs a term each.
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
    takes, gives = (1,), 2

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
    ):
        if render not in RENDERS:
            raise UsageError(f"unknown render {render!r}; known: {', '.join(RENDERS)}")
        # An endless loop must have died, by 60 dB in 3/4 of the response, or its tail wraps around.
        most_feedback = 10 ** (-3 * self.SLOWEST_MS / 1000 / (0.75 * ir_duration)) if render == "fs" else 1.0
        self.params = (
            Param("delay", "ms", 400.0, Precise(self.FASTEST_MS, self.SLOWEST_MS)),
            Param("feedback", "", min(0.1, most_feedback / 2), Linear(0, most_feedback)),
            Param("gain", "", 0.1, Linear(0, 1)),
            *([Param("damping", "", -0.01, Negative(), preset=False)] if surrogate else []),
        )
        super().__init__(sr, **overrides)
        self.render, self.recursive_eq, self.surrogate = render, recursive_eq, surrogate
        self.straight_through, self.regularise = straight_through, regularise
        self.ir_length = int(max(ir_duration, 2) * sr)
        echoes = next(p.mapping for p in self.params if p.name == "delay")
        longest_ms = 1000 * self.ir_length / sr
        if echoes.lo < self.LEAST_MS or echoes.hi >= longest_ms:
            raise UsageError(
                f"delay: the range {echoes.allowed} ms reaches beyond what the response of {longest_ms / 1000:g} s "
                f"holds; allowed: {self.LEAST_MS} to below {longest_ms:g}"
            )
        if render == "realtime" and eq is not None and not recursive_eq:
            raise UsageError("render='realtime' filters inside the loop only; use recursive_eq=true")
        if eq is not None:
            self.eq = eq
        self.odd_pan, self.even_pan = Panning(sr), Panning(sr)

    def penalty(self, values: Values) -> Tensor | float:
        return (1 - values["damping"].exp()).square() if self.surrogate and self.regularise else 0.0

    @property
    def runs_by_sample(self) -> bool:
        return self.render == "realtime"

    @property
    def grouped(self) -> bool:
        return not self.runs_by_sample

    def off_values(self) -> dict[str, float]:
        return {"gain": 0.0}

    def limit_loop_q(self, values: Values, most: float) -> Values:
        if "Q" not in values.get("eq", {}):
            return values
        return values | {"eq": values["eq"] | {"Q": values["eq"]["Q"].clamp(max=most)}}

    def stage(self, values: Values) -> Stage:
        if not self.runs_by_sample:
            return convolution(self.response(**values))
        state = self.state(1, **values)

        def process(x: Tensor, last: bool) -> Tensor:
            return self.realtime(x.unsqueeze(0), state=state, **values).squeeze(0)

        return process

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        if self.runs_by_sample:
            return self.realtime(x, **values)
        return convolve.convolve(x, self.response(**values))

    def state(self, rows: int, *, delay: Tensor, **_: Values) -> kernels.DelayState:
        """A silent state of the real-time form for `rows` sounds."""
        return kernels.DelayState.fresh(rows, self._whole(delay))

    def realtime(
        self,
        x: Tensor,
        *,
        delay: Tensor,
        feedback: Tensor,
        gain: Tensor,
        odd_pan: Values,
        even_pan: Values,
        eq: Values | None = None,
        state: kernels.DelayState | None = None,
        **_: Values,
    ) -> Tensor:
        """The real-time form: mono (B, 1, T) to stereo; echo k passes the filter k - 1 times. No
        gradient; `state` carries on from block to block."""
        flat = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
        coefs = flat if eq is None else self.eq.coefs(**eq)
        echoes = kernels.realtime_delay(x[:, 0], self._whole(delay), feedback.reshape(-1), coefs.reshape(-1, 5), state)
        pans = torch.stack(torch.broadcast_tensors(pan_gains(odd_pan["pan"]), pan_gains(even_pan["pan"])), -1)
        return gain.reshape(-1, 1, 1) * (pans @ echoes)

    def _whole(self, delay: Tensor) -> Tensor:
        """The delay in whole samples, (B or 1,)."""
        return (delay.double() * (self.sr / 1000)).round().long().reshape(-1)

    def response(self, *, odd_pan: Values, even_pan: Values, gain: Tensor, **loop: Values) -> Tensor:
        """Impulse response from mono to stereo, (…, 2, 1, ir_length)."""
        odd, even = self._echoes(**loop)
        h = pan_gains(odd_pan["pan"]).unsqueeze(-1) * odd.unsqueeze(-2)
        h = h + pan_gains(even_pan["pan"]).unsqueeze(-1) * even.unsqueeze(-2)
        return (h * gain[..., None, None]).unsqueeze(-2)

    def _echoes(
        self, *, delay: Tensor, feedback: Tensor, eq: Values | None = None, damping: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Impulse responses of the odd and the even echoes, (…, ir_length)."""
        samples = delay.double() * (self.sr / 1000)
        coefs = None if eq is None else self.eq.coefs(**eq).unsqueeze(-2)
        in_loop = coefs is not None and self.recursive_eq
        form = self._endless if self.render == "fs" else self._filtered if in_loop else self._plain
        odd, even = form(samples, feedback, damping if self.training else None, coefs if in_loop else None)
        if coefs is not None and not in_loop:
            odd, even = self._equalise(odd, coefs), self._equalise(even, coefs)
        return odd, even

    def _filtered(self, samples: Tensor, feedback: Tensor, damping: Tensor | None, coefs: Tensor) -> tuple:
        """A finite series of passes through a loop with a filter in it."""
        if damping is None:
            tap = echo.sinc_delay(samples, self.ir_length)
        elif self.straight_through:
            tap = echo.straight_through_delay(samples, damping, self.ir_length)
        else:
            tap = irfft(echo.damped_spectrum(samples, damping, self.ir_length), self.ir_length)
        tap = rfft(self._equalise(tap.to(feedback.dtype), coefs))
        return self._to_time(*echo.finite_echoes(tap, feedback, *self._count(samples)))

    def _plain(self, samples: Tensor, feedback: Tensor, damping: Tensor | None, coefs: None) -> tuple:
        """A finite series of bare echoes."""
        exact = echo.sinc_echoes(samples, feedback, *self._count(samples), self.ir_length)
        exact = tuple(h.to(feedback.dtype) for h in exact)
        if damping is None:
            return exact
        tap = echo.damped_spectrum(samples, damping, self.ir_length).to(feedback.dtype.to_complex())
        damped = self._to_time(*echo.finite_echoes(tap, feedback, *self._count(samples)))
        return tuple(map(self._straight, exact, damped))

    def _endless(self, samples: Tensor, feedback: Tensor, damping: Tensor | None, coefs: Tensor | None) -> tuple:
        """The endless loop, sampled in frequency."""
        loop = feedback.unsqueeze(-1)
        if coefs is not None:
            loop = loop * rfft(biquad.impulse_response(coefs, self.ir_length, feedback.dtype))
        exact, damped = (
            self._to_time(*echo.endless_echoes(delay, delay * loop))
            for delay in (
                echo.damped_spectrum(samples, size, self.ir_length).to(feedback.dtype.to_complex())
                for size in (0.0, 0.0 if damping is None else damping)
            )
        )
        return exact if damping is None else tuple(map(self._straight, exact, damped))

    def _count(self, samples: Tensor) -> tuple[Tensor, int]:
        """How many echoes the response holds, and how many it can hold at most."""
        fastest_ms = next(p.mapping.lo for p in self.params if p.name == "delay")
        most = self.ir_length // (int(fastest_ms / 1000 * self.sr) + 1)
        return self.ir_length // (samples.detach().floor() + 1).long(), most

    def _straight(self, exact: Tensor, damped: Tensor) -> Tensor:
        """The damped form, or its gradient under the exact form's value."""
        return damped + (exact - damped).detach() if self.straight_through else damped

    def _equalise(self, h: Tensor, coefs: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(h.shape[:-1], coefs.shape[:-2])
        rows = h.expand(*batch, -1).reshape(-1, 1, h.shape[-1])
        filters = coefs.expand(*batch, -1, -1).reshape(-1, *coefs.shape[-2:])
        return biquad.cascade(rows, filters).reshape(*batch, -1)

    def _to_time(self, *spectra: Tensor) -> tuple[Tensor, ...]:
        return tuple(irfft(h, self.ir_length) for h in spectra)
