"""Times of every part of a step of the vocal-chain fit, forward and backward, ours and the peer's.

    python -m benchmarks.parts [--chunks 1] [--repeats 3]

Both sides have the published initial parameters and process the same dry chunks. A part whose input in the chain is the
output of another part processes noise of the same shape, so that no part depends on another.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import fit
from benchmarks.losses import loudness_losses, music, stft_losses
from benchmarks.measure import clock
from benchmarks.peer import causal_convolve, line_gains, peer_eq, peer_fdn_eq, peer_fdn_response
from reknob.afx.chain import Serial, is_biquad
from reknob.afx.effect import Knobs
from reknob.afx.functional import convolve
from reknob.fitting.fit import Fit
from reknob.runtime.arguments import Parser, positive_int

Program = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """One computation by both sides, from one tensor to another, and what limits the speed of ours."""

    name: str
    ours: Program
    peer: Program
    x: Tensor
    bound: str


@dataclass(frozen=True)
class Passes:
    """Median CPU seconds of both directions on both sides, and the ratios peer / ours of the pairs of runs."""

    name: str
    forward: float
    peer_forward: float
    backward: float
    peer_backward: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    pairs: int
    bound: str


def parts(count: int) -> list[Part]:
    """Every part, on `count` chunks."""
    ours, peer = fit.our_fit(count), fit.start().train()
    knobs, dry, effects = knobs_of(ours), ours.dry, dict(ours.chain.parts())
    bands = {name: part for name, part in effects.items() if is_biquad((name, part))}
    equaliser = Serial(fit.SR, **bands)
    sends, held = effects["sends"], knobs.sends
    *filters, compressor, peer_sends = peer
    peer_delay, peer_fdn = peer_sends.effects
    stereo = torch.randn(count, 2, fit.LENGTH)
    response = torch.randn(2, 2, sends.reverb.ir_length) * torch.linspace(0, -8, sends.reverb.ir_length).exp()
    wet, target = (music(count, fit.LENGTH - fit.WARM_UP) for _ in range(2))
    stft, loudness = stft_losses(wet, target), loudness_losses(wet, target)
    return [
        Part(
            "equaliser: 6 biquads",
            lambda x: equaliser(x, **{name: getattr(knobs, name)() for name in bands}),
            lambda x: peer_eq(x, [band.coefs() for band in filters]),
            dry,
            "latency: each sample waits for the last, section by section",
        ),
        Part(
            "compressor, expander, lookahead",
            lambda x: effects["comp"](x, **knobs.comp()),
            compressor,
            dry,
            "latency of the level and of the ballistics; a third is the lookahead's short transforms",
        ),
        Part(
            "ping-pong delay",
            lambda x: sends.delay(x, **held.delay()),
            peer_delay,
            dry,
            "transforms: five of the response, and the convolution",
        ),
        Part(
            "reverb: response of the network",
            lambda gamma: sends.reverb.network(**network_of(held.reverb()) | {"gamma": gamma}),
            partial(peer_network, peer_fdn),
            peer_fdn.params.gamma.detach(),
            "arithmetic: 264601 complex 6 x 6 eliminations and as many again in the backward pass",
        ),
        Part(
            "reverb: equaliser on the response",
            lambda h: sends.reverb.eq(h, **held.reverb.eq()),
            lambda h: peer_fdn_eq(h, [band.coefs() for band in peer_fdn.eq]),
            response,
            "latency, as the equaliser's",
        ),
        Part(
            "reverb: convolution, stereo",
            lambda x: convolve.convolve(x, response),
            lambda x: causal_convolve(x, response),
            stereo,
            "transforms of a million points, which do not fit the second-level cache",
        ),
        Part(
            "delay, reverb, sends, direct path",
            lambda x: sends.render_after_warm_up(x, fit.WARM_UP, **held()),
            lambda x: peer_sends(x)[..., fit.WARM_UP :],
            dry,
            "half transforms, a quarter the network",
        ),
        Part("STFT losses, L/R and M/S", *stft, wet, "transforms, a third; then magnitudes, logarithms and framing"),
        Part("loudness losses, L/R and M/S", *loudness, wet, "latency of the averages, and traffic with memory"),
    ]


def knobs_of(running: Fit) -> Knobs:
    """The raw parameters of a fit's first track."""
    knobs = Knobs(running.chain)
    knobs.load_state_dict(running.columns.split(running.state.raws[0]))
    return knobs


def network_of(values: dict) -> dict:
    """The reverb's values without its equaliser's."""
    return {name: value for name, value in values.items() if name != "eq"}


def peer_network(fdn: torch.nn.Module, gamma: Tensor) -> Tensor:
    """The peer's impulse response without its equaliser."""
    p = fdn.params
    gains = line_gains(gamma, fdn.delays, fdn.n)
    H = peer_fdn_response(p.U, gains, p.b, p.c, fdn.delays, fdn.n)
    return torch.fft.irfft(H.permute(1, 2, 0), n=fdn.n)


def passes(program: Program, x: Tensor) -> tuple[float, float]:
    """CPU seconds forward and backward."""
    leaf, result = x.clone().requires_grad_(), []
    forward = clock(lambda: result.append(program(leaf)))[1]
    weight = torch.ones_like(result[0])
    return forward, clock(lambda: result[0].backward(weight))[1]


def measure(part: Part, repeats: int) -> Passes:
    """Time both sides in turns, after one untimed run each."""
    passes(part.ours, part.x), passes(part.peer, part.x)
    times = np.array([(passes(part.ours, part.x), passes(part.peer, part.x)) for _ in range(repeats)])
    (forward, backward), (peer_forward, peer_backward) = np.median(times, 0).tolist()
    ratios = times[:, 1].sum(-1) / times[:, 0].sum(-1)
    ratio, lowest, highest = np.median(ratios).item(), ratios.min().item(), ratios.max().item()
    return Passes(
        part.name, forward, peer_forward, backward, peer_backward, ratio, lowest, highest, repeats, part.bound
    )


def rows(repeats: int, count: int = 1) -> list[Passes]:
    """Measure every part on `count` chunks."""
    return [measure(part, repeats) for part in parts(count)]


def table(rows: list[Passes]) -> str:
    """The parts as a Markdown table, in CPU milliseconds."""
    lines = [
        "| | forward ms | peer | backward ms | peer | ratio | lowest to highest | bound by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        forward = f"{1e3 * r.forward:.0f} | {1e3 * r.peer_forward:.0f}"
        backward = f"{1e3 * r.backward:.0f} | {1e3 * r.peer_backward:.0f}"
        spread = f"{r.lowest_ratio:.1f} to {r.highest_ratio:.1f}"
        lines.append(f"| {r.name} | {forward} | {backward} | {r.ratio:.1f} | {spread} | {r.bound} |")
    return "\n".join(lines)


@program
def main(argv: list[str]) -> int:
    """Measure and print the table."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--chunks", type=positive_int, default=1, help="chunks of 12 s")
    parser.add_argument("--repeats", type=positive_int, default=3, help="interleaved pairs of runs")
    args = parser.parse_args(argv)
    print(table(rows(args.repeats, args.chunks)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
