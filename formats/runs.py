"""Run folders, <log_dir>/<wet file's stem>/run_<N>: writing those of a fit, and reading ours and published ones.

    config.yaml        the settings, with the chain           written at the beginning
    meta.json          the record: files, losses, how it ended   at the beginning and at the end, and when resumed
    checkpoint.ckpt    optimiser state, best raw parameters   during the fit and at the end
    parametrised.pth   the best values in physical units      at the end
    effects.json       which effects the recordings need      at the end, with prune=true (`formats.effects`)
    preset.json        the preset document                    at the end (formats.preset_document)
    dry, wet, fitted   the recordings, .flac                  at the end (formats.run_audio)
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.param import RiseTime
from reknob.afx.registry import build
from reknob.formats.fields import RUN_RAWS, RUN_RECORD, read_fields
from reknob.formats.published import entries, from_published, shaped
from reknob.formats.published_config import from_published_config, is_published
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_bytes, read_json, read_tensors, same_file, user_path, write_tensors, write_text
from reknob.runtime.locks import FolderLock
from reknob.runtime.settings import read_yaml
from reknob.runtime.trees import interpolated, merge, yaml_text

CHECKPOINT, CONFIG, META, VALUES = "checkpoint.ckpt", "config.yaml", "meta.json", "parametrised.pth"
MOST_CHAINS = 100  # that are kept while many runs are read
MOST_RECORDED = 2000  # raw parameters in the record of a run
RATES = (8000, 192_000)  # Hz, lowest and highest sample rate of a chain
# The keys of a checkpoint that a resumed fit needs.
STATE = {"model", "optimiser", "best_model", "lowest_loss", "losses", "undone", "generator"}


def numbered(parent: Path) -> list[Path]:
    """The folders run_<N> in `parent`, sorted by N."""
    runs = [p for p in parent.glob("run_*") if re.fullmatch(r"run_\d+", p.name) and p.is_dir()]
    return sorted(runs, key=lambda p: int(p.name[4:]))


def new_run(log_dir: str | Path, stem: str) -> Path:
    """Creates <log_dir>/<stem>/run_<N>, N one above the highest; UsageError where it cannot be created."""
    parent = user_path(log_dir) / stem
    try:
        parent.mkdir(parents=True, exist_ok=True)
        runs = numbered(parent)
        number = int(runs[-1].name[4:]) + 1 if runs else 0
        while True:
            # Taken already where another process creates a run of this track, or a file has the name.
            with suppress(FileExistsError):
                (parent / f"run_{number}").mkdir()
                return parent / f"run_{number}"
            number += 1
    except OSError as error:
        raise UsageError(f"log_dir={log_dir}: cannot be written ({error.strerror}); choose another folder") from error


def newest_run(log_dir: str | Path, stem: str, wet: Path) -> Path | None:
    """The newest run of a wet file that has a checkpoint; wet files of the same stem share the parent folder."""
    for folder in reversed(numbered(user_path(log_dir) / stem)):
        target = read_meta(folder)["target_path"]
        if (folder / CHECKPOINT).exists() and (target is None or same_file(target, wet)):
            return folder
    return None


def has_ended(folder: Path, epochs: int) -> bool:
    """Whether a run ended normally, after at least `epochs` epochs."""
    meta = read_meta(folder)
    return not meta["terminated_by"] and len(meta["losses"] or ()) >= epochs


def read_meta(folder: Path) -> dict:
    """The fields of a run's record (`formats.fields.RUN_RECORD`); without a record, those of a running fit."""
    path = folder / META
    return read_fields(path, RUN_RECORD) if path.exists() else dict.fromkeys(RUN_RECORD) | {"terminated_by": "running"}


def lock(folder: str | Path) -> FolderLock:
    """An exclusive lock of a run folder, until `release`; UsageError naming the process that holds it already."""
    return FolderLock(user_path(folder), "give another log_dir")


def lock_song(log_dir: str | Path, stem: str, wet: Path) -> FolderLock:
    """An exclusive lock of a wet file's runs in a log folder, until `release`; UsageError naming the process that
    holds it already, and where the folder cannot be written.

    A run folder's own lock does not keep two processes from fitting one song, each in a new folder.
    """
    parent = user_path(log_dir) / stem
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"log_dir={log_dir}: cannot be written ({error.strerror}); choose another folder") from error
    # Wet files of one stem share the folder.
    digest = hashlib.sha256(os.fsencode(os.path.realpath(wet))).hexdigest()[:12]
    return FolderLock(parent, "give another log_dir", name=f"{digest}.", what=f"{parent}")


def remove_if_empty(log_dir: str | Path, stem: str) -> None:
    """Removes the folder of a song without runs, and the log folder if it has no other."""
    parent = user_path(log_dir) / stem
    with suppress(OSError):
        parent.rmdir()
        parent.parent.rmdir()


def step_count(folder: Path) -> int:
    """The number of steps in the record of a run."""
    return len(read_meta(folder).get("losses") or ())


