"""Everything there is to measure on a GPU, in one run: python -m benchmarks.gpu [--json gpu.json]

Agreement of the kernels and of the whole chain with the CPU; a step, and one of the public libraries on the same GPU;
2000 steps of a song; a step's time over the least that memory bandwidth and transforms allow; many short tracks
together against one at a time; peak memory; blind-estimation steps. Where a part fails its traceback is printed, and
the next one follows. `--device cpu --chunks 1 --seconds 6.1 --steps 3 --batch 2` runs the same on a CPU.
"""

from reknob.runtime.program import program

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import fit, train
from benchmarks.measure import Task, machine, parser
from benchmarks.peer_encoders import PEERS
from reknob.fitting.batch import SHARE
from reknob.runtime.arguments import positive_float, positive_int
from reknob.runtime.errors import UsageError
from reknob.runtime.memory import free_bytes, peak_bytes

# On paper, of a chunk of 12 s: what a step reads and writes, and the operations of its transforms.
BYTES_PER_CHUNK, FLOP_PER_CHUNK = 9e9 / 35, 30e9 / 35
TESTS = Path(__file__).parents[1] / "tests"
Row = tuple[str, object]


def wait(device: str) -> None:
    """Waits until all work queued on the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(task: Task, device: str, runs: int) -> float:
    """Median seconds of a run, after two that are not counted."""
    times = []
    for _ in range(runs + 2):
        wait(device)
        begin = time.perf_counter()
        task()
        wait(device)
        times.append(time.perf_counter() - begin)
    return float(np.median(times[2:]))


def steps_of(running: fit.Fit, count: int) -> None:
    """Runs `count` steps of a fit, reading each report one step late, so that the device does not wait."""
    for _ in range(count):
        running.step()
        running.read_reports(late=1)
    running.read_reports()


def kernels(args: argparse.Namespace) -> Iterator[Row]:
    """Every kernel against its reference, on the device."""
    command = [sys.executable, "-m", "pytest", "-q", *map(str, sorted(TESTS.glob("test_triton_*.py")))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kernels differ from the plain programs:\n{done.stdout[-2000:]}")
    yield "kernels against the plain programs", done.stdout.strip().splitlines()[-1]


def agreement(args: argparse.Namespace) -> Iterator[Row]:
    """Losses and gradients of a step: the device's against the CPU's."""
    sides = [fit.our_fit(min(args.chunks, 2), args.seconds, device=device) for device in ("cpu", args.device)]
    for side in sides:
        side.step()
    losses = [side.read_reports()[0][0]["loss"] for side in sides]
    here, there = (side.state.gradient.cpu() for side in sides)
    yield "loss, device against processor", f"{losses[1]:.6f} against {losses[0]:.6f}"
    yield "gradient, relative difference", f"{float((there - here).norm() / here.norm()):.2e}"


def step(args: argparse.Namespace) -> Iterator[Row]:
    """A step, its memory, and the public libraries' step."""
    ours = None
    for graphed in (False, True)[: 2 if args.device == "cuda" else 1]:
        running = fit.our_fit(args.chunks, args.seconds, device=args.device, graphed=graphed)
        each = seconds_of(partial(steps_of, running, 10), args.device, args.repeats) / 10
        ours = min(ours or each, each)
        kind = "recorded and replayed" if graphed else "launched one by one"
        yield f"step, {args.chunks} chunks of {args.seconds:g} s, {kind}", f"{1e3 * each:.2f} ms"
        yield f"peak memory so far, {kind}", f"{peak_bytes(torch.device(args.device)) / 1e9:.2f} GB"
        del running
    yield from roofline(args, ours)
    peer = fit.peer_step(args.chunks, seconds=args.seconds, device=args.device)
    peers = seconds_of(peer, args.device, args.repeats)
    yield "public libraries' step", f"{1e3 * peers:.1f} ms, {peers / ours:.1f} times ours"


