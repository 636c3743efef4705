"""Preset sets: a folder with info.json and raw_params.npy, ours and the published ones."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from afx.effect import Effect
from afx.published import from_published, split_vector

from .files import read_json


@dataclass(frozen=True)
class Preset:
    """One row of a set: the raw parameters of one fitted track, and the files they were fitted to."""

    row: int
    dry_file: str
    wet_file: str
    alignment_shift: int
    raws: dict[str, Tensor]


def load_presets(folder: str | Path, effect: Effect) -> list[Preset]:
    """All rows of a set, for the chain that they were fitted with.

    Rows follow `dry_files`; in a published set `runs` lists rejected runs as well. Raises ValueError naming the file
    that is missing, damaged or of another chain.
    """
    folder = Path(folder).expanduser()
    info = read_json(folder / "info.json")
    missing = {"params_keys", "params_original_shapes", "dry_files", "wet_files", "alignment_shifts"} - info.keys()
    if missing:
        raise ValueError(f"{folder / 'info.json'}: lacks {', '.join(sorted(missing))}; is it a preset set?")
    vectors = _read_vectors(folder / "raw_params.npy")
    names = info["dry_files"]
    if len(vectors) != len(names):
        raise ValueError(f"{folder}: {len(vectors)} rows of parameters for {len(names)} dry files")
    presets = []
    for row, vector in enumerate(vectors):
        try:
            state = split_vector(vector, info["params_keys"], info["params_original_shapes"])
            raws = from_published(state, effect)
        except ValueError as error:
            raise ValueError(f"{folder}: row {row}: {error}") from error
        presets.append(Preset(row, names[row], info["wet_files"][row], info["alignment_shifts"][row], raws))
    return presets


def _read_vectors(path: Path) -> Tensor:
    """The float32 rows of a .npy file, as data only."""
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array of numbers ({error})") from error
