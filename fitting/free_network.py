"""A reverb's network read from its impulse response, while its feedback matrix may be any matrix.

One unknown follows after the other: until a sound has passed two lines the response holds each line alone, from which
the gains of the outputs follow; then each pair of lines, in which the matrix is linear. The nearest rotation replaces
it at the end. A descent that begins with a random rotation ends at a wrong one in most cases.
"""

import numpy as np
import torch
from torch import Tensor

from reknob.afx.reverb import FDN
from reknob.fitting.response import decay_times
from reknob.fitting.sends import ResponsePoint, SendsModel

#: Windows in which a network is read, in times of the shortest line. In the first one, no sound has passed two lines.
WINDOWS = (2.0, 2.4, 3.0, 3.6, 4.4)
UNLIKE = 0.6  # distance in the last of them above which the response is no network's
DECAYS, NEAR = (1.0, 2.5), 0.03  # factors on the decay to begin with, until a network is as near as this
GROWTH, LONGEST_S = 1.3, 0.4  # of the windows that follow, up to the first echo
READING, ADAPTING = 20, 10  # iterations in a window
LEAST_GAIN = 0.005  # while the network is read
FARTHEST = 3.0  # logarithm of the unit of a line, at most


def read_network(model: SendsModel, row: Tensor, echo: float) -> Tensor | None:
    """A row (P,) with the reverb that the response shows before an echo, at a time in s, or None."""
    shortest = min(int(reverb.lines.min()) for reverb in model.reverbs.values()) / model.sends.sr
    # An echo would be taken for the reverb.
    ends = [model.estimate.h.shape[-1], *(delay.response_start for delay in model.delays.values())]
    windows = [min(window * shortest, min(ends) / model.sends.sr) for window in WINDOWS]
    best = _read(model, row, windows, DECAYS[0])
    if best.cost > UNLIKE:
        return None
    for factor in DECAYS[1:]:
        if best.cost > NEAR:
            best = min(best, _read(model, row, windows, factor), key=lambda point: point.cost)
    ways, seconds, row = model.directions(model.is_of_network), windows[-1], best.row
    while GROWTH * seconds < min(echo, LONGEST_S):
        seconds *= GROWTH
        row = model.nearest(row, seconds, ways, ADAPTING).row
    return row


def _read(model: SendsModel, row: Tensor, windows: list[float], decay: float) -> ResponsePoint:
    """The network that windows of the response show, the decay at first that of the response times a factor."""
    for name, reverb in model.reverbs.items():
        lines = len(reverb.lines)
        network = {"b": torch.full((lines, 2), 0.5), "c": torch.zeros(2, lines), "U": torch.zeros(lines, lines)}
        network["gamma"] = _decay(model, name, reverb, decay)
        row = model.changed(row, {f"{name}.{own}": raw for own, raw in network.items()})
    unseen = (".b", ".U", ".gamma")
    ways = model.directions(lambda name: model.is_of_network(name) and not name.endswith(unseen))
    row = model.nearest(row, windows[0], ways, READING, least_gain=LEAST_GAIN, free=True).row
    # A gain at the input of a line is one at its output.
    ways = model.directions(lambda name: model.is_of_network(name) and not name.endswith(".b"), free=True)
    for seconds in windows[1:]:
        row = model.nearest(row, seconds, ways, READING, least_gain=LEAST_GAIN, free=True).row
    ways = model.directions(model.is_of_network)
    return model.nearest(_with_rotations(model, row), windows[-1], ways, ADAPTING, least_gain=LEAST_GAIN)


def _decay(model: SendsModel, name: str, reverb: FDN, factor: float) -> Tensor:
    """Raw gains of the lines with the reverberation times of the response times a factor.

    With those of the start, times the factor, where the response shows no decay.
    """
    mapping, start = model.mappings[f"{name}.gamma"], model.raws[f"{name}.gamma"]
    gains = mapping.value(start.double())
    frequencies, times = decay_times(model.estimate.h, model.sends.sr)
    if len(times):
        grid = np.linspace(0, model.sends.sr / 2, len(start))
        seconds = np.exp(np.interp(np.log(np.maximum(grid, 1)), np.log(frequencies), np.log(times)))
        gains = reverb.decay_gains(torch.from_numpy(seconds))
    return model.raw(f"{name}.gamma", gains ** (1 / factor)).float()


def _with_rotations(model: SendsModel, row: Tensor) -> Tensor:
    """A row whose feedback matrices are any matrix as one of rotations, with nearly the same response."""
    raws = dict(model.columns.split(row))
    for name in model.reverbs:
        rotation, units, factor = balanced(raws[f"{name}.U"])
        outputs = raws[f"{name}.c"] / units
        level = (outputs.norm() / units.norm()).sqrt().clamp(min=1e-3)
        raws[f"{name}.U"] = model.mappings[f"{name}.U"].raw(rotation)
        raws[f"{name}.b"] = (units * level / 2)[:, None].expand(-1, 2)
        raws[f"{name}.c"] = outputs / level
        decay = f"{name}.gamma"
        raws[decay] = model.raw(decay, model.mappings[decay].value(raws[decay].double()) * factor)
    return model.columns.join({name: raw.float() for name, raw in raws.items()})


def balanced(feedback: Tensor) -> tuple[Tensor, Tensor, float]:
    """The rotation U (M, M), units of the lines s (M,) and factor k for which k·diag(s)⁻¹ U diag(s) is near a matrix.

    From R = diag(s)⁻¹ U diag(s) follows R⁻¹ = diag(s)⁻¹ Uᵀ diag(s), so that R_ij / (R⁻¹)_ji = (s_j / s_i)². The units
    are the least squares of these equations in logarithms, each by its share U_ij².

    Args:
        feedback: the matrix (M, M) that the lines feed back through; the first index is the line that is fed.
    """
    R = feedback.double()
    inverse = torch.linalg.pinv(R).T
    shares = (R * inverse).clamp(min=0).fill_diagonal_(0)
    ratios = torch.where(shares > 0, R / torch.where(shares > 0, inverse, 1.0), 1.0).log() / 2
    # Normal equations of Σ share (log s_j - log s_i - ratio)².
    both = shares + shares.T
    pull = (shares * ratios).sum(0) - (shares * ratios).sum(1)
    units = (torch.linalg.pinv(both.sum(0).diag() - both) @ pull).clamp(-FARTHEST, FARTHEST).exp()
    left, strength, right = torch.linalg.svd(units[:, None] * R / units)
    signs = torch.ones_like(strength)
    signs[-1] = torch.linalg.det(left @ right).sign()
    return left @ signs.diag() @ right, units, float(strength.clamp(min=1e-6).log().mean().exp())
