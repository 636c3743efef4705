"""How the time of a step grows with chunks, their length and the delay's echoes: a figure.

python -m benchmarks.scaling [--repeats 3] [--figure benchmarks/scaling.png] [--json scaling.json]
"""

from reknob.runtime.program import program

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks import fit
from benchmarks.measure import clock, parser, write_json
from reknob.runtime.arguments import file_path, positive_int
from reknob.runtime.files import check_output

# Before pyplot is imported, which may otherwise look for a display.
matplotlib.use("Agg")
import matplotlib.pyplot as plt

COUNTS, SECONDS, DELAYS_MS = (1, 2, 4, 8, 16), (6, 12, 24, 48), (990.0, 400.0, 200.0, 101.0)


@dataclass(frozen=True)
class Point:
    """Median seconds of a step at one point of an axis."""

    axis: str
    at: float
    wall: float
    cpu: float


def echoes(ms: float) -> int:
    """The number of echoes in the delay's response of 4 s."""
    return int(4 * fit.SR // int(ms * fit.SR / 1000 + 1))


def points(repeats: int) -> list[Point]:
    """Measure along every axis."""
    axes = {
        "chunks of 12 s": [(n, {"count": n}) for n in COUNTS],
        "length of one chunk in s": [(s, {"count": 1, "seconds": s}) for s in SECONDS],
        "echoes of the delay": [(echoes(ms), {"count": 1, "delay_ms": ms}) for ms in DELAYS_MS],
    }
    measured = []
    for axis, places in axes.items():
        for at, options in places:
            step = fit.our_step(**options)
            # The first run compiles and allocates.
            step()
            wall, cpu = np.median([clock(step) for _ in range(repeats)], 0).tolist()
            measured.append(Point(axis, at, wall, cpu))
            print(f"{axis}: {at}: {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
    return measured


def draw(points: list[Point], path: Path) -> None:
    """A panel per axis, both scales from zero, so that a proportional cost is a line through the origin."""
    names = list(dict.fromkeys(p.axis for p in points))
    figure, axes = plt.subplots(1, len(names), figsize=(11, 3.2), layout="constrained")
    for name, panel in zip(names, axes, strict=True):
        own = [p for p in points if p.axis == name]
        for clock_name, style in (("cpu", "o-"), ("wall", "s--")):
            label = {"cpu": "CPU seconds", "wall": "seconds on the wall"}[clock_name]
            panel.plot([p.at for p in own], [getattr(p, clock_name) for p in own], style, label=label)
        panel.set(xlabel=name, xlim=(0, None), ylim=(0, None))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("seconds a step")
    axes[0].legend(loc="upper left")
    figure.savefig(path, dpi=110)


@program
def main(argv: list[str]) -> int:
    """Measure, draw and write."""
    p = parser(__doc__)
    p.add_argument("--repeats", type=positive_int, default=3, help="timed runs of each")
    p.add_argument("--figure", type=file_path, default=Path(__file__).parent / "scaling.png", help="file of it")
    args = p.parse_args(argv)
    check_output(args.figure)
    measured = points(args.repeats)
    draw(measured, args.figure)
    write_json(args.json, {"points": measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
