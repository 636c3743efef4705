"""How much of a preset: its values moved towards those that switch the effects off, each in its own unit."""

import torch
from torch import Tensor

from .effect import Effect, Tensors, Values, own_values, part_values
from .eq import HighPass, LowPass
from .param import Bounded, Param

#: Largest amount: beyond 1 the values are carried on past the preset, up to the ends of their ranges.
MOST = 2.0


def with_amount(effect: Effect, values: Values, amount: float) -> Values:
    """Values of which only an amount is left: 0 is off, 1 the values themselves.

    What `Effect.off_values` names moves, and a low- or high-pass, which has no such values, opens to the end of its
    range. Decibels, times, positions and factors move linearly; frequencies logarithmically; ratios so that the gain
    reduction in dB is multiplied by the amount; levels in Np as factors. A frequency, Q or time constant of an effect
    whose gain moves stays where it is, as does an effect that nothing switches off.

    Args:
        effect: the chain.
        values: one set, in physical units.
        amount: 0 to MOST.
    """
    off = _open_values(effect) if isinstance(effect, (LowPass, HighPass)) else effect.off_values()
    declared, own = {p.name: p for p in effect.params}, own_values(values)
    if off:
        moved: Tensors = {
            name: _between(
                declared[name], torch.as_tensor(target).to(own[name]).expand_as(own[name]), own[name], amount
            )
            for name, target in off.items()
        }
        return values | moved
    return values | {name: with_amount(part, part_values(values, name), amount) for name, part in effect.parts()}


def unmoved(effect: Effect, prefix: str = "") -> list[str]:
    """The effects, by name, that `with_amount` leaves as they are."""
    if isinstance(effect, (LowPass, HighPass)) or effect.off_values():
        return []
    parts = list(effect.parts())
    return [name for part, inner in parts for name in unmoved(inner, f"{prefix}{part}.")] or (
        [prefix.removesuffix(".")] if not parts else []
    )


def _open_values(effect: LowPass | HighPass) -> dict[str, float]:
    """Where a low- or high-pass changes least: its corner at the outer end of its range, without a resonance."""
    freq = next(p.mapping for p in effect.params if p.name == "freq")
    assert isinstance(freq, Bounded)
    end = torch.tensor(1.0 if isinstance(effect, LowPass) else 0.0, dtype=torch.float64)
    return {"freq": float(freq.from_unit(end)), "Q": 0.707}


def _between(p: Param, off: Tensor, value: Tensor, amount: float) -> Tensor:
    """A value at `amount` of the way from `off`, within its range."""
    if p.unit == "Hz":
        moved = off * (value / off) ** amount
    elif p.unit == "Np":
        # Half of a level is half of its factor: half of its exponent would be silence.
        moved = torch.log(((1 - amount) * off.exp() + amount * value.exp()).clamp(min=1e-30))
    elif p.name.endswith("ratio"):
        # The slope of the gain reduction is 1 - 1/ratio; beyond the preset it ends at a limiter.
        moved = 1 / torch.lerp(1 / off, 1 / value, amount).clamp(min=1e-3)
    else:
        moved = torch.lerp(off, value, amount)
    if amount > 1 and isinstance(p.mapping, Bounded):
        moved = p.mapping.from_unit(p.mapping.to_unit(moved).clamp(0, 1))
    return moved.to(value)
