"""A preset set as rows of numbers with names, and what the chain does at any such row, as curves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reknob.afx.curve import Curve
from reknob.afx.effect import Effect, nest
from reknob.afx.registry import build
from reknob.formats.presets import (
    TRAIN_INDEX,
    Preset,
    column_names,
    from_vectors,
    load_presets,
    read_chain,
    read_row_numbers,
    to_vectors,
)
from reknob.formats.published import feature_mask
from reknob.runtime.errors import UsageError


@dataclass(frozen=True)
class Features:
    """A preset set: one row a preset, one column a raw parameter that says anything."""

    chain: Effect
    presets: list[Preset]
    rows: np.ndarray  # (N, F) float64
    columns: list[str]  # names of the F columns
    effects: list[str]  # their effects' labels: PK1, …; "" for a pan on its own

    def values(self) -> dict[str, np.ndarray]:
        """Every preset's parameters in physical units, (N, *shape), by name."""
        return {
            name: p.mapping.value(torch.stack([preset.raws[name] for preset in self.presets])).numpy()
            for name, p in self.chain.walk()
            if p.preset
        }

    def units(self) -> dict[str, str]:
        """The unit of every parameter, by name."""
        return {name: p.unit for name, p in self.chain.walk()}


def load_sets(*folders: str | Path) -> dict[str, Features]:
    """Preset sets of one chain by the names of their folders; one that is given twice is there once.

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
    """A preset set with the chain that it tells; of the rows those of train_index.npy where there is one."""
    config, sr, _ = read_chain(folder)
    chain = build(config, sr).eval()
    presets = load_presets(folder, chain)
    if (folder / TRAIN_INDEX).exists():
        presets = [presets[row] for row in read_row_numbers(folder / TRAIN_INDEX, len(presets))]
    mask = feature_mask(chain)
    columns = [name for name, wanted in zip(column_names(chain), mask.tolist(), strict=True) if wanted]
    rows = to_vectors(presets, chain)[:, mask].double().numpy()
    return Features(chain, presets, rows, columns, effect_labels(chain, columns))


def effect_labels(chain: Effect, columns: Sequence[str]) -> list[str]:
    """The label of the effect that each column belongs to; effects of one kind are numbered in their order."""
    kinds = {
        prefix: type(effect).__name__ if effect.label is None else effect.label for prefix, effect in chain.leaves()
    }
    counts, seen = Counter(kinds.values()), Counter()
    labels = {}
    for prefix, kind in kinds.items():
        seen[kind] += 1
        labels[prefix] = f"{kind}{seen[kind]}" if kind and counts[kind] > 1 else kind
    return [labels[max((p for p in labels if column.startswith(p)), key=len)] for column in columns]


def effect_curves(features: Features, row: np.ndarray) -> list[Curve]:
    """What the chain's effects do at a row (F,): equaliser, compressor, reverb decay, as far as it has them."""
    chain, mask = features.chain, feature_mask(features.chain)
    vector = torch.zeros(len(mask), dtype=torch.float64)
    vector[mask] = torch.from_numpy(row)
    (raws,) = from_vectors(vector[None], chain)
    values = {name: p.mapping.value(raws[name]) for name, p in chain.walk() if p.preset}
    return chain.curves(nest(values))
