"""Effects in series, and effects in parallel that feed each other by sends."""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.runtime.errors import UsageError

from . import stages
from .curve import Curve, in_series
from .effect import Effect, Values
from .eq import Biquad
from .functional import biquad, convolve
from .functional.level import centre_and_peak
from .options import Flag, Part
from .param import Linear, Param
from .stages import Stage
from .stereo import Panning


class Serial(Effect):
    """Effects one after another; neighbouring biquads run in one pass.

    Args:
        effects: by name, in order.
    """

    holds_effects = True

    def __init__(self, sr: int, **effects: Effect):
        super().__init__(sr)
        for name, effect in effects.items():
            self.add_module(name, effect)

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
        return in_series(curve for name, part in self.parts() for curve in part.curves(values[name]))

    def stage(self, values: Values) -> Stage:
        running: list[Stage] = []
        for are_biquads, group in groupby(self.parts(), key=is_biquad):
            if are_biquads:
                running.append(stages.cascade(cascade_coefs(group, values)))
            else:
                running += [effect.stage(values[name]) for name, effect in group]
        return stages.in_series(running)

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        return self._run(self.parts(), x, values)

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Values) -> Tensor:
        *before, (name, last) = self.parts()
        if is_biquad((name, last)):
            return super().render_after_warm_up(x, skip, **values)
        return last.render_after_warm_up(self._run(before, x, values), skip, **last.for_items(values[name], len(x)))

    def _run(self, parts: Iterable[tuple[str, Effect]], x: Tensor, values: Values) -> Tensor:
        for are_biquads, group in groupby(parts, key=is_biquad):
            if are_biquads:
                x = biquad.cascade(x, cascade_coefs(group, values))
                continue
            for name, effect in group:
                x = effect(x, **effect.for_items(values[name], len(x)))
        return x


class Normalised(Serial):
    """Effects one after another, each fed its input without DC and at a peak of 1; the last output stays as it is.

    Source: BE-AFX, arXiv 2310.11781.
    """

    render_after_warm_up = Effect.render_after_warm_up

    def stage(self, values: Values) -> Stage:
        return stages.at_once(self, values)

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        for name, effect in self.parts():
            fed = x if isinstance(effect, Normalised) else centre_and_peak(x)
            x = effect(fed, **effect.for_items(values[name], len(x)))
        return x


def is_biquad(part: tuple[str, Effect]) -> bool:
    """Whether a named part can join its neighbours in one cascade."""
    return isinstance(part[1], Biquad)


def cascade_coefs(bands: Iterable[tuple[str, Effect]], values: Values) -> Tensor:
    """Coefficients of biquads in series, (K, 5), or (G, K, 5) where any value has a batch dimension."""
    return torch.stack(torch.broadcast_tensors(*(band.coefs(**values[name]) for name, band in bands)), -2)


def add_up(responses: list[Tensor]) -> Tensor:
    """Sum of responses (…, samples) of any lengths."""
    length = max(h.shape[-1] for h in responses)
    return reduce(torch.add, (F.pad(h, (0, length - h.shape[-1])) for h in responses))


class Sends(Effect):
    """A panned direct path with effects beside it; each effect also feeds those after it, by a send level.

    All are linear and time-invariant, from mono to stereo, so the whole is one pair of responses.

    Args:
        direct: panning of the direct path.
        pan_direct: whether the direct path has a panning; without, mono is copied to both sides.
        cross_send: whether there are sends from effect to effect.
        effects: by name, in order; each has a `response`. Also overrides of the sends' levels, by name.

    Source: DiffVox, arXiv 2504.14735.
    """

    label = "SEND"
    options = {"direct": Part(Panning), "pan_direct": Flag(), "cross_send": Flag()}
    holds_effects = True
    takes, gives = (1,), 2

    def __init__(
        self,
        sr: int,
        *,
        direct: Panning | None = None,
        pan_direct: bool = True,
        cross_send: bool = True,
        **effects: "Effect | dict",
    ):
        overrides = {name: value for name, value in effects.items() if isinstance(value, dict)}
        effects = {name: effect for name, effect in effects.items() if name not in overrides}
        for name, effect in effects.items():
            if not hasattr(effect, "response"):
                raise UsageError(
                    f"{name}: {type(effect).__name__} cannot stand beside a direct path, as it has no impulse "
                    "response; a delay, a reverb (fdn) or a panning can"
                )
        names = list(effects)
        self.sends = [(a, b, f"{a}_to_{b}") for j, b in enumerate(names) for a in names[:j]] if cross_send else []
        self.params = tuple(Param(send, "", 0.01, Linear(0, 1)) for _, _, send in self.sends)
        super().__init__(sr, **overrides)
        for name, effect in effects.items():
            self.add_module(name, effect)
        self.direct = direct or Panning(sr) if pan_direct else None

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

    def curves(self, values: Values) -> list[Curve]:
        return [curve for name, part in self.parts() for curve in part.curves(values[name])]

    def stage(self, values: Values) -> Stage:
        if not self.runs_by_sample:
            return stages.convolution(self.response(**values))
        paths = {name: part.stage(values[name]) for name, part in self.parts()}

        def process(x: Tensor, last: bool) -> Tensor:
            # Sends feed forward and no path waits for the future.
            return self.mix(x, values, lambda name, fed: paths[name](fed, last))

        return process

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        return self.render_after_warm_up(x, 0, **values)

    def render_after_warm_up(self, x: Tensor, skip: int, **values: Values) -> Tensor:
        if self.runs_by_sample:
            parts = dict(self.parts())
            return self.mix(x, values, lambda name, fed: parts[name](fed, **values[name]))[..., skip:]
        return convolve.convolve(x, self.response(most=x.shape[-1], **values), skip)

    def response(self, *, direct: Values | None = None, most: int | None = None, **values: Values) -> Tensor:
        """Impulse response of the whole from mono to stereo, (…, 2, 1, samples), or the first `most` samples of it."""
        responses: dict[str, Tensor] = {}
        for name, part in self.parts():
            if name == "direct":
                continue
            h = part.response(**values[name])
            fed = [values[send][..., None, None, None] * responses[a] for a, b, send in self.sends if b == name]
            if fed:
                unit = h.new_ones(h.shape[-2], 1, 1)
                responses[name] = convolve.in_series(add_up([unit, *fed]), h, most)
            else:
                responses[name] = h.sum(-2, keepdim=True)
        if self.direct is not None:
            return add_up([self.direct.response(**direct), *responses.values()])
        if not responses:
            raise UsageError("sends without an effect and without a direct panning do nothing; give one")
        unit = next(iter(responses.values())).new_ones(2, 1, 1)
        return add_up([unit.expand(*next(iter(responses.values())).shape[:-1], 1), *responses.values()])

    def mix(self, x: Tensor, values: Values, path: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The same in time, (…, 1, T) to (…, 2, T), where `path(name, fed)` runs one effect."""
        outputs: dict[str, Tensor] = {}
        for name, _ in self.parts():
            fed = [values[send][..., None, None] * outputs[a] for a, b, send in self.sends if b == name]
            outputs[name] = path(name, x + sum(fed))
        return sum(outputs.values(), 0 if self.direct is not None else x.expand(*x.shape[:-2], 2, -1))
