"""Run folders, <log_dir>/<wet file's stem>/run_<N>: what a fit leaves behind, and reading ours and published ones."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

import torch
import yaml
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.param import RiseTime
from reknob.afx.registry import build
from reknob.formats.fields import RUN_RECORD, read_fields
from reknob.formats.published import entries, from_published, shaped
from reknob.formats.published_config import from_published_config, is_published
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, read_tensors, same_file, user_path, write_tensors, write_text
from reknob.runtime.locks import FolderLock
from reknob.runtime.settings import read_yaml
from reknob.runtime.trees import interpolated, merge

CHECKPOINT, CONFIG, META, VALUES = "checkpoint.ckpt", "config.yaml", "meta.json", "parametrised.pth"
RATES = (8000, 192_000)  # Hz, that chains are made for
# What a fit needs to go on.
STATE = {"model", "optimiser", "best_model", "lowest_loss", "losses", "undone", "generator"}


def numbered(parent: Path) -> list[Path]:
    """The folders run_<N> of a track, by N."""
    runs = [p for p in parent.glob("run_*") if re.fullmatch(r"run_\d+", p.name) and p.is_dir()]
    return sorted(runs, key=lambda p: int(p.name[4:]))


def new_run(log_dir: str | Path, stem: str) -> Path:
    """Makes <log_dir>/<stem>/run_<N>, N one above the highest; UsageError when it cannot be written."""
    parent = user_path(log_dir) / stem
    try:
        parent.mkdir(parents=True, exist_ok=True)
        runs = numbered(parent)
        for number in count(int(runs[-1].name[4:]) + 1 if runs else 0):
            # Another process may make a run of this track at the same time, and a file may have the name.
            with suppress(FileExistsError):
                (parent / f"run_{number}").mkdir()
                return parent / f"run_{number}"
    except OSError as error:
        raise UsageError(f"log_dir={log_dir}: cannot be written ({error.strerror}); choose another folder") from error


def newest_run(log_dir: str | Path, stem: str, wet: Path) -> Path | None:
    """The newest run of a wet file that left a checkpoint; other files of this stem may have runs beside it."""
    for folder in reversed(numbered(user_path(log_dir) / stem)):
        target = read_meta(folder)["target_path"]
        if (folder / CHECKPOINT).exists() and (target is None or same_file(target, wet)):
            return folder
    return None


def has_ended(folder: Path, epochs: int) -> bool:
    """Whether a run came to its end, and has so many epochs."""
    meta = read_meta(folder)
    return not meta["terminated_by"] and len(meta["losses"] or ()) >= epochs


def read_meta(folder: Path) -> dict:
    """The fields of a run's record (`formats.fields`); those of a run that is going on where it has none."""
    path = folder / META
    return read_fields(path, RUN_RECORD) if path.exists() else dict.fromkeys(RUN_RECORD) | {"terminated_by": "running"}


def lock(folder: str | Path) -> FolderLock:
    """Takes a run folder for writing, until `release`; UsageError that names who writes it already."""
    return FolderLock(user_path(folder), "give another log_dir")


def step_count(folder: Path) -> int:
    """How many steps the record of a run holds."""
    return len(read_meta(folder).get("losses") or ())


def update_settings(folder: Path, **changed: object) -> None:
    """Writes what a continuation changes in the settings of a run."""
    before = read_yaml(folder / CONFIG)
    if before | changed != before:
        write_text(folder / CONFIG, yaml.safe_dump(before | changed, sort_keys=False, allow_unicode=True))


def check_same_fit(folder: Path, settings: dict, defaults: dict | None = None) -> None:
    """Refuses to resume a run with other settings; UsageError that names them.

    `defaults` are those of settings that the run may be older than.
    """
    before = merge(defaults or {}, read_yaml(folder / CONFIG))
    free = {"resume", "epochs", "device", "log_dir", "memory_gb", "graph", "dataset", "data_dir", "dry", "wet"}
    keys = (before.keys() | settings.keys()) - free
    changed = sorted(key for key in keys if before.get(key) != settings.get(key))
    if changed:
        raise UsageError(
            f"{folder}: was begun with other settings ({', '.join(changed)}); use those, or resume=false for a new run"
        )


