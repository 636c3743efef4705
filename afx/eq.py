"""Equaliser bands: each is one biquad of the RBJ cookbook, applied as a recursion."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError

from .curve import Curve, response_curve
from .effect import Effect, Tensors
from .functional import biquad
from .options import Number
from .param import Free, Linear, Param
from .stages import Stage, cascade


class Biquad(Effect, ABC):
    """An effect that is one biquad; a chain applies adjacent ones in one pass.

    Raises UsageError where the range of its frequency reaches half the sample rate, where no biquad is defined.
    """

    def __init__(self, sr: int, **overrides: dict) -> None:
        super().__init__(sr, **overrides)
        # Beyond half the rate sin ω0 and α are negative, and the poles leave the unit circle.
        for p in self.params:
            if p.name == "freq" and isinstance(p.mapping, Linear) and p.mapping.hi >= sr / 2:
                raise UsageError(
                    f"freq reaches {p.mapping.hi:g} Hz, beyond half the sample rate of {sr} Hz; "
                    "set its range, and its default"
                )

    @abstractmethod
    def coefs(self, **values: Tensor) -> Tensor:
        """Coefficients (…, 5) in float64 of values (…)."""

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        # (…, 5) to (…, 1, 5): a cascade of one filter.
        return biquad.cascade(x, self.coefs(**values).unsqueeze(-2))

    def stage(self, values: Tensors) -> Stage:
        return cascade(self.coefs(**values).unsqueeze(-2))

    def curves(self, values: Tensors) -> list[Curve]:
        return [response_curve(self.coefs(**values).unsqueeze(-2), self.sr)]

    def off_values(self) -> dict[str, float]:
        # A band without a gain, a low- or high-pass, is the identity for no values: it has to be left out.
        return {p.name: 0.0 for p in self.params if p.name == "gain"}


class Pass(Biquad):
    """A low- or high-pass; no values make it the identity, those of `open_end` come nearest."""

    #: The end of the range of the frequency at which it passes most: 0 the lowest, 1 the highest.
    open_end: ClassVar[float]

    def switches(self) -> dict[str, dict[str, float | tuple[float, ...]]]:
        freq = next(p.mapping for p in self.params if p.name == "freq")
        assert isinstance(freq, Linear)
        return {"": {"freq": freq.from_unit(torch.tensor(self.open_end)).item(), "Q": 0.707}}


class LowPass(Pass):
    """Resonant low-pass, 12 dB per octave."""

    open_end = 1.0

    label = "LP"
    # A Q of 0.707, just below 1/√2: a higher one has a resonance.
    params = (Param("freq", "Hz", 17500.0, Linear(200, 18000)), Param("Q", "", 0.707, Linear(0.5, 10)))

    def coefs(self, *, freq: Tensor, Q: Tensor) -> Tensor:
        return biquad.low_pass(freq, Q, self.sr)


class HighPass(Pass):
    """Resonant high-pass, 12 dB per octave."""

    open_end = 0.0

    label = "HP"
    params = (Param("freq", "Hz", 200.0, Linear(16, 5300)), Param("Q", "", 0.707, Linear(0.5, 10)))

    def coefs(self, *, freq: Tensor, Q: Tensor) -> Tensor:
        return biquad.high_pass(freq, Q, self.sr)


class Peak(Biquad):
    """Peaking band: boost or cut around a frequency."""

    label = "PK"
    params = (
        Param("gain", "dB", 0.0, Free()),
        # The ranges of both published peaks together; a configuration narrows it per band.
        Param("freq", "Hz", 2000.0, Linear(33, 17500)),
        Param("Q", "", 0.707, Linear(0.2, 20)),
    )

    def coefs(self, *, gain: Tensor, freq: Tensor, Q: Tensor) -> Tensor:
        return biquad.peak(freq, Q, gain, self.sr)


class Shelf(Biquad):
    """A shelf whose steepness is an option, not a parameter.

    Args:
        steepness: the cookbook's Q of the corner.
    """

    options = {"steepness": Number(0.05, 20)}

    def __init__(self, sr: int, *, steepness: float = 0.707, **overrides: dict) -> None:
        super().__init__(sr, **overrides)
        self.steepness = steepness

    def _steepness(self, freq: Tensor) -> Tensor:
        # Rounded to float32 as in the published chains, whose numbers are thus reproduced exactly.
        return torch.full_like(freq, self.steepness, dtype=torch.float32)


class LowShelf(Shelf):
    """Low shelf: boost or cut below a frequency."""

    label = "LS"
    params = (Param("gain", "dB", 0.0, Free()), Param("freq", "Hz", 115.0, Linear(30, 200)))

    def coefs(self, *, gain: Tensor, freq: Tensor) -> Tensor:
        return biquad.low_shelf(freq, self._steepness(freq), gain, self.sr)


class HighShelf(Shelf):
    """High shelf: boost or cut above a frequency."""

    label = "HS"
    params = (Param("gain", "dB", 0.0, Free()), Param("freq", "Hz", 6000.0, Linear(750, 8300)))

    def coefs(self, *, gain: Tensor, freq: Tensor) -> Tensor:
        return biquad.high_shelf(freq, self._steepness(freq), gain, self.sr)
