"""Time of a feedback delay network's response beside torch.linalg.solve on complex64, forward and backward.

    python -m benchmarks.fdn_response [--points 529200] [--repeats 5]

Six lines, stereo to stereo, in float32. The peer's phases are computed exactly, outside the timing.
"""

from reknob.runtime.program import program

import math
import sys
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Comparison, paired, table
from reknob.afx import kernels
from reknob.afx.functional.fdn import line_gains
from reknob.runtime.arguments import Parser, positive_int

DELAYS = torch.tensor([997, 1153, 1327, 1559, 1801, 2099])


def peer_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, phasors: Tensor) -> Tensor:
    """Solve all bins at once: c (diag(phasors) - U diag(gain))^-1 b, (1, O, I, F)."""
    loop = feedback[:, None] * line_gain.transpose(1, 2)[:, :, None, :]
    lines = torch.linalg.solve(phasors - loop, b[:, None].to(phasors.dtype))
    return (c[:, None].to(phasors.dtype) @ lines).permute(0, 2, 3, 1)


def our_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, n: int) -> Tensor:
    """Run the kernel, which computes the phases as well."""
    return kernels.fdn_response(feedback, line_gain, b, c, DELAYS[None], n)


def network(n: int) -> tuple[list[Tensor], Tensor]:
    """A network that decays by 60 dB in up to 9 s at 44.1 kHz, and the peer's phases as diagonal matrices."""
    torch.manual_seed(0)
    lines = len(DELAYS)
    gamma = 10 ** (-3 * 997 / (9 * 44100)) * torch.rand(49, 1)
    feedback = torch.linalg.qr(torch.randn(1, lines, lines))[0]
    gains = line_gains(gamma, DELAYS, n // 2 + 1, shared=True)[None]
    # Modulo n in integers: the products exceed what float32 represents exactly, and the phases would be wrong.
    turns = torch.arange(n // 2 + 1)[:, None] * DELAYS % n / n
    phasors = torch.polar(torch.ones_like(turns).double(), 2 * math.pi * turns.double()).to(torch.complex64)
    return [feedback, gains, torch.randn(1, lines, 2), torch.randn(1, 2, lines)], torch.diag_embed(phasors)


def step(program: partial, leaves: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Run forward and backward once, and return the output with every gradient."""
    H = program(*leaves)
    return [H.detach(), *torch.autograd.grad(H, leaves, weight)]


def rows(repeats: int, n: int = 529200) -> list[Comparison]:
    """Compare the two; the difference is the largest of the output's and each gradient's."""
    values, phasors = network(n)
    leaves = [t.requires_grad_() for t in values]
    weight = torch.randn(1, 2, 2, n // 2 + 1, dtype=torch.complex64)
    ours = partial(step, partial(our_response, n=n), leaves, weight)
    peer = partial(step, partial(peer_response, phasors=phasors), leaves, weight)
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(ours(), peer(), strict=True))
    return [paired("fdn_response", ours, peer, repeats, difference)]


@program
def main(argv: list[str]) -> int:
    """Measure and print the table."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--points", type=positive_int, default=529200, help="of the transform (12 s at 44.1 kHz)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="interleaved pairs of runs")
    args = parser.parse_args(argv)
    print(table(rows(args.repeats, args.points)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
