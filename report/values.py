"""The values of a fitted chain as rows and as text: by effect, with units, marks and certainty."""

import functools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from reknob.afx.curve import RESPONSE
from reknob.afx.effect import Effect, Values, flatten, own_values, part_values
from reknob.afx.param import Bounded, Param
from reknob.formats.certainty import BOUNDED, UNKNOWN, Certainty
from reknob.formats.effects import EffectsRecord
from reknob.report.tables import digits_of, quantity, text_table

#: Marks before an effect: the share of the loss by which it rises without one that matters, and the level in dB that a
#: filter changes at most if it hardly does anything.
MATTERS, HARDLY_DB = 0.05, 0.5
LEGEND = {
    "*": f"* without it the loss rises by more than {100 * MATTERS:g} %",
    "-": f"- changes nothing, or no level by more than {HARDLY_DB:g} dB",
}
#: Marks before the word of a parameter that the sound determines badly.
UNCERTAIN = {BOUNDED: "~", UNKNOWN: "?"}
INTERVAL = ("value", "low", "high", "unit", "  certainty")  # columns of a table with intervals
MOST_COLUMNS, EFFECT_COLUMNS = 100, 24


@dataclass(frozen=True)
class ValueRow:
    """A scalar of a chain, as tables and records show it; `low` and `high` are the ends of its 68 % interval."""

    effect: str
    parameter: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    certainty: str = ""  # found, bounded, not identifiable

    @property
    def name(self) -> str:
        """Its full name, as "comp.attack"."""
        return f"{self.effect}.{self.parameter}" if self.effect else self.parameter

    def record(self) -> dict[str, object]:
        """Its fields with a content, without its name."""
        fields = {name: getattr(self, name) for name in ("value", "unit", "low", "high", "certainty")}
        return {name: content for name, content in fields.items() if content not in (None, "")}


def value_rows(chain: Effect, values: Values, certainty: Mapping[str, Certainty] | None = None) -> list[ValueRow]:
    """The scalars of a chain in its order, with their intervals and words; arrays are left out."""
    units, rows = {name: p.unit for name, p in chain.walk()}, []
    for name, value in flatten(values).items():
        if not isinstance(value, Tensor) or value.numel() > 1:
            continue
        effect, _, parameter = name.rpartition(".")
        row = ValueRow(effect, parameter, value.item(), units[name])
        known = (certainty or {}).get(name)
        if known and isinstance(known.low, float) and isinstance(known.high, float):
            row = replace(row, low=known.low, high=known.high, certainty=str(known.word))
        rows.append(row)
    return rows


def values_table(
    chain: Effect,
    values: Values,
    certainty: Mapping[str, Certainty] | None = None,
    effects: EffectsRecord | None = None,
) -> str:
    """The scalars of a chain by effect, with units; arrays are left out.

    Consecutive effects with parameters of the same names share a block, a line per effect. With `certainty` there is a
    line per parameter, with its interval and word. A mark before an effect says whether it matters, see `marks`.
    """
    rows = value_rows(chain, values, certainty)
    marked = marks(chain, values, effects)
    of_effect = {row.effect: marked.get(_leaf(row.effect, marked), " ") for row in rows}
    if certainty:
        text = _interval_table(rows, of_effect)
    else:
        text = "\n".join(part for block in _blocks(rows) for part in _block_tables(block, of_effect))
    return "\n".join([text, *(line for mark, line in LEGEND.items() if mark in of_effect.values())])


def _interval_table(rows: Sequence[ValueRow], marked: Mapping[str, str]) -> str:
    """A line per parameter, with its interval and word; effect and mark stand in the first line of an effect."""
    lines = []
    for effect, group in groupby(rows, key=lambda row: row.effect):
        names = [marked[effect], effect]
        for row in group:
            lines.append([*names, row.parameter, *_interval_cells(row)])
            names = ["", ""]
    return text_table(["", "effect", "parameter", *INTERVAL], lines)


def _blocks(rows: Iterable[ValueRow]) -> list[dict[str, dict[str, ValueRow]]]:
    """Rows by effect and parameter; consecutive effects are in one block where they share the name of a parameter."""
    blocks: list[dict[str, dict[str, ValueRow]]] = []
    for effect, group in groupby(rows, key=lambda row: row.effect):
        cells = {row.parameter: row for row in group}
        if blocks and any(cells.keys() & other.keys() for other in blocks[-1].values()):
            blocks[-1][effect] = cells
        else:
            blocks.append({effect: cells})
    return blocks


