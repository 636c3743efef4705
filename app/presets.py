"""Preset sets and single presets as the page shows them: a table, a map, neighbours, sliders, documents."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from reknob.afx.amount import with_amount
from reknob.afx.effect import Effect, Tensors, Values, flatten
from reknob.afx.param import Linear, Param, RiseTime, Wrapped
from reknob.analysis import distances
from reknob.analysis.statistics import Components, principal_components, variance_shares
from reknob.app.curves import curves_of
from reknob.app.points import MOST_COMPONENTS, Point
from reknob.formats.applied import LUFS
from reknob.formats.as_document import row_document
from reknob.formats.changes import changed
from reknob.formats.preset_document import PresetDocument, values_of
from reknob.formats.preset_set import open_set
from reknob.formats.presets import Preset, from_vectors
from reknob.runtime.errors import UsageError
from reknob.runtime.files import printable

MOST_ROWS = 3000  # of a set that is shown
# Reach of sliders of values without a range.
LEVEL_DB, THRESHOLD_DB, LEAST_MS, MOST_MS = 24.0, -80.0, 0.1, 1000.0
WIDER = 0.2  # by which a slider reaches beyond the set


def state_of(source: "Source", point: Point) -> dict[str, Any]:
    """Scalar values with unit, slider and range, and the curves, at a point."""
    values = source.values(point)
    flat = flatten(values)
    return {
        "values": [
            slider(name, p, float(flat[name]), source.reach(name)) | {"certainty": source.certainty(name)}
            for name, p in source.effect.walk()
            if p.preset and not p.shape
        ],
        "curves": curves_of(source.effect, values),
    }


def slider(name: str, p: Param, value: float, reach: tuple[float, float] | None) -> dict[str, Any]:
    """A value with the ends of its slider: its range or, without one, what its unit suggests and the set needs."""
    group, _, label = name.rpartition(".")
    if label == "pan" and group.endswith("_pan"):
        group, _, label = group.rpartition(".")
    lo, hi = _ends(p, value, reach)
    lo, hi = min(lo, value), max(hi, value)
    is_log = lo > 0 and p.unit in ("Hz", "ms") and hi / lo > 4
    own = {"name": name, "group": group, "label": label.replace("_", " "), "unit": p.unit, "value": value}
    return own | {"lo": lo, "hi": hi, "log": is_log}


def _ends(p: Param, value: float, reach: tuple[float, float] | None) -> tuple[float, float]:
    if isinstance(p.mapping, Linear):
        return p.mapping.lo, p.mapping.hi
    if isinstance(p.mapping, Wrapped):
        return 0.0, p.mapping.period
    if isinstance(p.mapping, RiseTime):
        return LEAST_MS, MOST_MS
    lo, hi = value - 1, value + 1
    if p.unit == "dB":
        lo, hi = (THRESHOLD_DB, 0.0) if p.name.endswith("threshold") else (-LEVEL_DB, LEVEL_DB)
    more = WIDER * (reach[1] - reach[0]) if reach else 0.0
    return (min(lo, reach[0] - more), max(hi, reach[1] + more)) if reach else (lo, hi)


def _changed(effect: Effect, values: Values, point: Point) -> Values:
    with torch.no_grad():
        # Not by `changed`, which logs a warning for what no amount switches off: at every move of a slider.
        values = values if point.amount == 1 else with_amount(effect, values, point.amount)
        return changed(effect, values, [f"{name}={value!r}" for name, value in point.changes.items()])


@dataclass(frozen=True)
class DocumentSource:
    """A preset document as a source of one row."""

    base: PresetDocument
    title: str

    @property
    def effect(self) -> Effect:
        """The chain."""
        return self.base.effect

    @property
    def config(self) -> dict | str:
        """The configuration of the chain."""
        return self.base.chain

    @property
    def lufs(self) -> float | None:
        """The loudness in LUFS that an input is brought to; None for its own."""
        return self.base.lufs

    def table(self) -> dict[str, Any]:
        """As of a set, without rows."""
        return {"title": self.title, "rows": [], "columns": [], "map": [], "components": []}

    def nearest(self, row: int, count: int) -> list[dict[str, Any]]:
        """None."""
        return []

    def values(self, point: Point) -> Values:
        """The values at a point: those of the document with its amount and its changes."""
        return _changed(self.effect, values_of(self.effect, self.base.values, self.base.raws), point)

    def document(self, point: Point) -> PresetDocument:
        """The values at a point as a preset document."""
        return replace(self.base, name=self.title[:200]).with_values(self.values(point), point.moves)

    def reach(self, name: str) -> tuple[float, float] | None:
        """None: there are no other presets."""
        return None

    def certainty(self, name: str) -> dict[str, Any] | None:
        """Interval and word of a value, where the fit has estimated them."""
        return self.base.certainty.get(name)


class SetSource:
    """The presets of a folder.

    Args:
        folder: of a preset set, ours or published; UsageError where it is none, or has more than MOST_ROWS presets.
    """

    lufs = LUFS

    def __init__(self, folder: str | Path) -> None:
        self.set = open_set(folder)
        self.title, self.config, self.effect = printable(self.set.folder.name), self.set.config, self.set.effect
        if len(self.set.presets) > MOST_ROWS:
            count = len(self.set.presets)
            raise UsageError(f"{folder}: has {count} presets; the page shows sets of up to {MOST_ROWS}")

    @cached_property
    def components(self) -> Components | None:
        """Principal components of the free raw parameters, F of them; None for a set without variance."""
        rows = self.set.features
        return principal_components(rows) if len(rows) > 1 and rows.std(0).max() > 0 else None

    @cached_property
    def columns(self) -> dict[str, Tensor]:
        """The scalar values (N,) of all presets, by name."""
        scalars = [(name, p) for name, p in self.set.params.items() if not p.shape]
        return {name: p.mapping.value(torch.stack([one.raws[name] for one in self.set.presets])) for name, p in scalars}

    def table(self) -> dict[str, Any]:
        """Rows with their names, columns of scalar values with their units, the places of the rows on the map, in
        standard deviations along two components, and the share of the variance that each component explains.
        """
        units = {name: p.unit for name, p in self.effect.walk()}
        columns = {
            name: {"unit": units[name], "values": np.round(value.double().numpy(), 4).tolist()}
            for name, value in self.columns.items()
        }
        rows = [{"row": one.row, "name": _name(one)} for one in self.set.presets]
        components, places, shares = self.components, [], []
        if components is not None:
            places = np.round(components.whiten(self.set.features)[:, :2], 4).tolist()
            shares = variance_shares(self.set.features, components)[:MOST_COMPONENTS].tolist()
        return {"title": self.title, "rows": rows, "columns": columns, "map": places, "components": shares}

    def nearest(self, row: int, count: int) -> list[dict[str, Any]]:
        """The presets most like one, with their distances (`analysis.distances`); UsageError for an unknown row."""
        preset = self.set.preset(row)
        if len(self.set.presets) < 2:
            return []
        return [
            {"row": other, "name": _name(self.set.presets[other]), "distance": round(distance, 3)}
            for other, distance in distances.nearest(self.set.vectors, preset.row, self.set.mask, count)
        ]

    def raws(self, point: Point) -> Tensors:
        """Raw parameters by name at a point, before its amount and its changes."""
        vector = self.set.vectors[self.set.preset(point.row).row].clone()
        if point.other is not None:
            vector = vector.lerp(self.set.vectors[self.set.preset(point.other).row], point.morph)
        if any(point.components) and self.components is not None:
            own = self.components
            steps = np.array(point.components[: len(own.deviations)])
            along = (steps * own.deviations[: len(steps)]) @ own.axes[: len(steps)]
            vector[self.set.mask] += torch.from_numpy(along).float()
        return dict(from_vectors(vector[None], self.effect)[0])

    def values(self, point: Point) -> Values:
        """The values at a point; UsageError for a row or a name that is unknown, and a value out of range."""
        preset = replace(self.set.preset(point.row), raws=self.raws(point))
        with torch.no_grad():
            return _changed(self.effect, preset.values(self.effect), point)

    def document(self, point: Point) -> PresetDocument:
        """The values at a point as a preset document."""
        preset = replace(self.set.preset(point.row), raws=self.raws(point))
        base = replace(row_document(preset, self.config, self.effect), name=f"{self.title} {_name(preset)}"[:200])
        return base.with_values(self.values(point), point.moves)

    def reach(self, name: str) -> tuple[float, float] | None:
        """The least and the largest value of a scalar parameter among the presets."""
        column = self.columns[name]
        return float(column.min()), float(column.max())

    def certainty(self, name: str) -> dict[str, Any] | None:
        """None: sets have none."""
        return None


#: Presets of one chain, and all that the sliders can make of them.
Source: TypeAlias = SetSource | DocumentSource


def _name(preset: Preset) -> str:
    """Track and stem, without the track where the stem begins with it."""
    return printable(preset.stem if preset.stem.startswith(preset.track) else f"{preset.track} {preset.stem}")
