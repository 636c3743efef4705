"""How certain the parameters of a fitted chain are: a 68 % interval for each, and a word.

A parameter is as certain as a change of it is audible in a loud excerpt beside what the fit leaves unexplained, and as
changes of other parameters cannot undo it: the Gauss-Newton approximation of the posterior at the fitted values.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx.effect import Effect, Tensors, Values, flatten, nest
from reknob.afx.param import Bounded, Param, RiseTime, Wrapped
from reknob.data.chunks import Chunks
from reknob.formats.certainty import BOUNDED, FOUND, UNKNOWN, Certainty
from reknob.losses import FitLoss

EXCERPT_S, WARM_UP_S = 4.0, 2.0  # at most
FFT, HOP = 2048, 1024
BANDS_PER_OCTAVE, LOWEST_HZ = 3, 50.0
FLOOR_DB = -60.0  # of powers, relative to the mean of the loudest band
LEAST_NOISE = 0.02  # of a log power: 0.1 dB
BLOCK = (8, 16)  # bands and times over which the correlation of what is unexplained is measured
#: The variance of what is unexplained, as far as it shifts parameters, relative to what the blocks show: an error of
#: the model is alike beyond them. Calibrated on fits whose true values are known, see docs/accuracy.md.
BEYOND_BLOCKS = 12.0
LEVEL = 0.6827  # of an interval: one standard deviation on both sides
#: Widths, relative to those without any sound: of an interval from which a parameter is only bounded, and of each of
#: its two sides from which the parameter is not identifiable.
WIDE, WIDEST = 0.3, 0.75
OTHERS = 24  # values of a multimodal parameter that are compared with the fitted one
STANDS_OUT = 0.5  # by how many of their standard deviations its loss has to be below theirs
MOST = 64  # elements of an array, above which it is left out
BATCH = 8  # renders at once
FARTHEST = 50.0  # raw parameter of a value at the end of what float64 resolves


@dataclass(frozen=True)
class Axis:
    """The coordinate of a parameter in which an interval is computed, and its prior.

    The position in the range, with a uniform prior, where there is a range; otherwise the raw parameter, with a normal
    prior around the fitted one, whose standard deviation is 10 dB of a level and a factor of 20 of a time.
    """

    p: Param

    @property
    def has_range(self) -> bool:
        """Whether positions are those in a range, 0 to 1."""
        return isinstance(self.p.mapping, (Bounded, Wrapped))

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest position."""
        return (0.0, 1.0) if self.has_range else (-math.inf, math.inf)

    @property
    def width(self) -> float:
        """Standard deviation of the prior."""
        if self.has_range:
            return 1 / math.sqrt(12)
        return 10.0 if self.p.unit == "dB" else 3.0 if isinstance(self.p.mapping, RiseTime) else 1.0

    def step(self, at: float) -> float:
        """The step of the derivative at a position: small, signed so that it stays inside the range."""
        if not self.has_range:
            return 0.02 * self.width
        if isinstance(self.p.mapping, Wrapped):
            # A lookahead: the filter that advances the gain has a ripple from one sample to the next.
            size = 0.05
        else:
            # Of an echo's time a quarter of a ms: smaller changes shift interference, which soon cannot grow further.
            size = 3e-4 if self.p.multimodal else max(0.04 * at * (1 - at), 1e-3)
        return size if at < 0.5 else -size

    def position(self, value: Tensor) -> Tensor:
        """The position of a value."""
        mapping, value = self.p.mapping, value.double()
        if isinstance(mapping, Bounded):
            return mapping.to_unit(value).clamp(0, 1)
        if isinstance(mapping, Wrapped):
            return value / mapping.period
        return mapping.raw(value).nan_to_num(0, FARTHEST, -FARTHEST)

    def value(self, position: Tensor) -> Tensor:
        """The value at a position."""
        mapping = self.p.mapping
        if isinstance(mapping, Bounded):
            return mapping.from_unit(position)
        return position * mapping.period if isinstance(mapping, Wrapped) else mapping.value(position)


