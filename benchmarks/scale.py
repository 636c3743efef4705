"""Seconds and memory of what reads many runs, and of the driver of a fleet of many songs, on generated run folders.

    python -m benchmarks.scale [--runs 1000,10000,100000] [--what harvest,page] [--folder /tmp] [--json scale.json]

The runs have the default chain, 400 losses and checkpoints of the usual size, of which SETS differ. Each program runs
in a process of its own, with one thread. The tasks of the fleet end at once, so that what remains is the work of its
driver. A run takes 24 kB on the disk, as settings and checkpoints are linked, and all are removed at the end.
"""

from reknob.runtime.program import program

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import parser, some_of, write_json
from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.analysis.features import load_features
from reknob.analysis.statistics import principal_components, rank_correlation, variance_shares
from reknob.fitting import command_line
from reknob.fleet import songs, watch
from reknob.fleet.backends import Finished
from reknob.fleet.driver import Driver
from reknob.fleet.songs import State
from reknob.fleet.store import Store
from reknob.fleet.task import Result, Task, tasks_of
from reknob.formats import runs
from reknob.report.page.batch import write_batch
from reknob.runtime.arguments import file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.settings import read_yaml

# Not by an import statement: a program is here what is run, as from a command line.
HARVEST, PCA, PRESETS = (import_module(f"scripts.{name}").main for name in ("get_params", "pca_trsfm", "presets"))
Display = import_module("scripts.fit_many").Display
SETS = 50
NAME = "songNUMBER"  # in a record
LOSSES = 400


@dataclass(frozen=True)
class Cost:
    """What one program took for so many runs."""

    what: str
    runs: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    written_mb: float


def generate(logs: Path, count: int) -> None:
    """Writes `count` run folders, each of its own song, without the flushes of a fit."""
    template = runs.new_run(logs, "template")
    settings = command_line.read_settings([])
    runs.begin(template, asdict(settings))
    chain = build(read_yaml(template / runs.CONFIG)["chain"], settings.sr)
    config = (template / runs.CONFIG).read_bytes()
    raws = Knobs(chain, torch.Generator().manual_seed(0)).state_dict()
    draw = torch.Generator().manual_seed(1)
    checkpoints, records = [], []
    for number in range(SETS):
        moved = {name: raw + 0.3 * torch.randn(raw.shape, generator=draw) for name, raw in raws.items()}
        buffer = io.BytesIO()
        moments = {name: {"exp_avg": raw.clone(), "exp_avg_sq": raw.clone()} for name, raw in moved.items()}
        torch.save({"best_model": moved, "model": moved, "optimiser": moments}, buffer)
        checkpoints.append(buffer.getvalue())
        steps = np.arange(LOSSES)
        losses = 1 + 0.02 * number + 2 * np.exp(-steps / 100) + 0.01 * np.sin(steps)
        meta = {"created": "2026-01-01T00:00:00", "terminated_by": None, "alignment_shift": 0}
        paths = {f"{side}_path": f"/recordings/{NAME}/{side}.wav" for side in ("input", "target")}
        meta |= paths | {"losses": losses.tolist(), "raws": runs.record_of(moved)}
        records.append(json.dumps(meta, indent=1))
    (template / runs.CONFIG).unlink()
    (template / runs.META).unlink()
    template.rmdir()
    template.parent.rmdir()
    linked: list[Path] = []
    for number in range(count):
        name = NAME.replace("NUMBER", f"{number:06d}")
        folder = logs / name / name / "run_0"  # as a fleet over a list of folders places it
        folder.mkdir(parents=True)
        (folder / runs.META).write_text(records[number % SETS].replace(NAME, name))
        if number < SETS:
            (folder / runs.CONFIG).write_bytes(config)
            (folder / runs.CHECKPOINT).write_bytes(checkpoints[number])
            linked.append(folder)
        else:
            for each in (runs.CONFIG, runs.CHECKPOINT):
                os.link(linked[number % SETS] / each, folder / each)


def generate_songs(folder: Path, count: int) -> None:
    """Writes a list of `count` folders, and the folders, each with a pair of empty files."""
    places = [folder / "songs" / f"song{number:06d}" for number in range(count)]
    for place in places:
        place.mkdir(parents=True)
        for side in ("dry", "wet"):
            (place / f"{side}.wav").touch()
    (folder / "songs.txt").write_text("".join(f"{place}\n" for place in places))


def harvest(folder: Path) -> None:
    """Collects all runs into a preset set."""
    HARVEST([str(folder / "logs"), str(folder / "set"), "2020-01-01", "--overwrite", "--quiet"])


def pca(folder: Path) -> None:
    """Mean and covariance of the set."""
    PCA([str(folder / "set"), "--quiet"])


