"""Timing two programs in turns, the peak memory of one alone, the machine that the numbers belong to, and arguments."""

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reknob.runtime.arguments import Parser
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output

Task = Callable[[], object]
Timed = Callable[[], tuple[float, float]]
PACKAGES = ("torch", "numba", "numpy", "scipy", "torchlpc", "torchcomp", "torch-fftconv", "auraloss")


@dataclass(frozen=True)
class Comparison:
    """Our program beside the peer's: median seconds a run, and the ratios peer / ours of the pairs of runs."""

    name: str
    wall: float
    peer_wall: float
    wall_ratio: float
    cpu: float  # of all threads
    peer_cpu: float
    cpu_ratio: float
    lowest_ratio: float  # of CPU seconds, over the pairs
    highest_ratio: float
    pairs: int
    difference: float | None  # relative RMS between the two programs' results, where it was computed


@dataclass(frozen=True)
class Memory:
    """Peak resident memory in GB of two runs in a process of their own, imports included."""

    name: str
    ours: float
    peer: float


def limit_memory(more: int) -> None:
    """Lets this process take at most so many bytes of address space more than it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))


def music(batch: int, channels: int, samples: int) -> Tensor:
    """Noise (batch, channels, samples) that falls off towards high frequencies and swings in level to silence."""
    spectrum = torch.fft.rfft(torch.randn(batch, channels, samples)) / torch.linspace(1, 200, samples // 2 + 1)
    noise = torch.fft.irfft(spectrum, samples)
    return 0.1 * noise / noise.std() * torch.sin(torch.linspace(0, 20, samples)).clamp(min=0)


def relative_rms(a: Tensor, b: Tensor) -> float:
    """rms(a - b) / rms(b)."""
    return float((a - b).detach().norm() / b.detach().norm())


def clock(task: Task) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - cpu


def quickest(tasks: Sequence[Task]) -> int:
    """The number of the task that takes the fewest CPU seconds, after one untimed run each."""
    for task in tasks:
        task()
    seconds = [clock(task)[1] for task in tasks]
    return seconds.index(min(seconds))


def paired(name: str, ours: Task, peer: Task, repeats: int, difference: float | None = None) -> Comparison:
    """Time both programs in turns, so that whatever else the machine does falls on both; one untimed run each before.

    Args:
        name: of the comparison.
        ours: our program.
        peer: the same work done by the peer.
        repeats: pairs of timed runs.
        difference: between their results, to be kept beside the times.
    """
    return compared(name, partial(clock, ours), partial(clock, peer), repeats, difference)


def compared(name: str, ours: Timed, peer: Timed, repeats: int, difference: float | None = None) -> Comparison:
    """As `paired`, of functions that return their wall and CPU seconds."""
    ours(), peer()
    times = np.array([(ours(), peer()) for _ in range(repeats)])  # (repeats, side, clock)
    (wall, cpu), (peer_wall, peer_cpu) = np.median(times, 0).tolist()
    # Of every pair, not of the medians: a load of the machine falls on both runs of a pair.
    ratios = times[:, 1] / times[:, 0]
    wall_ratio, cpu_ratio = np.median(ratios, 0).tolist()
    lowest, highest = ratios[:, 1].min().item(), ratios[:, 1].max().item()
    return Comparison(name, wall, peer_wall, wall_ratio, cpu, peer_cpu, cpu_ratio, lowest, highest, repeats, difference)


class Worker:
    """A new process that builds a task and runs it on request, so that neither side's memory affects the other's.

    Args:
        make: builds the task from `args`; a function of a module, so that the new process can import it.
        args: arguments of `make`.
    """

    def __init__(self, make: Callable[..., Task], *args: object) -> None:
        # Not forked, which would share this process's memory and count it.
        context = multiprocessing.get_context("spawn")
        self.name = f"{make.__name__}{args}"
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, make, args))
        self.process.start()
        # While this end is open here, `recv` would wait forever for a worker that was killed.
        other.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join()

    def run(self) -> tuple[float, float]:
        """Wall and CPU seconds of one run."""
        return self._ask("run")

    def peak(self) -> float:
        """Peak resident memory in GB so far, imports included."""
        return self._ask("peak")

    def _ask(self, what: str) -> tuple[float, float] | float:
        try:
            self.pipe.send(what)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"{self.name} ended without a figure; its message is above") from None


def peak_memory(make: Callable[..., Task], *args: object) -> float:
    """Peak resident memory in GB of a new process that builds a task and runs it twice, imports included."""
    with Worker(make, *args) as worker:
        for _ in range(2):
            worker.run()
        return worker.peak()


def _work(pipe: Connection, make: Callable[..., Task], args: tuple) -> None:
    """Sends an answer for every request until the other end closes."""
    task = make(*args)
    answers = {"run": lambda: clock(task), "peak": _own_peak}
    try:
        while True:
            pipe.send(answers[pipe.recv()]())
    except EOFError:
        pass


def _own_peak() -> float:
    """Peak resident memory of this process in GB."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss of a spawned process starts at its parent's peak; the kernel's own high-water mark does not.
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e9
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def machine() -> dict[str, object]:
    """Describe the processor, its load, the threads and the versions of what is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": model[1] if model else platform.processor(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(rows: list[Comparison]) -> str:
    """Lay comparisons out as a Markdown table, times in milliseconds."""
    lines = [
        "| | wall ms | peer | ratio | CPU ms | peer | ratio | lowest to highest | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        wall = f"{1e3 * r.wall:.1f} | {1e3 * r.peer_wall:.1f} | {r.wall_ratio:.1f}"
        cpu = f"{1e3 * r.cpu:.1f} | {1e3 * r.peer_cpu:.1f} | {r.cpu_ratio:.1f}"
        spread = f"{r.lowest_ratio:.1f} to {r.highest_ratio:.1f}"
        difference = "" if r.difference is None else f"{r.difference:.1e}"
        lines.append(f"| {r.name} | {wall} | {cpu} | {spread} | {difference} |")
    return "\n".join(lines)


def memory_table(rows: list[Memory]) -> str:
    """Lay peak memory out as a Markdown table."""
    return "\n".join(
        ["| | GB | peer |", "|---|---|---|"] + [f"| {m.name} | {m.ours:.2f} | {m.peer:.2f} |" for m in rows]
    )


def parser(description: str | None) -> Parser:
    """A parser of a measurement, with `--json` for the file of its figures."""
    p = Parser(description, has_result=False)
    p.add_argument("--json", metavar="F", type=_output, help="file for the figures")
    return p


def _output(text: str) -> Path:
    """A file to write, refused before anything is measured."""
    try:
        return check_output(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """An argument type: known names with commas between."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := sorted(set(names) - set(known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return read


def write_json(path: Path | None, results: dict[str, list]) -> None:
    """Write named lists of records (dataclasses) with the machine they were taken on, where a file is given."""
    if path is None:
        return
    records = {name: [asdict(row) for row in rows] for name, rows in results.items()}
    path.write_text(json.dumps({"machine": machine(), **records}, indent=2) + "\n")
