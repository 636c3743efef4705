"""Times of the recursive kernels beside the same computation built from torchlpc and torchcomp, forward and backward.

    python -m benchmarks.kernels [--rows 8] [--samples 529200] [--repeats 9]

Both sides run in one process, taking turns; a ratio is the median over the pairs of peer time / our time.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
import torchcomp
from scipy.signal import butter
from torch import Tensor
from torchlpc import sample_wise_lpc

from afx.kernels import recursions

Program = Callable[..., Tensor]
SR = 44100


@dataclass
class Case:
    """One computation, ours and the peer's: functions of the audio (R, T) and of the parameters."""

    name: str
    ours: Program
    peer: Program
    x: Tensor
    params: list[Tensor]


@dataclass
class Timing:
    """Medians in seconds and the median ratios peer / ours of the interleaved pairs."""

    name: str
    wall: float
    cpu: float
    peer_wall: float
    peer_cpu: float
    wall_ratio: float
    cpu_ratio: float
    difference: float  # relative RMS, the largest of the output's and each gradient's


def peer_cascade(x: Tensor, coefs: Tensor) -> Tensor:
    """Filter by sections in series: the zeros as a three-tap sum, the poles by torchlpc."""
    for b0, b1, b2, a1, a2 in coefs[0].unbind(0):
        zeros = b0 * x
        zeros = zeros + torch.nn.functional.pad(b1 * x[:, :-1], (1, 0))
        zeros = zeros + torch.nn.functional.pad(b2 * x[:, :-2], (2, 0))
        x = sample_wise_lpc(zeros, torch.stack([a1, a2]).expand(*x.shape, 2))
    return x


def peer_ballistics(x: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """Smooth by torchcomp's gain recursion, which starts from 1."""
    rows = x.shape[0]
    return torchcomp.core.compressor_core(x, x.new_ones(rows), attack.expand(rows), release.expand(rows))


def peer_compressor(
    x: Tensor,
    avg: Tensor,
    cmp_threshold: Tensor,
    cmp_ratio: Tensor,
    exp_threshold: Tensor,
    exp_ratio: Tensor,
    attack: Tensor,
    release: Tensor,
) -> Tensor:
    """Average by torchcomp.avg, then curve and smoothing by torchcomp.compexp_gain."""
    rms = torchcomp.avg(x.square().clamp_min(1e-8), avg).sqrt()
    return torchcomp.compexp_gain(rms, cmp_threshold, cmp_ratio, exp_threshold, exp_ratio, attack, release)


def our_compressor(
    x: Tensor,
    avg: Tensor,
    cmp_threshold: Tensor,
    cmp_ratio: Tensor,
    exp_threshold: Tensor,
    exp_ratio: Tensor,
    attack: Tensor,
    release: Tensor,
) -> Tensor:
    """Compute the same from ratios by the fused kernel."""
    cmp_slope, exp_slope = 1 - 1 / cmp_ratio, 1 - 1 / exp_ratio
    return recursions.compressor_gain(x, avg, cmp_threshold, cmp_slope, exp_threshold, exp_slope, attack, release)


def our_ballistics(x: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """Smooth by our kernel from 1."""
    return recursions.ballistics(x, attack, release, 1.0)


def cases(rows: int, samples: int) -> list[Case]:
    """Make the inputs: noise whose level swings between silence and full scale twice a second."""
    generator = torch.Generator().manual_seed(0)
    swing = torch.sin(2 * np.pi * torch.arange(samples) / SR).square()
    x = 0.3 * swing * torch.randn(rows, samples, generator=generator)
    sections = torch.tensor(butter(6, (400, 16000), "bandpass", fs=SR, output="sos"), dtype=torch.float32)
    coefs = torch.cat([sections[:, :3], sections[:, 4:]], 1)[None]
    one = [torch.tensor([v]) for v in (0.3, -18.0, 4.0, -48.0, 0.5, 0.02, 0.001)]
    return [
        Case("biquad_cascade", recursions.biquad_cascade, peer_cascade, x, [coefs]),
        Case("one_pole", recursions.one_pole, torchcomp.avg, x, [one[0]]),
        Case("ballistics", our_ballistics, peer_ballistics, x.abs(), one[5:]),
        Case("compressor_gain", our_compressor, peer_compressor, x, one),
    ]


def step(program: Program, case: Case, weight: Tensor) -> tuple[float, float, list[Tensor]]:
    """Run forward and backward once; give wall seconds, CPU seconds, and the output with every gradient."""
    leaves = [t.clone().requires_grad_() for t in (case.x, *case.params)]
    wall, cpu = time.perf_counter(), time.process_time()
    y = program(*leaves)
    y.backward(weight)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall, cpu, [y.detach(), *(t.grad for t in leaves)]


def relative_rms(a: Tensor, b: Tensor) -> float:
    """Give rms(a - b) / rms(b)."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def measure(case: Case, repeats: int) -> Timing:
    """Time both sides in turns after one run each that compiles and fills the caches."""
    weight = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(1))
    ours, peer = step(case.ours, case, weight), step(case.peer, case, weight)
    difference = max(relative_rms(a, b) for a, b in zip(ours[2], peer[2], strict=True))
    pairs = [(step(case.ours, case, weight)[:2], step(case.peer, case, weight)[:2]) for _ in range(repeats)]
    times = np.array(pairs)  # (repeats, side, clock)
    (wall, cpu), (peer_wall, peer_cpu) = np.median(times, 0)
    wall_ratio, cpu_ratio = (median(times[:, 1, clock] / times[:, 0, clock]) for clock in (0, 1))
    return Timing(case.name, wall, cpu, peer_wall, peer_cpu, wall_ratio, cpu_ratio, difference)


def table(timings: list[Timing]) -> str:
    """Lay the timings out as a Markdown table, times in milliseconds."""
    lines = [
        "| kernel | wall ms | peer | ratio | CPU ms | peer | ratio | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for t in timings:
        wall = f"{1e3 * t.wall:.1f} | {1e3 * t.peer_wall:.1f} | {t.wall_ratio:.1f}"
        cpu = f"{1e3 * t.cpu:.1f} | {1e3 * t.peer_cpu:.1f} | {t.cpu_ratio:.1f}"
        lines.append(f"| {t.name} | {wall} | {cpu} | {t.difference:.1e} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8, help="rows of audio")
    parser.add_argument("--samples", type=int, default=529200, help="samples of each row (12 s at 44.1 kHz)")
    parser.add_argument("--repeats", type=int, default=9, help="interleaved pairs of runs")
    args = parser.parse_args()
    print(table([measure(case, args.repeats) for case in cases(args.rows, args.samples)]))


if __name__ == "__main__":
    main()
