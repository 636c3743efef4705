"""Fits a chain to many songs: on this machine, on a Ray cluster or by Slurm, again and again until all are done.

    python scripts/fit_many.py songs.txt logs epochs=400                       one after another, in this process
    python scripts/fit_many.py songs.txt logs --workers 8                      eight worker processes
    python scripts/fit_many.py songs.txt logs --together 16                    sixteen songs in one batch, on a GPU say
    python scripts/fit_many.py s3://bucket/songs s3://bucket/logs --on ray --ray-address head:6379 --gpus 0.25
    python scripts/fit_many.py songs.txt logs --on slurm slurm.partition=short slurm.time=60
    python scripts/fit_many.py songs.txt logs --shard 3/8                      the third of eight parts

SONGS is a text file with a folder per line, or a folder; runs go to <RESULTS>/<song>/run_<N>. Both may be URLs of
fsspec. `key=value` are settings of main.py, `slurm.key=value` options of sbatch. Finished runs are left alone,
interrupted ones resumed, failed ones tried again. RESULTS gets summary.json and summary.csv, which fleet_status.py
reads.
"""

from reknob.runtime.program import FAULT, INTERRUPTED, MISTAKE, print_error, program

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from reknob.fitting import command_line
from reknob.fitting.batch import SHARE
from reknob.fitting.settings import FitSettings
from reknob.fleet import songs, watch
from reknob.fleet.backends import Backend
from reknob.fleet.driver import Driver
from reknob.fleet.local import InProcess, Workers
from reknob.fleet.ray import RayBackend
from reknob.fleet.slurm import SlurmBackend
from reknob.fleet.songs import State
from reknob.fleet.store import Store, reached
from reknob.fleet.task import tasks_of
from reknob.runtime.arguments import Parser, non_negative_int, positive_int, real
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output_folder
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.memory import free_bytes, keep_freed_memory
from reknob.runtime.output import result

#: Settings of main.py that SONGS and RESULTS stand for.
TAKEN = ("data_dir", "dry", "wet", "log_dir", "resume")
BACKENDS = ("local", "ray", "slurm")
LINE_S = 60.0  # between two lines where there is no terminal


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    flags, settings, slurm = split(argv)
    args = parser().parse_args(flags)
    check(args, slurm)
    fit_settings = read_settings_of(settings, args)
    store = Store(args.results)
    if store.is_private and (args.on != "local" or args.workers > 1):
        raise UsageError(f"{args.results}: is in the memory of one process; use --on local and one worker")
    # Before the songs are looked for, which may take long.
    if store.is_local:
        check_output_folder(store.path(""))
    backend = build_backend(args, slurm, store)
    with tempfile.TemporaryDirectory(prefix="reknob-") as scratch:
        found = songs.find(args.songs, fit_settings.dataset, Path(scratch))
    chosen = songs.shard(found.songs, args.shard) if args.shard else found.songs
    rows = {song.id: watch.Row(song.id) for song in chosen}
    for name, progress in reached(args.results, lambda: songs.progress(store, chosen, fit_settings)).items():
        rows[name].begin(progress, store.url)
    left = [song for song in chosen if rows[song.id].state is not State.FINISHED]
    failed = found.failed if not args.shard or args.shard.startswith("1/") else []
    rows |= {line: watch.Row(line, State.FAILED, reason=line) for line in failed}
    summary = watch.Summary(backend.name, rows, found.skipped, done_before=len(chosen) - len(left))
    tasks = tasks_of(
        left, store.url, fit_settings, each=args.per_task, together=args.together, threads=threads_of(args)
    )
    for line in (*(f"skipped {reason}" for reason in found.skipped), *(f"failed: {reason}" for reason in failed)):
        print(line, flush=True)
    show = Display()
    writer = watch.Writer(store, args.shard, 1.0 if store.is_local else 15.0)
    driver = Driver(backend, writer, summary, retries=args.retries, on_tick=show.tick, on_failure=show.failure)
    try:
        with Interrupt() as interrupt, backend:
            reached(args.results, lambda: writer.write(summary))
            driver.run(tasks, interrupt)
    finally:
        show.end()
        failures = [row for row in rows.values() if row.state is State.FAILED]
        for row in failures:
            print_error(f"fit_many.py: {row.reason}")
        counts = summary.counts()
        parts = [f"{counts[State.FINISHED] - summary.done_before} fitted, {summary.done_before} done before"]
        parts += [f"{counts[State.FAILED]} failed"]
        parts += [f"{counts[state]} {state}" for state in (State.INTERRUPTED, State.WAITING) if counts[state]]
        parts += [f"{len(found.skipped)} skipped"] if found.skipped else []
        result(", ".join(parts), **summary.record())
    if interrupt.asked:
        return INTERRUPTED
    return FAULT if driver.has_fault and failures else MISTAKE if failures else 0


