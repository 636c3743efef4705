"""Runs the benchmarks, prints their tables, and writes the figures with the machine they belong to.

    python -m benchmarks.run [--what fit,train,kernels] [--repeats 3] [--json figures.json]

fit: a whole training step against the peer's, with peak memory, and every part of it forward and backward. train: a
blind-estimation step against its plain build, and its memory. kernels: the loops, each against the public libraries.
Where other programs share the cores, OMP_WAIT_POLICY=PASSIVE keeps waiting threads out of the CPU seconds.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import fit, kernels, parts, train
from benchmarks.measure import machine, memory_table, parser, some_of, table, write_json
from reknob.runtime.arguments import positive_int

# Of each benchmark: the name of a table, what measures its rows given the repeats, and what lays them out.
Section = tuple[str, Callable[[int], list], Callable[[list], str]]
BENCHMARKS: dict[str, list[Section]] = {
    "fit": [
        ("fit", fit.rows, table),
        ("fit, memory", lambda repeats: fit.memory_rows(), memory_table),
        ("parts, 1 chunk", parts.rows, parts.table),
        ("parts, 4 chunks", partial(parts.rows, count=4), parts.table),
    ],
    "train": [("train", train.rows, table), ("train, memory", lambda repeats: train.memory_rows(), memory_table)],
    "kernels": [("kernels", kernels.rows, table)],
}


@program
def main(argv: list[str]) -> int:
    """Run what is asked for."""
    p = parser(__doc__)
    p.add_argument("--what", type=some_of(BENCHMARKS), default=list(BENCHMARKS), help="with commas between; all")
    p.add_argument("--repeats", type=positive_int, default=3, help="interleaved pairs of runs")
    args = p.parse_args(argv)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    results = dict(measured(args.what, args.repeats))
    write_json(args.json, results)
    return 0


def measured(names: list[str], repeats: int) -> Iterator[tuple[str, list]]:
    """Measure the tables of the benchmarks, printing each as it is done."""
    for name, rows, lay_out in (section for benchmark in names for section in BENCHMARKS[benchmark]):
        result = rows(repeats)
        print(f"\n{name}\n\n{lay_out(result)}", flush=True)
        yield name, result


if __name__ == "__main__":
    sys.exit(main())
