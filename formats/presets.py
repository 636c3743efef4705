"""Preset sets, ours and published: folders with info.json, raw_params.npy and optionally chain, mask and Gaussian.

raw_params.npy is (N, P) float32: a preset per row, and in its columns the raw parameters in the order of the release,
each flattened. `feature_mask` selects the F of the P columns that are free.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect, Values, values_at
from reknob.formats.fields import PRESET_SET, read_fields
from reknob.formats.published import entries, feature_mask, from_published, split_vector
from reknob.formats.runs import CONFIG, META, read_chain_file
from reknob.runtime.errors import UsageError
from reknob.runtime.files import (
    atomic_folder,
    input_path,
    read_array,
    read_arrays,
    read_bytes,
    user_path,
    write_array,
    write_arrays,
    write_text,
)
from reknob.runtime.trees import yaml_text

INFO, VECTORS = "info.json", "raw_params.npy"
MASK, GAUSSIAN, TRAIN_INDEX = "feature_mask.npy", "gaussian.npz", "train_index.npy"
CHAIN = "fx_config.yaml"
FILES = {INFO, VECTORS, MASK, GAUSSIAN, TRAIN_INDEX, CHAIN}
MOST_PRESETS = 200_000  # of a set
MOST_INFO_BYTES = 1 << 28  # of its info.json: long paths of so many presets
#: The chain of the published sets; that of any set without a chain file.
PUBLISHED_CHAIN = Path(__file__).resolve().parent.parent / "presets" / CHAIN


@dataclass(frozen=True)
class Preset:
    """One row of a set: the raw parameters of one fitted track, and the files they were fitted to."""

    row: int
    dry_file: str
    wet_file: str
    alignment_shift: int
    raws: Mapping[str, Tensor] = field(repr=False)
    run: str = ""  # run folder; "" where the set does not record it

    @property
    def track(self) -> str:
        """The name of the dry file's folder."""
        return Path(self.dry_file).parent.name

    @property
    def stem(self) -> str:
        """The dry file's stem."""
        return Path(self.dry_file).stem

    def values(self, effect: Effect, device: torch.device | str = "cpu") -> Values:
        """The parameters in physical units."""
        return values_at(effect, self.raws, device)


def load_presets(folder: str | Path, effect: Effect) -> list[Preset]:
    """All presets of a set; `effect` is the chain that they were fitted with.

    UsageError naming the file that is missing, damaged or of another chain.
    """
    folder = input_path(folder)
    info = read_info(folder)
    vectors = _read_vectors(folder / VECTORS)
    columns = [info[key] for key in ("dry_files", "wet_files", "alignment_shifts")]
    if any(len(column) != len(vectors) for column in columns):
        counts = ", ".join(str(len(column)) for column in columns)
        raise UsageError(f"{folder}: {len(vectors)} rows of parameters for {counts} dry files, wet files and shifts")
    runs = info["runs"] or []
    # Published sets list rejected runs as well, so that theirs do not match the rows.
    if len(runs) != len(vectors):
        runs = [""] * len(vectors)
    try:
        raws = _by_name(vectors, info["params_keys"], info["params_original_shapes"], effect)
    except ValueError as error:
        raise UsageError(f"{folder}: {error}") from error
    return [Preset(row, *cells) for row, cells in enumerate(zip(*columns, raws, runs, strict=True))]


def read_info(folder: str | Path) -> dict:
    """The fields of a set's info.json, None for an absent `runs` or `alignment`; UsageError for any other absence."""
    folder = input_path(folder)
    if not os.path.isdir(folder):
        wrong = "is a file" if os.path.exists(folder) else "does not exist"
        raise UsageError(f"{folder}: {wrong}; give the folder of a preset set, as presets/own")
    if os.path.exists(folder / META):
        raise UsageError(f"{folder}: is a run folder; give a preset set, or --run where the program has it")
    try:
        needed = PRESET_SET.keys() - {"runs", "alignment"}
        return read_fields(folder / INFO, PRESET_SET, needed, MOST_INFO_BYTES)
    except UsageError as error:
        raise UsageError(f"{error}; is it a preset set?") from None