class Display:
    """A table that is drawn again and again on a terminal, and a line a minute elsewhere."""

    def __init__(self) -> None:
        self._is_live = sys.stdout.isatty()
        self._drawn = 0  # lines of the table on the terminal
        self._at = time.monotonic() - LINE_S + 5  # the first line comes soon
        self._pause_s = 0.5  # longer where a table of many songs takes long to draw

    def tick(self, summary: watch.Summary) -> None:
        """Shows a summary where it is time to."""
        if self._is_live and time.monotonic() - self._at > self._pause_s:
            begun = time.monotonic()
            width = shutil.get_terminal_size().columns
            lines = [line[: width - 1] for line in watch.table(summary)]
            self._erase()
            print("\n".join(lines), flush=True)
            self._drawn, self._at = len(lines), time.monotonic()
            self._pause_s = max(0.5, 20 * (self._at - begun))
        elif not self._is_live and time.monotonic() - self._at > LINE_S:
            print(watch.line(summary), flush=True)
            self._at = time.monotonic()

    def failure(self, reason: str) -> None:
        """Shows why a song failed, at once."""
        self._erase()
        print(f"failed: {reason}", flush=True)

    def end(self) -> None:
        """Removes the table."""
        self._erase()

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="", flush=True)
        self._drawn = 0


def split(argv: list[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """The arguments of this program, the settings of the fits, and the options of Slurm."""
    flags, settings, slurm = [], [], {}
    for argument in argv:
        match = re.match(r"(--)?(\w[\w.]*)=", argument)
        name = match[2] if match else ""
        if name.startswith("slurm.") and match:
            slurm[name.removeprefix("slurm.")] = argument[match.end() :]
        elif name and not argument.startswith("--") or name == "config":
            settings.append(argument)
        else:
            flags.append(argument)
    return flags, settings, slurm


def check(args: argparse.Namespace, slurm: dict[str, str]) -> None:
    """Refuses options that the chosen back end does not have, which would otherwise go unnoticed."""
    if slurm and args.on != "slurm":
        raise UsageError(f"slurm.{next(iter(slurm))}=…: is for --on slurm")
    if args.gpus and args.on == "local":
        raise UsageError("--gpus: is for --on ray and --on slurm; a local fit takes the GPU by device=cuda")
    if args.on == "slurm" and args.gpus % 1:
        raise UsageError(f"--gpus {args.gpus:g}: Slurm gives whole GPUs")
    if args.workers > 1 and args.on != "local":
        raise UsageError(f"--workers: is for --on local; {args.on} has as many as its cluster")
    if args.ray_address and args.on != "ray":
        raise UsageError("--ray-address: is for --on ray")


def read_settings_of(settings: list[str], args: argparse.Namespace) -> FitSettings:
    """The settings of the fits; UsageError for one that SONGS and RESULTS stand for."""
    for argument in settings:
        name = argument.partition("=")[0]
        if name in TAKEN:
            raise UsageError(f"{argument[:200]}: SONGS and RESULTS say it here")
    read = command_line.read_settings(settings)
    read = replace(read, data_dir=args.songs, dry=None, wet=None)
    if args.on == "local" and args.workers > 1 and read.memory_gb is None and read.device != "cuda":
        # Each worker would take half of what is free.
        read = replace(read, memory_gb=SHARE["cpu"] * free_bytes(torch.device("cpu")) / args.workers / 1e9)
    return read


def threads_of(args: argparse.Namespace) -> int:
    """The threads of a task: on this machine its cores by default, shared by the workers, elsewhere one."""
    return args.threads or (max((os.cpu_count() or 1) // args.workers, 1) if args.on == "local" else 1)


def build_backend(args: argparse.Namespace, slurm: dict[str, str], store: Store) -> Backend:
    """The back end of the options; UsageError where it is not reached."""
    threads = threads_of(args)
    if args.on == "ray":
        return RayBackend(args.ray_address or "auto", threads, args.gpus)
    if args.on == "slurm":
        folder = store.path(".fleet/slurm") if store.is_local else Path("fleet_jobs").absolute()
        return SlurmBackend(folder, threads, int(args.gpus), slurm)
    keep_freed_memory()
    return Workers(args.workers, threads) if args.workers > 1 else InProcess()


def parser() -> Parser:
    """The program's options."""
    p = Parser(__doc__)
    p.usage = "%(prog)s [options] SONGS RESULTS [key=value …] [slurm.key=value …]"
    p.add_argument("songs", metavar="SONGS", help="text file with a folder per line, or a folder; path or URL")
    p.add_argument("results", metavar="RESULTS", help="folder of the runs; path or URL")
    p.add_argument("--on", choices=BACKENDS, default="local", help="what runs the fits (default local)")
    p.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="local: processes (default 1, this one)"
    )
    p.add_argument("--together", type=positive_int, default=1, metavar="N", help="songs of similar length in one batch")
    p.add_argument(
        "--per-task", type=positive_int, default=1, metavar="N", help="songs per task, with Slurm per job"
    )
    p.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads of a fit (local: all cores; else 1)")
    p.add_argument(
        "--gpus", type=real(0, 64), default=0.0, metavar="X", help="ray, slurm: GPUs per task; ray also 0.25, …"
    )
    p.add_argument("--ray-address", default="", metavar="A", help="host:port, ray://host:port or auto (default)")
    p.add_argument(
        "--retries", type=non_negative_int, default=1, metavar="N", help="how often a failed song is retried"
    )
    p.add_argument("--shard", default="", metavar="I/N", help="fit only the I-th of N parts; I begins at 1")
    return p


if __name__ == "__main__":
    sys.exit(main())
