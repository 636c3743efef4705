"""Options of effects, which are chosen and not fitted: each is declared with its allowed values."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from reknob.runtime.errors import UsageError


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
        if not _is_number(value) or not self.lo <= value <= self.hi:
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


def _is_number(value: object) -> TypeGuard[float]:
    # A boolean is an int in Python, but a mistake in a configuration.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
