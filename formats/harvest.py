"""From run folders to a preset set: which runs of a log folder count, and why the others do not."""

import inspect
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from reknob.afx.effect import Effect
from reknob.afx.registry import build
from reknob.formats.fields import RUN_RECORD, read_fields
from reknob.formats.presets import Preset
from reknob.formats.runs import META, Run, load_run
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

DATES = ("%Y-%m-%d:%H", "%Y-%m-%d:%H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class Record:
    """What a run says of itself."""

    folder: Path
    name: str  # the folder within the log folder
    created: datetime
    losses: tuple[float, ...]
    terminated_by: str | None
    dry_file: str
    wet_file: str
    alignment_shift: int


@dataclass(frozen=True)
class Rules:
    """Which runs count: created from `start` to `end`, converged, and the newest of their track unless `every`."""

    start: datetime
    end: datetime
    loss_thresh: float = 4.0
    fluc_thresh: float = 0.2
    every: bool = False


@dataclass(frozen=True)
class Rejection:
    """A run that does not count: the key of the reason, its numbers as the release records them, and why in words."""

    name: str
    reason: str
    why: str
    numbers: tuple = ()


@dataclass
class Selection:
    """Runs that count, and those that do not."""

    kept: list[Record] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def problems(self, rules: Rules) -> dict[str, list]:
        """The `problematic_runs` of a set: rejected runs by the release's reasons."""
        return {
            reason: [[r.name, *r.numbers] for r in self.rejected if r.reason == reason] for reason in reasons(rules)
        }


def reasons(rules: Rules) -> tuple[str, str, str, str]:
    """The keys of the release's reasons, in the order in which they are looked for."""
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
    """The record of a run folder, ours or published; UsageError when it has none or is damaged.

    A record without a date, as older and published ones, has the date of its file.
    """
    path = folder / META
    if not path.exists():
        raise UsageError(f"has no {META}: it is still running, or was killed")
    meta = read_fields(path, RUN_RECORD)
    # A run that was killed has but begun its record.
    missing = [name for name in ("alignment_shift", "input_path", "losses", "target_path") if meta[name] is None]
    if missing and not meta["terminated_by"]:
        raise UsageError(f"{path}: lacks {', '.join(missing)}")
    return Record(
        folder,
        folder.relative_to(logs).as_posix(),
        meta["created"] or datetime.fromtimestamp(path.stat().st_mtime),
        tuple(meta["losses"] or ()),
        meta["terminated_by"],
        meta["input_path"] or "",
        meta["target_path"] or "",
        meta["alignment_shift"] or 0,
    )


def select(logs: str | Path, rules: Rules) -> Selection:
    """Sorts the runs below a log folder, at any depth, by the rules.

    Of the runs of one track (a folder and a wet file) created within the dates the newest is taken, and then rejected
    when it was terminated early, when its lowest loss is above `loss_thresh`, when its first loss is its lowest, or
    when median |diff(losses)| is above `fluc_thresh`, in this order. UsageError where there is no run at all.
    """
    logs = user_path(logs)
    folders = sorted(p for p in logs.rglob("run_*") if re.fullmatch(r"run_\d+", p.name) and p.is_dir())
    if not folders:
        raise UsageError(f"{logs}: holds no run folder (run_0, run_1, …) at any depth; give a log folder of fits")
    selection, tracks = Selection(), {}
    for folder in folders:
        try:
            record = read_record(folder, logs)
        except (ValueError, OverflowError, OSError) as error:  # the last two of a date that no calendar has
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
            found = _superseded(record, newest, rules) or judge(record, rules)
            if found:
                selection.rejected.append(found)
            else:
                selection.kept.append(record)
    return selection


def _age(record: Record) -> tuple[datetime, int]:
    return record.created, int(record.folder.name[4:])


def _superseded(record: Record, newest: Record, rules: Rules) -> Rejection | None:
    if rules.every or record is newest:
        return None
    return Rejection(record.name, "superseded", f"{newest.folder.name} of the same track is newer")


def judge(record: Record, rules: Rules) -> Rejection | None:
    """Why a run does not count by what it says of itself, or None."""
    terminated, high, unconverged, fluctuating = reasons(rules)
    losses = np.asarray(record.losses, dtype=float)
    if record.terminated_by or not np.isfinite(losses).any():
        why = record.terminated_by or "it has no finite loss"
        return Rejection(record.name, terminated, f"terminated early: {why}", (why,))
    lowest = float(np.nanmin(losses))
    if lowest > rules.loss_thresh:
        return Rejection(record.name, high, f"lowest loss {lowest:.3f}", (lowest,))
    if losses[0] == lowest:
        why = f"the first loss, {losses[0]:.3f}, is the lowest; the last is {losses[-1]:.3f}"
        return Rejection(record.name, unconverged, why, (float(losses[0]), float(losses[-1])))
    with np.errstate(invalid="ignore", over="ignore"):  # of losses that are not finite
        fluctuation = float(np.median(np.abs(np.diff(losses))))
    if not fluctuation <= rules.fluc_thresh:
        return Rejection(record.name, fluctuating, f"median |diff(losses)| {fluctuation:.3f}", (fluctuation,))
    return None


@dataclass(frozen=True)
class Harvest:
    """The presets of the runs that count, and the one chain that they were fitted with."""

    presets: list[Preset]
    effect: Effect
    chain: dict


def gather(selection: Selection) -> Harvest:
    """Reads the parameters of the runs that count, moving those that cannot be read to the rejected ones.

    UsageError where none is left, and where two were fitted with different chains, naming the difference.
    """
    runs: list[tuple[Record, Run]] = []
    for record in list(selection.kept):
        try:
            runs.append((record, _finite(load_run(record.folder))))
        except (ValueError, OSError) as error:
            selection.kept.remove(record)
            selection.rejected.append(Rejection(record.name, "unreadable", str(error)))
    if not runs:
        raise UsageError("no run is left: " + _counts(selection.rejected))
    first, run = runs[0]
    chain = resolve(run)
    for record, other in runs[1:]:
        differences = chain_differences(chain, resolve(other), first.name, record.name)
        if differences:
            raise UsageError(
                f"the runs were fitted with different chains; between {first.name} and {record.name}: "
                f"{'; '.join(differences)}. Harvest them apart, by dates or by log folders"
            )
    presets = [
        Preset(row, r.dry_file, r.wet_file, r.alignment_shift, run.raws, os.path.abspath(r.folder))
        for row, (r, run) in enumerate(runs)
    ]
    return Harvest(presets, build(runs[0][1].config, runs[0][1].sr), runs[0][1].config)


def _finite(run: Run) -> Run:
    bad = [name for name, raw in run.raws.items() if not raw.isfinite().all()]
    if bad:
        raise UsageError(f"its best parameters are not finite: {', '.join(bad)}")
    return run


def _counts(rejected: Sequence[Rejection]) -> str:
    counts = {reason: sum(r.reason == reason for r in rejected) for reason in dict.fromkeys(r.reason for r in rejected)}
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def resolve(run: Run) -> dict[str, object]:
    """Everything that is settled in a run's chain, what its configuration leaves unsaid included, by dotted name."""
    return {"sr": run.sr} | _resolve(build(run.config, run.sr), run.config, "")


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
    """What differs between two resolved chains, in words; at most five, then their number."""
    keys = [key for key in dict.fromkeys([*a, *b]) if not _same(a.get(key), b.get(key))]
    words = [f"{key} is {_word(a, key)} in {name_a} and {_word(b, key)} in {name_b}" for key in keys[:5]]
    return words + ([f"and {len(keys) - 5} more"] if len(keys) > 5 else [])


def _same(a: object, b: object) -> bool:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return math.isclose(a, b, rel_tol=1e-9) if numbers else a == b


def _word(rows: dict[str, object], key: str) -> str:
    return str(rows[key]) if key in rows else "absent"


def lines(rejected: Iterable[Rejection]) -> list[str]:
    """One line for every rejected run, with its reason."""
    return [f"{r.name}: {r.reason}: {r.why}" for r in rejected]