def _read_vectors(path: Path) -> Tensor:
    """The rows of a .npy file as float32."""
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UsageError(f"{path}: not rows of numbers; is it a preset set's?")
    if not 0 < len(array) <= MOST_PRESETS:
        raise UsageError(f"{path}: has {len(array)} rows; a preset set has 1 to {MOST_PRESETS}")
    with np.errstate(over="ignore"):  # float64 beyond float32's range becomes infinite, which is checked where used
        return torch.from_numpy(array.astype(np.float32))


def read_chain(folder: str | Path, fx_config: str | Path | None = None) -> tuple[dict, int, Path]:
    """The configuration of a set's chain, its sample rate in Hz, and the file it was read from.

    The file is `fx_config` where given; otherwise the set's own chain file, else the configuration of its first run,
    else the chain of the published sets.
    """
    folder = input_path(folder)
    if fx_config is None:
        runs = read_info(folder)["runs"] or ["-"]
        # Unlike those of pathlib, these functions do not raise for the text of an untrusted set.
        candidates = (folder / CHAIN, os.path.join(os.path.expanduser(runs[0]), CONFIG))
        fx_config = next((path for path in candidates if os.path.isfile(path)), PUBLISHED_CHAIN)
    return *read_chain_file(fx_config), Path(fx_config)


def to_vectors(presets: Sequence[Preset], effect: Effect) -> Tensor:
    """The content of raw_params.npy, (N, P) float32, in the order of the release."""
    names = tuple(row.ours for row in entries(effect) if row.preset)
    vectors = torch.empty(len(presets), len(column_names(effect)))
    for i, preset in enumerate(presets):
        raws = preset.raws
        vectors[i] = raws.in_order(names) if isinstance(raws, RowRaws) else _joined(raws, names)
    return vectors


