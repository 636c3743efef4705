"""Times of every part of a step of the vocal-chain fit, forward and backward, ours and the peer's.

Both sides have the published initial parameters and process the same dry chunks. A part whose input in the chain is the
output of another part processes noise of the same shape, so that no part depends on another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import fit, peer
from benchmarks.measure import clock, music, quickest
from benchmarks.peer_loss import PeerLoss
from reknob.afx.chain import Serial, is_biquad
from reknob.afx.effect import Values
from reknob.afx.functional import convolve
from reknob.losses.mldr import MLDR
from reknob.losses.stft import MultiResolutionSTFT, all_together
from reknob.losses.vocal import FFT_SIZES

Program = Callable[[Tensor, Values], Tensor]


@dataclass(frozen=True)
class Part:
    """One computation by both sides, from a tensor and values to a tensor."""

    name: str
    ours: Program
    peer: Program
    x: Tensor
    values: Callable[[], Values] = dict


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


def parts(count: int) -> list[Part]:
    """Every part, on `count` chunks."""
    chain, knobs = fit.start()
    dry, effects = fit.chunks(count).dry, dict(chain.parts())
    bands = {name: part for name, part in effects.items() if is_biquad((name, part))}
    equaliser, sends = Serial(fit.SR, **bands), effects["sends"].train()
    held = knobs.sends
    stereo, length = torch.randn(count, 2, fit.LENGTH), sends.reverb.ir_length
    response = torch.randn(2, 2, length) * torch.linspace(0, -8, length).exp()
    wet, target = (music(count, 2, fit.LENGTH - fit.WARM_UP) for _ in range(2))

    def our_network(gamma: Tensor, values: Values) -> Tensor:
        return sends.reverb.network(**{n: v for n, v in values.items() if n != "eq"} | {"gamma": gamma})

    return [
        Part(
            "equaliser: 6 biquads",
            lambda x, values: equaliser(x, **values),
            peer.equalise,
            dry,
            lambda: {name: getattr(knobs, name)() for name in bands},
        ),
        Part(
            "compressor, expander, lookahead",
            lambda x, values: effects["comp"](x, **values),
            peer.compress,
            dry,
            knobs.comp,
        ),
        Part("ping-pong delay", lambda x, values: sends.delay(x, **values), peer.delay, dry, held.delay),
        Part(
            "reverb: response of the network",
            our_network,
            lambda gamma, values: peer.network(values | {"gamma": gamma}),
            held.reverb()["gamma"].detach(),
            held.reverb,
        ),
        Part(
            "reverb: equaliser on the response",
            lambda h, values: sends.reverb.eq(h, **values),
            peer.equalise,
            response,
            held.reverb.eq,
        ),
        Part(
            "reverb: convolution, stereo",
            lambda x, _: convolve.convolve(x, response),
            lambda x, _: peer.causal_convolve(x, response),
            stereo,
        ),
        Part(
            "delay, reverb, sends, direct path",
            lambda x, values: sends.render_after_warm_up(x, fit.WARM_UP, **values),
            lambda x, values: peer.sends(x, values)[..., fit.WARM_UP :],
            dry,
            held,
        ),
        *losses(wet, target),
    ]


def losses(pred: Tensor, target: Tensor) -> list[Part]:
    """Both kinds of terms of the loss; ours prepares the target once, outside the timing, as a fit does."""
    stft = MultiResolutionSTFT(
        fit.SR, FFT_SIZES, [n // 4 for n in FFT_SIZES], FFT_SIZES, perceptual_weighting=True, stereo="both"
    )
    mldr = MLDR(fit.SR, mid_side=True)
    spectra, loudness = stft.prepare(target), mldr.prepare(target)

    def our_stft(x: Tensor, _: Values) -> Tensor:
        left_right, mid, side = stft.distances(x, spectra, all_together(x))[0]
        return left_right + (mid + side) / 4

    def our_mldr(x: Tensor, _: Values) -> Tensor:
        rows = mldr.distances(x, loudness)
        return rows[:, :2].mean() + rows[:, 2:].mean() / 2

    peers = [PeerLoss(onednn) for onednn in (True, False)]
    theirs = peers[quickest([partial(passes, lambda x, _, p=p: p.spectral(x, target), pred) for p in peers])]
    return [
        Part("STFT losses, L/R and M/S", our_stft, lambda x, _: theirs.spectral(x, target), pred),
        Part("loudness losses, L/R and M/S", our_mldr, lambda x, _: theirs.loudness(x, target), pred),
    ]


def passes(program: Program, x: Tensor, values: Callable[[], Values] = dict) -> tuple[float, float]:
    """CPU seconds forward and backward."""
    leaf, result = x.clone().requires_grad_(), []
    forward = clock(lambda: result.append(program(leaf, values())))[1]
    weight = torch.ones_like(result[0])
    return forward, clock(lambda: result[0].backward(weight))[1]


def measure(part: Part, repeats: int) -> Passes:
    """Time both sides in turns, after one untimed run each."""
    sides = [partial(passes, program, part.x, part.values) for program in (part.ours, part.peer)]
    times = np.array([[side() for side in sides] for _ in range(repeats + 1)])[1:]
    (forward, backward), (peer_forward, peer_backward) = np.median(times, 0).tolist()
    ratios = times[:, 1].sum(-1) / times[:, 0].sum(-1)
    ratio, lowest, highest = np.median(ratios).item(), ratios.min().item(), ratios.max().item()
    return Passes(part.name, forward, peer_forward, backward, peer_backward, ratio, lowest, highest, repeats)


def rows(repeats: int, count: int = 1) -> list[Passes]:
    """Measure every part on `count` chunks."""
    return [measure(part, repeats) for part in parts(count)]


def table(rows: list[Passes]) -> str:
    """The parts as a Markdown table, in CPU milliseconds."""
    lines = [
        "| | forward ms | peer | backward ms | peer | ratio | lowest to highest |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        forward = f"{1e3 * r.forward:.0f} | {1e3 * r.peer_forward:.0f}"
        backward = f"{1e3 * r.backward:.0f} | {1e3 * r.peer_backward:.0f}"
        lines.append(
            f"| {r.name} | {forward} | {backward} | {r.ratio:.1f} | {r.lowest_ratio:.1f} to {r.highest_ratio:.1f} |"
        )
    return "\n".join(lines)
