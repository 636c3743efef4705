"""Parameters of effects: name, unit, default, shape, and the map between a raw number and a value."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from afx.functional.level import rise_to_coef
from afx.functional.matrix import exponential
from runtime.errors import UsageError


class Bounded(ABC):
    """A value reached through a unit position u = σ(raw), which is where a controller and a fit meet."""

    @abstractmethod
    def from_unit(self, u: Tensor) -> Tensor:
        """The value at a position in [0, 1]."""

    @abstractmethod
    def to_unit(self, value: Tensor) -> Tensor:
        """The position in [0, 1] of a value."""

    def value(self, raw: Tensor) -> Tensor:
        return self.from_unit(raw.sigmoid())

    def raw(self, value: Tensor) -> Tensor:
        return torch.logit(self.to_unit(value))


@dataclass(frozen=True)
class Linear(Bounded):
    """A value evenly in [lo, hi]: value = lo + (hi - lo)·u."""

    lo: float
    hi: float

    def from_unit(self, u: Tensor) -> Tensor:
        return self.lo + (self.hi - self.lo) * u

    def to_unit(self, value: Tensor) -> Tensor:
        return (value - self.lo) / (self.hi - self.lo)


@dataclass(frozen=True)
class Precise(Linear):
    """The same in float64, for a value of which a millionth part is heard: an echo's time against its samples."""

    def value(self, raw: Tensor) -> Tensor:
        return super().value(raw.double())


@dataclass(frozen=True)
class Log(Linear):
    """A value evenly in octaves in [lo, hi], lo > 0: value = lo·(hi / lo)^u."""

    def from_unit(self, u: Tensor) -> Tensor:
        return self.lo * (self.hi / self.lo) ** u

    def to_unit(self, value: Tensor) -> Tensor:
        return torch.log(value / self.lo) / math.log(self.hi / self.lo)


@dataclass(frozen=True)
class Ceilings(Bounded):
    """A value in [0, hi_i], with a ceiling of its own for each column i: value = hi_i·u."""

    hi: tuple[float, ...]

    def from_unit(self, u: Tensor) -> Tensor:
        # One by one, as a tensor of ceilings would have to be brought to the device.
        return torch.stack([column * hi for column, hi in zip(u.unbind(-1), self.hi, strict=True)], -1)

    def to_unit(self, value: Tensor) -> Tensor:
        return torch.stack([column / hi for column, hi in zip(value.unbind(-1), self.hi, strict=True)], -1)


@dataclass(frozen=True)
class Free:
    """An unbounded value: value = raw."""

    def value(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True)
class Negative:
    """A value below zero: value = -softplus(raw)."""

    def value(self, raw: Tensor) -> Tensor:
        return -F.softplus(raw)

    def raw(self, value: Tensor) -> Tensor:
        # log(expm1(-value)), which overflows far below zero
        return torch.log(-torch.expm1(value)) - value


@dataclass(frozen=True)
class Wrapped:
    """A value in [0, period): value = |raw| mod period."""

    period: float

    def value(self, raw: Tensor) -> Tensor:
        return raw.abs() % self.period

    def raw(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True)
class RiseTime:
    """A 10-90 % rise time in ms, held as the coefficient of its one-pole average: rise_to_coef(value) = σ(raw)."""

    sr: int

    def value(self, raw: Tensor) -> Tensor:
        # 1 - σ(raw) = σ(-raw) keeps its digits where the coefficient is close to 1.
        return -2200 / (self.sr * F.logsigmoid(-raw))

    def raw(self, value: Tensor) -> Tensor:
        return torch.logit(rise_to_coef(value, self.sr))


@dataclass(frozen=True)
class Orthogonal:
    """An orthogonal matrix: value = expm(S), S = triu(raw, 1) - triu(raw, 1)ᵀ; only the upper triangle is read."""

    def value(self, raw: Tensor) -> Tensor:
        upper = raw.triu(1)
        return exponential(upper - upper.mT)

    def raw(self, value: Tensor) -> Tensor:
        """The skew-symmetric logarithm's upper triangle; the matrix must be a rotation (determinant 1)."""
        eigenvalues, vectors = torch.linalg.eig(value)
        log = (vectors * eigenvalues.log().unsqueeze(-2)) @ torch.linalg.inv(vectors)
        return log.real.triu(1)


Mapping = Bounded | Free | Negative | Wrapped | RiseTime | Orthogonal


@dataclass(frozen=True)
class Uniform:
    """Default values drawn evenly from [lo, hi]: anew each time, or with a `seed` always the same."""

    lo: float
    hi: float
    seed: int | None = None

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
        return self.lo + (self.hi - self.lo) * torch.rand(shape, generator=generator)


@dataclass(frozen=True)
class RawNormal:
    """Default raw numbers drawn from a normal distribution."""

    std: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return self.std * torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Param:
    """One parameter of an effect.

    `preset` is False for what is trained but is no part of a preset (a surrogate's damping, say).
    """

    name: str
    unit: str
    default: float | tuple[float, ...] | Uniform | RawNormal
    mapping: Mapping = Free()
    shape: tuple[int, ...] = ()
    preset: bool = True

    def with_(self, default: float | None = None, range: list[float] | None = None) -> "Param":
        """This parameter with another default or a narrower range; UsageError when they do not fit."""
        changes = {} if default is None else {"default": default}
        if range is not None:
            if not isinstance(self.mapping, Linear):
                raise UsageError(f"{self.name} has no range to set; its mapping is {type(self.mapping).__name__}")
            lo, hi = (float(bound) for bound in range)
            if not lo < hi:
                raise UsageError(f"{self.name}: the range {range} is empty; give [lowest, highest]")
            changes["mapping"] = replace(self.mapping, lo=lo, hi=hi)
        return replace(self, **changes).checked()

    def checked(self) -> "Param":
        """This parameter; UsageError when its default lies outside its open range."""
        if not isinstance(self.mapping, Linear) or isinstance(self.default, (tuple, RawNormal)):
            return self
        drawn = isinstance(self.default, Uniform)
        lowest, highest = (self.default.lo, self.default.hi) if drawn else (self.default, self.default)
        lo, hi = self.mapping.lo, self.mapping.hi
        if not lo < lowest <= highest < hi:
            raise UsageError(f"{self.name}: the default {self.default} lies outside its range; allowed: {lo} to {hi}")
        return self

    def initial_raw(self, generator: torch.Generator | None = None) -> Tensor:
        """Raw numbers of the declared shape at the default, drawn where the default is a distribution."""
        if isinstance(self.default, RawNormal):
            return self.default.draw(self.shape, generator)
        if isinstance(self.default, Uniform):
            return self.mapping.raw(self.default.draw(self.shape, generator))
        # float64, so that a default comes back from its logit as it was written.
        value = torch.tensor(self.default, dtype=torch.float64).expand(self.shape).clone()
        return self.mapping.raw(value).float()