def _block_tables(block: dict[str, dict[str, ValueRow]], marked: Mapping[str, str]) -> Iterator[str]:
    """The tables of a block, so many that none is wider than the terminal, or than MOST_COLUMNS."""
    names = list(dict.fromkeys(name for cells in block.values() for name in cells))
    texts = {
        name: [quantity(cells[name].value, cells[name].unit) if name in cells else "" for cells in block.values()]
        for name in names
    }
    room = min(shutil.get_terminal_size((MOST_COLUMNS, 24)).columns, MOST_COLUMNS) - EFFECT_COLUMNS - 4
    slices, width = [[]], 0
    for name in names:
        column = 2 + max(map(len, [name, *texts[name]]))
        if slices[-1] and width + column > room:
            slices.append([])
            width = 0
        slices[-1].append(name)
        width += column
    for part in slices:
        lines = zip(block, *(texts[name] for name in part), strict=True)
        rows = [[marked[effect], f"{effect:<{EFFECT_COLUMNS}}", *cells] for effect, *cells in lines]
        yield text_table(["", "", *part], rows)


def marks(chain: Effect, values: Values, effects: EffectsRecord | None = None) -> dict[str, str]:
    """A mark per effect of a chain, keys of LEGEND: what is known of its part in the sound; " " where nothing is.

    With a record of what effects are worth it decides. Without one, an effect that is off, or a filter that changes no
    level by more than HARDLY_DB, is marked as one that hardly does anything. Nothing is rendered.
    """
    found = {}
    for prefix, effect in chain.leaves():
        own = functools.reduce(part_values, prefix.split(".")[:-1], values)
        names = [f"{prefix}{part}".removesuffix(".") for part in effect.switches()]
        if effects:
            costs = [effects.costs[name] for name in names if name in effects.costs]
            matters = any(cost > MATTERS * effects.loss for cost in costs)
            is_off = bool(names) and all(name in effects.removed for name in names)
        else:
            matters, is_off = False, _is_off(effect, own)
        found[prefix.removesuffix(".")] = "*" if matters else "-" if is_off else " "
    return found


def _is_off(effect: Effect, values: Values) -> bool:
    """Whether an effect stands at values that switch it off, or is a filter that hardly changes a level."""
    curves = effect.curves(values)
    if curves and all(curve.title == RESPONSE and np.nanmax(np.abs(curve.y)) < HARDLY_DB for curve in curves):
        return True
    switches = [value for part in effect.switches().values() for value in part.items()]
    present, declared = own_values(values), dict(effect.walk())
    return bool(switches) and all(_is_near(declared[name], present[name], off) for name, off in switches)


def _is_near(p: Param, value: Tensor, off: float | tuple[float, ...]) -> bool:
    """Whether a value is within half a percent of its range, or 0.05 of its unit, of another."""
    value, other = value.detach().cpu().double(), torch.tensor(off, dtype=torch.float64)
    if isinstance(p.mapping, Bounded):
        return bool(((p.mapping.to_unit(value) - p.mapping.to_unit(other)).abs() < 0.005).all())
    return bool(((value - other).abs() < 0.05).all())


def _leaf(effect: str, leaves: Iterable[str]) -> str:
    """The effect that figures and records name, of which this one is a part."""
    return max((leaf for leaf in leaves if f"{effect}.".startswith(f"{leaf}.")), key=len, default="")


def certainty_rows(
    chain: Effect, values: Values, certainty: Mapping[str, Certainty]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of the scalar values of a chain with their intervals and words."""
    rows = value_rows(chain, values, certainty)
    return ["parameter", *INTERVAL], [[row.name, *_interval_cells(row)] for row in rows]


def _interval_cells(row: ValueRow) -> list[str]:
    """The cells of a row under INTERVAL."""
    numbers = ["" if x is None else digits_of(x, row.unit) for x in (row.value, row.low, row.high)]
    return [*numbers, row.unit, f"{UNCERTAIN.get(row.certainty, ' ')} {row.certainty}".rstrip()]
