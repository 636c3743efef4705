"""A preset set in memory: its presets, their chain, and its free raw parameters as a matrix."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Values
from reknob.afx.param import Param
from reknob.afx.registry import build
from reknob.formats.presets import (
    Preset,
    column_names,
    from_vectors,
    load_presets,
    read_chain,
    read_rows,
    to_vectors,
)
from reknob.formats.published import feature_mask
from reknob.runtime.errors import UsageError
from reknob.runtime.files import printable


@dataclass(frozen=True)
class PresetSet:
    """The presets of a folder with their chain.

    Args:
        folder: of the set.
        config: of the chain.
        chain_file: that it was read from.
        effect: the chain, in evaluation mode.
        presets: by their rows.
    """

    folder: Path
    config: dict = field(repr=False)
    chain_file: Path
    effect: Effect = field(repr=False)
    presets: list[Preset] = field(repr=False)

    def preset(self, row: int) -> Preset:
        """The preset of a row; UsageError for one that the set does not have."""
        if not 0 <= row < len(self.presets):
            raise UsageError(f"row {row}: {printable(str(self.folder))} has rows 0 to {len(self.presets) - 1}")
        return self.presets[row]

    def one(self, text: str) -> Preset:
        """The preset that `text` names by row, track or dry file; UsageError unless it is exactly one."""
        rows = read_rows(text, self.presets)
        if len(rows) != 1:
            raise UsageError(f"{text!r} names {len(rows)} presets, not one: rows {', '.join(map(str, rows))}")
        return self.presets[rows[0]]

    @cached_property
    def params(self) -> dict[str, Param]:
        """The parameters of a preset, by name."""
        return {name: p for name, p in self.effect.walk() if p.preset}

    @cached_property
    def vectors(self) -> Tensor:
        """The presets as rows of raw parameters, (N, P) float32."""
        return to_vectors(self.presets, self.effect)

    @cached_property
    def mask(self) -> Tensor:
        """Which of the P raw parameters are free, (P,) bool."""
        return feature_mask(self.effect)

    @cached_property
    def features(self) -> np.ndarray:
        """The free raw parameters, (N, F) float64."""
        return self.vectors[:, self.mask].double().numpy()

    @property
    def feature_names(self) -> list[str]:
        """The names of the F free raw parameters."""
        return [name for name, free in zip(column_names(self.effect), self.mask.tolist(), strict=True) if free]

    def values_at(self, features: np.ndarray) -> Values:
        """The values of free raw parameters (F,)."""
        vector = torch.zeros(1, len(self.mask))
        vector[0, self.mask] = torch.from_numpy(features).float()
        return replace(self.presets[0], raws=from_vectors(vector, self.effect)[0]).values(self.effect)


def open_set(folder: str | Path, fx_config: str | Path | None = None) -> PresetSet:
    """The preset set of a folder; UsageError naming the file that is missing, damaged or of another chain.

    `fx_config` is the file of its chain; by default as in `formats.presets.read_chain`.
    """
    config, sr, chain_file = read_chain(folder, fx_config)
    effect = build(config, sr).eval()
    return PresetSet(Path(folder), config, chain_file, effect, load_presets(folder, effect))


def refuse_row(path: object, row: int) -> None:
    """UsageError where a row is asked of a path that is no preset set."""
    if row:
        raise UsageError(f"--row {row}: {path} is no preset set, whose rows have numbers; leave --row out")
