"""Presets drawn from a density under conditions on their parameters and on what they sound like."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from reknob.afx.effect import Effect, nest
from reknob.afx.param import Param
from reknob.afx.registry import lookup
from reknob.analysis.character import TRAITS, traits
from reknob.analysis.prior import Prior
from reknob.formats.presets import from_vectors
from reknob.formats.published import feature_mask
from reknob.runtime.errors import UsageError

MOST_DRAWS, AT_ONCE = 5000, 500


@dataclass(frozen=True)
class Condition:
    """That a parameter in its unit, or a trait of `analysis.character.TRAITS`, lies from `low` to `high`."""

    name: str
    low: float
    high: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """From NAME=LOW:HIGH, either end of which may be empty; UsageError for anything else."""
        name, equals, ends = text.partition("=")
        low, colon, high = ends.partition(":")
        try:
            condition = cls(name, float(low) if low else -math.inf, float(high) if high else math.inf)
        except ValueError:
            condition = None
        if condition is None or not (name and equals and colon) or not condition.low <= condition.high:
            raise UsageError(f"--where {text[:80]}: give NAME=LOW:HIGH, as reverb_time=1:2 or comp.cmp_ratio=:4")
        return condition


def draw(chain: Effect, prior: Prior, count: int, conditions: Sequence[Condition], seed: int) -> Tensor:
    """`count` rows of raw_params.npy (count, P) drawn from a prior, all of which meet the conditions.

    By rejection, so that they have the density of the prior under the conditions. UsageError for a name that is
    neither a scalar parameter of the chain nor a trait of it, and where of 5000 draws too few meet the conditions.
    """
    generator = torch.Generator().manual_seed(seed)
    params = dict(chain.walk())
    scalars = {name: p for name, p in params.items() if p.preset and not p.shape}
    known = {**scalars, **dict.fromkeys(TRAITS)}
    for condition in conditions:
        lookup(known, condition.name, "parameter or trait")
    met = (vector for vector, raws in _drawn(chain, prior, generator) if _meets(chain, params, raws, conditions))
    kept = list(islice(met, count))
    if len(kept) < count:
        raise UsageError(
            f"{len(kept)} of {MOST_DRAWS} draws meet the conditions, {count} are wanted: widen the conditions"
        )
    return torch.stack(kept)


def _drawn(chain: Effect, prior: Prior, generator: torch.Generator) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
    """MOST_DRAWS draws, each as a row of raw_params.npy (P,) and as raw parameters."""
    mask = feature_mask(chain)
    for _ in range(MOST_DRAWS // AT_ONCE):
        vectors = torch.zeros(AT_ONCE, len(mask))
        vectors[:, mask] = prior.sample(AT_ONCE, generator)
        yield from zip(vectors, from_vectors(vectors, chain), strict=True)


def _meets(
    chain: Effect, params: Mapping[str, Param], raws: Mapping[str, Tensor], conditions: Sequence[Condition]
) -> bool:
    """Whether raw parameters meet all conditions; those on parameters are cheap and come first."""
    on_traits = [c for c in conditions if c.name in TRAITS]
    on_values = [c for c in conditions if c.name not in TRAITS]
    if not all(c.low <= float(params[c.name].mapping.value(raws[c.name])) <= c.high for c in on_values):
        return False
    if not on_traits:
        return True
    values = {n: p.mapping.value(raws[n] if n in raws else p.initial_raw(None)) for n, p in params.items()}
    needs_response = any(c.name in ("wetness", "width") for c in on_traits)
    numbers = traits(chain, nest(values), responses=needs_response)
    missing = [c.name for c in on_traits if c.name not in numbers]
    if missing:
        raise UsageError(f"--where {missing[0]}: the chain has no such trait; it has: {', '.join(numbers)}")
    return all(c.low <= numbers[c.name] <= c.high for c in on_traits)
