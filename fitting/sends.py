"""The sends at the end of a chain: what enters them, and their response as a function of raw parameters."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from reknob.afx.chain import Sends, Serial, render_series
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Knobs
from reknob.afx.param import Mapping
from reknob.afx.reverb import FDN
from reknob.fitting.gauss_newton import minimise
from reknob.fitting.response import ResponseEstimate
from reknob.fitting.track import ParameterLayout
from reknob.fitting.trial import Raws

LAST_GAIN = 0.01  # a fit ends where an iteration lowers the distance by a smaller share
DAMPING, LEAST_SLOPE = 1e-2, 1e-3
STEP, FARTHEST = 2e-3, 1.0  # of raw parameters: of the derivative, and of an iteration at most
TIME = 5e-4  # of the raw time of an echo, relative to others: some 0.1 ms an iteration
BATCH = 32  # responses at once


class SendsAtEnd(NamedTuple):
    """Effects in series that end in sends."""

    before: list[tuple[str, Effect]]
    name: str
    sends: Sends


def sends_at_end(chain: Effect) -> SendsAtEnd | None:
    """The sends at the end of a chain, and the effects before them; None for another chain."""
    parts = list(chain.parts()) if isinstance(chain, Serial) else []
    if not parts:
        return None
    *before, (name, last) = parts
    return SendsAtEnd(before, name, last) if isinstance(last, Sends) else None


@torch.no_grad()
def sends_input(chain: Effect, raws: Raws, dry: Tensor) -> Tensor:
    """What enters the sends at the end of a chain, (n, 1, T) from dry (n, 1, T); dry itself where there are none."""
    end = sends_at_end(chain)
    return render_series(end.before, dry, functional_call(Knobs(chain), raws, ())) if end else dry


class ResponsePoint(NamedTuple):
    """Raw parameters of sends, their response, and its distance from an estimate."""

    row: Tensor  # (P,)
    h: Tensor  # (2, samples)
    cost: float


class SendsModel:
    """The response of sends as a function of a row of raw parameters (P,), and fits of it to an estimate.

    Args:
        sends: in evaluation mode, on the CPU.
        estimate: of their response.
        raws: raw parameters to begin with, by name.
        pause: called between iterations; may raise.
    """

    def __init__(self, sends: Sends, estimate: ResponseEstimate, raws: Raws, pause: Callable[[], object]) -> None:
        self.sends, self.estimate, self.raws, self._pause = sends, estimate, raws, pause
        self.knobs, self.columns = Knobs(sends), ParameterLayout(sends)
        self.mappings: dict[str, Mapping] = {name: p.mapping for name, p in sends.walk()}
        self.reverbs = {name: part for name, part in sends.parts() if isinstance(part, FDN)}
        self.delays = {name: part for name, part in sends.parts() if isinstance(part, PingPongDelay)}
        # What comes before is direct sound, whose error no echo and no reverb should make up for.
        self.first = min(part.response_start for part in (self.reverbs | self.delays).values())

    def is_of_network(self, name: str) -> bool:
        """Whether a parameter is of a reverb."""
        return name.split(".")[0] in self.reverbs

    def raw(self, name: str, value: Tensor) -> Tensor:
        """The raw parameter of the value in the range that is nearest."""
        mapping = self.mappings[name]
        return mapping.raw(mapping.inside(value))

    def changed(self, row: Tensor, changes: Raws) -> Tensor:
        """A row (P,) with some raw parameters, by name, in place of its own."""
        return self.columns.join(self.columns.split(row) | changes)

    def directions(
        self, moves: Callable[[str], bool], *, free: bool = False, mono: bool = True, pieces: int = 10
    ) -> Tensor:
        """Directions (p, P) in which raw parameters change; the direct sound's position, found before, is kept.

        Args:
            moves: whether a parameter changes, by name.
            free: feedback matrices are any matrix.
            mono: both inputs of a network are alike; without an echo, which is stereo, only their sum matters.
            pieces: of a decay over frequency, at most.
        """
        blocks = []
        for name, shape in self.columns.shapes.items():
            kind, ways = name.split(".")[-1], torch.eye(math.prod(shape))
            if not moves(name) or kind == "damping" or name.startswith("direct."):
                ways = ways[:0]
            elif kind == "delay":
                ways = TIME * ways
            elif name.split(".")[0] in self.reverbs:
                if kind == "b" and mono:
                    ways = torch.eye(shape[0]).repeat_interleave(shape[1], 1)
                elif kind == "U" and not free:  # a rotation reads the upper triangle only
                    ways = ways[torch.ones(shape, dtype=torch.bool).triu(1).flatten()]
                elif kind == "gamma":
                    ways = _hats(shape[0], pieces).repeat_interleave(shape[1], 1)
            blocks.append(ways)
        return torch.block_diag(*blocks)

    def nearest(
        self,
        row: Tensor,
        seconds: float,
        directions: Tensor,
        iterations: int,
        *,
        least_gain: float = LAST_GAIN,
        free: bool = False,
    ) -> ResponsePoint:
        """The point of the lowest distance in a window from a row (P,) along directions (p, P).

        Args:
            seconds: length of the window.
            iterations: at most.
            least_gain: it ends where an iteration lowers the distance by a smaller share.
            free: the raw feedback matrix of a network is the matrix itself.
        """
        samples = round(seconds * self.sends.sr)
        distance, short = self.estimate.distance(samples, self.first), self.sends.shortened(samples)

        def point_at(row: Tensor) -> ResponsePoint:
            h = self._responses(short, row[None], free=free)[0]
            cost = float(distance(h))
            return ResponsePoint(row, h, cost if math.isfinite(cost) else math.inf)

        def derivatives(point: ResponsePoint) -> tuple[Tensor, Tensor]:
            changed = self._responses(short, point.row + STEP * directions, free=free)
            return distance.derivatives(point.h, (changed - point.h) / STEP)

        return minimise(
            point_at(row),
            derivatives,
            lambda point, step: point_at(point.row + step.clamp(-FARTHEST, FARTHEST) @ directions),
            iterations=iterations,
            least_gain=least_gain,
            damping=DAMPING,
            least_slope=LEAST_SLOPE,
            pause=self._pause,
        )

    def left(self, row: Tensor) -> Tensor:
        """What the response of a row (P,) leaves of the estimate, (2, samples); see `Distance.left`."""
        samples = self.estimate.h.shape[-1]
        h = self._responses(self.sends.shortened(samples), row[None], free=False)[0]
        return self.estimate.distance(samples, self.first).left(h)

    def _responses(self, short: Sends, rows: Tensor, *, free: bool) -> Tensor:
        """Responses (n, 2, samples) of rows (n, P)."""
        found = []
        for batch in rows.split(BATCH):
            raws = self.columns.split(batch)
            values = functional_call(self.knobs, raws, ())
            if free:
                values |= {name: values[name] | {"U": raws[f"{name}.U"]} for name in self.reverbs}
            found.append(short.response(**values)[..., 0, :])
        return torch.cat(found)


def _hats(count: int, most: int) -> Tensor:
    """Piecewise linear functions (q, count) that are 1 at some of the points 0 … count - 1, dense at the beginning."""
    at = np.unique(np.geomspace(1, count, most).round()) - 1
    return torch.from_numpy(np.stack([np.interp(np.arange(count), at, hat) for hat in np.eye(len(at))])).float()