def begin(folder: Path, settings: dict, **known: object) -> None:
    """Writes a new run's settings and the beginning of its record; until it ends, it counts as interrupted."""
    write_text(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    record = {"created": datetime.now().isoformat(timespec="seconds"), "losses": [], "terminated_by": "running"} | known
    write_text(folder / META, json.dumps(record))


def save_checkpoint(folder: Path, state: dict) -> None:
    write_tensors(folder / CHECKPOINT, state)


def load_checkpoint(folder: Path) -> dict:
    """The state of an interrupted fit; UsageError when it is damaged or incomplete."""
    state = read_tensors(folder / CHECKPOINT)
    missing = sorted(STATE - set(state))
    if missing:
        raise UsageError(f"{folder / CHECKPOINT}: lacks {', '.join(missing)}; it cannot be resumed, use resume=false")
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


def read_chain_file(path: str | Path, *, default_sr: int = 44100) -> tuple[dict, int]:
    """The configuration of the chain in a file, and its sample rate in Hz, `default_sr` where it says none.

    The file holds a chain, or settings with one, ours or published. Raises UsageError naming it when there is none.
    """
    settings = read_yaml(path)
    try:
        sr = default_sr if is_published(settings) else settings.get("sr", default_sr)
        if not isinstance(sr, int) or not RATES[0] <= sr <= RATES[1]:
            raise UsageError(f"sr={str(sr)[:80]}: give {RATES[0]} to {RATES[1]} Hz")
        return _chain_of(settings, sr), sr
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error


def _chain_of(settings: dict, sr: int) -> dict:
    if is_published(settings):
        return from_published_config(interpolated(settings, {"sr": sr}), sr)
    if is_published(settings.get("model")):
        return from_published_config(interpolated({"model": settings["model"]}, {"sr": sr} | settings)["model"], sr)
    if not {"model", "chain"} & settings.keys():
        return interpolated({key: value for key, value in settings.items() if key != "sr"}, {"sr": sr})
    if not isinstance(settings.get("chain"), dict) or not settings["chain"]:
        raise UsageError("no effect chain in it (expected `chain:` or a published `model:`)")
    return interpolated({"chain": settings["chain"]}, settings)["chain"]


def load_run(folder: str | Path) -> Run:
    """A run folder, ours or published; UsageError that names the file which is missing or does not fit."""
    folder = user_path(folder)
    config, sr = read_chain_file(folder / CONFIG)
    try:
        effect = build(config, sr)
    except ValueError as error:
        raise UsageError(f"{folder / CONFIG}: {error}") from error
    path = folder / CHECKPOINT
    state = read_tensors(path).get("best_model")
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise UsageError(f"{path}: holds no best_model; the run ended before its first step")
    try:
        return Run(config, sr, _own(state, effect) or from_published(state, effect))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def load_values(path: str | Path, effect: Effect) -> dict[str, Tensor]:
    """Values in physical units of a parametrised.pth, ours or published, by our names; UsageError naming the file.

    Also for a value that its parameter cannot have, with its name and what is allowed.
    """
    state = read_tensors(user_path(path))
    try:
        values = _own(state, effect) or _published_values(state, effect)
        for name, p in effect.walk():
            if name in values:
                p.check(values[name], name)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return values


def _own(state: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """What a file of ours holds of an effect; nothing where the names in it are not ours."""
    own = {name: state[name] for name, _ in effect.walk() if name in state}
    missing = [name for name, p in effect.walk() if p.preset and name not in own]
    if own and missing:
        raise UsageError(f"lacks {', '.join(missing)}; is it of another chain?")
    return shaped(own, effect)


def _published_values(state: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """Values of the release, whose attack and release are coefficients; ours are milliseconds."""
    plain = {row: row.theirs.replace("parametrizations.", "").removesuffix(".original") for row in entries(effect)}
    missing = [name for row, name in plain.items() if row.preset and name not in state]
    if missing:
        raise UsageError(f"lacks {', '.join(missing)}; is it of another chain?")
    values = shaped({row.ours: state[name] for row, name in plain.items() if name in state}, effect)
    for name, p in effect.walk():
        if isinstance(p.mapping, RiseTime):
            values[name] = p.mapping.value(torch.logit(values[name]))
    return values