class Features:
    """Log powers of an excerpt in M bands × times of left, right, mid and side, as a function of the P positions.

    Args:
        chain: the fitted effects.
        chunks: of the pair; its loudest few seconds are the excerpt.
        values: fitted.
        least: samples that the excerpt has at least after its warm-up, where the chunks have them.
    """

    def __init__(self, chain: Effect, chunks: Chunks, values: Values, least: int = 1) -> None:
        self.chain, self.values = chain.eval(), flatten(values)
        device = next(iter(self.values.values())).device
        dry, wet, self.warm_up = _loudest(chunks, chain.sr, least)
        self.dry, self.wet = dry.to(device), wet.to(device)
        self.axes = {
            name: Axis(p) for name, p in chain.walk() if p.preset and not p.ambiguous and math.prod(p.shape) <= MOST
        }
        self.positions = {name: axis.position(self.values[name]) for name, axis in self.axes.items()}
        self.columns = [(name, i) for name, axis in self.axes.items() for i in range(math.prod(axis.p.shape))]
        # The innermost effect that takes values in one call; all values of a call have a batch dimension, or none.
        prefixes = sorted((prefix for prefix, _ in chain.leaves()), key=len)
        self._effect = {name: [p for p in prefixes if name.startswith(p)][-1] for name in self.values}
        self._window = torch.hann_window(FFT, device=device)
        self._bands = _bands(chain.sr).to(device)
        target = self._powers(self.wet)
        self._floor = 10 ** (FLOOR_DB / 10) * target.mean(-1).amax() + torch.finfo(target.dtype).tiny
        fitted = self._log_powers(self.values, 1)
        residual = (target + self._floor).log() - fitted
        # The standard deviation of what is unexplained, for every signal and band.
        self._noise = (residual.square().mean(-1, keepdim=True) + LEAST_NOISE**2).sqrt()
        self._fitted, self.residual = fitted, (residual / self._noise).flatten()
        self.correlated = BEYOND_BLOCKS * _correlated((residual / self._noise)[0])  # features per independent one

    def changes(self, moves: Sequence[tuple[int, float]]) -> Tensor:
        """Changes (N, M) of the features, in standard deviations of the noise, by N moves of one position each.

        A move is the number of a column and its new position.
        """
        groups = defaultdict(list)
        for row, (column, _) in enumerate(moves):
            groups[self._effect[self.columns[column][0]]].append(row)
        changes = self.residual.new_zeros(len(moves), len(self.residual))
        for rows in groups.values():
            for first in range(0, len(rows), BATCH):
                batch = rows[first : first + BATCH]
                changes[batch] = self._changes([moves[row] for row in batch])
        # A value at which the render breaks says nothing.
        return changes.nan_to_num(0, 0, 0)

    def losses(self, loss: FitLoss, column: int, positions: Sequence[float]) -> Tensor:
        """The loss (N,) of the excerpt at N positions of one column."""
        loss = loss.to(self.dry.device)
        target = loss.prepare(self.wet)
        alone = self.wet.new_ones(1, 1)
        losses = []
        for first in range(0, len(positions), BATCH):
            values = self._moved([(column, position) for position in positions[first : first + BATCH]])
            losses += [loss.weigh(loss.terms(y[None], target, alone))[0] for y in self._render(*values)]
        return torch.stack(losses).cpu()

    def _changes(self, moves: Sequence[tuple[int, float]]) -> Tensor:
        """As `changes`, of moves of one effect."""
        return ((self._log_powers(*self._moved(moves)) - self._fitted) / self._noise).flatten(1)

    def _moved(self, moves: Sequence[tuple[int, float]]) -> tuple[Tensors, int]:
        """The values by N moves of one effect, whose values have a batch dimension; and N."""
        moved: Tensors = {}
        for row, (column, position) in enumerate(moves):
            name, i = self.columns[column]
            if name not in moved:
                moved[name] = self.positions[name].expand(len(moves), *self.positions[name].shape).clone()
            moved[name].view(len(moves), -1)[row, i] = position
        effect = self._effect[self.columns[moves[0][0]][0]]
        values = dict(self.values)
        for name, value in self.values.items():
            if name in moved:
                values[name] = self.axes[name].value(moved[name]).to(value)
            elif self._effect[name] == effect:
                values[name] = value.expand(len(moves), *value.shape)
        return values, len(moves)

    def _render(self, values: Tensors, items: int) -> Tensor:
        """The excerpt without its warm-up, (items, 2, T)."""
        dry = self.dry.expand(items, -1, -1)
        return self.chain.render_after_warm_up(dry, self.warm_up, **self.chain.for_items(nest(values), items))

    def _log_powers(self, values: Tensors, items: int) -> Tensor:
        """Features (items, 4, bands, times) of values."""
        return (self._powers(self._render(values, items)) + self._floor).log()

    def _powers(self, y: Tensor) -> Tensor:
        """Powers (B, 4, bands, times) of audio (B, 2, T)."""
        left, right = F.pad(y, (0, max(FFT - y.shape[-1], 0))).unbind(1)
        signals = torch.stack([left, right, (left + right) / math.sqrt(2), (left - right) / math.sqrt(2)], 1)
        spectra = torch.stft(signals.flatten(0, 1), FFT, HOP, window=self._window, center=False, return_complex=True)
        return (self._bands @ spectra.abs().square()).unflatten(0, (len(y), 4))


