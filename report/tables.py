"""Tables as text for a terminal and as web pages, and numbers as text."""

import html
from collections.abc import Iterable, Sequence
from statistics import mean, median


def number(x: float) -> str:
    """A number with about three significant digits, in fixed-point notation from 0.001 to 100 000."""
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        digits = 0 if abs(x) >= 1000 else 1 if abs(x) >= 100 else 2 if abs(x) >= 1 else 3
        return f"{x:.{digits}f}"
    return f"{x:.2e}"


def quantity(x: float, unit: str) -> str:
    """A number with its unit."""
    return f"{digits_of(x, unit)} {unit}".rstrip()


def digits_of(x: float, unit: str) -> str:
    """A number without its unit: of dB with two decimals, as finer steps are inaudible, of others by `number`."""
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
