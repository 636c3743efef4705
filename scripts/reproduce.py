"""Repeats a run from its record, and says whether the result is the same to the last bit, and what differs.

    python scripts/reproduce.py logs/demo/run_0
    python scripts/reproduce.py run_0 --dry voice.wav --wet mix.wav --out again      recordings moved; keep the result

Compared are the loss of every step and the best values, and what the run's record says of versions, threads, device,
the state of the clone and the recordings. On a CPU with the same number of threads, versions and processor they are
identical. Exit status 0: identical. 2: not, or the run cannot be repeated.
"""

from reknob.runtime.program import program

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from reknob.fitting.reproduce import Repetition, recorded_threads, repeat_run
from reknob.runtime.arguments import Parser, file_path, positive_int
from reknob.runtime.errors import UsageError
from reknob.runtime.output import counted, result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    threads, before = args.threads or recorded_threads(args.run), torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory(prefix="reknob-") as folder:
            repetition = repeat_run(args.run, args.out or Path(folder), args.dry, args.wet)
    finally:
        torch.set_num_threads(before)
    lines = [f"differs: {line}" for line in repetition.changes]
    lines += [f"repeated in {repetition.folder}"] if args.out else []
    if repetition.is_identical:
        lines.append(f"identical: the losses of {counted(repetition.steps, 'step')}, and the values")
    fields = asdict(repetition) | {"folder": repetition.folder if args.out else None}
    result("\n".join(lines), identical=repetition.is_identical, **fields)
    if not repetition.is_identical:
        raise UsageError(f"{args.run}: not identical: {difference(repetition)}")
    return 0


def difference(repetition: Repetition) -> str:
    """What differs between a run and its repetition, in one line."""
    parts = []
    if repetition.first is not None:
        parts.append(f"losses from step {repetition.first} of {repetition.steps} on, by at most {repetition.loss:.1e}")
    if repetition.values:
        name = max(repetition.values, key=repetition.values.__getitem__)
        parts.append(f"{len(repetition.values)} values, most {name} by {repetition.values[name]:.1e}")
    return "; ".join(parts) + " (relative)"


def parser() -> Parser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("run", metavar="RUN", type=file_path, help="a run folder of main.py")
    p.add_argument("--dry", type=file_path, help="the dry recording, where it is no longer at its recorded path")
    p.add_argument("--wet", type=file_path, help="the wet recording, where it is no longer at its recorded path")
    p.add_argument("--out", type=file_path, metavar="LOGS", help="folder to keep the repetition in")
    p.add_argument("--threads", type=positive_int, help="CPU threads (default: those of the run)")
    return p


if __name__ == "__main__":
    sys.exit(main())
