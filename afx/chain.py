"""Effects in series, and parallel effects with send levels between them."""

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import groupby
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.runtime.errors import UsageError

from . import stages
from .curve import Curve, in_series
from .effect import Effect, HasResponse, Part, Values, own_values, part_values, repeat_for_items
from .eq import Biquad
from .functional import biquad, convolve
from .functional.level import centre_and_peak
from .options import Flag
from .param import Linear, Param
from .stages import Stage
from .stereo import Panning


class InSeries(Effect):
    """What effects that apply others in series have in common; the audio is theirs."""

    holds_effects = True

    def channels(self, given: int, place: str = "chain") -> int:
        for name, part in self.parts():
            given = part.channels(given, f"{place}.{name}")
        return given

    @property
    def grouped(self) -> bool:
        return True

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        for name, part in self.parts():
            yield from part.leaves(f"{prefix}{name}.")

    def curves(self, values: Values) -> list[Curve]:
        return in_series(curve for name, part in self.parts() for curve in part.curves(part_values(values, name)))


class Serial(InSeries):
    """Effects in series; adjacent biquads are applied in one pass.

    Args:
        effects: by name, in order.
    """

    def __init__(self, sr: int, **effects: Effect) -> None:
        super().__init__(sr)
        for name, effect in effects.items():
            self.add_module(name, effect)

    def stage(self, values: Values) -> Stage:
        return series_stage(self.parts(), values)

    def forward(self, x: Tensor, **values: Tensor | Values) -> Tensor:
        return render_series(self.parts(), x, values)

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Tensor | Values) -> Tensor:
        *before, (name, last) = self.parts()
        if is_biquad((name, last)):
            # A recursion cannot start at sample `skip`, and apart from its run this biquad would cost a second pass.
            return super().render_after_warm_up(x, skip, **values)
        # Only the last effect can skip its warm-up: the effects before it have to fill its delay lines and detectors.
        x = render_series(before, x, values)
        return last.render_after_warm_up(x, skip, **last.for_items(part_values(values, name), len(x)))


class Parallel(InSeries):
    """Effects in series beside their own input, as in parallel compression: y = x + mix·(effects(x) - x).

    Args:
        effects: by name, in order. Also an override of `mix`, by that name.

    At a mix of 0 the output is the input, at 1 that of the effects. A mono input counts in all channels of the output.
    """

    label = "MIX"
    params = (Param("mix", "", 0.5, Linear(0, 1)),)

    def __init__(self, sr: int, **effects: "Effect | dict") -> None:
        super().__init__(sr, **{name: value for name, value in effects.items() if isinstance(value, dict)})
        for name, effect in effects.items():
            if isinstance(effect, Effect):
                self.add_module(name, effect)

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        yield from super().leaves(prefix)
        yield prefix, self

    def off_values(self) -> dict[str, float]:
        return {"mix": 0.0}

    def stage(self, values: Values) -> Stage:
        running, mix, pending = series_stage(self.parts(), values), own_values(values)["mix"], None

        def process(x: Tensor, last: bool) -> Tensor:
            nonlocal pending
            pending = x if pending is None else torch.cat([pending, x], -1)
            y = running(x, last)
            # The input waits for what the effects hold back (a lookahead).
            x, pending = pending[:, : y.shape[-1]], pending[:, y.shape[-1] :]
            return x + mix * (y - x)

        return process

    def forward(self, x: Tensor, **values: Tensor | Values) -> Tensor:
        mix = repeat_for_items(own_values(values)["mix"], (), len(x)).reshape(-1, 1, 1)
        return x + mix * (render_series(self.parts(), x, values) - x)


class Normalised(Serial):
    """Effects in series; the input of each is centred and scaled to a peak of 1, the output of the last is not.

    Source: BE-AFX, arXiv 2310.11781.
    """

    # Not the method of Serial, which would render all but the last effect without normalising between them.
    render_after_warm_up = Effect.render_after_warm_up

    def stage(self, values: Values) -> Stage:
        # The mean and the peak of an effect's input are known only when the complete input is.
        return stages.at_once(self, values)

    def forward(self, x: Tensor, **values: Tensor | Values) -> Tensor:
        for name, effect in self.parts():
            # A chain inside this one normalises the inputs of its own parts.
            x = x if isinstance(effect, Normalised) else centre_and_peak(x)
            x = effect(x, **effect.for_items(part_values(values, name), len(x)))
        return x


