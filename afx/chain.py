"""Effects in series, and effects in parallel that feed each other by sends."""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from . import stages
from .curve import Curve, in_series
from .effect import Effect, Values
from .eq import Biquad
from .functional import biquad, convolve
from .functional.level import centre_and_peak
from .param import Linear, Param
from .stages import Stage
from .stereo import Panning


class Serial(Effect):
    """Effects one after another; neighbouring biquads run in one pass.

    Args:
        effects: by name, in order.
    """

    def __init__(self, sr: int, **effects: Effect):
        super().__init__(sr)
        for name, effect in effects.items():
            self.add_module(name, effect)

    @property
    def grouped(self) -> bool:
        return True

    def channels(self, inputs: int) -> int:
        return reduce(lambda count, part: part[1].channels(count), self.parts(), inputs)

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

    def rest(self, x: Tensor, skip: int, **values: Values) -> Tensor:
        *before, (name, last) = self.parts()
        if is_biquad((name, last)):
            return super().rest(x, skip, **values)
        return last.rest(self._run(before, x, values), skip, **last.for_items(values[name], len(x)))

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

    rest = Effect.rest

    def stage(self, values: Values) -> Stage:
        return stages.whole(self, values)

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
        effects: by name, in order; each has a `response`.

    Source: DiffVox, arXiv 2504.14735.
    """

    label = "SEND"

    def __init__(self, sr: int, *, direct: Panning | None = None, **effects: Effect):
        names = list(effects)
        self.sends = [(a, b, f"{a}_to_{b}") for j, b in enumerate(names) for a in names[:j]]
        self.params = tuple(Param(send, "", 0.01, Linear(0, 1)) for _, _, send in self.sends)
        super().__init__(sr)
        for name, effect in effects.items():
            self.add_module(name, effect)
        self.direct = direct or Panning(sr)

    @property
    def runs_by_sample(self) -> bool:
        return any(effect.runs_by_sample for _, effect in self.parts())

    @property
    def grouped(self) -> bool:
        return not self.runs_by_sample

    def channels(self, inputs: int) -> int:
        return 2

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
        return self.rest(x, 0, **values)

    def rest(self, x: Tensor, skip: int, **values: Values) -> Tensor:
        if self.runs_by_sample:
            parts = dict(self.parts())
            return self.mix(x, values, lambda name, fed: parts[name](fed, **values[name]))[..., skip:]
        return convolve.convolve(x, self.response(most=x.shape[-1], **values), skip)

    def response(self, *, direct: Values, most: int | None = None, **values: Values) -> Tensor:
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
        return add_up([self.direct.response(**direct), *responses.values()])

    def mix(self, x: Tensor, values: Values, path: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The same in time, (…, 1, T) to (…, 2, T), where `path(name, fed)` runs one effect."""
        outputs: dict[str, Tensor] = {}
        for name, _ in self.parts():
            fed = [values[send][..., None, None] * outputs[a] for a, b, send in self.sends if b == name]
            outputs[name] = path(name, x + sum(fed))
        return sum(outputs.values())
