"""Delay and reverb of a fit, found from the impulse response that the recordings show, before the audio is compared.

Gradient descent on audio rarely finds the inside of a reverb: its loss compares spectra over time, for which most
networks of one decay are alike. The response between the input of the sends and wet, by least squares, shows each
reflection; a network that reproduces the first 90 ms is found in seconds, as its response costs little, and then
extended to longer times.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from reknob.afx.chain import Sends, Serial, render_series
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Knobs, own_values, part_values
from reknob.afx.functional import fdn
from reknob.afx.param import Bounded
from reknob.afx.reverb import FDN
from reknob.data.chunks import Chunks
from reknob.fitting.optimiser import METHODS, AdamState
from reknob.fitting.response import Distance, ResponseEstimate, decay_times
from reknob.fitting.track import ParameterLayout
from reknob.fitting.trial import Raws

ESTIMATED_S = 1.5  # length of the estimated response
SEEDS = 4  # random networks that are tried at first
LEVEL = 0.05  # standard deviation of the outputs of a random network
DECAY_RATE = 0.2  # of the decay, which is read from the response, relative to the rate of the other parameters
TIME_RATE = 1e-3  # of an echo's time


class Stage(NamedTuple):
    """A descent on the first part of the response."""

    seconds: float
    steps: int
    rate: float


#: The network alone, from random starts; then of the best ones and their transposes. The delays are longer.
NETWORK = (Stage(0.09, 400, 0.05), Stage(0.2, 250, 0.03))
#: All, for every candidate of the echo.
ECHOES = Stage(ESTIMATED_S, 40, 0.03)
#: All, for the best candidate.
TOGETHER = Stage(ESTIMATED_S, 80, 0.03)


@torch.enable_grad()
def find_space(
    chain: Effect,
    chunks: Chunks,
    raws: Raws,
    echoes: Sequence[Raws],
    seed: int = 0,
    pause: Callable[[], object] = lambda: None,
) -> Raws:
    """Raw parameters of delay, reverb and direct position whose response is that from the input of the sends to wet.

    Args:
        chain: ends in its sends, after which nothing comes; on the CPU.
        chunks: of a pair, loud ones.
        raws: of the chain, adapted in what comes before the sends.
        echoes: raw parameters of the delay by full name, one set for each candidate; may be empty.
        seed: of the random networks.
        pause: called between steps; may raise.

    By full name; empty for another chain, and where the sends hold neither a delay nor a reverb.
    """
    if not isinstance(chain, Serial):
        return {}
    *_, (last, sends) = chain.parts()
    fits = [part for _, part in sends.parts() if isinstance(part, (FDN, PingPongDelay))]
    if not isinstance(sends, Sends) or not fits or sends.runs_by_sample:
        return {}
    x = sends_input(chain, raws, chunks.dry)
    estimate = ResponseEstimate(x, chunks.wet, chain.sr, round(ESTIMATED_S * chain.sr))
    prefix = f"{last}."
    search = _Search(sends.eval(), estimate, _within(prefix, raws), pause)
    found = search.run([_within(prefix, echo) for echo in echoes], seed)
    return {prefix + name: raw for name, raw in search.columns.split(found).items()}


@torch.no_grad()
def sends_input(chain: Effect, raws: Raws, dry: Tensor) -> Tensor:
    """What enters the sends at the end of a chain, (n, 1, T) from dry (n, 1, T); dry itself where there are none."""
    parts = list(chain.parts())
    if not isinstance(chain, Serial) or not isinstance(parts[-1][1], Sends):
        return dry
    return render_series(parts[:-1], dry, functional_call(Knobs(chain), raws, ()))


def _within(prefix: str, raws: Raws) -> Raws:
    """The raw parameters of an effect inside a chain, by its own names."""
    return {name.removeprefix(prefix): raw for name, raw in raws.items() if name.startswith(prefix)}


class _Search:
    """A search for the raw parameters of sends (P,) by the distance of their response from an estimate."""

    def __init__(self, sends: Sends, estimate: ResponseEstimate, raws: Raws, pause: Callable[[], object]) -> None:
        self.sends, self.estimate, self.raws, self.pause = sends, estimate, raws, pause
        self.knobs, self.columns = Knobs(sends), ParameterLayout(sends)
        self.reverbs = [name for name, part in sends.parts() if isinstance(part, FDN)]
        self.delays = [name for name, part in sends.parts() if isinstance(part, PingPongDelay)]

    def run(self, echoes: list[Raws], seed: int) -> Tensor:
        """The raw parameters (P,) of the nearest response."""
        network = self._networks(echoes[0] if echoes else {}, seed)
        # Echoes and sends are beyond these stages, or shorter ones part of the noise.
        fixed = [*(f"{name}." for name in self.delays), *(name for _, _, name in self.sends.sends)]
        if self.reverbs:
            two = self._descend(network, NETWORK[0], fixed)[:2]
            with torch.no_grad():
                transposed = [self._transposed(row) for row in two]
            network = self._descend(torch.stack([*two, *transposed]), NETWORK[1], fixed)
        candidates = [self._changed(network[0], echo) for echo in echoes] or [network[0]]
        nearest = self._descend(torch.stack(candidates), ECHOES)[:1]
        return self._descend(nearest, TOGETHER)[0]

    def _networks(self, echo: Raws, seed: int) -> Tensor:
        """Random networks of the decay that the response shows, (SEEDS, P)."""
        rows = []
        for number in range(SEEDS if self.reverbs else 1):
            generator = torch.Generator().manual_seed(seed + number)
            drawn, changes = Knobs(self.sends, generator).state_dict(), dict(echo)
            for name in self.reverbs:
                reverb = getattr(self.sends, name)
                changes[f"{name}.U"] = drawn[f"{name}.U"]
                changes[f"{name}.b"] = drawn[f"{name}.b"]
                changes[f"{name}.c"] = LEVEL * torch.randn(drawn[f"{name}.c"].shape, generator=generator)
                changes[f"{name}.gamma"] = self._decay(reverb, drawn[f"{name}.gamma"])
            rows.append(self._changed(self.columns.join(self.raws), changes))
        return torch.stack(rows)

    def _decay(self, reverb: FDN, drawn: Tensor) -> Tensor:
        """Raw line gains with the decay of the response; those drawn where it shows none."""
        frequencies, times = decay_times(self.estimate.h, self.sends.sr)
        mapping = next(p.mapping for p in reverb.params if p.name == "gamma")
        if not len(times) or not isinstance(mapping, Bounded) or not reverb.shared_decay:
            return drawn
        grid = np.linspace(0, self.sends.sr / 2, len(drawn))
        seconds = np.exp(np.interp(np.log(np.maximum(grid, 1)), np.log(frequencies), np.log(times)))
        gains = 10 ** (-3 * float(reverb.lines.min()) / (self.sends.sr * seconds))
        low, high = mapping.from_unit(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
        return mapping.raw(torch.tensor(gains.clip(low, high))).float().reshape(drawn.shape)

    def _changed(self, row: Tensor, changes: Raws) -> Tensor:
        return self.columns.join(self.columns.split(row) | changes)

    def _transposed(self, row: Tensor) -> Tensor:
        """The network whose inputs are the outputs, and the reverse: from and to mono, it has the same response.

        With Γ the gains of the lines, cᵀ(D - UΓ)⁻¹b = (Γb)ᵀ(D - UᵀΓ)⁻¹(Γ⁻¹c). Where both outputs resemble each other, a
        descent may end at the wrong one of both networks.
        """
        raws, values = dict(self.columns.split(row)), functional_call(self.knobs, self.columns.split(row), ())
        for name in self.reverbs:
            reverb, network = getattr(self.sends, name), own_values(part_values(values, name))
            gain = fdn.line_gains(network["gamma"], reverb.lines, len(network["gamma"]), reverb.shared_decay)
            gain = gain.median(-1).values
            left, strength, right = torch.linalg.svd(network["c"], full_matrices=False)
            inputs = network["b"].shape[1]
            raws[f"{name}.c"] = torch.outer(left[:, 0], network["b"].sum(1) * gain)
            raws[f"{name}.b"] = (strength[0] * right[0] / gain)[:, None].expand(-1, inputs) / inputs
            # The raw matrix is the skew-symmetric logarithm.
            raws[f"{name}.U"] = -raws[f"{name}.U"]
        return self.columns.join(raws)

    def _descend(self, rows: Tensor, stage: Stage, fixed: Sequence[str] = ()) -> Tensor:
        """Rows (G, P) after a descent, the nearest first."""
        samples = round(stage.seconds * self.sends.sr)
        distance, short = self.estimate.distance(samples), self.sends.shortened(samples)
        rates = torch.cat(
            [torch.full((math.prod(shape),), self._rate(name, fixed)) for name, shape in self.columns.shapes.items()]
        )
        method = METHODS["annealed"]
        state = AdamState(rows, torch.zeros_like(rows), torch.zeros_like(rows), torch.zeros(len(rows)).double())
        best, lowest = rows, torch.full((len(rows),), math.inf)
        for step in range(stage.steps):
            self.pause()
            at = state.raws
            distances, gradients = self._evaluate(short, distance, at)
            better = distances < lowest
            best, lowest = torch.where(better[:, None], at, best), torch.where(better, distances, lowest)
            rate = method.rate(torch.tensor(step / stage.steps))
            state = method.move(state, gradients.nan_to_num(), stage.rate * rate * rates)
        return best[lowest.argsort()]

    def _rate(self, name: str, fixed: Sequence[str]) -> float:
        """The factor on the rate of a parameter."""
        kind = name.split(".")[-1]
        if kind == "damping" or any(name.startswith(beginning) for beginning in fixed):
            return 0.0
        return TIME_RATE if kind == "delay" else DECAY_RATE if kind == "gamma" else 1.0

    def _evaluate(self, short: Sends, distance: Distance, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (G,) of rows (G, P), and their gradients (G, P)."""
        rows = rows.detach().requires_grad_()
        values = functional_call(self.knobs, self.columns.split(rows), ())
        h = short.response(**values)[..., 0, :]
        distances = distance(h)
        gradients = torch.autograd.grad(distances.sum(), rows)[0]
        return distances.detach(), gradients
