"""The page of a log folder: its songs in a table, their values among the published presets, and what failed."""

import math
from collections.abc import Mapping
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from reknob import __version__
from reknob.afx.effect import flatten
from reknob.formats import runs
from reknob.formats.certainty import WORDS, Certainty, read_certainty
from reknob.formats.effects import read_effects
from reknob.formats.run_audio import run_audio
from reknob.report.page import REPORT
from reknob.report.page.curves import equaliser, others
from reknob.report.page.files import fill, link
from reknob.report.page.published import published
from reknob.report.page.source import FittedRun, open_run
from reknob.report.page.tracks import label_of
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, input_path, printable, write_text

INDEX = "index.html"
ERRORS = "error.log"
#: Where the record of a run names its recordings.
RECORDED = {"dry": "input_path", "wet": "target_path"}
SOURCES = "; media-src 'self' file:; frame-src 'self' file:"  # recordings and reports, which stay beside the page
THUMBNAIL = 5  # every so many points of a curve
MOST = 500  # songs with curves, values and players, 5 kB each; and failures with reasons


def write_batch(logs: str | Path, path: str | Path | None = None, *, reasons: Mapping[str, str] | None = None) -> Path:
    """Writes the page of a log folder as one HTML file; its path. Audio and reports are linked, and stay beside it.

    Of more than MOST songs, those with the highest losses are shown with curves, values and players, those that ended
    early before the others; the rest is a line each in the table.

    Args:
        logs: a folder with runs at any depth; of each song the newest run counts.
        path: of the file; index.html in the log folder by default.
        reasons: why songs failed, by name, of those that left no run.

    Raises:
        UsageError: a folder without runs and without reasons, and a file that cannot be written.
    """
    logs = input_path(logs)
    folders = newest_runs(logs)
    if not folders and not reasons:
        raise UsageError(f"{logs}: holds no run; give a run folder, or a log folder of main.py")
    target = check_output(path or logs / INDEX)
    songs, failures, left = [], [], dict(reasons or {})
    folders, lines = _worst(folders, logs) if len(folders) > MOST else (folders, [])
    for folder in folders:
        why = left.pop(folder.parent.name, "")
        try:
            song = _song(open_run(folder, listen=False), logs, target.parent)
            songs.append(song | {"reason": why or song["reason"]})
        except UsageError as error:
            failures.append({"name": _name(folder, logs), "reason": why or _last_error(folder) or str(error)})
    failures += [{"name": name, "reason": why} for name, why in left.items()]
    distributions = _distributions(songs)
    content = {
        "name": printable(logs.resolve().name),
        "songs": [{key: song[key] for key in song if key != "values"} for song in songs],
        "lines": lines,
        "failures": failures[:MOST],
        "failure_count": len(failures),
        "published": {key: published()[key] for key in ("source", "count")},
        "parameters": distributions,
        "written": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "version": __version__,
    }
    scripts = ("charts.js", "player.js", "batch.js")
    title, styles = f"{content['name']}: songs", ("look.css", "charts.css", "report.css")
    write_text(target, fill("batch.html", title, content, styles, scripts, SOURCES))
    return target


def _worst(folders: list[Path], logs: Path) -> tuple[list[Path], list[tuple]]:
    """The MOST runs that need a look first, and name, folder, steps, first and lowest loss and end of each other one.

    Runs whose record cannot be read are among the first, where their error is shown.
    """
    lines: list[tuple[tuple[bool, float], Path, tuple]] = []
    for folder in folders:
        try:
            meta = runs.read_meta(folder)
        except UsageError:
            lines.append(((True, math.inf), folder, ()))
            continue
        first, lowest, steps = _losses(meta)
        ended = meta["terminated_by"] or ""
        line = _name(folder, logs), folder.name, steps, first, lowest, ended
        lines.append(((bool(ended), math.inf if lowest is None else lowest), folder, line))
    lines.sort(key=itemgetter(0), reverse=True)
    return [folder for _, folder, _ in lines[:MOST]], sorted((line for *_, line in lines[MOST:]), key=itemgetter(0))


