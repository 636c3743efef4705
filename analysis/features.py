"""A preset set as a matrix of free raw parameters, and curves of the chain's response for any row of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from reknob.afx.curve import Curve
from reknob.afx.effect import Effect, nest
from reknob.formats.preset_set import open_set
from reknob.formats.presets import TRAIN_INDEX, Preset, from_vectors, read_row_numbers
from reknob.formats.published import feature_mask
from reknob.runtime.errors import UsageError


@dataclass(frozen=True)
class Features:
    """A preset set as a matrix: a preset per row, a free raw parameter per column."""

    chain: Effect
    presets: list[Preset]
    rows: np.ndarray  # (N, F) float64
    columns: list[str]  # names of the F columns
    effects: list[str]  # the label of each column's effect: PK1, …; "" for a panner outside any effect

    def values(self) -> dict[str, np.ndarray]:
        """The values of every parameter in physical units, (N, *shape), by name."""
        return {
            name: p.mapping.value(torch.stack([preset.raws[name] for preset in self.presets])).numpy()
            for name, p in self.chain.walk()
            if p.preset
        }

    def units(self) -> dict[str, str]:
        """The unit of every parameter, by name."""
        return {name: p.unit for name, p in self.chain.walk()}


def load_sets(*folders: str | Path) -> dict[str, Features]:
    """Preset sets of one chain by the names of their folders (by their paths where names are equal), each once.

    UsageError naming the file that is missing, damaged or of another chain, and for sets of different chains.
    """
    paths = list(dict.fromkeys(Path(folder).expanduser() for folder in folders))
    clash = len({path.name for path in paths}) < len(paths)
    sets = {str(path) if clash else path.name: load_features(path) for path in paths}
    (name, first), *others = sets.items()
    for other, features in others:
        different = sorted(set(first.columns) ^ set(features.columns))
        if different:
            raise UsageError(f"{name} and {other} are of different chains: only one has {', '.join(different[:5])}")
    return sets


def load_features(folder: Path) -> Features:
    """A preset set with its own chain; only the rows of train_index.npy where that file exists."""
    own = open_set(folder)
    if (folder / TRAIN_INDEX).exists():
        rows = read_row_numbers(folder / TRAIN_INDEX, len(own.presets))
        own = replace(own, presets=[own.presets[row] for row in rows])
    columns = own.feature_names
    return Features(own.effect, own.presets, own.features, columns, effect_labels(own.effect, columns))


def effect_labels(chain: Effect, columns: Sequence[str]) -> list[str]:
    """The label of each column's effect; effects of the same kind are numbered in the order of the chain."""
    kinds = {
        prefix: type(effect).__name__ if effect.label is None else effect.label for prefix, effect in chain.leaves()
    }
    totals, counts = Counter(kinds.values()), Counter()
    labels = {}
    for prefix, kind in kinds.items():
        counts[kind] += 1
        labels[prefix] = f"{kind}{counts[kind]}" if kind and totals[kind] > 1 else kind
    # The innermost effect: of the prefixes that match a column's name the longest.
    return [labels[max((p for p in labels if column.startswith(p)), key=len)] for column in columns]


def effect_curves(features: Features, row: np.ndarray) -> list[Curve]:
    """The response curves of the chain's effects (equaliser, compressor, reverb decay, …) for a row (F,)."""
    chain, mask = features.chain, feature_mask(features.chain)
    # Zeros for the unused elements of the feedback matrix, which have no effect.
    vector = torch.zeros(len(mask), dtype=torch.float64)
    vector[mask] = torch.from_numpy(row)
    (raws,) = from_vectors(vector[None], chain)
    values = {name: p.mapping.value(raws[name]) for name, p in chain.walk() if p.preset}
    return chain.curves(nest(values))
