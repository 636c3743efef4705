"""Selects the runs of a log folder that become a preset set, and records why the others are rejected.

log folder ─ select: a Record per run, filtered by Rules ─ Selection ─ read_harvest: raw parameters ─ Harvest
"""

import inspect
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from reknob.afx.effect import Effect
from reknob.formats.fields import RUN_RECORD, read_fields
from reknob.formats.presets import Preset, from_vectors
from reknob.formats.runs import CONFIG, META, Chain, Chains, load_row
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path
from reknob.runtime.trees import read_yaml

DEFAULTS = "defaults"  # the start of a fit that no search began
DATES = ("%Y-%m-%d:%H", "%Y-%m-%d:%H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Record:
    """The record of a run (meta.json)."""

    folder: Path
    name: str  # the folder within the log folder
    created: datetime
    losses: "Losses"
    terminated_by: str | None
    dry_file: str
    wet_file: str
    alignment_shift: int
    began_best: bool  # whether its first loss is its lowest, of a start that a search found


class Losses(NamedTuple):
    """What the rules need to know of the losses of a run, as the losses of many runs would fill the memory."""

    first: float
    last: float
    lowest: float  # NaN where none is finite
    fluctuation: float  # median |diff(losses)|

    @classmethod
    def of(cls, losses: Sequence[float]) -> "Losses":
        """The summary of the losses of a run, in the order of its steps."""
        array = np.asarray(losses, dtype=float)
        if not np.isfinite(array).any():
            return cls(math.nan, math.nan, math.nan, math.nan)
        with np.errstate(invalid="ignore", over="ignore"):  # losses may be infinite or NaN
            fluctuation = float(np.median(np.abs(np.diff(array)))) if len(array) > 1 else math.nan
        return cls(float(array[0]), float(array[-1]), float(np.nanmin(array)), fluctuation)


@dataclass(frozen=True)
class Rules:
    """Which runs are kept: created from `start` to `end`, converged, and the newest of their track unless `every`."""

    start: datetime
    end: datetime
    loss_thresh: float = 4.0  # of the lowest loss
    fluc_thresh: float = 0.2  # of median |diff(losses)|
    every: bool = False


@dataclass(frozen=True)
class Rejection:
    """A run that is not kept."""

    name: str
    reason: str  # a key: one of `reasons`, or unreadable, dates, superseded
    why: str  # in words
    numbers: tuple[str | float, ...] = ()  # as the release records them beside the name


@dataclass
class Selection:
    """The runs of a log folder, kept or rejected."""

    kept: list[Record] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def problems(self, rules: Rules) -> dict[str, list[list[str | float]]]:
        """The `problematic_runs` of a preset set: [name, *numbers] of the rejected runs by the release's reasons."""
        return {
            reason: [[r.name, *r.numbers] for r in self.rejected if r.reason == reason] for reason in reasons(rules)
        }


def reasons(rules: Rules) -> tuple[str, str, str, str]:
    """The keys of the release's reasons, in the order in which they are tested."""
    return "terminated", f"loss_above_{rules.loss_thresh}", "not_converged", f"fluctuated_above_{rules.fluc_thresh}"


def parse_date(text: str) -> datetime:
    """A date as 2024-09-17:00 (hour), 2024-09-17:00:30 or 2024-09-17; UsageError for another form."""
    for form in DATES:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise UsageError(f"{text}: not a date; give it as 2024-09-17:00 (year-month-day:hour) or 2024-09-17")


def read_record(folder: Path, logs: Path) -> Record:
    """The record of a run folder, ours or published; UsageError where it is missing or damaged.

    Older and published records have no date: theirs is the modification time of the file.
    """
    path = folder / META
    if not path.exists():
        raise UsageError(f"has no {META}: it is still running, or was killed")
    meta = read_fields(path, RUN_RECORD)
    # The record of a run that was killed lacks what is written at its end.
    missing = [name for name in ("alignment_shift", "input_path", "losses", "target_path") if meta[name] is None]
    if missing and not meta["terminated_by"]:
        raise UsageError(f"{path}: lacks {', '.join(missing)}")
    losses = Losses.of(meta["losses"] or ())
    # Settings of published runs name no start. Read of few runs only, as that takes longer than the record.
    began_best = losses.first == losses.lowest and read_yaml(folder / CONFIG).get("start", DEFAULTS) != DEFAULTS
    return Record(
        folder,
        folder.relative_to(logs).as_posix(),
        meta["created"] or datetime.fromtimestamp(path.stat().st_mtime),
        losses,
        meta["terminated_by"],
        meta["input_path"] or "",
        meta["target_path"] or "",
        meta["alignment_shift"] or 0,
        began_best,
    )


def select(logs: str | Path, rules: Rules) -> Selection:
    """Selects runs below a log folder, at any depth, by the rules.

    Of the runs of one track (a folder and a wet file) created within the dates only the newest is considered. It is
    rejected if it was terminated early, if its lowest loss is above `loss_thresh`, if its first loss is its lowest
    (unless a search had found its start), or if median |diff(losses)| is above `fluc_thresh`, tested in
    this order. UsageError where there is no run at all.
    """
    logs = user_path(logs)
    folders = sorted(p for p in logs.rglob("run_*") if re.fullmatch(r"run_\d+", p.name) and p.is_dir())
    if not folders:
        raise UsageError(f"{logs}: holds no run folder (run_0, run_1, …) at any depth; give a log folder of fits")
    selection = Selection()
    tracks: dict[tuple[Path, str], list[Record]] = {}
    for folder in folders:
        try:
            record = read_record(folder, logs)
        except (ValueError, OverflowError, OSError) as error:  # the last two: a date outside the platform's range
            selection.rejected.append(Rejection(folder.relative_to(logs).as_posix(), "unreadable", str(error)))
            continue
        if rules.start <= record.created <= rules.end:
            tracks.setdefault((folder.parent, os.path.realpath(record.wet_file)), []).append(record)
        else:
            selection.rejected.append(Rejection(record.name, "dates", f"created {record.created:%Y-%m-%d %H:%M}"))
    for runs in tracks.values():
        runs.sort(key=_age)
        newest = runs[-1]
        for record in runs:
            rejection = _superseded(record, newest, rules) or judge(record, rules)
            if rejection:
                selection.rejected.append(rejection)
            else:
                selection.kept.append(record)
    return selection


def _age(record: Record) -> tuple[datetime, int]:
    # Dates of whole seconds may be equal; then the run's number decides.
    return record.created, int(record.folder.name[4:])


def _superseded(record: Record, newest: Record, rules: Rules) -> Rejection | None:
    if rules.every or record is newest:
        return None
    return Rejection(record.name, "superseded", f"{newest.folder.name} of the same track is newer")


def judge(record: Record, rules: Rules) -> Rejection | None:
    """The rejection of a run by its record alone; None where it is kept."""
    terminated, high, unconverged, fluctuating = reasons(rules)
    first, last, lowest, fluctuation = record.losses
    if record.terminated_by or math.isnan(lowest):
        why = record.terminated_by or "it has no finite loss"
        return Rejection(record.name, terminated, f"terminated early: {why}", (why,))
    if lowest > rules.loss_thresh:
        return Rejection(record.name, high, f"lowest loss {lowest:.3f}", (lowest,))
    if first == lowest and not record.began_best:
        why = f"the first loss, {first:.3f}, is the lowest; the last is {last:.3f}"
        return Rejection(record.name, unconverged, why, (first, last))
    if not fluctuation <= rules.fluc_thresh:  # NaN is rejected as well
        return Rejection(record.name, fluctuating, f"median |diff(losses)| {fluctuation:.3f}", (fluctuation,))
    return None


@dataclass(frozen=True)
class Harvest:
    """The presets of the kept runs, and the chain that all of them were fitted with."""

    presets: list[Preset]
    effect: Effect
    chain: dict  # its configuration


def read_harvest(selection: Selection) -> Harvest:
    """Reads the raw parameters of the kept runs; a run that cannot be read is moved to the rejected ones.

    UsageError where no run is left, and where two were fitted with different chains, naming the difference.
    """
    chains, kept, rows = Chains(), list[Record](), list[np.ndarray]()
    first: Chain | None = None
    same: Chain | None = None  # that was compared last
    for record in selection.kept:
        try:
            chain, row = load_row(record.folder, chains)
        except (ValueError, OSError) as error:
            selection.rejected.append(Rejection(record.name, "unreadable", str(error)))
            continue
        first = first or chain
        if chain is not (same or first):
            _check_same(first, chain, kept[0].name, record.name)
        same = chain
        kept.append(record)
        rows.append(row)
    selection.kept = kept
    if first is None:
        raise UsageError("no run is left: " + _counts(selection.rejected))
    raws = from_vectors(torch.from_numpy(np.array(rows)), first.effect)
    presets = [
        Preset(row, r.dry_file, r.wet_file, r.alignment_shift, raws[row], os.path.abspath(r.folder))
        for row, r in enumerate(kept)
    ]
    return Harvest(presets, first.effect, first.config)


def _check_same(one: Chain, other: Chain, name: str, other_name: str) -> None:
    differences = chain_differences(resolve(one), resolve(other), name, other_name)
    if differences:
        raise UsageError(
            f"the runs were fitted with different chains; between {name} and {other_name}: "
            f"{'; '.join(differences)}. Harvest them apart, by dates or by log folders"
        )


def _counts(rejected: Sequence[Rejection]) -> str:
    counts = {reason: sum(r.reason == reason for r in rejected) for reason in dict.fromkeys(r.reason for r in rejected)}
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def resolve(chain: Chain) -> dict[str, object]:
    """Every option, default and range of a run's chain by dotted name, defaults of the effects included.

    So two chains can be compared whose configurations spell out different options.
    """
    return {"sr": chain.sr} | _resolve(chain.effect, chain.config, "")


def _resolve(effect: Effect, config: dict, prefix: str) -> dict[str, object]:
    rows: dict[str, object] = {f"{prefix}effect": type(effect).__name__}
    for name, option in inspect.signature(type(effect).__init__).parameters.items():
        value = config.get(name, option.default)
        if option.kind is option.KEYWORD_ONLY and not isinstance(value, dict):
            rows[prefix + name] = tuple(value) if isinstance(value, list) else value
    names = tuple(name for name, _ in effect.parts())
    if names:
        rows[f"{prefix}order"] = names
    for p in effect.params:
        rows |= {f"{prefix}{p.name}.default": p.default, f"{prefix}{p.name}.range": p.mapping}
    for name, part in effect.parts():
        rows |= _resolve(part, config.get(name, {}), f"{prefix}{name}.")
    return rows


def chain_differences(a: dict[str, object], b: dict[str, object], name_a: str, name_b: str) -> list[str]:
    """The differences between two resolved chains in words: the first five, and the number of the others."""
    keys = [key for key in dict.fromkeys([*a, *b]) if not _same(a.get(key), b.get(key))]
    differences = [f"{key} is {_word(a, key)} in {name_a} and {_word(b, key)} in {name_b}" for key in keys[:5]]
    return differences + ([f"and {len(keys) - 5} more"] if len(keys) > 5 else [])


def _same(a: object, b: object) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _word(rows: dict[str, object], key: str) -> str:
    return str(rows[key]) if key in rows else "absent"


def rejection_lines(rejected: Iterable[Rejection]) -> list[str]:
    """One line per rejected run, with its reason."""
    return [f"{r.name}: {r.reason}: {r.why}" for r in rejected]


def reason_lines(rejected: Iterable[Rejection], most: int = 5) -> list[str]:
    """One line per reason: how many runs it rejected, and the first of these, `most`, with what is wrong with them."""
    by_reason: dict[str, list[str]] = {}
    for r in rejected:
        by_reason.setdefault(r.reason, []).append(f"{r.name} ({r.why})")
    return [
        f"{len(runs)} {reason}: {', '.join(runs[:most])}{f' and {len(runs) - most} more' if len(runs) > most else ''}"
        for reason, runs in by_reason.items()
    ]