def _joined(raws: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([raws[name].detach().reshape(-1) for name in names])


class RowRaws(Mapping[str, Tensor]):
    """The raw parameters of a row of raw_params.npy by our names, taken from the row when they are asked for.

    Tensors of their own for every parameter of every preset would take a hundred times the memory of the array.

    Args:
        vectors: the array, (N, P).
        row: its row.
        columns: the columns of each parameter, in its shape; shared by all rows.
    """

    __slots__ = ("_vectors", "_row", "_columns")

    def __init__(self, vectors: Tensor, row: int, columns: "_Columns") -> None:
        self._vectors, self._row, self._columns = vectors, row, columns

    def __getitem__(self, name: str) -> Tensor:
        return self._vectors[self._row][self._columns.by_name[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.by_name)

    def __len__(self) -> int:
        return len(self._columns.by_name)

    def in_order(self, names: tuple[str, ...]) -> Tensor:
        """The parameters of these names, flat, one after another."""
        return self._vectors[self._row][self._columns.in_order(names)]


class _Columns:
    def __init__(self, by_name: dict[str, Tensor]) -> None:
        self.by_name = by_name
        self._orders: dict[tuple[str, ...], Tensor] = {}

    def in_order(self, names: tuple[str, ...]) -> Tensor:
        if names not in self._orders:
            self._orders[names] = _joined(self.by_name, names)
        return self._orders[names]


def from_vectors(vectors: Tensor, effect: Effect) -> list[RowRaws]:
    """Raw parameters by our names from every row of raw_params.npy, (N, P)."""
    rows = [row for row in entries(effect) if row.preset]
    return _by_name(vectors, [row.theirs for row in rows], [list(row.shape) for row in rows], effect)


def _by_name(vectors: Tensor, keys: list[str], shapes: list[list[int]], effect: Effect) -> list[RowRaws]:
    """Raw parameters by our names from rows (N, P) of the release's `keys`, in their order and `shapes`."""
    # Translated once, on the column numbers: the columns of a parameter are the same in every row.
    columns = _Columns(from_published(split_vector(torch.arange(vectors.shape[1]), keys, shapes), effect))
    return [RowRaws(vectors, row, columns) for row in range(len(vectors))]


def element_names(name: str, shape: tuple[int, ...]) -> list[str]:
    """The names of a parameter's elements: U[0,1], … for a matrix, the name itself for a scalar."""
    return [f"{name}[{','.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]


def column_names(effect: Effect) -> list[str]:
    """Our names of the P columns of raw_params.npy."""
    shapes = {name: p.shape for name, p in effect.walk()}
    return [name for row in entries(effect) if row.preset for name in element_names(row.ours, shapes[row.ours])]


def check_new(folder: str | Path, *, overwrite: bool = False) -> Path:
    """The folder of a new set; UsageError where it holds a set, unless `overwrite`, or anything but a set."""
    folder = user_path(folder)
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder for the preset set")
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name not in FILES]
    if others:
        few = ", ".join(others[:3])
        raise UsageError(f"{folder}: holds what is not of a preset set ({few}); give a folder of its own")
    if names and not overwrite:
        raise UsageError(f"{folder}: holds a preset set; --overwrite replaces it, or give another folder")
    return folder


def write_presets(
    folder: str | Path,
    presets: Sequence[Preset],
    effect: Effect,
    *,
    chain: dict,
    rejected: dict[str, list[list[str | float]]],
    overwrite: bool = False,
) -> None:
    """Writes a set in the published format, rows in the order of `presets`, with the chain's configuration.

    `rejected` becomes `problematic_runs`. The folder is created atomically. With `overwrite` an existing set is
    replaced, including what was computed from it (mask, Gaussian, training rows); without, UsageError is raised.
    """
    folder = check_new(folder, overwrite=overwrite)
    rows = [row for row in entries(effect) if row.preset]
    info = {
        "runs": [preset.run for preset in presets],
        "dry_files": [preset.dry_file for preset in presets],
        "wet_files": [preset.wet_file for preset in presets],
        "alignment_shifts": [preset.alignment_shift for preset in presets],
        "params_original_shapes": [list(row.shape) for row in rows],
        "params_keys": [row.theirs for row in rows],
        "problematic_runs": rejected,
        "alignment": "crop",  # how the shifts move dry; the release rolls it around its end
    }
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_array(temporary / VECTORS, to_vectors(presets, effect).numpy())
        settings = {"sr": effect.sr, "chain": chain}
        write_text(temporary / CHAIN, yaml_text(settings))
        write_text(temporary / INFO, json.dumps(info, indent=4, ensure_ascii=False))


class Gaussian(NamedTuple):
    """Mean (F,) and unbiased covariance (F, F), float64, of the free raw parameters, which `mask` selects."""

    mean: Tensor
    cov: Tensor
    mask: Tensor  # (P,) bool

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` samples as rows of raw_params.npy, (count, P) float32; parameters that are not free are 0."""
        # By eigenvectors, not Cholesky: a set of fewer rows than parameters has a singular covariance.
        size, axes = torch.linalg.eigh(self.cov)
        normal = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        features = self.mean + (normal * size.clamp(min=0).sqrt()) @ axes.mT
        vectors = torch.zeros(count, len(self.mask))
        vectors[:, self.mask] = features.float()
        return vectors


def fit_gaussian(vectors: Tensor, effect: Effect) -> Gaussian:
    """The Gaussian of rows of raw_params.npy (N, P); UsageError for fewer than two rows or rows that are not finite."""
    if len(vectors) < 2:
        raise UsageError(f"a covariance takes two or more presets; given: {len(vectors)}")
    mask = feature_mask(effect)
    features = vectors[:, mask].double()
    bad = (~features.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise UsageError(f"{len(bad)} of {len(vectors)} presets are not finite, first number {bad[0]}: leave them out")
    return Gaussian(features.mean(0), features.mT.cov(), mask)


def write_gaussian(folder: str | Path, gaussian: Gaussian) -> None:
    """Writes feature_mask.npy (P,) bool and gaussian.npz (mean and cov, float32) into a set's folder."""
    folder = user_path(folder)
    write_array(folder / MASK, gaussian.mask.numpy())
    write_arrays(folder / GAUSSIAN, mean=gaussian.mean.float().numpy(), cov=gaussian.cov.float().numpy())


def read_gaussian(folder: str | Path, effect: Effect) -> Gaussian | None:
    """The Gaussian in a set's folder; None where none has been computed, UsageError where its shapes do not fit."""
    folder = input_path(folder)
    if not (folder / GAUSSIAN).exists():
        return None
    mean, cov = read_arrays(folder / GAUSSIAN, ("mean", "cov"))
    mask, size = read_array(folder / MASK), len(column_names(effect))
    if mask.dtype != bool or mask.shape != (size,):
        raise UsageError(f"{folder / MASK}: {mask.dtype} {mask.shape}; expected bool ({size},); compute it anew")
    count = int(mask.sum())
    if mean.shape != (count,) or cov.shape != (count, count):
        shapes = f"mean {mean.shape} and cov {cov.shape}; expected ({count},) and ({count}, {count})"
        raise UsageError(f"{folder / GAUSSIAN}: {shapes} as {MASK} has it; compute it anew")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise UsageError(f"{folder / GAUSSIAN}: is not finite; compute it anew")
    mean, cov = (torch.from_numpy(array.astype(np.float64)) for array in (mean, cov))
    return Gaussian(mean, cov, torch.from_numpy(mask))


def z_scores(vectors: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Standard scores (N, F) of the free parameters of rows (N, P): (x - mean) / std, both of the rows `reference`.

    0 for a parameter that is constant in `reference` (M, P). UsageError where that has fewer than two rows.
    """
    if len(reference) < 2:
        raise UsageError(f"standard deviations take two or more presets; given: {len(reference)}")
    mean, std = (f(reference[:, mask].double(), 0) for f in (torch.mean, torch.std))
    return torch.where(std > 0, (vectors[:, mask].double() - mean) / std.clamp(min=1e-300), 0.0)


def read_rows(text: str, presets: Sequence[Preset]) -> list[int]:
    """Row numbers of a set in the order given, without duplicates.

    `text` is the path of a .npy file of row numbers, of a text file with one item per line, or items separated by
    commas. An item is a number, a range (3-7), or a name: a dry file, its stem, or one of its folders. UsageError for
    an item that the set does not have.
    """
    if not isinstance(text, str):  # argparse before Python 3.13 gives [] for "--"
        raise UsageError("'--': give rows, as 0,5-9")
    path = os.path.expanduser(text)
    if path.endswith(".npy"):
        return read_row_numbers(path, len(presets))
    is_file = os.path.isfile(path)
    items = read_bytes(path).decode("utf-8", "surrogateescape").splitlines() if is_file else text.split(",")
    rows = [row for item in items if item.strip() for row in _rows_of(item.strip(), presets)]
    return list(dict.fromkeys(rows))


def read_row_numbers(path: str | Path, count: int) -> list[int]:
    """The row numbers in a .npy file without duplicates; UsageError where a set of `count` rows lacks one."""
    array = read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{path}: {array.dtype} {array.shape}; expected row numbers, one dimension of integers")
    if array.size and not 0 <= array.min() <= array.max() < count:
        raise UsageError(f"{path}: has rows {array.min()} to {array.max()}; the set has rows 0 to {count - 1}")
    return list(dict.fromkeys(array.tolist()))


def _rows_of(item: str, presets: Sequence[Preset]) -> list[int]:
    numbers = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", item)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not first <= last < len(presets):
            raise UsageError(f"row {item}: the set has rows 0 to {len(presets) - 1}")
        return list(range(first, last + 1))
    rows = [p.row for p in presets if item in (p.dry_file, p.stem, *Path(p.dry_file).parts)]
    if not rows:
        given = item if len(item) <= 80 else f"{item[:80]}…"
        raise UsageError(f"{given!r} is no file, no row number, and no dry file, stem or folder of the set")
    return rows
