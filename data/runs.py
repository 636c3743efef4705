"""Run folders, <log_dir>/<wet file's stem>/run_<N>: what a fit leaves behind, and reading ours and published ones."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
import yaml
from torch import Tensor

from afx.effect import Effect
from afx.published import entries, from_published
from afx.published_config import from_published_config, is_published
from afx.registry import build

from .config import read_yaml
from .files import read_json, read_tensors, write_tensors, write_text

CHECKPOINT, CONFIG, META, VALUES = "checkpoint.ckpt", "config.yaml", "meta.json", "parametrised.pth"


def numbered(parent: Path) -> list[Path]:
    """The folders run_<N> of a track, by N."""
    runs = [p for p in parent.glob("run_*") if re.fullmatch(r"run_\d+", p.name) and p.is_dir()]
    return sorted(runs, key=lambda p: int(p.name[4:]))


def new_run(log_dir: str | Path, stem: str) -> Path:
    """Makes <log_dir>/<stem>/run_<N>, N one above the highest; ValueError when it cannot be written."""
    parent = Path(log_dir).expanduser() / stem
    try:
        parent.mkdir(parents=True, exist_ok=True)
        runs = numbered(parent)
        folder = parent / f"run_{int(runs[-1].name[4:]) + 1 if runs else 0}"
        folder.mkdir()
    except OSError as error:
        raise ValueError(f"log_dir={log_dir}: cannot be written ({error.strerror}); choose another folder") from error
    return folder


def interrupted_run(log_dir: str | Path, stem: str) -> Path | None:
    """The newest run of a track, if it did not end by itself."""
    runs = numbered(Path(log_dir).expanduser() / stem)
    if not runs or not (runs[-1] / CHECKPOINT).exists():
        return None
    meta = runs[-1] / META
    return runs[-1] if not meta.exists() or read_json(meta).get("terminated_by") else None


def check_same_fit(folder: Path, settings: dict) -> None:
    """Refuses to resume a run with other settings; ValueError that names them."""
    before = read_yaml(folder / CONFIG)
    free = {"resume", "epochs", "device", "log_dir"}
    keys = (before.keys() | settings.keys()) - free
    changed = sorted(key for key in keys if before.get(key) != settings.get(key))
    if changed:
        raise ValueError(
            f"{folder}: was begun with other settings ({', '.join(changed)}); use those, or resume=false for a new run"
        )


def begin(folder: Path, settings: dict) -> None:
    """Writes a new run's settings and the beginning of its record; until it ends, it counts as interrupted."""
    write_text(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    record = {"created": datetime.now().isoformat(timespec="seconds"), "losses": [], "terminated_by": "running"}
    write_text(folder / META, json.dumps(record))


def save_checkpoint(folder: Path, state: dict) -> None:
    write_tensors(folder / CHECKPOINT, state)


def load_checkpoint(folder: Path) -> dict:
    """The state of an interrupted fit; ValueError when it is damaged or incomplete."""
    state = read_tensors(folder / CHECKPOINT)
    missing = sorted({"global_step", "optimiser", "model", "best_model", "lowest_loss", "generator"} - set(state))
    if missing:
        raise ValueError(f"{folder / CHECKPOINT}: lacks {', '.join(missing)}; it cannot be resumed, use resume=false")
    return state


def finish(folder: Path, values: dict[str, Tensor], record: dict) -> None:
    """Writes the best parameters in physical units, and adds to the record of the run."""
    write_tensors(folder / VALUES, {name: value.cpu() for name, value in values.items()})
    write_text(folder / META, json.dumps(read_json(folder / META) | record, indent=1))


@dataclass
class Run:
    """A chain as a run left it: its configuration, its sample rate and its best raw parameters by our names."""

    config: dict
    sr: int
    raws: dict[str, Tensor]


def chain_config(settings: dict, source: Path) -> dict:
    """The chain of a run's settings, ours or published; ValueError when there is none."""
    model = settings.get("model")
    if is_published(model):
        return from_published_config(model)
    if isinstance(settings.get("chain"), dict) and settings["chain"]:
        return settings["chain"]
    raise ValueError(f"{source}: no effect chain in it (expected `chain:` or a published `model:`)")


def load_run(folder: str | Path) -> Run:
    """A run folder, ours or published; ValueError that names the file which is missing or does not fit."""
    folder = Path(folder)
    settings = read_yaml(folder / CONFIG)
    config, sr = chain_config(settings, folder / CONFIG), int(settings.get("sr", 44100))
    state = read_tensors(folder / CHECKPOINT).get("best_model")
    if not state:
        raise ValueError(f"{folder / CHECKPOINT}: holds no best_model; the run ended before its first step")
    return Run(config, sr, our_raws(state, build(config, sr), folder / CHECKPOINT))


def load_values(path: str | Path, effect: Effect) -> dict[str, Tensor]:
    """Values in physical units of a parametrised.pth, ours or published, by our names."""
    state = read_tensors(path)
    names = {n for n, _ in effect.walk()}
    if names & state.keys():
        missing = sorted(n for n, p in effect.walk() if p.preset and n not in state)
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(missing)}; is it of another chain?")
        return state
    values = {}
    for row in entries(effect):
        plain = row.theirs.replace("parametrizations.", "").removesuffix(".original")
        if plain in state:
            values[row.ours] = state[plain]
        elif row.preset:
            raise ValueError(f"{path}: lacks {plain}; is it of another chain?")
    return _published_units(values, effect)


def _published_units(values: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """The release's attack and release are coefficients; ours are milliseconds."""
    params = dict(effect.walk())
    for name, value in values.items():
        value = value.reshape(params[name].shape)
        if name.split(".")[-1] in ("attack", "release"):
            value = params[name].mapping.value(torch.logit(value))
        values[name] = value
    return values


def our_raws(state: dict[str, Tensor], effect: Effect, source: Path) -> dict[str, Tensor]:
    """Raw parameters by our names from a state dict, ours or published."""
    names = {n for n, _ in effect.walk()}
    try:
        return {n: state[n] for n in names} if names <= state.keys() else from_published(state, effect)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
