"""The recursive kernels and the FDN's response beside the same computation from public libraries, forward and backward.

Of the response the libraries' phases are computed exactly, outside the timing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchcomp
from scipy.signal import butter
from torch import Tensor

from benchmarks import peer
from benchmarks.measure import Comparison, paired, relative_rms
from reknob.afx import kernels
from reknob.afx.functional.fdn import line_gains
from reknob.afx.kernels import recursions

Program = Callable[..., Tensor]
SR = peer.SR
ROWS, SAMPLES = 8, 12 * SR  # of audio
LINES = torch.tensor(peer.FDN_DELAYS)


@dataclass(frozen=True)
class Case:
    """One computation, ours and the peer's, on the same tensors."""

    name: str
    ours: Program
    peer: Program
    inputs: list[Tensor]


def peer_cascade(x: Tensor, coefs: Tensor) -> Tensor:
    """Sections in series, of (1, K, 5) coefficients."""
    for section in coefs[0]:
        x = peer.biquad(x, section[:3], torch.cat([torch.ones(1), section[3:]]))
    return x


def peer_ballistics(x: Tensor, attack: Tensor, release: Tensor) -> Tensor:
    """Smooth by torchcomp's gain recursion, which starts from 1."""
    rows = x.shape[0]
    return torchcomp.core.compressor_core(x, x.new_ones(rows), attack.expand(rows), release.expand(rows))


def our_compressor(
    x: Tensor,
    average: Tensor,
    cmp_th: Tensor,
    cmp_ratio: Tensor,
    exp_th: Tensor,
    exp_ratio: Tensor,
    at: Tensor,
    rt: Tensor,
) -> Tensor:
    """The gain from ratios, as `peer.compressor_gain`, by the fused kernel."""
    return recursions.compressor_gain(x, average, cmp_th, 1 - 1 / cmp_ratio, exp_th, 1 - 1 / exp_ratio, at, rt)


def our_response(U: Tensor, gains: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The FDN's response (F, O, I) by the kernel, which computes the phases as well."""
    return kernels.fdn_response(U[None], gains[None], b[None], c[None], LINES[None], SAMPLES)[0].permute(2, 0, 1)


def network() -> tuple[list[Tensor], Tensor]:
    """A network that decays by 60 dB in up to 9 s, and its phases as diagonal matrices."""
    torch.manual_seed(0)
    lines, bins = len(LINES), SAMPLES // 2 + 1
    gamma = 10 ** (-3 * peer.FDN_DELAYS[0] / (9 * SR)) * torch.rand(49, 1)
    gains = line_gains(gamma, LINES, bins, shared=True)
    # Modulo n in integers: the products exceed what float32 represents exactly, and the phases would be wrong.
    turns = torch.arange(bins)[:, None] * LINES % SAMPLES / SAMPLES
    phasors = torch.polar(torch.ones_like(turns).double(), 2 * math.pi * turns.double()).to(torch.complex64)
    feedback = torch.linalg.qr(torch.randn(lines, lines))[0]
    return [feedback, gains, torch.randn(lines, 2), torch.randn(2, lines)], torch.diag_embed(phasors)


def cases() -> list[Case]:
    """The cases, on noise whose level swings between silence and full scale twice a second."""
    generator = torch.Generator().manual_seed(0)
    swing = torch.sin(2 * torch.pi * torch.arange(SAMPLES) / SR).square()
    x = 0.3 * swing * torch.randn(ROWS, SAMPLES, generator=generator)
    sections = torch.tensor(butter(6, (400, 16000), "bandpass", fs=SR, output="sos"), dtype=torch.float32)
    # Without a0, which is 1.
    coefs = torch.cat([sections[:, :3], sections[:, 4:]], 1)[None]
    one = [torch.tensor([v]) for v in (0.3, -18.0, 4.0, -48.0, 0.5, 0.02, 0.001)]
    values, phasors = network()
    return [
        Case("biquad_cascade", recursions.biquad_cascade, peer_cascade, [x, coefs]),
        Case("one_pole", recursions.one_pole, torchcomp.avg, [x, one[0]]),
        Case("ballistics", partial(recursions.ballistics, initial=1.0), peer_ballistics, [x.abs(), *one[5:]]),
        Case("compressor_gain", our_compressor, peer.compressor_gain, [x, *one]),
        Case("fdn_response", our_response, partial(peer.solved, phasors), values),
    ]


def compare(case: Case, repeats: int) -> Comparison:
    """Time both sides of a case; the difference is the largest of the output's and each gradient's."""
    leaves = [t.clone().requires_grad_() for t in case.inputs]
    with torch.no_grad():
        weight = torch.randn_like(case.ours(*leaves))

    def step(program: Program) -> list[Tensor]:
        y = program(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, weight)]

    difference = max(relative_rms(a, b) for a, b in zip(step(case.ours), step(case.peer), strict=True))
    return paired(case.name, partial(step, case.ours), partial(step, case.peer), repeats, difference)


def rows(repeats: int) -> list[Comparison]:
    """Compare every kernel."""
    return [compare(case, repeats) for case in cases()]