def statistics(folder: Path) -> None:
    """Principal components, their shares, and rank correlations, as the notebook computes them."""
    features = load_features(folder / "set")
    components = principal_components(features.rows)
    variance_shares(features.rows, components)
    rank_correlation(features.rows)


def outliers(folder: Path) -> None:
    """The presets that are least like the others."""
    PRESETS(["outliers", str(folder / "set"), "--quiet"])


def page(folder: Path) -> None:
    """The page of the log folder."""
    write_batch(folder / "logs", folder / "page" / "index.html")


class EndAtOnce:
    """A back end without work, as large as a cluster: every tenth song fails at first."""

    name, window = "nothing", 2000

    def __init__(self) -> None:
        self._waiting: list[Task] = []
        self._failed: set[str] = set()

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting += tasks

    def finished(self, timeout: float) -> list[Finished]:
        ended, self._waiting = self._waiting[:100], self._waiting[100:]
        return [Finished(task, [self._result(song) for song in task.songs]) for task in ended]

    def _result(self, song: songs.Song) -> Result:
        if song.id.endswith("0") and song.id not in self._failed:
            self._failed.add(song.id)
            return Result(song.id, State.FAILED, "an invented failure", worker="host:1")
        return Result(song.id, State.FINISHED, "", False, 400, 4.0, 1.0, 9.0, f"/logs/{song.id}/run_0", "host:1")

    def stop(self) -> None: ...

    def __enter__(self) -> "EndAtOnce":
        return self

    def __exit__(self, *_: object) -> None: ...


def fleet(folder: Path) -> None:
    """What fit_many.py does beside the fits: finds the songs and what is done of them, gives them out, and reports."""
    store = Store(str(folder / "logs"))
    with tempfile.TemporaryDirectory() as scratch:
        found = songs.find(str(folder / "songs.txt"), None, Path(scratch))
    settings = command_line.read_settings([])
    rows = {song.id: watch.Row(song.id) for song in found.songs}
    progress = songs.progress(store, found.songs, settings)
    for name, each in progress.items():
        rows[name].begin(each, store.url)
    tasks = tasks_of(found.songs, store.url, settings)
    summary, show = watch.Summary("nothing", rows), Display()
    writer = watch.Writer(Store(str(folder / "page")), "")
    with EndAtOnce() as backend:
        driver = Driver(backend, writer, summary, retries=1, on_tick=show.tick, on_failure=show.failure)
        driver.run(tasks, lambda: False)
    assert summary.counts()[State.FINISHED] == len(rows)


PROGRAMS = {each.__name__: each for each in (harvest, pca, statistics, outliers, page, fleet)}


def measure(what: str, count: int, folder: Path) -> Cost:
    """Runs a program in a process of its own, with one thread."""
    page = folder / "page"
    page.mkdir()
    command = [sys.executable, "-m", "benchmarks.scale", "--only", what, "--folder", str(folder)]
    begun = time.monotonic()
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise UsageError(f"{what} of {count} runs ended with status {child.returncode}")
    seconds, cpu = time.monotonic() - begun, usage.ru_utime + usage.ru_stime
    places = (folder / "set",) if what in ("harvest", "pca") else (page,)
    written = sum(path.stat().st_size for place in places for path in place.iterdir())
    shutil.rmtree(page)
    return Cost(what, count, seconds, cpu, usage.ru_maxrss / 1024, written / 1e6)


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    p = parser(__doc__)
    p.add_argument("--runs", default="1000,10000,100000", help="numbers with commas between (default %(default)s)")
    p.add_argument("--what", type=some_of(PROGRAMS), default=list(PROGRAMS), help="with commas between (default: all)")
    p.add_argument("--folder", type=file_path, help="for the runs, 24 kB each (default: the system's temporary one)")
    p.add_argument("--only", choices=PROGRAMS, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.only:
        PROGRAMS[args.only](args.folder)
        return 0
    costs = []
    print("| what | runs | s | CPU s | peak MB | written MB |\n|---|---|---|---|---|---|", flush=True)
    for count in map(int, args.runs.split(",")):
        with tempfile.TemporaryDirectory(prefix="reknob-scale-", dir=args.folder) as text:
            folder = Path(text)
            generate(folder / "logs", count)
            if fleet.__name__ in args.what:
                generate_songs(folder, count)
            for what in args.what:
                cost = measure(what, count, folder)
                costs.append(cost)
                figures = (cost.seconds, cost.cpu_seconds, cost.peak_mb, cost.written_mb)
                print(f"| {what} | {count} | {' | '.join(f'{figure:.1f}' for figure in figures)} |", flush=True)
    write_json(args.json, {"costs": costs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
