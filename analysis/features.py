"""A preset set as rows of numbers with names, and what the chain does at any such row, as curves."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from afx.chain import Sends, Serial
from afx.delay import PingPongDelay
from afx.dynamics import CompressorExpander
from afx.effect import Effect, Values, nest
from afx.eq import Biquad, HighPass, HighShelf, LowPass, LowShelf, Peak
from afx.functional import biquad
from afx.functional.units import gain_to_db
from afx.registry import build
from afx.reverb import FDN
from afx.stereo import Panning
from formats.presets import (
    TRAIN_INDEX,
    Preset,
    column_names,
    from_vectors,
    load_presets,
    read_chain,
    read_row_numbers,
    to_vectors,
)
from formats.published import feature_mask
from runtime.errors import UsageError

# What effects are called in figures; a pan on its own belongs to none.
LABELS = {
    Peak: "PK",
    LowShelf: "LS",
    HighShelf: "HS",
    LowPass: "LP",
    HighPass: "HP",
    CompressorExpander: "COMP",
    PingPongDelay: "DLY",
    FDN: "FDN",
    Sends: "SEND",
    Panning: "",
}
FREQUENCIES = np.geomspace(20, 20000, 400)  # Hz
LEVELS = np.linspace(-80, 0, 161)  # dB


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
    kinds = {prefix: LABELS.get(type(effect), type(effect).__name__) for prefix, effect in _leaves(chain)}
    counts, seen = Counter(kinds.values()), Counter()
    labels = {}
    for prefix, kind in kinds.items():
        seen[kind] += 1
        labels[prefix] = f"{kind}{seen[kind]}" if kind and counts[kind] > 1 else kind
    return [labels[max((p for p in labels if column.startswith(p)), key=len)] for column in columns]


def _leaves(chain: Effect, prefix: str = "") -> Iterator[tuple[str, Effect]]:
    """The effects of a chain behind the beginnings of their parameters' names, sends after what they feed."""
    if isinstance(chain, (Serial, Sends)):
        for name, part in chain.parts():
            yield from _leaves(part, f"{prefix}{name}.")
    if not isinstance(chain, Serial):
        yield prefix, chain


@dataclass(frozen=True)
class Curve:
    """What one effect does, y over x."""

    title: str
    x_label: str
    y_label: str
    x: np.ndarray
    y: np.ndarray
    log_x: bool = True


def effect_curves(features: Features, row: np.ndarray) -> list[Curve]:
    """The equaliser, the compressor/expander and the reverb's decay at a row (F,), as far as the chain has them."""
    chain, mask = features.chain, feature_mask(features.chain)
    vector = torch.zeros(len(mask), dtype=torch.float64)
    vector[mask] = torch.from_numpy(row)
    (raws,) = from_vectors(vector[None], chain)
    values = {name: p.mapping.value(raws[name]) for name, p in chain.walk() if p.preset}
    drawn, bands = [], []
    for prefix, effect in _leaves(chain):
        own = nest({name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)})
        if isinstance(effect, Biquad):
            bands.append(effect.coefs(**own))
        elif isinstance(effect, CompressorExpander):
            drawn.append(_compression(own))
        elif isinstance(effect, FDN):
            drawn.append(_decay(effect, own))
    return ([_equaliser(torch.stack(bands), chain.sr)] if bands else []) + drawn


def _equaliser(coefs: Tensor, sr: int) -> Curve:
    """|H| of biquads in series, (K, 5)."""
    level = gain_to_db(biquad.response(coefs, torch.from_numpy(FREQUENCIES), sr).abs())
    return Curve("Equaliser", "frequency (Hz)", "gain (dB)", FREQUENCIES, level.numpy())


def _compression(values: Values) -> Curve:
    """Gain over the level of a steady sound."""
    T_c, R_c, T_e, R_e, makeup = (
        float(values[name]) for name in ("cmp_threshold", "cmp_ratio", "exp_threshold", "exp_ratio", "makeup")
    )
    gain = np.minimum(0, np.minimum((1 - 1 / R_c) * (T_c - LEVELS), (1 - 1 / R_e) * (T_e - LEVELS)))
    return Curve("Compressor and expander", "input level (dB)", "gain (dB)", LEVELS, gain + makeup, log_x=False)


def _decay(effect: FDN, values: Values) -> Curve:
    """Time in which the network's sound falls by 60 dB, by the first line's decay where each line has its own."""
    gamma = values["gamma"][:, 0].double().numpy()
    # Higher up hardly anything is heard, and fits leave the decay wherever it is.
    frequencies = FREQUENCIES[FREQUENCIES < 16000]
    gamma = np.interp(frequencies, np.linspace(0, effect.sr / 2, len(gamma)), gamma)
    lines = values.get("delays", effect.lines)
    samples = float(lines.min() if effect.shared_decay else lines[0])
    seconds = -3 * samples / effect.sr / np.log10(gamma)
    return Curve("Reverb decay by 60 dB", "frequency (Hz)", "time (s)", frequencies, seconds)