def render_series(parts: Iterable[tuple[str, Effect]], x: Tensor, values: Values) -> Tensor:
    """Audio (B, C, T) through some consecutive parts, with the values of all."""
    for are_biquads, group in groupby(parts, key=is_biquad):
        if are_biquads:
            x = biquad.cascade(x, cascade_coefs(group, values))
            continue
        for name, effect in group:
            x = effect(x, **effect.for_items(part_values(values, name), len(x)))
    return x


def series_stage(parts: Iterable[tuple[str, Effect]], values: Values) -> Stage:
    """A stage of some consecutive parts, with the values of all."""
    running: list[Stage] = []
    for are_biquads, group in groupby(parts, key=is_biquad):
        if are_biquads:
            # One stage with one state for a run of biquads: each block is read and written once, not once per band.
            running.append(stages.cascade(cascade_coefs(group, values)))
        else:
            running += [effect.stage(part_values(values, name)) for name, effect in group]
    return stages.in_series(running)


def is_biquad(part: tuple[str, Effect]) -> bool:
    """Whether a named part is a biquad, which a cascade can include."""
    return isinstance(part[1], Biquad)


def cascade_coefs(bands: Iterable[tuple[str, Effect]], values: Values) -> Tensor:
    """Coefficients of biquads in series, (K, 5), or (G, K, 5) where any value has a batch dimension."""
    coefs = []
    for name, band in bands:
        assert isinstance(band, Biquad), f"{name}: {type(band).__name__} is no biquad"
        coefs.append(band.coefs(**own_values(part_values(values, name))))
    return torch.stack(torch.broadcast_tensors(*coefs), -2)


def add_up(responses: list[Tensor]) -> Tensor:
    """Sum of responses (…, samples) of different lengths, zero-padded to the longest."""
    length = max(h.shape[-1] for h in responses)
    return reduce(torch.add, (F.pad(h, (0, length - h.shape[-1])) for h in responses))


