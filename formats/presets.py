"""Preset sets: a folder with info.json and raw_params.npy, ours and the published ones, and what is known of a set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from afx.effect import Effect, Knobs, Values
from formats.published import entries, feature_mask, from_published, split_vector, to_published
from formats.runs import CONFIG, read_chain_file
from runtime.errors import UsageError
from runtime.files import read_json, whole, write_text

INFO, VECTORS = "info.json", "raw_params.npy"
MASK, GAUSSIAN, TRAIN_INDEX = "feature_mask.npy", "gaussian.npz", "train_index.npy"
CHAIN = "fx_config.yaml"
#: The chain of a set that does not tell its own: that of the published sets.
PUBLISHED_CHAIN = Path(__file__).resolve().parent.parent / "presets" / CHAIN


@dataclass(frozen=True)
class Preset:
    """One row of a set: the raw parameters of one fitted track, and the files they were fitted to."""

    row: int
    dry_file: str
    wet_file: str
    alignment_shift: int
    raws: dict[str, Tensor] = field(repr=False)
    run: str = ""  # run folder; "" where the set does not tell

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
        knobs = Knobs(effect).requires_grad_(False).to(device)
        knobs.load_state_dict(self.raws, strict=False)
        return knobs()


def load_presets(folder: str | Path, effect: Effect) -> list[Preset]:
    """All rows of a set, for the chain that they were fitted with.

    Rows follow `dry_files`; in a published set `runs` lists rejected runs as well. Raises UsageError naming the file
    that is missing, damaged or of another chain.
    """
    folder = Path(folder).expanduser()
    info = read_info(folder)
    vectors = _read_vectors(folder / VECTORS)
    columns = [info[key] for key in ("dry_files", "wet_files", "alignment_shifts")]
    if any(len(column) != len(vectors) for column in columns):
        counts = ", ".join(str(len(column)) for column in columns)
        raise UsageError(f"{folder}: {len(vectors)} rows of parameters for {counts} dry files, wet files and shifts")
    runs = info.get("runs", [])
    if len(runs) != len(vectors):
        runs = [""] * len(vectors)
    presets = []
    for row, (vector, dry, wet, shift, run) in enumerate(zip(vectors, *columns, runs, strict=True)):
        try:
            state = split_vector(vector, info["params_keys"], info["params_original_shapes"])
            raws = from_published(state, effect)
        except ValueError as error:
            raise UsageError(f"{folder}: row {row}: {error}") from error
        presets.append(Preset(row, dry, wet, shift, raws, run))
    return presets


def read_info(folder: str | Path) -> dict:
    """A set's info.json; UsageError where it lacks what a set needs."""
    path = Path(folder).expanduser() / INFO
    info = read_json(path)
    missing = {"params_keys", "params_original_shapes", "dry_files", "wet_files", "alignment_shifts"} - info.keys()
    if missing:
        raise UsageError(f"{path}: lacks {', '.join(sorted(missing))}; is it a preset set?")
    return info


def _read_vectors(path: Path) -> Tensor:
    """The float32 rows of a .npy file."""
    array = read_array(path)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UsageError(f"{path}: not rows of numbers; is it a preset set's?")
    return torch.from_numpy(array).float()


def read_array(path: Path) -> np.ndarray:
    """A .npy file, as data only; UsageError naming it when it is missing or holds anything else."""
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path}: not an array of numbers ({error})") from error


def write_array(path: Path, array: np.ndarray) -> None:
    with whole(path) as temporary:
        np.save(temporary, array)


def read_chain(folder: str | Path, fx_config: str | Path | None = None) -> tuple[dict, int, Path]:
    """The configuration of a set's chain, its sample rate in Hz, and the file that told.

    That is `fx_config` where given; otherwise the set's own, else that of its first run where it still exists, else
    the published sets' chain.
    """
    folder = Path(folder).expanduser()
    if fx_config is None:
        runs = read_info(folder).get("runs") or ["-"]
        places = (folder / CHAIN, Path(runs[0]).expanduser() / CONFIG)
        fx_config = next((place for place in places if place.is_file()), PUBLISHED_CHAIN)
    return *read_chain_file(fx_config), Path(fx_config)


def to_vector(raws: dict[str, Tensor], effect: Effect) -> Tensor:
    """Raw parameters as one row of raw_params.npy, float32, in the order of the release."""
    state = to_published(raws, effect)
    return torch.cat([state[row.theirs].detach().cpu().float().reshape(-1) for row in entries(effect) if row.preset])


def from_vector(vector: Tensor, effect: Effect) -> dict[str, Tensor]:
    """Raw parameters by our names from a row of raw_params.npy."""
    rows = [row for row in entries(effect) if row.preset]
    return from_published(split_vector(vector, [r.theirs for r in rows], [list(r.shape) for r in rows]), effect)


def to_vectors(presets: Sequence[Preset], effect: Effect) -> Tensor:
    """The rows of raw_params.npy, (rows, P) float32."""
    return torch.stack([to_vector(preset.raws, effect) for preset in presets])


