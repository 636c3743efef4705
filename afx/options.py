"""Options of effects, which are chosen and not fitted: each is declared with its allowed values."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from reknob.runtime.errors import UsageError

# Not at run time: effect.py imports this module.
if TYPE_CHECKING:
    from .effect import Effect


class Bound(ABC):
    """The allowed values of an option."""

    @abstractmethod
    def read(self, name: str, value: object) -> object:
        """The value in the option's type; UsageError with the given and the allowed values."""


@dataclass(frozen=True)
class Number(Bound):
    """A number from `lo` to `hi`."""

    lo: float
    hi: float
    unit: str = ""

    def read(self, name: str, value: object) -> float:
        if not _is_number(value) or not math.isfinite(value) or not self.lo <= value <= self.hi:
            raise UsageError(f"{name}={_shown(value)}: give {self.lo:g} to {self.hi:g} {self.unit}".rstrip())
        return value


@dataclass(frozen=True)
class Integer(Bound):
    """A whole number from `lo` to `hi`."""

    lo: int
    hi: int
    unit: str = ""

    def read(self, name: str, value: object) -> int:
        # The range before the whole number: int() raises for an infinity and for NaN.
        if not _is_number(value) or not self.lo <= value <= self.hi or int(value) != value:
            allowed = f"{self.lo} to {self.hi} {self.unit}".rstrip()
            raise UsageError(f"{name}={_shown(value)}: give a whole number, {allowed}")
        return int(value)


@dataclass(frozen=True)
class Integers(Bound):
    """A list of 1 to `most` whole numbers from `lo` to `hi`."""

    lo: int
    hi: int
    most: int
    unit: str = ""

    def read(self, name: str, value: object) -> list[int]:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= self.most:
            raise UsageError(f"{name}={_shown(value)}: give a list of 1 to {self.most} whole numbers")
        return [Integer(self.lo, self.hi, self.unit).read(f"{name}.{i}", item) for i, item in enumerate(value)]


class Flag(Bound):
    """True or false."""

    WORDS: Mapping[str, bool] = {"on": True, "yes": True, "off": False, "no": False}

    def read(self, name: str, value: object) -> bool:
        value = self.WORDS.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise UsageError(f"{name}={_shown(value)}: give true or false")
        return value


@dataclass(frozen=True)
class Choice(Bound):
    """One of the words `known`."""

    known: tuple[str, ...]

    def read(self, name: str, value: object) -> str:
        if not isinstance(value, str) or value not in self.known:
            raise UsageError(f"unknown {name} {_shown(value)}; known: {', '.join(self.known)}")
        return value


@dataclass(frozen=True)
class Part(Bound):
    """An effect of the class `kind` or, with `of`, a chain `kind` of effects of the class `of`; it may be left out."""

    kind: "type[Effect]"
    of: "type[Effect] | None" = None

    def read(self, name: str, value: object) -> "Effect":
        # A configuration may give any effect here, and only a chain has parts that `of` restricts.
        inside = [part for _, part in value.parts()] if self.of and isinstance(value, self.kind) else []
        if not isinstance(value, self.kind) or (self.of and not all(isinstance(part, self.of) for part in inside)):
            wanted = f"a chain of {_kinds(self.of)}" if self.of else _kinds(self.kind)
            raise UsageError(f"{name}: {type(value).__name__} is not allowed here; give {wanted}")
        if self.of and not inside:
            raise UsageError(f"{name}: an empty chain; put effects into it, or leave it out")
        return value


def _is_number(value: object) -> TypeGuard[float]:
    # A boolean is an int in Python, but a mistake in a configuration.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kinds(kind: type) -> str:
    """A class and its direct subclasses in words, for messages."""
    below = [sub.__name__ for sub in kind.__subclasses__()]
    return f"a {kind.__name__}" + (f" ({', '.join(below)}, …)" if below else "")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
