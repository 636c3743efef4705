"""Effects in series, and effects in parallel that feed each other by sends."""

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from torch import Tensor

from .effect import Effect, Values
from .eq import Biquad
from .functional import biquad, convolve
from .param import Linear, Param
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

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        for are_biquads, group in groupby(self.parts(), key=is_biquad):
            if are_biquads:
                x = biquad.cascade(x, cascade_coefs(group, values))
                continue
            for name, effect in group:
                x = effect(x, **values[name])
        return x


def is_biquad(part: tuple[str, Effect]) -> bool:
    """Whether a named part can join its neighbours in one cascade."""
    return isinstance(part[1], Biquad)


def cascade_coefs(bands: Iterable[tuple[str, Effect]], values: Values) -> Tensor:
    """Coefficients of biquads in series, (K, 5), or (B, K, 5) where any value has a batch dimension."""
    return torch.stack(torch.broadcast_tensors(*(band.coefs(**values[name]) for name, band in bands)), -2)


class Sends(Effect):
    """A panned direct path with effects beside it; each effect also feeds those after it, by a send level.

    All are linear and time-invariant, from mono to stereo, so the whole is one pair of responses.

    Args:
        direct: panning of the direct path.
        effects: by name, in order; each has `length` and `spectrum`.

    Source: DiffVox, arXiv 2504.14735.
    """

    def __init__(self, sr: int, *, direct: Panning | None = None, **effects: Effect):
        names = list(effects)
        self.sends = [(a, b, f"{a}_to_{b}") for j, b in enumerate(names) for a in names[:j]]
        self.params = tuple(Param(send, "", 0.01, Linear(0, 1)) for _, _, send in self.sends)
        super().__init__(sr)
        for name, effect in effects.items():
            self.add_module(name, effect)
        self.direct = direct or Panning(sr)

    @property
    def length(self) -> int:
        """Samples of the longest path's response."""
        return sum(effect.length - 1 for name, effect in self.parts() if name != "direct") + 1

    @property
    def realtime(self) -> bool:
        """Whether any path runs sample by sample and so has no response to combine."""
        return any(getattr(effect, "render", "") == "realtime" for _, effect in self.parts())

    def forward(self, x: Tensor, **values: Values) -> Tensor:
        if self.realtime:
            parts = dict(self.parts())
            return self.mix(x, values, lambda name, fed: parts[name](fed, **values[name]))
        n = convolve.fast_length(x.shape[-1] + self.length - 1)
        return convolve.apply_spectrum(x, self.spectrum(n, **values), n)

    def spectrum(self, n: int, *, direct: Values, **values: Values) -> Tensor:
        """Response from mono to stereo as a spectrum of n points, (…, 2, 1, n // 2 + 1)."""
        outputs: dict[str, Tensor] = {}
        for name, effect in self.parts():
            if name == "direct":
                continue
            H = effect.spectrum(n, **values[name])
            outputs[name] = H.sum(-2, keepdim=True)
            for a, b, send in self.sends:
                if b == name:
                    fed = torch.einsum("...oif,...ijf->...ojf", H, outputs[a])
                    outputs[name] = outputs[name] + values[send][..., None, None, None] * fed
        return self.direct.spectrum(n, **direct) + sum(outputs.values())

    def mix(self, x: Tensor, values: Values, path: Callable[[str, Tensor], Tensor]) -> Tensor:
        """The same in time, (…, 1, T) to (…, 2, T), where `path(name, fed)` runs one effect."""
        outputs: dict[str, Tensor] = {}
        for name, _ in self.parts():
            fed = [values[send][..., None, None] * outputs[a] for a, b, send in self.sends if b == name]
            outputs[name] = path(name, x + sum(fed))
        return sum(outputs.values())
