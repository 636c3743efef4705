"""Changes of a preset's values on their way: `--set comp.makeup=3`, `--amount 0.7`."""

import json
import logging
import re
from collections.abc import Sequence

import torch

from reknob.afx.amount import unmoved, with_amount
from reknob.afx.effect import Effect, Values, flatten, nest
from reknob.afx.param import Param
from reknob.afx.registry import lookup
from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)

#: Units that may be written in place of the declared one, and their factor.
_OTHER_UNITS = {"Hz": {"kHz": 1000.0}, "ms": {"s": 1000.0}}
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/]*)\s*")


def changed(effect: Effect, values: Values, changes: Sequence[str] = (), amount: float = 1.0) -> Values:
    """Values of a chain with an amount of all of them (`afx.amount`) and then some set by name.

    Args:
        effect: the chain.
        values: one set, in physical units.
        changes: texts as "comp.makeup=3", "peak1.freq=2.5kHz" or "sends.reverb.c=[[…], […]]".
        amount: 0 for off to 1 for the values as they are, and beyond.

    Raises UsageError for a name that the chain does not have, another unit, another shape and a value out of range.
    """
    if amount != 1:
        stays = unmoved(effect)
        if stays:
            log.warning("the amount does not change %s, which no values switch off", ", ".join(stays))
        values = with_amount(effect, values, amount)
    declared, flat = {name: p for name, p in effect.walk() if p.preset}, flatten(values)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change[:80]}: give NAME=VALUE, as comp.makeup=3")
        p = lookup(declared, name.strip(), "parameter")
        value = _read(p, name.strip(), text)
        p.check(value, name.strip())
        flat[name.strip()] = value.to(flat[name.strip()])
    return nest(flat)


def _read(p: Param, name: str, text: str) -> torch.Tensor:
    """A value as a user writes it: a number, with or without its unit, or nested lists of the declared shape."""
    wanted = f"a number{f' of {p.unit}' if p.unit else ''}" if not p.shape else f"lists of the shape {list(p.shape)}"
    match = _NUMBER.fullmatch(text)
    if match and not p.shape:
        number, unit = match.groups()
        factors = {"": 1.0, p.unit: 1.0} | _OTHER_UNITS.get(p.unit, {})
        if unit not in factors:
            raise UsageError(f"{name}={text.strip()[:40]}: the unit is {p.unit or 'none'}; give {wanted}")
        return torch.tensor(float(number) * factors[unit], dtype=torch.float64)
    try:
        value = torch.tensor(json.loads(text), dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError, RecursionError, OverflowError):
        raise UsageError(f"{name}={text.strip()[:40]}: give {wanted}") from None
    if tuple(value.shape) != p.shape:
        raise UsageError(f"{name}={text.strip()[:40]}: give {wanted}")
    return value