def places(name: str, shape: tuple[int, ...]) -> list[str]:
    """The names of a parameter's numbers: U[0,1], … for those of a matrix."""
    return [f"{name}[{','.join(map(str, index))}]" if shape else name for index in np.ndindex(*shape)]


def column_names(effect: Effect) -> list[str]:
    """Our name of every number of a row of raw_params.npy."""
    shapes = {name: p.shape for name, p in effect.walk()}
    return [place for row in entries(effect) if row.preset for place in places(row.ours, shapes[row.ours])]


def write_presets(
    folder: str | Path, presets: Sequence[Preset], effect: Effect, *, chain: dict, rejected: dict[str, list]
) -> None:
    """Writes a set in the published format, its rows in the order of `presets`, and the chain's configuration.

    `rejected` becomes `problematic_runs`. What had been computed of an older set in the folder is removed.
    """
    folder = Path(folder).expanduser()
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
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MASK, GAUSSIAN, TRAIN_INDEX):
        (folder / name).unlink(missing_ok=True)
    write_array(folder / VECTORS, to_vectors(presets, effect).numpy())
    settings = {"sr": effect.sr, "chain": chain}
    write_text(folder / CHAIN, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_text(folder / INFO, json.dumps(info, indent=4, ensure_ascii=False))


class Gaussian(NamedTuple):
    """Mean (F,) and unbiased covariance (F, F), float64, of the raw parameters that `mask` says are of account."""

    mean: Tensor
    cov: Tensor
    mask: Tensor  # (P,) bool

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` draws as rows of raw_params.npy, (count, P) float32; what says nothing is 0."""
        # By eigenvectors, as a set of fewer rows than parameters has a singular covariance.
        size, axes = torch.linalg.eigh(self.cov)
        normal = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        drawn = self.mean + (normal * size.clamp(min=0).sqrt()) @ axes.mT
        vectors = torch.zeros(count, len(self.mask))
        vectors[:, self.mask] = drawn.float()
        return vectors


def fit_gaussian(vectors: Tensor, effect: Effect) -> Gaussian:
    """The Gaussian of rows of raw_params.npy (N, P); UsageError for fewer than two."""
    if len(vectors) < 2:
        raise UsageError(f"{len(vectors)} presets have no covariance: at least 2 are needed")
    mask = feature_mask(effect)
    features = vectors[:, mask].double()
    return Gaussian(features.mean(0), features.mT.cov(), mask)


def write_gaussian(folder: str | Path, gaussian: Gaussian) -> None:
    """feature_mask.npy and gaussian.npz, float32, beside a set."""
    folder = Path(folder).expanduser()
    write_array(folder / MASK, gaussian.mask.numpy())
    with whole(folder / GAUSSIAN) as temporary:
        np.savez(temporary, mean=gaussian.mean.float().numpy(), cov=gaussian.cov.float().numpy())


def read_gaussian(folder: str | Path) -> Gaussian | None:
    """The Gaussian beside a set, or None where none has been computed."""
    folder = Path(folder).expanduser()
    if not (folder / GAUSSIAN).exists():
        return None
    with read_array(folder / GAUSSIAN) as stored:
        mean, cov = (torch.from_numpy(stored[name]).double() for name in ("mean", "cov"))
    return Gaussian(mean, cov, torch.from_numpy(read_array(folder / MASK)))


def deviations(vectors: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Rows (N, P) in standard deviations from the mean of the rows `reference` (M, P), what says anything only.

    What does not vary in the reference counts nothing.
    """
    mean, spread = (f(reference[:, mask].double(), 0) for f in (torch.mean, torch.std))
    return torch.where(spread > 0, (vectors[:, mask].double() - mean) / spread.clamp(min=1e-300), 0.0)


def read_rows(text: str, presets: Sequence[Preset]) -> list[int]:
    """Rows of a set, in the order given, each once.

    `text` is a .npy file of row numbers, a text file, one item a line, or items with commas between them; an item is a
    number, a range as 3-7, or a name: a dry file, its stem or any of its folders. UsageError for what the set has not.
    """
    path = Path(text).expanduser()
    if path.suffix == ".npy":
        items = [str(row) for row in read_array(path).tolist()]
    elif path.is_file():
        items = path.read_text(encoding="utf-8").splitlines()
    else:
        items = text.split(",")
    found = [row for item in items if item.strip() for row in _rows_of(item.strip(), presets)]
    return list(dict.fromkeys(found))


def _rows_of(item: str, presets: Sequence[Preset]) -> list[int]:
    first, _, last = item.partition("-")
    if first.isdigit() and (last.isdigit() or first == item):
        rows = list(range(int(first), int(last or first) + 1))
        if not rows or rows[-1] >= len(presets):
            raise UsageError(f"row {item}: the set has rows 0 to {len(presets) - 1}")
        return rows
    rows = [p.row for p in presets if item in (p.dry_file, p.stem, *Path(p.dry_file).parts)]
    if not rows:
        raise UsageError(f"{item!r} is no file, no row number, and no dry file, stem or folder of the set")
    return rows
