"""Tables for a terminal."""

from torch import Tensor

from afx.effect import Effect, Values, flatten


def settings_table(chain: Effect, values: Values) -> str:
    """Every single-number setting of a chain with its unit, one effect a line."""
    units = {name: p.unit for name, p in chain.walk()}
    lines: dict[str, list[str]] = {}
    for name, value in flatten(values).items():
        if not isinstance(value, Tensor) or value.numel() > 1:
            continue
        effect, _, parameter = name.rpartition(".")
        lines.setdefault(effect, []).append(f"{parameter} {number(value.item())} {units[name]}".rstrip())
    width = max(map(len, lines), default=0)
    return "\n".join(f"{effect:<{width}}  {', '.join(cells)}" for effect, cells in lines.items())


def number(x: float) -> str:
    """A number as an engineer writes it: about three digits, no exponent in the usual range."""
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        digits = 0 if abs(x) >= 1000 else 1 if abs(x) >= 100 else 2 if abs(x) >= 1 else 3
        return f"{x:.{digits}f}"
    return f"{x:.2e}"
