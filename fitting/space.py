"""Delay and reverb of a fit, found from the impulse response that the recordings show, before the audio is compared.

Gradient descent on audio rarely finds the inside of a reverb: its loss compares spectra over time, for which most
networks of one decay are alike. The response between the input of the sends and wet, by least squares, shows each
reflection. Of a feedback delay network it shows one line, then two in series, and so on: a fit to a window that grows
finds one unknown after the other (`fitting.free_network`). Then echoes are tried, and all is refined together.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect
from reknob.afx.param import Linear
from reknob.afx.reverb import FDN
from reknob.data.chunks import Chunks
from reknob.fitting.free_network import read_network
from reknob.fitting.initialise import echo_times
from reknob.fitting.response import ResponseEstimate
from reknob.fitting.sends import ResponsePoint, SendsModel, sends_at_end, sends_input
from reknob.fitting.trial import Raws

ESTIMATED_S = 1.5  # length of the estimated response
CLEAR, OTHERS = 0.1, 3  # distance above which other echoes are tried too, and how many
#: Windows in s in which echo and network are fitted together, and in how many pieces of the decay over frequency.
TOGETHER = ((0.2, 10), (0.4, 10), (0.8, 10), (ESTIMATED_S, 25))
ECHO, REFINING = 10, 6  # iterations in a window


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

    By full name; empty for another chain, where the sends hold neither a delay nor a reverb, and where the response is
    not that of such a reverb.
    """
    end = sends_at_end(chain)
    if end is None or end.sends.runs_by_sample:
        return {}
    if not any(isinstance(part, (FDN, PingPongDelay)) for _, part in end.sends.parts()):
        return {}
    x = sends_input(chain, raws, chunks.dry)
    estimate = ResponseEstimate(x, chunks.wet, chain.sr, round(ESTIMATED_S * chain.sr))
    prefix = f"{end.name}."
    model = SendsModel(end.sends.eval(), estimate, _within(prefix, raws), pause)
    found = _search(model, [_within(prefix, echo) for echo in echoes])
    return {prefix + name: raw for name, raw in found.items()}


def _within(prefix: str, raws: Raws) -> Raws:
    """The raw parameters of an effect inside a chain, by its own names."""
    return {name.removeprefix(prefix): raw for name, raw in raws.items() if name.startswith(prefix)}


def _search(model: SendsModel, echoes: list[Raws]) -> Raws:
    """The raw parameters of the nearest response; none where the response is no network's."""
    row = model.columns.join(model.raws)
    if model.reverbs:
        network = read_network(model, row, _first_echo(model, echoes))
        if network is None:
            return {}
        row = network
    points = [_with_echo(model, row, echo) for echo in echoes]
    if model.reverbs and min((point.cost for point in points), default=math.inf) > CLEAR:
        points += [_with_echo(model, row, echo) for echo in _more_echoes(model, row, echoes)]
    if points:
        best = min(points, key=lambda point: point.cost)
        halved = [_with_echo(model, best.row, echo) for echo in _halved(model, best.row)]
        row = min([best, *halved], key=lambda point: point.cost).row
    for seconds, pieces in TOGETHER:
        ways = model.directions(lambda name: True, mono=False, pieces=pieces)
        row = model.nearest(row, seconds, ways, REFINING).row
    return model.columns.split(row)


def _with_echo(model: SendsModel, row: Tensor, echo: Raws) -> ResponsePoint:
    """A row with an echo, whose other parameters follow; the decay too, of which short windows show little."""
    ways = model.directions(lambda name: name.endswith(".gamma") or not model.is_of_network(name))
    return model.nearest(model.changed(row, echo), ESTIMATED_S, ways, ECHO)


def _first_echo(model: SendsModel, echoes: list[Raws]) -> float:
    """The time in s of the likeliest echo, if twice that time is another candidate; else the response's end."""
    found = [(name, raw) for each in echoes for name, raw in each.items() if name.endswith(".delay")]
    times = [float(model.mappings[name].value(raw)) for name, raw in found]
    repeats = any(abs(2 * times[0] - other) < 1 for other in times[1:])
    return times[0] / 1000 if repeats else ESTIMATED_S


def _more_echoes(model: SendsModel, row: Tensor, echoes: list[Raws]) -> list[Raws]:
    """Echoes, other than these, that stand out of what the network of a row leaves of the response."""
    found = []
    for name in model.delays:
        times = model.mappings[f"{name}.delay"]
        assert isinstance(times, Linear)
        off = model.changed(row, {f"{name}.gain": model.raw(f"{name}.gain", torch.tensor(0.0))})
        left = model.left(off).double().numpy()
        known = [float(times.value(echo[f"{name}.delay"])) for echo in echoes if f"{name}.delay" in echo]
        others = [
            ms
            for ms in echo_times(left, model.sends.sr, times.lo, times.hi, 2 * OTHERS)
            if all(abs(ms - other) > 1 for other in known)
        ]
        found += [{f"{name}.delay": model.raw(f"{name}.delay", torch.tensor(ms).double())} for ms in others]
    return found[:OTHERS]


def _halved(model: SendsModel, row: Tensor) -> list[Raws]:
    """Echoes at half the time, of which those of a row are every second one; where the range holds that time."""
    raws, found = model.columns.split(row), []
    for name in model.delays:
        own = [f"{name}.{key}" for key in ("delay", "gain", "feedback")]
        times = model.mappings[own[0]]
        assert isinstance(times, Linear)
        time, gain, feedback = (model.mappings[key].value(raws[key].double()) for key in own)
        if time >= 2 * times.lo:
            again = feedback.sqrt()
            values = zip(own, (time / 2, gain / again, again), strict=True)
            halved = {key: model.raw(key, value) for key, value in values}
            found.append(halved | {f"{name}.even_pan.pan": raws[f"{name}.odd_pan.pan"]})
    return found
