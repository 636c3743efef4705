"""The features that certainty is computed from: log powers of a loud excerpt, as a function of a chain's parameters."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx.effect import Effect, Tensors, Values, flatten, nest
from reknob.afx.param import Bounded, Param, RiseTime, Wrapped
from reknob.data.chunks import Chunks
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
