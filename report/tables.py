"""Tables as text for a terminal and as web pages, and numbers as text."""

import functools
import html
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import mean, median

import numpy as np
import torch
from torch import Tensor

from reknob.afx.curve import RESPONSE
from reknob.afx.effect import Effect, Values, flatten, own_values, part_values
from reknob.afx.param import Bounded, Param
from reknob.formats.certainty import BOUNDED, UNKNOWN, Certainty
from reknob.formats.effects import EffectsRecord

#: Marks before an effect: the share of the loss by which it rises without one that matters, and the level in dB that a
#: filter changes at most if it hardly does anything.
MATTERS, HARDLY_DB = 0.05, 0.5
LEGEND = {
    "*": f"* without it the loss rises by more than {100 * MATTERS:g} %",
    "-": f"- changes nothing, or no level by more than {HARDLY_DB:g} dB",
}
#: Marks before the word of a parameter that the sound determines badly.
UNCERTAIN = {BOUNDED: "~", UNKNOWN: "?"}
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
        header, cells = certainty_rows(chain, values, certainty)
        firsts = [i == 0 or row.effect != rows[i - 1].effect for i, row in enumerate(rows)]
        grouped = [
            [of_effect[row.effect] if first else "", row.effect if first else "", row.parameter, *line[1:]]
            for row, first, line in zip(rows, firsts, cells, strict=True)
        ]
        text = text_table(["", "effect", *header], grouped)
    else:
        text = "\n".join(part for block in _blocks(rows) for part in _block_tables(block, of_effect))
    return "\n".join([text, *(line for mark, line in LEGEND.items() if mark in of_effect.values())])


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
    rows = [
        [
            row.name,
            *("" if x is None else _digits(x, row.unit) for x in (row.value, row.low, row.high)),
            row.unit,
            f"{UNCERTAIN.get(row.certainty, ' ')} {row.certainty}".rstrip(),
        ]
        for row in value_rows(chain, values, certainty)
    ]
    return ["parameter", "value", "low", "high", "unit", "  certainty"], rows


def number(x: float) -> str:
    """A number with about three significant digits, in fixed-point notation from 0.001 to 100 000."""
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        digits = 0 if abs(x) >= 1000 else 1 if abs(x) >= 100 else 2 if abs(x) >= 1 else 3
        return f"{x:.{digits}f}"
    return f"{x:.2e}"


def quantity(x: float, unit: str) -> str:
    """A number with its unit; levels in dB with two digits, more of which nobody hears."""
    return f"{_digits(x, unit)} {unit}".rstrip()


def _digits(x: float, unit: str) -> str:
    """A number in a unit, without it."""
    return f"{x:.2f}" if unit == "dB" else number(x)


def p_value(p: float) -> str:
    """A p-value with two significant digits; "0.0" below 1e-16, float64's relative precision."""
    return "0.0" if p < 1e-16 else f"{p:.2g}"


def scores_rows(scores: dict[str, dict[str, list[float]]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of {system: {metric: scores}}: mean and median over the items, a row per system."""
    metrics = list(dict.fromkeys(name for columns in scores.values() for name in columns))
    rows = []
    for system, columns in scores.items():
        items = (columns.get(name) for name in metrics)
        # The system "no effect" has no controls, and so no score of them.
        rows.append([system, *(f"{mean(column):.3f} / {median(column):.3f}" if column else "-" for column in items)])
    return ["mean / median", *metrics], rows


def text_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of aligned columns; those of numbers only, with their units, are aligned to the right."""
    cells = [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    align = [str.rjust if all(map(_is_number, column)) else str.ljust for column in zip(*cells, strict=True)]
    # Without rows there are no columns to derive it from.
    align = align or [str.ljust] * len(header)
    lines = (zip(align, line, widths, strict=True) for line in [list(header), *cells])
    return "\n".join("  ".join(pad(cell, width) for pad, cell, width in line).rstrip() for line in lines)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A self-contained HTML page with a table."""
    style = "body{font:14px sans-serif} table{border-collapse:collapse} th,td{padding:.2em .8em;text-align:left}"
    head, *body = (
        "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", header), *(("td", row) for row in rows)]
    )
    title = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>\n'
        f"<h1>{title}</h1>\n<table>\n<thead>{head}</thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody>\n</table></html>\n"
    )


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number, with or without a unit, or nothing."""
    try:
        float(cell.split(" ")[0] or 0)
    except ValueError:
        return False
    return True