class Sends(Effect):
    """A panned direct path with parallel effects; each effect also feeds those after it, scaled by a send level.

    All are linear, time-invariant and mono to stereo, so their sum is one pair of impulse responses.

    Args:
        direct: panning of the direct path.
        pan_direct: whether the direct path has a panning; otherwise both channels get the input.
        cross_send: whether there are sends between effects.
        effects: by name, in order; each has a `response`. Also overrides of the send levels, by name ("a_to_b").

    Source: DiffVox, arXiv 2504.14735.
    """

    label = "SEND"
    options = {"direct": Part(Panning), "pan_direct": Flag(), "cross_send": Flag()}
    holds_effects = True
    input_channels, output_channels = (1,), 2

    def __init__(
        self,
        sr: int,
        *,
        direct: Panning | None = None,
        pan_direct: bool = True,
        cross_send: bool = True,
        **effects: "Effect | dict",
    ) -> None:
        overrides = {name: value for name, value in effects.items() if isinstance(value, dict)}
        parallel = {name: effect for name, effect in effects.items() if not isinstance(effect, dict)}
        for name, effect in parallel.items():
            if not isinstance(effect, HasResponse):
                raise UsageError(
                    f"{name}: {type(effect).__name__} has no impulse response, so it cannot be parallel to a direct "
                    "path; give a delay, a reverb (fdn) or a panning"
                )
        names = list(parallel)
        # Only from earlier to later effects: without loops, one pass in this order computes every response.
        self.sends = [(a, b, f"{a}_to_{b}") for j, b in enumerate(names) for a in names[:j]] if cross_send else []
        self.params = tuple(Param(send, "", 0.01, Linear(0, 1)) for _, _, send in self.sends)
        # After `params`, with whose names Effect compares the overrides.
        super().__init__(sr, **overrides)
        for name, effect in parallel.items():
            self.add_module(name, effect)
        self.direct = direct or Panning(sr) if pan_direct else None
        self.most: int | None = None  # samples of the response

    @property
    def runs_by_sample(self) -> bool:
        return any(effect.runs_by_sample for _, effect in self.parts())

    @property
    def grouped(self) -> bool:
        return not self.runs_by_sample

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        for name, part in self.parts():
            yield from part.leaves(f"{prefix}{name}.")
        yield prefix, self

    def switches(self) -> dict[str, dict[str, float | tuple[float, ...]]]:
        return {send: {send: 0.0} for _, _, send in self.sends}

    def curves(self, values: Values) -> list[Curve]:
        return [curve for name, part in self.parts() for curve in part.curves(part_values(values, name))]

    def stage(self, values: Values) -> Stage:
        if not self.runs_by_sample:
            return stages.convolution(self._response(values))
        paths = {name: part.stage(part_values(values, name)) for name, part in self.parts()}

        def process(x: Tensor, last: bool) -> Tensor:
            # Sends only feed later effects and no stage here has a lookahead, so each block passes all paths at once.
            return self._mix(x, values, lambda name, send: paths[name](send, last))

        return process

    def forward(self, x: Tensor, **values: Tensor | Values) -> Tensor:
        return self.render_after_warm_up(x, 0, **values)

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Tensor | Values) -> Tensor:
        if self.runs_by_sample:
            parts = dict(self.parts())
            return self._mix(x, values, lambda name, send: parts[name](send, **part_values(values, name)))[..., skip:]
        # A response longer than the input would only cost time.
        return convolve.convolve(x, self._response(values, most=x.shape[-1]), skip)

    def response(self, **values: Tensor | Values) -> Tensor:
        """Impulse response from mono to stereo, (…, 2, 1, samples)."""
        return self._response(values, self.most)

    def shortened(self, samples: int) -> Self:
        short = copy.deepcopy(self)
        short.most = samples
        for name, part in self.parts():
            if name != "direct" and part.response_start >= samples:
                delattr(short, name)
                short.sends = [send for send in short.sends if name not in send]
            else:
                setattr(short, name, part.shortened(samples))
        return short

    def _response(self, values: Values, most: int | None = None) -> Tensor:
        """Impulse response (…, 2, 1, samples); with `most`, effects fed by sends are truncated to that length."""
        levels = own_values(values)
        responses: dict[str, Tensor] = {}
        for name, part in self.parts():
            if name == "direct" or not isinstance(part, HasResponse):
                continue
            h = part.response(**part_values(values, name))
            # A level (…) against responses (…, 2, 1, samples): three dimensions more; audio in `_mix` needs two.
            sends = [levels[send][..., None, None, None] * responses[a] for a, b, send in self.sends if b == name]
            if sends:
                # Input of the effect: the dry signal on all its channels, plus the outputs of earlier effects.
                unit = h.new_ones(h.shape[-2], 1, 1)
                responses[name] = convolve.in_series(add_up([unit, *sends]), h, most)
            else:
                # The mono input feeds all input channels alike, so their responses add.
                responses[name] = h.sum(-2, keepdim=True)
        if self.direct is not None:
            direct = self.direct.response(**own_values(part_values(values, "direct")))
            return add_up([direct, *responses.values()])
        if not responses:
            raise UsageError("sends without an effect and without a direct panning do nothing; give one")
        unit = next(iter(responses.values())).new_ones(2, 1, 1)
        return add_up([unit.expand(*next(iter(responses.values())).shape[:-1], 1), *responses.values()])

    def _mix(self, x: Tensor, values: Values, render: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The output in the time domain, (…, 1, T) to (…, 2, T); `render(name, send)` applies one effect."""
        levels = own_values(values)
        outputs: dict[str, Tensor] = {}
        for name, _ in self.parts():
            sends = [levels[send][..., None, None] * outputs[a] for a, b, send in self.sends if b == name]
            outputs[name] = render(name, x + sum(sends))
        unpanned = [] if self.direct is not None else [x.expand(*x.shape[:-2], 2, -1)]
        return reduce(torch.add, [*unpanned, *outputs.values()])