def _losses(meta: Mapping[str, Any]) -> tuple[float | None, float | None, int]:
    """The first and the lowest finite loss of a record, and the number of steps."""
    losses = [loss for loss in meta["losses"] or () if math.isfinite(loss)]
    return (losses[0] if losses else None), min(losses, default=None), len(meta["losses"] or ())


def newest_runs(logs: Path) -> list[Path]:
    """The newest run folder of every song below a log folder, sorted by the songs' folders."""
    parents = sorted({path.parent.parent for path in logs.rglob(f"run_*/{runs.CONFIG}")})
    return [numbered[-1] for parent in parents if (numbered := runs.numbered(parent))]


def _name(folder: Path, logs: Path) -> str:
    """The name of a song: the folders between the log folder and the run."""
    inside = folder.parent.relative_to(logs)
    return printable(inside.as_posix() if inside.parts else folder.parent.resolve().name)


def _song(run: FittedRun, logs: Path, beside: Path) -> dict[str, Any]:
    """A row of the table, with links relative to the folder `beside`."""
    first, lowest, steps = _losses(run.meta)
    effects, certainty = read_effects(run.folder), read_certainty(run.folder)
    response, drawn = equaliser(run.chain, run.values), others(run.chain, run.values)
    curves = [{"title": "equaliser", "x": response["x"], "y": response["sum"], "log": True}] if response else []
    curves += [{"title": each["title"].lower(), "x": each["x"], "y": each["y"], "log": each["log"]} for each in drawn]
    report = run.folder / REPORT
    values = flatten(run.values)
    return {
        "name": _name(run.folder, logs),
        "run": run.folder.name,
        "created": run.meta["created"].isoformat(sep=" ", timespec="minutes") if run.meta["created"] else "",
        "steps": steps,
        "first": first,
        "lowest": effects.loss if effects else lowest,
        "ended": run.meta["terminated_by"] or "",
        "reason": _last_error(run.folder) if run.meta["terminated_by"] == "error" else "",
        "findings": run.findings,
        "removed": [label_of(name, list(effects.removed)) for name in effects.removed] if effects else [],
        "certainty": _count(certainty),
        "curves": [each | {"x": each["x"][::THUMBNAIL], "y": each["y"][::THUMBNAIL]} for each in curves[:3]],
        "report": link(report, beside) if report.exists() else "",
        "audio": {name: link(path, beside) for name, path in _sounds(run).items()},
        "values": {
            name: [float(f"{values[name].item():.5g}"), p.unit]
            for name, p in run.chain.walk()
            if p.preset and values[name].numel() == 1
        },
    }


def _count(certainty: Mapping[str, Certainty]) -> dict[str, int]:
    """How many scalar parameters have each word; empty without certainty."""
    words = [each.word for each in certainty.values() if isinstance(each.word, str)]
    return {word: words.count(word) for word in WORDS} if words else {}


def _sounds(run: FittedRun) -> dict[str, Path]:
    """The recordings that are there: in the run folder, or where the record says."""
    recorded = {name: Path(run.meta[key]) for name, key in RECORDED.items() if run.meta[key]}
    found = {name: path for name, path in recorded.items() if path.is_file()} | run_audio(run.folder)
    return {name: found[name] for name in ("dry", "fitted", "wet") if name in found}


def _last_error(folder: Path) -> str:
    """The last line of the traceback in a run folder, or in that of its song."""
    for path in (folder / ERRORS, folder.parent / ERRORS):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1][:300] if lines else ""
    return ""


def _distributions(songs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each scalar parameter of the songs: the value of each song, and the quantiles of the published presets."""
    units = {name: unit for song in songs for name, (_, unit) in song["values"].items()}
    rows = []
    for name, unit in units.items():
        values = [song["values"].get(name, [None])[0] for song in songs]
        known = published()["quantiles"].get(name)
        rows.append(
            {
                "name": name,
                "unit": unit,
                "values": values,
                "quantiles": [known[i] for i in (1, 5, 10, 15, 19)] if known else None,
            }
        )
    return rows