def roofline(args: argparse.Namespace, measured: float) -> Iterator[Row]:
    """A step's time over the least that the device's measured copy and transform rates allow."""
    size = 2**28 if args.device == "cuda" else 2**24
    x, y = (torch.empty(size, device=args.device) for _ in range(2))
    # Every byte is read and written.
    rate = 2 * x.nbytes / seconds_of(lambda: y.copy_(x), args.device, 10)
    rows, points = size // 2**20, 2**20
    # A real transform of N points takes 5/2 N log2 N operations, and N is 2^20.
    flop = 2.5 * rows * points * 20
    transforms = flop / seconds_of(lambda: torch.fft.rfft(x.view(rows, points)), args.device, 10)
    share = args.chunks * args.seconds / 12
    floor = share * (BYTES_PER_CHUNK / rate + FLOP_PER_CHUNK / transforms)
    yield "copies, transforms", f"{rate / 1e12:.2f} TB/s, {transforms / 1e12:.2f} TFLOP/s"
    yield "step over its floor on paper", f"{measured / floor:.1f} times {1e3 * floor:.2f} ms"


def song(args: argparse.Namespace) -> Iterator[Row]:
    """All steps of a song, and whether every one was finite."""
    running = fit.our_fit(args.chunks, args.seconds, device=args.device, graphed=args.device == "cuda")
    wait(args.device)
    begin = time.perf_counter()
    steps_of(running, args.steps)
    wait(args.device)
    track = running.tracks[0]
    yield f"{args.steps} steps of a song", f"{time.perf_counter() - begin:.1f} s"
    reached = f"loss {track.losses[0]:.3f} -> {track.best.loss:.3f}" if track.losses else "none"
    yield "what they reached", f"{reached}, {track.step_count} finite, {len(track.undone)} undone, {track.error}"


def tracks(args: argparse.Namespace) -> Iterator[Row]:
    """Tracks an hour, by the number of tracks of one chunk that share a step."""
    count, alone, device = 1, 0.0, torch.device(args.device)
    most = int(SHARE[args.device] * free_bytes(device))
    while True:
        running = fit.our_fit(1, args.seconds, tracks=count, device=args.device, graphed=args.device == "cuda")
        each = seconds_of(partial(steps_of, running, 5), args.device, args.repeats) / 5 / count
        alone = alone or each
        per_hour = 3600 / (2000 * each)
        yield f"{count} short tracks together", f"{per_hour:.1f} an hour of 2000 steps, {alone / each:.2f} times"
        del running
        count *= 4
        if count > args.most_tracks or 4 * peak_bytes(device) > most:
            return


def blind(args: argparse.Namespace) -> Iterator[Row]:
    """A blind-estimation step with each encoder, ours and the plain build's."""
    batch = train.batch_of(args.batch, min(args.seconds, 10.0), args.device)
    for key in PEERS:
        ours, plain = (
            seconds_of(make(key, batch), args.device, args.repeats) for make in (train.our_step, train.plain_step)
        )
        yield f"blind step, {key}", f"{1e3 * ours:.1f} ms, plain {1e3 * plain:.1f} ms, {plain / ours:.1f} times"


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    part.__name__: part for part in (kernels, agreement, step, song, tracks, blind)
}


@program
def main(argv: list[str]) -> int:
    """Measures the parts; 1 where one failed."""
    p = parser(__doc__)
    p.add_argument("--what", nargs="*", choices=PARTS, default=list(PARTS), help="parts to measure")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--chunks", type=positive_int, default=35, help="of a step")
    p.add_argument("--seconds", type=positive_float, default=12.0, help="length of a chunk, above 6")
    p.add_argument("--steps", type=positive_int, default=2000, help="of a song")
    p.add_argument("--batch", type=positive_int, default=16, help="excerpts of a blind-estimation step")
    p.add_argument("--most_tracks", type=positive_int, default=256, help="short tracks together")
    p.add_argument("--repeats", type=positive_int, default=5, help="timed runs")
    args = p.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no GPU here; --device cpu measures the CPU")
    figures = machine() | ({"gpu": torch.cuda.get_device_name()} if args.device == "cuda" else {})
    print(*(f"{key}: {value}" for key, value in figures.items()), "", sep="\n", flush=True)
    failed = False
    for name in args.what:
        try:
            for row, figure in PARTS[name](args):
                print(f"{row}: {figure}", flush=True)
                figures[row] = figure
        except Exception:  # a part that cannot run, as where a library is missing, must not end the others
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
            failed = True
        if args.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
