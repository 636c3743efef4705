"""Repeats a run from its own record, and compares: bit for bit on a CPU with the same number of threads."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reknob.data.pair_files import PairFiles
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Observer, Outcome, Session, Song
from reknob.fitting.settings import FitSettings
from reknob.formats import runs
from reknob.formats.fields import RUN_RECORD, read_fields
from reknob.formats.provenance import hashes
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, read_tensors, user_path
from reknob.runtime.settings import read_yaml, settings_from

# Parts of the record that say when and where a run was made, and change nothing in it.
ELSEWHERE = {"created", "file"}


@dataclass
class Repetition:
    """A run beside its repetition.

    Args:
        folder: the run folder of the repetition.
        steps: that both took.
        first: the first step, from 1, whose loss differs; None where all are identical.
        loss: the largest relative difference of the losses.
        values: the largest relative difference by parameter, of those whose values differ.
        changes: one line for each part of the record that differs: versions, threads, inputs, …
    """

    folder: Path
    steps: int
    first: int | None
    loss: float
    values: dict[str, float] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    @property
    def is_identical(self) -> bool:
        """Whether all losses and values are the same, bit for bit."""
        return self.first is None and not self.values


def recorded_threads(folder: Path) -> int | None:
    """The number of threads that a run was made with; None where its record does not say.

    UsageError for what is no run folder.
    """
    runs.check_run(folder)
    record = _reproduce(read_json(folder / runs.META))
    threads = record.get("threads")
    return threads if isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= 1024 else None


def repeat_run(folder: Path, log_dir: Path, dry: Path | None = None, wet: Path | None = None) -> Repetition:
    """Repeats a run in a new run folder below `log_dir`, for as many steps as it took, and compares the two.

    Args:
        folder: the run; of one that was stopped early the losses are compared, and not the values.
        log_dir: of the repetition.
        dry, wet: the recordings, where they are no longer at the recorded paths.

    Raises UsageError for a run without steps or of the release, and where the repetition fails.
    """
    runs.check_run(folder)
    meta = read_fields(folder / runs.META, RUN_RECORD)
    losses = meta["losses"] or _checkpointed(folder)
    if not losses:
        raise UsageError(f"{folder}: took no step; there is nothing to repeat")
    paths = {"dry": dry or _recorded(folder, meta, "input_path"), "wet": wet or _recorded(folder, meta, "target_path")}
    tree = read_yaml(folder / runs.CONFIG)
    free = {"dataset": None, "data_dir": None, "log_dir": str(log_dir), "resume": False}
    # The chain that is written has the order that was found.
    settings = settings_from(FitSettings, tree | free | {"order": "given"} | {k: str(p) for k, p in paths.items()})
    settings.check()
    record = _reproduce(read_json(folder / runs.META))
    song = _fit(settings, log_dir, PairFiles(paths["dry"], paths["wet"], paths["wet"].stem), len(losses))
    if song.outcome is Outcome.FAILED:
        changed = [role for role, now in hashes(paths).items() if _hash(record, role) not in (None, now["sha256"])]
        raise UsageError(song.reason + "".join(f"; {role} has changed since the run" for role in changed))
    again = runs.numbered(log_dir / song.files.name)[-1]
    reached = runs.read_meta(again)["losses"]
    first, largest = compare_losses(losses, reached)
    values = {}
    if meta["terminated_by"] is None and song.outcome is Outcome.FITTED:
        values = _different(read_tensors(folder / runs.VALUES), read_tensors(again / runs.VALUES))
    changes = list(_changes(record, _reproduce(read_json(again / runs.META))))
    return Repetition(again, len(reached), first, largest, values, changes)


class _Counter(Observer):
    """An observer that counts the steps, and asks to stop after the last."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """Counts a step."""
        self.left -= 1


def _fit(settings: FitSettings, log_dir: Path, files: PairFiles, steps: int) -> Song:
    counter = _Counter(steps)
    # The last step of a whole fit ends it by itself; its end, as the removal of effects, must not be cut short.
    stopped = (lambda: False) if steps >= settings.epochs else lambda: counter.left <= 0
    (song,) = Session(settings, [counter]).fit([(log_dir, files)], stopped)
    return song


def compare_losses(one: list[float], other: list[float]) -> tuple[int | None, float]:
    """The first step, from 1, whose loss differs (None for none), and the largest relative difference."""
    first, largest = None, 0.0
    for step, (a, b) in enumerate(zip(one, other, strict=False), start=1):
        if a != b and not (math.isnan(a) and math.isnan(b)):
            first = first or step
            largest = max(largest, abs(a - b) / max(abs(a), abs(b)))
    if first is None and len(one) != len(other):
        first = min(len(one), len(other)) + 1
    return first, largest


def _different(one: dict, other: dict) -> dict[str, float]:
    """The largest relative difference of tensors by name, of those that differ; infinite where one lacks it."""
    differences = {}
    for name in sorted(one.keys() | other.keys(), key=str):
        a, b = one.get(name), other.get(name)
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or a.shape != b.shape:
            differences[str(name)] = math.inf
        elif not torch.equal(a, b):
            differences[str(name)] = ((a - b).abs() / a.abs().max().clamp(min=1e-12)).max().item()
    return differences


def _checkpointed(folder: Path) -> list[float]:
    """The losses in the checkpoint of a run whose record has none, as it was killed."""
    return runs.load_checkpoint(folder)["losses"] if (folder / runs.CHECKPOINT).exists() else []


def _recorded(folder: Path, meta: dict, name: str) -> Path:
    if not meta[name]:
        raise UsageError(f"{folder / runs.META}: lacks {name}; give --dry and --wet")
    return user_path(meta[name])


def _reproduce(meta: dict) -> dict:
    record = meta.get("reproduce")
    return record if isinstance(record, dict) else {}


def _hash(record: dict, role: str) -> object:
    """The recorded hash of an input; None where there is none."""
    inputs = record.get("inputs")
    entry = inputs.get(role) if isinstance(inputs, dict) else None
    return entry.get("sha256") if isinstance(entry, dict) else None


def _changes(before: dict, after: dict, place: str = "") -> Iterator[str]:
    """One line for each entry of two records that differs."""
    if not before:
        yield f"{place.rstrip('.') or 'record'}: not recorded by the run"
        return
    for name in sorted(before.keys() | after.keys(), key=str):
        one, other = before.get(name), after.get(name)
        if name in ELSEWHERE or one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changes(one, other, f"{place}{name}.")
        else:
            yield f"{place}{name}: {_shown(one)} -> {_shown(other)}"


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)[:80]
