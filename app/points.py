"""Where the sliders of the page stand: a preset, a second one, principal components, an amount and changed values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reknob.afx.amount import MOST
from reknob.runtime.errors import UsageError

MOST_COMPONENTS, MOST_DEVIATIONS, MOST_CHANGES = 8, 5.0, 1000


@dataclass(frozen=True)
class Point:
    """One set of values of a preset set, as the sliders describe it.

    Args:
        row: the preset.
        other, morph: a second preset, and how far to go to it, in raw parameters, from 0 to 1.
        components: added along the principal components of the set, in standard deviations.
        amount: how much of it, 0 to 2 (`afx.amount`).
        changes: values in physical units by full name, set at the end.
    """

    row: int = 0
    other: int | None = None
    morph: float = 0.0
    components: tuple[float, ...] = ()
    amount: float = 1.0
    changes: dict[str, float] = field(default_factory=dict)

    @property
    def moves(self) -> str:
        """In words, what was changed of the preset; "" for nothing."""
        parts = [f"morph {self.morph:.3g} to row {self.other}"] if self.other is not None and self.morph else []
        parts += [f"component {i + 1} {c:+.3g}" for i, c in enumerate(self.components) if c]
        parts += [f"amount {self.amount:g}"] if self.amount != 1 else []
        return ", ".join([*parts, *(f"{name}={value:g}" for name, value in self.changes.items())])[:500]


def parse_point(given: object) -> Point:
    """A point from the browser's JSON; UsageError for what is none."""
    if not isinstance(given, dict):
        raise UsageError("no position of the sliders; reload the page")
    changes, components = given.get("changes") or {}, given.get("components") or []
    if not isinstance(changes, Mapping) or not isinstance(components, list):
        raise UsageError("changes and components: give numbers by name, and a list of numbers")
    if len(changes) > MOST_CHANGES or len(components) > MOST_COMPONENTS:
        raise UsageError(f"at most {MOST_CHANGES} changes and {MOST_COMPONENTS} components")
    other = given.get("other")
    return Point(
        whole_number(given.get("row", 0), "row"),
        None if other is None else whole_number(other, "other"),
        real_number(given.get("morph", 0), "morph", 0, 1),
        tuple(real_number(c, "components", -MOST_DEVIATIONS, MOST_DEVIATIONS) for c in components),
        real_number(given.get("amount", 1), "amount", 0, MOST),
        {str(name)[:200]: real_number(value, str(name)[:200], -1e9, 1e9) for name, value in changes.items()},
    )


def whole_number(given: Any, name: str, lo: int = 0, hi: int = 10**9) -> int:  # noqa: ANN401 - of anybody's JSON
    """A whole number of a request; UsageError for anything else."""
    if isinstance(given, bool) or not isinstance(given, int) or not lo <= given <= hi:
        raise UsageError(f"{name}={str(given)[:40]}: give a whole number from {lo} to {hi}")
    return given


def real_number(given: Any, name: str, lo: float, hi: float) -> float:  # noqa: ANN401 - of anybody's JSON
    """A finite number of a request; UsageError for anything else."""
    # Not a number lies in no range.
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not lo <= given <= hi:
        raise UsageError(f"{name}={str(given)[:40]}: give a number from {lo:g} to {hi:g}")
    return float(given)
