"""Runs the benchmarks, prints their tables, and writes the figures with the machine they belong to.

    python -m benchmarks.run [--what fit,train,kernels] [--repeats 3] [--json figures.json]

fit: a whole training step against the peer's, with peak memory. train: a blind-estimation step against its plain build.
kernels: the parts, each against the public libraries.
Where other programs share the cores, OMP_WAIT_POLICY=PASSIVE keeps waiting threads out of the CPU seconds.
"""

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks import fit, train
from benchmarks.measure import Comparison, machine, table, write_json

PARTS = ("kernels", "losses", "fdn_response")


def part_rows(repeats: int) -> list[Comparison]:
    """Compare the parts whose benchmark is here; each is a module with `rows(repeats)`."""
    present = [f"benchmarks.{name}" for name in PARTS if find_spec(f"benchmarks.{name}")]
    return [row for name in present for row in import_module(name).rows(repeats)]


BENCHMARKS = {"fit": fit.rows, "train": train.rows, "kernels": part_rows}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(BENCHMARKS), help=f"of {', '.join(BENCHMARKS)}, with commas between")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved pairs of runs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    names = args.what.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"unknown benchmarks {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    results = {}
    for name in names:
        results[name] = BENCHMARKS[name](args.repeats)
        print(f"\n{name}\n\n{table(results[name])}")
    if "fit" in names:
        results["memory"] = fit.memory_rows()
        print(f"\n{fit.memory_table(results['memory'])}")
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
