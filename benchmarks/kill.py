"""Kills fits, trainings and harvests at random moments and disturbs them, and compares what they reach afterwards.

    python -m benchmarks.kill [--kills 200] [--jobs fit,batch,training] [--json kill.json]

A job runs once undisturbed. Then it is started, killed by SIGKILL after a random time, started again, and so on; every
so often it may run to its end, and what it leaves has to be identical to what the undisturbed one left: losses, values,
weights and files, bit for bit. After every kill all files that are in place have to be whole. Faults: the n-th write
raises, for the first n and several errors; files may not grow beyond a size; memory is limited; the inputs, or all
results, are deleted before a write. Then the job runs again without.

Jobs are small (2 to 3 s at 16 kHz) and their checkpoints come every 0.1 s instead of 20 or 30 s, so that kills fall on
all parts of them. They are forked from this process, which has imported everything. "repeated s" is the longest time
from the last checkpoint, or from a job's start, to a kill.
"""

from reknob.runtime.program import program

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.disturb import Job, Outcome, faults, kill_at_random
from benchmarks.kill_jobs import JOBS
from benchmarks.measure import parser, some_of, write_json
from reknob.runtime.arguments import positive_int

THREADS = "NUMBA_NUM_THREADS"
# Of the kills, by job.
SHARES = {"fit": 0.3, "batch": 0.15, "few chunks": 0.15, "training": 0.05, "statistics": 0.05, "harvest": 0.3}


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status, 1 where anything was lost."""
    p = parser(__doc__)
    p.add_argument("--kills", type=positive_int, default=200, help="in all (default %(default)s)")
    p.add_argument("--jobs", type=some_of(JOBS), default=list(JOBS), help="with commas between (default: all)")
    p.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    p.add_argument("--no-faults", action="store_true", help="kills only")
    args = p.parse_args(argv)
    if os.environ.get(THREADS) != "1":
        # A process that has run kernels in several threads cannot be forked.
        command = [sys.executable, "-m", "benchmarks.kill", *argv]
        os.execve(sys.executable, command, os.environ | {THREADS: "1"})  # noqa: S606 - this program itself
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="reknob-kill-") as folder:
        outcomes = list(measured(args.jobs, args.kills, args.seed, Path(folder), disturb=not args.no_faults))
    write_json(args.json, {"outcomes": outcomes})
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def measured(names: Sequence[str], kills: int, seed: int, folder: Path, *, disturb: bool) -> list[Outcome]:
    """Kills and faults of every job, printed as rows of a table."""
    whole, rows = sum(SHARES[name] for name in names), []
    print("| job | kills | ends reached | faults | lost | repeated s |\n|---|---|---|---|---|---|", flush=True)
    for name in names:
        job: Job = JOBS[name](folder / name.replace(" ", "_"))
        outcome = kill_at_random(job, max(1, round(kills * SHARES[name] / whole)), seed)
        outcome = replace(faults(job, outcome) if disturb else outcome, job=name)
        rows.append(outcome)
        counts = f"{outcome.kills} | {outcome.ends} | {outcome.faults}"
        print(f"| {name} | {counts} | {len(outcome.lost)} | {outcome.repeated_s:.2f} |", flush=True)
        for line in outcome.lost:
            print(f"lost: {line}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