def update_settings(folder: Path, **changed: object) -> None:
    """Replaces settings of a run that a resumed fit changes."""
    before = read_yaml(folder / CONFIG)
    if before | changed != before:
        write_text(folder / CONFIG, yaml_text(before | changed))


def check_same_fit(folder: Path, settings: dict, defaults: dict | None = None) -> None:
    """Raises UsageError, naming them, where settings that influence the result differ from those of a run.

    Args:
        folder: the run to be resumed.
        settings: those of the resumed fit.
        defaults: for settings that were introduced after the run was written.
    """
    before = merge(defaults or {}, read_yaml(folder / CONFIG))
    free = {"resume", "epochs", "device", "log_dir", "memory_gb", "graph", "dataset", "data_dir", "dry", "wet"}
    free |= {"certainty", "prune", "prune_tolerance", "order", "keep_audio", "report"}
    keys = (before.keys() | settings.keys()) - free
    changed = sorted(key for key in keys if before.get(key) != settings.get(key))
    if changed:
        raise UsageError(
            f"{folder}: was begun with other settings ({', '.join(changed)}); use those, or resume=false for a new run"
        )


def begin(folder: Path, settings: dict, **fields: object) -> None:
    """Writes a new run's settings and its record with further `fields`, marked as running until `finish`."""
    write_text(folder / CONFIG, yaml_text(settings))
    created = datetime.now().isoformat(timespec="seconds")
    record = {"created": created, "losses": [], "terminated_by": "running"} | fields
    write_text(folder / META, json.dumps(record))


def add_resumption(folder: Path, record: dict) -> None:
    """Adds to a run's record in which environment it is resumed, and after how many steps."""
    meta = read_json(folder / META)
    before = meta.get("resumed")
    write_text(folder / META, json.dumps(meta | {"resumed": [*(before if isinstance(before, list) else ()), record]}))


def save_checkpoint(folder: Path, state: dict) -> None:
    """Writes the state of a fit, with at least the keys of STATE."""
    write_tensors(folder / CHECKPOINT, state)


def load_checkpoint(folder: Path) -> dict:
    """The state of an interrupted fit; UsageError when it is damaged or incomplete."""
    state = read_tensors(folder / CHECKPOINT)
    missing = sorted(STATE - set(state))
    if missing:
        raise UsageError(f"{folder / CHECKPOINT}: lacks {', '.join(missing)}; it cannot be resumed, use resume=false")
    return state


def finish(folder: Path, values: dict[str, Tensor], record: dict) -> None:
    """Writes the best values, in physical units by our names, and updates the run's record with `record`."""
    write_tensors(folder / VALUES, {name: value.cpu() for name, value in values.items()})
    write_text(folder / META, json.dumps(read_json(folder / META) | record, indent=1))


@dataclass
class Run:
    """A fitted chain: its configuration, and the raw parameters of the lowest loss."""

    config: dict
    sr: int  # Hz
    raws: dict[str, Tensor]  # by our names


def read_chain_file(path: str | Path, *, default_sr: int = 44100) -> tuple[dict, int]:
    """The configuration of the chain in a file, and its sample rate in Hz, `default_sr` where the file has none.

    The file contains a chain or the settings of a fit, ours or published. UsageError naming it for anything else.
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
    """Our configuration of the chain in settings: a published chain or settings, our chain alone, or our settings."""
    if is_published(settings):
        return from_published_config(interpolated(settings, {"sr": sr}), sr)
    if is_published(settings.get("model")):
        return from_published_config(interpolated({"model": settings["model"]}, {"sr": sr} | settings)["model"], sr)
    if not {"model", "chain"} & settings.keys():
        return interpolated({key: value for key, value in settings.items() if key != "sr"}, {"sr": sr})
    if not isinstance(settings.get("chain"), dict) or not settings["chain"]:
        raise UsageError("no effect chain in it (expected `chain:` or a published `model:`)")
    return interpolated({"chain": settings["chain"]}, settings)["chain"]


class Chain(NamedTuple):
    """A chain with its configuration."""

    config: dict
    sr: int  # Hz
    effect: Effect
    sizes: dict[str, int]  # numbers of each parameter that presets store, in the order of the release


class Chains:
    """The chains of many runs: a file whose content is known is not parsed again, a known chain is not built again.

    Runs of one chain share the same object.
    """

    def __init__(self) -> None:
        self._by_content: dict[bytes, Chain] = {}
        self._by_chain: dict[str, Chain] = {}

    def read(self, path: Path) -> Chain:
        """The chain in a run's settings; UsageError naming the file where it is missing, damaged or no chain."""
        content = read_bytes(path)
        if content in self._by_content:
            return self._by_content[content]
        config, sr = read_chain_file(path)
        name = repr((config, sr))
        if name not in self._by_chain:
            try:
                effect = build(config, sr)
            except ValueError as error:
                raise UsageError(f"{path}: {error}") from error
            sizes = {row.ours: math.prod(row.shape) for row in entries(effect) if row.preset}
            self._keep(self._by_chain, name, Chain(config, sr, effect, sizes))
        # A base is another file, which may differ.
        if b"base" not in content:
            self._keep(self._by_content, content, self._by_chain[name])
        return self._by_chain[name]

    @staticmethod
    def _keep(known: dict, name: object, chain: Chain) -> None:
        if len(known) >= MOST_CHAINS:
            known.clear()
        known[name] = chain


