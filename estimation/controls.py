"""Controls of a chain in [0, 1]: from and to values, without an effect, with bands in order of frequency."""

import math
from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from reknob.afx.amount import with_amount
from reknob.afx.effect import Effect, flatten
from reknob.afx.equaliser import Band, FixedBand
from reknob.afx.functional import biquad
from reknob.afx.param import Bounded


def to_unit(chain: Effect, values: dict) -> Tensor:
    """The controls q (B, P) of values in physical units: the inverse of `Effect.from_unit`."""
    flat, columns = flatten(values), []
    for name, p in chain.walk():
        assert isinstance(p.mapping, Bounded)  # as `from_unit` demands
        columns.append(p.mapping.to_unit(flat[name]).reshape(len(flat[name]), -1))
    return torch.cat(columns, 1).clamp(0, 1)


def physical(chain: Effect, q: Tensor) -> Tensor:
    """Controls q (B, P) in physical units (B, P), a column for each name of `Effect.controls`."""
    return torch.cat([value.reshape(len(q), -1) for value in flatten(chain.from_unit(q)).values()], 1)


def units(chain: Effect) -> list[str]:
    """The units of `physical`, by column."""
    return [p.unit for _, p in chain.walk() for _ in range(math.prod(p.shape))]


def no_effect(chain: Effect, q: Tensor) -> Tensor:
    """Controls q (B, P) with none of the chain's effect (`with_amount`); what has no effect then stays as it is."""
    return to_unit(chain, with_amount(chain, chain.from_unit(q), 0.0)).to(q)


def in_order(chain: Effect, q: Tensor) -> Tensor:
    """Controls q (B, P) with the peaks of each equaliser sorted by frequency, which sounds the same.

    Ranges of adjacent bands overlap: without an order two settings of one sound would differ.
    """
    controls, values = chain.controls(), flatten(chain.from_unit(q))
    mappings = {name: p.mapping for name, p in chain.walk()}
    ordered = q.clone()
    peaks = [name for name, band in bands(chain) if isinstance(band, Band) and band.design is biquad.peak]
    for _, group in groupby(peaks, key=_equaliser):
        names = list(group)
        order = torch.stack([values[f"{name}.freq"] for name in names], 1).argsort(1)
        moved = (order != torch.arange(len(names))).any(1)
        for part in ("freq", "gain", "Q"):
            columns = torch.stack([values[f"{name}.{part}"] for name in names], 1).gather(1, order)
            for name, value in zip(names, columns.unbind(1), strict=True):
                mapping, column = mappings[f"{name}.{part}"], controls.index(f"{name}.{part}")
                assert isinstance(mapping, Bounded)  # as `from_unit` demands
                ordered[:, column] = torch.where(moved, mapping.to_unit(value).clamp(0, 1).to(q), q[:, column])
    return ordered


def _equaliser(band: str) -> str:
    return band.rpartition(".")[0]


def bands(effect: Effect, prefix: str = "") -> Iterator[tuple[str, Band | FixedBand]]:
    """The bands of an effect's equalisers, by name."""
    for name, part in effect.parts():
        if isinstance(part, Band | FixedBand):
            yield prefix + name, part
        else:
            yield from bands(part, f"{prefix}{name}.")