def _correlated(residual: Tensor) -> float:
    """How many of a residual's values (signals, bands, times) are as much as an independent one, at least 1: the number
    in a block, times the variance of the blocks' means, over the variance.
    """
    height, width = (min(size, n) for size, n in zip(BLOCK, residual.shape[1:], strict=True))
    blocks = residual.unfold(1, height, height).unfold(2, width, width)
    shared = blocks.mean((0, 3, 4)).square().mean() / (residual.square().mean() + torch.finfo(residual.dtype).tiny)
    return max(len(residual) * height * width * shared.item(), 1.0)


def _loudest(chunks: Chunks, sr: int, least: int) -> tuple[Tensor, Tensor, int]:
    """The loudest seconds of a pair: dry (1, 1, W + T) with W samples of warm-up, wet (1, 2, T), and W."""
    skip = chunks.warm_up
    warm_up, length = min(skip, round(WARM_UP_S * sr)), max(round(EXCERPT_S * sr), least)
    length = min(length, chunks.dry.shape[-1] - skip)
    hop = max(sr // 4, 1)
    energies = chunks.wet[..., skip:].square().sum(1).unfold(-1, length, hop).sum(-1)
    chunk, start = divmod(int(energies.argmax()), energies.shape[1])
    first = skip + hop * start
    dry = chunks.dry[chunk : chunk + 1, :, first - warm_up : first + length]
    return dry, chunks.wet[chunk : chunk + 1, :, first : first + length], warm_up


def _bands(sr: int) -> Tensor:
    """The sums over bins that make third octaves, (bands, bins)."""
    f = torch.fft.rfftfreq(FFT, 1 / sr)
    band = (torch.log2(f.clamp(min=1) / LOWEST_HZ) * BANDS_PER_OCTAVE).floor()
    return torch.stack([(band == number).float() for number in band.unique() if number >= 0])


@torch.no_grad()
def certainty(chain: Effect, chunks: Chunks, loss: FitLoss, values: Values) -> dict[str, Certainty]:
    """Intervals and words of the parameters of a fitted chain, by name.

    The log powers f of a render, their derivatives J by the positions z of the parameters, the standard deviation σ of
    what is unexplained, the number κ of features per independent one and the variances τ² of the prior give the
    covariance (Jᵀ J / (κ σ²) + diag 1/τ²)⁻¹. On either side of a scalar its standard deviation s is corrected
    by the change that a move by s really makes, so that an end of what is audible is seen. The interval holds 68 %
    of the density on both sides of the fitted value, inside the range. Where the loss at other values of a multimodal
    parameter is hardly higher, nothing is known of it.

    Args:
        chain: the effects.
        chunks: of the pair.
        loss: of the fit, which decides whether other values of a multimodal parameter explain the sound as well.
        values: fitted, on the chain's device.

    Left out are parameters that presets do not store, ambiguous ones (see `Param`) and large arrays.

    Source: the Laplace approximation, MacKay, A Practical Bayesian Framework for Backpropagation Networks, Neural
    Computation 4 (1992), with the Gauss-Newton Hessian.
    """
    features = Features(chain, chunks, values, loss.least_samples)
    axes = [features.axes[name] for name, _ in features.columns]
    if not axes:
        return {}
    centre = torch.tensor([features.positions[name].reshape(-1)[i] for name, i in features.columns])
    prior = torch.tensor([axis.width**-2 for axis in axes], dtype=torch.float64)
    steps = torch.tensor([axis.step(z) for axis, z in zip(axes, centre.tolist(), strict=True)])
    slopes = features.changes(list(enumerate((centre + steps).tolist()))).double().cpu() / steps[:, None]
    information = slopes @ slopes.mT / features.correlated
    precision = 1 / torch.linalg.inv(information + prior.diag()).diagonal()
    sides = _sides(features, axes, centre, precision, information.diagonal(), prior)
    for k, axis in enumerate(axes):
        if axis.p.multimodal and axis.has_range and _fits_elsewhere(features, loss, k):
            sides[:, k] = 0
    return _by_name(features, *_intervals(axes, centre, sides, prior))


def _sides(
    features: Features, axes: Sequence[Axis], centre: Tensor, precision: Tensor, own: Tensor, prior: Tensor
) -> Tensor:
    """Precisions (2, P) of the likelihood below and above the fitted positions.

    Args:
        precision: of the posterior by the derivatives, (P,).
        own: the part of each parameter alone in it, (P,).
        prior: its precision, (P,).
    """
    sides = (precision - prior).clamp(min=0).repeat(2, 1)
    scalars = [k for k, axis in enumerate(axes) if not axis.p.shape and not axis.p.multimodal]
    moves = {}
    for k in scalars:
        lowest, highest = axes[k].ends
        for side, sign in enumerate((-1, 1)):
            position = min(max(centre[k].item() + sign * precision[k].item() ** -0.5, lowest), highest)
            # At an end of the range there is no other side.
            if abs(position - centre[k].item()) * precision[k] ** 0.5 > 0.1:
                moves[side, k] = position
    changes = features.changes([(k, position) for (_, k), position in moves.items()]).double().cpu()
    for (side, k), change in zip(moves, changes, strict=True):
        real = change.square().sum() / features.correlated / (moves[side, k] - centre[k]) ** 2
        sides[side, k] = (precision[k] * (real + prior[k]) / (own[k] + prior[k]) - prior[k]).clamp(min=0)
    return sides


def _fits_elsewhere(features: Features, loss: FitLoss, k: int) -> bool:
    """Whether the loss at the fitted position of a parameter does not stand out from those all over its range."""
    name, i = features.columns[k]
    positions = torch.linspace(0, 1, OTHERS + 2)[1:-1].tolist()
    here, *others = features.losses(loss, k, [features.positions[name].reshape(-1)[i].item(), *positions])
    elsewhere = torch.stack(others)
    return not bool(here < elsewhere.min() - STANDS_OUT * elsewhere.std())


def _intervals(axes: Sequence[Axis], centre: Tensor, sides: Tensor, prior: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Lowest and highest positions (P,) of the intervals, and what they say.

    On either side of the fitted position an interval holds 68 % of what that side of the density does.
    """
    ends = torch.tensor([axis.ends for axis in axes], dtype=torch.float64).T
    uniform = ends[1].isfinite()
    # A uniform prior only truncates.
    deviations = (torch.where(uniform, sides, sides + prior) + 1e-6).rsqrt()
    room = (ends - centre).abs()
    inside = torch.special.ndtr(room / deviations) - 0.5
    reach = torch.minimum(deviations * torch.special.ndtri(0.5 + LEVEL * inside), room)
    unheard = torch.where(uniform, LEVEL * room, prior.rsqrt())  # the reach without any sound
    shares = torch.where(unheard > 0, reach / unheard, 1.0).amin(0), reach.sum(0) / unheard.sum(0)
    at_end = (room < deviations).any(0)
    words = [
        UNKNOWN if side > WIDEST else BOUNDED if whole > WIDE or end else FOUND
        for side, whole, end in zip(*(each.tolist() for each in (*shares, at_end)), strict=True)
    ]
    return centre - reach[0], centre + reach[1], words


def _by_name(features: Features, low: Tensor, high: Tensor, words: list[str]) -> dict[str, Certainty]:
    """Intervals in physical units, and words, from what `_intervals` gives, (P,) each."""
    result, first = {}, 0
    for name, axis in features.axes.items():
        shape, count = axis.p.shape, math.prod(axis.p.shape)
        part, first = slice(first, first + count), first + count
        # Some raw parameters fall where the value rises.
        ends = torch.stack([axis.value(z[part].reshape(shape)).double() for z in (low, high)])
        lowest, highest = ends.sort(0).values.tolist()
        result[name] = Certainty(lowest, highest, np.array(words[part], dtype=object).reshape(shape).tolist())
    return result