def check_run(folder: Path) -> None:
    """Raises UsageError for what is no run folder; of the folder of a song, which holds some, naming the newest."""
    if os.path.exists(folder / CONFIG):
        return
    wrong = f"is no run folder, as it has no {CONFIG}" if folder.is_dir() else "there is no such run folder"
    wrong = "is a file, not a run folder" if folder.is_file() else wrong
    runs = numbered(folder)
    raise UsageError(f"{folder}: {wrong}; give {runs[-1] if runs else '<log_dir>/<name of the wet file>/run_<N>'}")


def load_run(folder: str | Path, chains: Chains | None = None) -> Run:
    """A run folder, ours or published; UsageError naming the file that is missing, damaged or of another chain.

    `chains` are those of the runs that were read before.
    """
    folder = user_path(folder)
    check_run(folder)
    config, sr, effect, _ = (chains or Chains()).read(folder / CONFIG)
    path = folder / CHECKPOINT
    state = read_tensors(path).get("best_model")
    if not isinstance(state, dict) or not state or not all(isinstance(name, str) for name in state):
        raise UsageError(f"{path}: holds no best_model; the run ended before its first step")
    try:
        return Run(config, sr, _by_our_names(state, effect) or from_published(state, effect))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def load_values(path: str | Path, effect: Effect) -> dict[str, Tensor]:
    """Values in physical units, by our names, of a file parametrised.pth, ours or published.

    UsageError naming the file where it is damaged, of another chain, or holds a value outside its parameter's range.
    """
    state = read_tensors(user_path(path))
    try:
        values = _by_our_names(state, effect) or _published_values(state, effect)
        for name, p in effect.walk():
            if name in values:
                p.check(values[name], name)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return values


def record_of(raws: Mapping[str, Tensor]) -> dict[str, list[float]] | None:
    """Raw parameters as the record of a run holds them, each flat; None where there are more than MOST_RECORDED.

    From there they are read in a tenth of the time that the checkpoint takes, which counts where runs are many.
    """
    if not raws or sum(raw.numel() for raw in raws.values()) > MOST_RECORDED:
        return None
    return {name: raw.detach().float().flatten().tolist() for name, raw in raws.items()}


def load_row(folder: str | Path, chains: Chains) -> tuple[Chain, np.ndarray]:
    """The chain of a run, and the raw parameters that presets store, flat, in the order of the release.

    They are read from the record where that holds them, else as by `load_run`. UsageError as there, and where a raw
    parameter is not finite.
    """
    folder = user_path(folder)
    recorded = read_fields(folder / META, RUN_RAWS)["raws"] or {}
    chain = chains.read(folder / CONFIG)
    if not all(len(recorded.get(name, ())) == size for name, size in chain.sizes.items()):
        raws = load_run(folder, chains).raws
        recorded = {name: raws[name].flatten().tolist() for name in chain.sizes}
    with np.errstate(over="ignore"):  # infinite, which is refused
        row = np.array([number for name in chain.sizes for number in recorded[name]], dtype=np.float32)
    if not np.isfinite(row).all():
        bad = [name for name in chain.sizes if not np.isfinite(np.array(recorded[name], np.float32)).all()]
        raise UsageError(f"its best parameters are not finite: {', '.join(bad)}")
    return chain, row


def _by_our_names(state: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """The effect's parameters in a file of ours; empty where the file has none of our names, as a published one."""
    tensors = {name: state[name] for name, _ in effect.walk() if name in state}
    missing = [name for name, p in effect.walk() if p.preset and name not in tensors]
    if tensors and missing:
        raise UsageError(f"lacks {', '.join(missing)}; is it of another chain?")
    return shaped(tensors, effect)


def _published_values(state: dict[str, Tensor], effect: Effect) -> dict[str, Tensor]:
    """Values by our names from a parametrised.pth of the release, whose attack and release times are coefficients."""
    plain = {row: row.theirs.replace("parametrizations.", "").removesuffix(".original") for row in entries(effect)}
    missing = [name for row, name in plain.items() if row.preset and name not in state]
    if missing:
        raise UsageError(f"lacks {', '.join(missing)}; is it of another chain?")
    values = shaped({row.ours: state[name] for row, name in plain.items() if name in state}, effect)
    for name, p in effect.walk():
        if isinstance(p.mapping, RiseTime):
            # From a coefficient through its logit, the raw parameter, to milliseconds.
            values[name] = p.mapping.value(torch.logit(values[name]))
    return values
