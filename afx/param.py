"""Parameters of effects: name, unit, default, shape, and the mapping between raw parameter and value."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx.functional.level import rise_to_coef
from reknob.afx.functional.matrix import exponential
from reknob.runtime.errors import UsageError

# Tolerance at both ends of a range for values computed in float32, relative to the width of the range.
ROUNDING = 1e-5
INSIDE = 0.01, 0.99  # positions that are away from the ends of a range
# A level in dB is fitted without a range; a value beyond this is a mistake, and overflows as a factor.
MOST_DB = 200.0


class Mapping(ABC):
    """The mapping from a raw parameter to its value."""

    #: The allowed values, in words.
    allowed: str

    @abstractmethod
    def value(self, raw: Tensor) -> Tensor:
        """The value of a raw parameter."""

    @abstractmethod
    def raw(self, value: Tensor) -> Tensor:
        """The raw parameter of a value."""

    @abstractmethod
    def contains(self, value: Tensor) -> bool:
        """Whether all elements are allowed values, or ends of the range, which only rounding reaches."""

    def inside(self, value: Tensor) -> Tensor:
        """The values moved away from the ends of the range, where gradients vanish."""
        return value


class Bounded(Mapping):
    """A value in a range, by its position u in [0, 1]: a controller predicts u, and in a fit u = σ(raw)."""

    @abstractmethod
    def from_unit(self, u: Tensor) -> Tensor:
        """The value at a position in [0, 1]."""

    @abstractmethod
    def to_unit(self, value: Tensor) -> Tensor:
        """The position in [0, 1] of a value."""

    def value(self, raw: Tensor) -> Tensor:
        return self.from_unit(raw.sigmoid())

    def raw(self, value: Tensor) -> Tensor:
        # ±inf at the ends of the range, which `Param.checked` therefore refuses as defaults.
        return torch.logit(self.to_unit(value))

    def contains(self, value: Tensor) -> bool:
        position = self.to_unit(value.double())
        return bool(((position >= -ROUNDING) & (position <= 1 + ROUNDING)).all())

    def inside(self, value: Tensor) -> Tensor:
        low, high = self.from_unit(torch.tensor(INSIDE, dtype=torch.float64)).sort().values.tolist()
        return value.clamp(low, high)


@dataclass(frozen=True)
class Linear(Bounded):
    """A value in [lo, hi], linear in u: value = lo + (hi - lo)·u."""

    lo: float
    hi: float

    @property
    def allowed(self) -> str:
        return f"{self.lo} to {self.hi}"

    def from_unit(self, u: Tensor) -> Tensor:
        return self.lo + (self.hi - self.lo) * u

    def to_unit(self, value: Tensor) -> Tensor:
        return (value - self.lo) / (self.hi - self.lo)


@dataclass(frozen=True)
class Precise(Linear):
    """A linear mapping in float64, for values of which a relative error of 1e-6 matters: an echo time in samples."""

    def value(self, raw: Tensor) -> Tensor:
        return super().value(raw.double())


@dataclass(frozen=True)
class Log(Linear):
    """A value in [lo, hi], lo > 0, logarithmic in u: value = lo·(hi / lo)^u."""

    def from_unit(self, u: Tensor) -> Tensor:
        return self.lo * (self.hi / self.lo) ** u

    def to_unit(self, value: Tensor) -> Tensor:
        return torch.log(value / self.lo) / math.log(self.hi / self.lo)


@dataclass(frozen=True)
class Ceilings(Bounded):
    """A value in [0, hi_i], with one upper limit per column i: value = hi_i·u."""

    hi: tuple[float, ...]

    @property
    def allowed(self) -> str:
        return f"0 to {', '.join(f'{hi:.4g}' for hi in self.hi)}"

    def from_unit(self, u: Tensor) -> Tensor:
        # One column at a time: a tensor of the limits would have to be copied to the device in every step.
        return torch.stack([column * hi for column, hi in zip(u.unbind(-1), self.hi, strict=True)], -1)

    def to_unit(self, value: Tensor) -> Tensor:
        return torch.stack([column / hi for column, hi in zip(value.unbind(-1), self.hi, strict=True)], -1)


@dataclass(frozen=True)
class Free(Mapping):
    """An unbounded value: value = raw."""

    allowed = "any finite number"

    def value(self, raw: Tensor) -> Tensor:
        return raw

    def raw(self, value: Tensor) -> Tensor:
        return value

    def contains(self, value: Tensor) -> bool:
        return bool(value.isfinite().all())


@dataclass(frozen=True)
class Negative(Mapping):
    """A value below zero: value = -softplus(raw)."""

    allowed = "below 0"

    def value(self, raw: Tensor) -> Tensor:
        return -F.softplus(raw)

    def raw(self, value: Tensor) -> Tensor:
        # log(expm1(-value)), which overflows far below zero
        return torch.log(-torch.expm1(value)) - value

    def contains(self, value: Tensor) -> bool:
        return bool((value.isfinite() & (value <= 0)).all())


@dataclass(frozen=True)
class Wrapped(Mapping):
    """A value in [0, period): value = |raw| mod period."""

    period: float

    @property
    def allowed(self) -> str:
        return f"0 to below {self.period}"

    def value(self, raw: Tensor) -> Tensor:
        # Not a clamp: the remainder has the slope of |raw| everywhere, so a fit cannot get stuck beyond an end.
        return raw.abs() % self.period

    def raw(self, value: Tensor) -> Tensor:
        return value

    def contains(self, value: Tensor) -> bool:
        return bool(((value >= 0) & (value <= self.period)).all())


@dataclass(frozen=True)
class RiseTime(Mapping):
    """A 10-90 % rise time in ms, whose one-pole coefficient is bounded: rise_to_coef(value) = σ(raw)."""

    sr: int
    allowed = "above 0"

    def value(self, raw: Tensor) -> Tensor:
        # σ(-raw), not 1 - σ(raw), which cancels where the coefficient is close to 1.
        return -2200 / (self.sr * F.logsigmoid(-raw))

    def raw(self, value: Tensor) -> Tensor:
        return torch.logit(rise_to_coef(value, self.sr))

    def contains(self, value: Tensor) -> bool:
        return bool((value.isfinite() & (value > 0)).all())


@dataclass(frozen=True)
class Orthogonal(Mapping):
    """An orthogonal matrix: value = expm(S), S = triu(raw, 1) - triu(raw, 1)ᵀ; only the upper triangle is read."""

    allowed = "a rotation matrix"

    def value(self, raw: Tensor) -> Tensor:
        upper = raw.triu(1)
        return exponential(upper - upper.mT)

    def raw(self, value: Tensor) -> Tensor:
        """The upper triangle of the skew-symmetric logarithm; the matrix must be a rotation (determinant 1)."""
        eigenvalues, vectors = torch.linalg.eig(value)
        log = (vectors * eigenvalues.log().unsqueeze(-2)) @ torch.linalg.inv(vectors)
        return log.real.triu(1)

    def contains(self, value: Tensor) -> bool:
        return bool(((value @ value.mT - torch.eye(value.shape[-1]).to(value)).abs() < 1e-2).all())


@dataclass(frozen=True)
class Uniform:
    """Default values drawn from the uniform distribution on [lo, hi); the same at every draw if `seed` is given."""

    lo: float
    hi: float
    seed: int | None = None

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed)
        return self.lo + (self.hi - self.lo) * torch.rand(shape, generator=generator)


@dataclass(frozen=True)
class RawNormal:
    """Default raw parameters drawn from a normal distribution of mean 0."""

    std: float

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return self.std * torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Param:
    """One parameter of an effect.

    `preset` is False for parameters that are trained but not stored in presets (the damping of a surrogate).
    `multimodal` says that the loss has many minima over it (an echo's time): a fit that starts near the right value
    moves it slowly, so that it does not leave its minimum.
    `ambiguous` says that other values give exactly the same sound (order and signs of the lines of a reverb).
    """

    name: str
    unit: str
    default: float | tuple[float, ...] | Uniform | RawNormal
    mapping: Mapping = Free()
    shape: tuple[int, ...] = ()
    preset: bool = True
    multimodal: bool = False
    ambiguous: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values, in words."""
        return f"-{MOST_DB:g} to {MOST_DB:g}" if self.is_level else self.mapping.allowed

    @property
    def is_level(self) -> bool:
        """Whether the raw parameter is itself a level in dB."""
        return self.unit == "dB" and isinstance(self.mapping, Free)

    def with_(self, default: object = None, range: object = None) -> "Param":
        """This parameter with another default or a narrower range; UsageError where they are not allowed."""
        changed = self.default if default is None else self._default_of(default)
        mapping = self.mapping if range is None else self._narrowed(range)
        return replace(self, default=changed, mapping=mapping).checked()

    def _default_of(self, given: object) -> float | tuple[float, ...]:
        if _is_number(given):
            return given
        if isinstance(given, (list, tuple)) and self.shape == (len(given),) and all(map(_is_number, given)):
            return tuple(given)
        wanted = "a number" if len(self.shape) != 1 else f"a number, or a list of {self.shape[0]}"
        raise UsageError(f"{self.name}: the default {str(given)[:80]} is not {wanted}")

    def _narrowed(self, given: object) -> Mapping:
        """The mapping with another range; UsageError where it has none, or where the given one is impossible."""
        if not isinstance(self.mapping, Linear):
            raise UsageError(f"{self.name} has no range to set; its mapping is {type(self.mapping).__name__}")
        if not isinstance(given, (list, tuple)) or len(given) != 2 or not all(map(_is_number, given)):
            raise UsageError(f"{self.name}: the range {str(given)[:80]} is not two numbers; give [lowest, highest]")
        lo, hi = (float(bound) for bound in given)
        if not lo < hi:
            raise UsageError(f"{self.name}: the range {given} is empty; give [lowest, highest]")
        declared = self.mapping
        # A declared range from 0 is that of a proportion, whose upper end is a hard limit; one from above 0 is that of
        # a frequency, time or ratio, which must stay positive. Only levels and offsets extend below 0.
        beyond = (lo < 0 or hi > declared.hi * (1 + ROUNDING)) if declared.lo == 0 else declared.lo > 0 and lo <= 0
        if beyond:
            within = declared.allowed if declared.lo == 0 else "above 0"
            raise UsageError(f"{self.name}: the range {given} extends beyond the allowed values; allowed: {within}")
        return replace(declared, lo=lo, hi=hi)

    def checked(self) -> "Param":
        """This parameter; UsageError where no finite raw parameter maps to its default.

        The ends of a range, whose raw parameters are infinite, are therefore no defaults.
        """
        if isinstance(self.default, RawNormal):
            return self
        ends = (self.default.lo, self.default.hi) if isinstance(self.default, Uniform) else (self.default,)
        if not all(self._reaches(value) for value in ends):
            raise UsageError(f"{self.name}: the default {self.default} lies outside its range; allowed: {self.allowed}")
        return self

    def _reaches(self, number: float | tuple[float, ...]) -> bool:
        value = torch.tensor(number, dtype=torch.float64).expand(self.shape)
        if self.is_level and value.abs().max() > MOST_DB:
            return False
        try:
            # In float32, as a fit stores it; back in float64, so that only the rounding of the raw parameter counts.
            raw = self.mapping.raw(value).float()
            back = self.mapping.value(raw.double())
        except RuntimeError:  # of torch.linalg: a matrix without a logarithm
            return False
        return bool(raw.isfinite().all()) and torch.allclose(back, value, rtol=1e-4, atol=1e-6)

    def check(self, value: Tensor, name: str = "") -> None:
        """Raises UsageError where a value in physical units is not allowed; `name` replaces that of the parameter."""
        within = value.abs().max() <= MOST_DB if self.is_level else self.mapping.contains(value)
        if not value.isfinite().all() or not within:
            shown = f"{value.item():g}" if value.numel() == 1 else f"{value.min():g} to {value.max():g}"
            unit = f" {self.unit}" if self.unit else ""
            raise UsageError(f"{name or self.name}={shown}{unit} lies outside its range; allowed: {self.allowed}")

    def initial_raw(self, generator: torch.Generator | None = None) -> Tensor:
        """The raw parameter (*shape) of the default; drawn where the default is a distribution."""
        if isinstance(self.default, RawNormal):
            return self.default.draw(self.shape, generator)
        if isinstance(self.default, Uniform):
            return self.mapping.raw(self.default.draw(self.shape, generator))
        # Computed in float64, so that value(raw(default)) equals the default up to float32 rounding.
        value = torch.tensor(self.default, dtype=torch.float64).expand(self.shape).clone()
        return self.mapping.raw(value).float()


def _is_number(value: object) -> TypeGuard[float]:
    # A boolean is an int in Python, but a mistake in a configuration.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e9
