"""Times of the recursive kernels beside the same computation built from torchlpc and torchcomp, forward and backward.

    python -m benchmarks.kernels [--rows 8] [--samples 529200] [--repeats 9]

Both sides run alternately in one process; a ratio is the median over the pairs of runs of peer time / our time.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torchcomp
from scipy.signal import butter
from torch import Tensor
from torchlpc import sample_wise_lpc

from benchmarks.measure import Comparison, paired, table
from reknob.afx.kernels import recursions
from reknob.runtime.arguments import Parser, positive_int

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
    """The same from ratios, by the fused kernel."""
    cmp_slope, exp_slope = 1 - 1 / cmp_ratio, 1 - 1 / exp_ratio
    return recursions.compressor_gain(x, avg, cmp_threshold, cmp_slope, exp_threshold, exp_slope, attack, release)


def our_ballistics(x: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """Smooth by our kernel from 1."""
    return recursions.ballistics(x, attack, release, 1.0)


def cases(rows: int, samples: int) -> list[Case]:
    """The cases, on noise whose level swings between silence and full scale twice a second."""
    generator = torch.Generator().manual_seed(0)
    swing = torch.sin(2 * np.pi * torch.arange(samples) / SR).square()
    x = 0.3 * swing * torch.randn(rows, samples, generator=generator)
    sections = torch.tensor(butter(6, (400, 16000), "bandpass", fs=SR, output="sos"), dtype=torch.float32)
    # Without a0, which is 1.
    coefs = torch.cat([sections[:, :3], sections[:, 4:]], 1)[None]
    one = [torch.tensor([v]) for v in (0.3, -18.0, 4.0, -48.0, 0.5, 0.02, 0.001)]
    return [
        Case("biquad_cascade", recursions.biquad_cascade, peer_cascade, x, [coefs]),
        Case("one_pole", recursions.one_pole, torchcomp.avg, x, [one[0]]),
        Case("ballistics", our_ballistics, peer_ballistics, x.abs(), one[5:]),
        Case("compressor_gain", our_compressor, peer_compressor, x, one),
    ]


def step(program: Program, leaves: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Run forward and backward once, and return the output with every gradient."""
    for leaf in leaves:
        # Otherwise the next gradient is added to this one, and sums are compared.
        leaf.grad = None
    y = program(*leaves)
    y.backward(weight)
    return [y.detach(), *(t.grad for t in leaves)]


def relative_rms(a: Tensor, b: Tensor) -> float:
    """rms(a - b) / rms(b)."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def compare(case: Case, repeats: int) -> Comparison:
    """Time both sides of a case; the difference is the largest of the output's and each gradient's."""
    weight = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(1))
    leaves = [t.clone().requires_grad_() for t in (case.x, *case.params)]
    ours, peer = (partial(step, program, leaves, weight) for program in (case.ours, case.peer))
    difference = max(relative_rms(a, b) for a, b in zip(ours(), peer(), strict=True))
    return paired(case.name, ours, peer, repeats, difference)


def rows(repeats: int, audio_rows: int = 8, samples: int = 12 * SR) -> list[Comparison]:
    """Compare every kernel on `audio_rows` rows of audio."""
    return [compare(case, repeats) for case in cases(audio_rows, samples)]


@program
def main(argv: list[str]) -> int:
    """Measure every case and print the table."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--rows", type=positive_int, default=8, help="rows of audio")
    parser.add_argument("--samples", type=positive_int, default=529200, help="samples of each row (12 s at 44.1 kHz)")
    parser.add_argument("--repeats", type=positive_int, default=9, help="interleaved pairs of runs")
    args = parser.parse_args(argv)
    print(table(rows(args.repeats, args.rows, args.samples)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
