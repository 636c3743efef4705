"""Delay and reverb of a fit, found from the impulse response that the recordings show, before the audio is compared.

Gradient descent on audio rarely finds the inside of a reverb: its loss compares spectra over time, for which most
networks of one decay are alike. The response between the input of the sends and wet, by least squares, shows each
reflection. Of a feedback delay network it shows one line, then two in series, and so on: a fit to a window that grows
finds one unknown after the other. While it does, the feedback matrix may be any matrix; the nearest rotation follows.
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
from reknob.afx.effect import Effect, Knobs
from reknob.afx.param import Linear, Mapping
from reknob.afx.reverb import FDN
from reknob.data.chunks import Chunks
from reknob.fitting.free_network import balanced
from reknob.fitting.gauss_newton import minimise
from reknob.fitting.initialise import echo_times
from reknob.fitting.response import ResponseEstimate, decay_times
from reknob.fitting.track import ParameterLayout
from reknob.fitting.trial import Raws

ESTIMATED_S = 1.5  # length of the estimated response
#: Windows in which a network is read, in times of the shortest line. In the first one, no sound has passed two lines.
WINDOWS = (2.0, 2.4, 3.0, 3.6, 4.4)
UNLIKE, QUIET = 0.6, 0.1  # distance in the last of them above which the response is no network's; a gain
DECAYS, NEAR = (1.0, 2.5), 0.03  # factors on the decay to begin with, until a network is as near as this
GROWTH, LONGEST_S = 1.3, 0.4  # of the windows that follow, up to the first echo
CLEAR, OTHERS = 0.1, 3  # distance above which other echoes are tried too, and how many
#: Windows in s in which echo and network are fitted together, and in how many pieces of the decay over frequency.
TOGETHER = ((0.2, 10), (0.4, 10), (0.8, 10), (ESTIMATED_S, 25))
READING, ADAPTING, ECHO, REFINING = 20, 10, 10, 6  # iterations in a window
LEAST_GAIN, LAST_GAIN = 0.005, 0.01  # while the network is read, and afterwards
DAMPING, LEAST_SLOPE = 1e-2, 1e-3
STEP, FARTHEST = 2e-3, 1.0  # of raw parameters: of the derivative, and of an iteration at most
TIME = 5e-4  # of the raw time of an echo, relative to others: some 0.1 ms an iteration
BATCH = 32  # responses at once


@torch.no_grad()
def find_space(
    chain: Effect,
    chunks: Chunks,
    raws: Raws,
    echoes: Sequence[Raws],
    pause: Callable[[], object] = lambda: None,
) -> Raws:
    """Raw parameters of delay and reverb whose response is that from the input of the sends to wet.

    Args:
        chain: ends in its sends, after which nothing comes; on the CPU.
        chunks: of a pair, loud ones.
        raws: of the chain, adapted in what comes before the sends.
        echoes: raw parameters of the delay by full name, one set for each candidate; may be empty.
        pause: called between steps; may raise.

    By full name; empty for another chain, and where the sends hold neither a delay nor a reverb. Where the response is
    not that of such a reverb, outputs of the reverb of the start, quieter: a descent adds to it sooner than it removes.
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
    found = search.run([_within(prefix, echo) for echo in echoes])
    return {prefix + name: raw for name, raw in found.items()}


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


class _Point(NamedTuple):
    """Raw parameters of the sends, their response, and its distance from the estimate."""

    row: Tensor  # (P,)
    h: Tensor  # (2, samples)
    cost: float


class _Search:
    """A search for the raw parameters of sends (P,) by the distance of their response from an estimate."""

    def __init__(self, sends: Sends, estimate: ResponseEstimate, raws: Raws, pause: Callable[[], object]) -> None:
        self.sends, self.estimate, self.raws, self.pause = sends, estimate, raws, pause
        self.knobs, self.columns = Knobs(sends), ParameterLayout(sends)
        self.mappings: dict[str, Mapping] = {name: p.mapping for name, p in sends.walk()}
        self.reverbs = {name: part for name, part in sends.parts() if isinstance(part, FDN)}
        self.delays = {name: part for name, part in sends.parts() if isinstance(part, PingPongDelay)}
        # What comes before is direct sound, whose error no echo and no reverb should make up for.
        self.first = min(part.response_start for part in (self.reverbs | self.delays).values())

    def run(self, echoes: list[Raws]) -> Raws:
        """The raw parameters of the nearest response; where that is no network's, outputs for a quiet one."""
        row = self.columns.join(self.raws)
        if self.reverbs:
            network = self._network(row, self._first_echo(echoes))
            if network is None:
                return {f"{name}.c": QUIET * self.raws[f"{name}.c"] for name in self.reverbs}
            row = network
        points = [self._with_echo(row, echo) for echo in echoes]
        if self.reverbs and min((point.cost for point in points), default=math.inf) > CLEAR:
            points += [self._with_echo(row, echo) for echo in self._more_echoes(row, echoes)]
        if points:
            best = min(points, key=lambda point: point.cost)
            halved = [self._with_echo(best.row, echo) for echo in self._halved(best.row)]
            row = min([best, *halved], key=lambda point: point.cost).row
        for seconds, pieces in TOGETHER:
            ways = self._directions(lambda name: True, mono=False, pieces=pieces)
            row = self._nearest(row, seconds, ways, REFINING, LAST_GAIN).row
        return self.columns.split(row)

    def _with_echo(self, row: Tensor, echo: Raws) -> _Point:
        """A row with an echo, whose other parameters follow; the decay too, of which short windows show little."""
        ways = self._directions(lambda name: name.endswith(".gamma") or not self._is_of_network(name))
        return self._nearest(self._changed(row, echo), ESTIMATED_S, ways, ECHO, LAST_GAIN)

    def _first_echo(self, echoes: list[Raws]) -> float:
        """The time in s of the likeliest echo, if twice that time is another candidate; else the response's end."""
        found = [(name, raw) for each in echoes for name, raw in each.items() if name.endswith(".delay")]
        times = [float(self.mappings[name].value(raw)) for name, raw in found]
        repeats = any(abs(2 * times[0] - other) < 1 for other in times[1:])
        return times[0] / 1000 if repeats else ESTIMATED_S

    def _more_echoes(self, row: Tensor, echoes: list[Raws]) -> list[Raws]:
        """Echoes, other than these, that stand out of what the network of a row leaves of the response."""
        samples, found = self.estimate.h.shape[-1], []
        for name in self.delays:
            times = self.mappings[f"{name}.delay"]
            assert isinstance(times, Linear)
            off = self._changed(row, {f"{name}.gain": self._raw(f"{name}.gain", torch.tensor(0.0))})
            h = self._responses(self.sends.shortened(samples), off[None], free=False)[0]
            left = self.estimate.distance(samples, self.first).left(h).double().numpy()
            known = [float(times.value(echo[f"{name}.delay"])) for echo in echoes if f"{name}.delay" in echo]
            others = [
                ms
                for ms in echo_times(left, self.sends.sr, times.lo, times.hi, 2 * OTHERS)
                if all(abs(ms - other) > 1 for other in known)
            ]
            found += [{f"{name}.delay": self._raw(f"{name}.delay", torch.tensor(ms).double())} for ms in others]
        return found[:OTHERS]

    def _halved(self, row: Tensor) -> list[Raws]:
        """Echoes at half the time, of which those of a row are every second one; where the range holds that time."""
        raws, found = self.columns.split(row), []
        for name in self.delays:
            own = [f"{name}.{key}" for key in ("delay", "gain", "feedback")]
            times = self.mappings[own[0]]
            assert isinstance(times, Linear)
            time, gain, feedback = (self.mappings[key].value(raws[key].double()) for key in own)
            if time >= 2 * times.lo:
                again = feedback.sqrt()
                values = zip(own, (time / 2, gain / again, again), strict=True)
                halved = {key: self._raw(key, value) for key, value in values}
                found.append(halved | {f"{name}.even_pan.pan": raws[f"{name}.odd_pan.pan"]})
        return found

    def _network(self, row: Tensor, echo: float) -> Tensor | None:
        """A row (P,) with the reverb that the response shows before an echo, at a time in s, or None."""
        shortest = min(int(reverb.lines.min()) for reverb in self.reverbs.values()) / self.sends.sr
        # An echo would be taken for the reverb.
        quiet = min((delay.response_start / self.sends.sr for delay in self.delays.values()), default=ESTIMATED_S)
        windows = [min(window * shortest, quiet) for window in WINDOWS]
        best = self._read(row, windows, DECAYS[0])
        if best.cost > UNLIKE:
            return None
        for factor in DECAYS[1:]:
            if best.cost > NEAR:
                best = min(best, self._read(row, windows, factor), key=lambda point: point.cost)
        ways, seconds, row = self._directions(self._is_of_network), windows[-1], best.row
        while GROWTH * seconds < min(echo, LONGEST_S):
            seconds *= GROWTH
            row = self._nearest(row, seconds, ways, ADAPTING, LAST_GAIN).row
        return row

    def _read(self, row: Tensor, windows: list[float], decay: float) -> _Point:
        """The network that windows of the response show, the decay at first that of the response times a factor."""
        for name, reverb in self.reverbs.items():
            lines = len(reverb.lines)
            network = {"b": torch.full((lines, 2), 0.5), "c": torch.zeros(2, lines), "U": torch.zeros(lines, lines)}
            network["gamma"] = self._decay(name, reverb, decay)
            row = self._changed(row, {f"{name}.{own}": raw for own, raw in network.items()})
        unseen = (".b", ".U", ".gamma")
        ways = self._directions(lambda name: self._is_of_network(name) and not name.endswith(unseen))
        row = self._nearest(row, windows[0], ways, READING, LEAST_GAIN, free=True).row
        # A gain at the input of a line is one at its output.
        ways = self._directions(lambda name: self._is_of_network(name) and not name.endswith(".b"), free=True)
        for seconds in windows[1:]:
            row = self._nearest(row, seconds, ways, READING, LEAST_GAIN, free=True).row
        ways = self._directions(self._is_of_network)
        return self._nearest(self._with_rotations(row), windows[-1], ways, ADAPTING, LEAST_GAIN)

    def _is_of_network(self, name: str) -> bool:
        return name.split(".")[0] in self.reverbs

    def _decay(self, name: str, reverb: FDN, factor: float) -> Tensor:
        """Raw gains of the lines with the reverberation times of the response times a factor.

        With those of the start, times the factor, where the response shows no decay.
        """
        mapping, start = self.mappings[f"{name}.gamma"], self.raws[f"{name}.gamma"]
        gains = mapping.value(start.double())
        frequencies, times = decay_times(self.estimate.h, self.sends.sr)
        if len(times) and reverb.shared_decay:
            grid = np.linspace(0, self.sends.sr / 2, len(start))
            seconds = np.exp(np.interp(np.log(np.maximum(grid, 1)), np.log(frequencies), np.log(times)))
            gains = torch.from_numpy(10 ** (-3 * float(reverb.lines.min()) / (self.sends.sr * seconds)))
        return self._raw(f"{name}.gamma", gains ** (1 / factor)).float().reshape(start.shape)

    def _raw(self, name: str, value: Tensor) -> Tensor:
        """The raw parameter of the value in the range that is nearest."""
        mapping = self.mappings[name]
        return mapping.raw(mapping.inside(value))

    def _changed(self, row: Tensor, changes: Raws) -> Tensor:
        return self.columns.join(self.columns.split(row) | changes)

    def _with_rotations(self, row: Tensor) -> Tensor:
        """A row whose feedback matrices are any matrix as one of rotations, with nearly the same response."""
        raws = dict(self.columns.split(row))
        for name in self.reverbs:
            rotation, units, factor = balanced(raws[f"{name}.U"])
            outputs = raws[f"{name}.c"] / units
            level = (outputs.norm() / units.norm()).sqrt().clamp(min=1e-3)
            raws[f"{name}.U"] = self.mappings[f"{name}.U"].raw(rotation)
            raws[f"{name}.b"] = (units * level / 2)[:, None].expand(-1, 2)
            raws[f"{name}.c"] = outputs / level
            decay = f"{name}.gamma"
            raws[decay] = self._raw(decay, self.mappings[decay].value(raws[decay].double()) * factor)
        return self.columns.join({name: raw.float() for name, raw in raws.items()})

    def _directions(
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

    def _nearest(
        self, row: Tensor, seconds: float, directions: Tensor, iterations: int, least_gain: float, *, free: bool = False
    ) -> _Point:
        """The point of the lowest distance in a window, from a row (P,) along directions (p, P).

        `free`: the raw feedback matrix of a network is the matrix itself.
        """
        samples = round(seconds * self.sends.sr)
        distance, short = self.estimate.distance(samples, self.first), self.sends.shortened(samples)

        def point_at(row: Tensor) -> _Point:
            h = self._responses(short, row[None], free)[0]
            cost = float(distance(h))
            return _Point(row, h, cost if math.isfinite(cost) else math.inf)

        def derivatives(point: _Point) -> tuple[Tensor, Tensor]:
            changed = self._responses(short, point.row + STEP * directions, free)
            return distance.derivatives(point.h, (changed - point.h) / STEP)

        return minimise(
            point_at(row),
            derivatives,
            lambda point, step: point_at(point.row + step.clamp(-FARTHEST, FARTHEST) @ directions),
            iterations=iterations,
            least_gain=least_gain,
            damping=DAMPING,
            least_slope=LEAST_SLOPE,
            pause=self.pause,
        )

    def _responses(self, short: Sends, rows: Tensor, free: bool) -> Tensor:
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
