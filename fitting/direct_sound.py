"""The effects before the sends, found by least squares beside a free response in place of echo and reverb.

A delay and a reverb are linear and begin late. Whatever they are, wet is the direct sound plus the input of the sends
through a response that begins with the first echo. While that response is free, the error of the waveform depends on
equaliser, compressor and direct position alone, which a Gauss-Newton method finds in some iterations. A descent on
spectra needs hundreds of steps for them, and lets echo and reverb make up for what is missing.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from reknob.afx.chain import Sends, Serial, render_series
from reknob.afx.effect import Effect, Knobs, own_values, part_values
from reknob.afx.functional.fft import fast_length
from reknob.data.chunks import Chunks
from reknob.fitting.gauss_newton import minimise
from reknob.fitting.response import least_squares, whitening
from reknob.fitting.sends import sends_at_end
from reknob.fitting.track import ParameterLayout
from reknob.fitting.trial import Raws

RESPONSE_S = 1.5  # length of the free response
EARLIER = 0.95  # where it begins, relative to the shortest delay of the sends
ITERATIONS, LEAST_GAIN = 20, 0.003  # it ends where an iteration lowers the error by a smaller share,
LEAST_ERROR = 2e-4  # and where the error is this share of the energy of wet: lossy coding leaves more
#: Where more than this share of the energy of wet is left, a slow release is tried too, which no step from a fast one
#: finds: it changes the gain of all that follows a peak. It must leave less than half.
UNEXPLAINED, SLOW_MS, SLOW_ITERATIONS = 0.01, 5000.0, 5
STEP, FARTHEST = 2e-3, 1.0  # of raw parameters: of the derivative, and of an iteration at most
LEVELS = 3.0  # the farthest step of levels in dB, relative to others
#: A level of 12 dB, and a raw parameter 3 from its start, each cost this share of the error: what the recordings do not
#: determine stays where it is, and none wanders to the end of its range, where gradients vanish.
PRIOR, PRIOR_DB, PRIOR_RAW = 0.01, 12.0, 3.0
FIRST_STEPS, RESPONSE_STEPS, SLOPE_STEPS = 40, 6, 8  # of conjugate gradients
BATCH = 8  # renders at once


class _Point(NamedTuple):
    """Raw parameters, the response that fits them best, and what is left. C is 1, or 2 after a stereo effect."""

    row: Tensor  # (P,)
    spectra: Tensor  # (n, C, bins), after the effects
    gains: Tensor  # (2, 1), of the direct sound
    h: Tensor  # (2, L)
    error: Tensor  # (n, 2, bins)
    cost: float


def find_direct_sound(chain: Effect, chunks: Chunks, raws: Raws, pause: Callable[[], object] = lambda: None) -> Raws:
    """Raw parameters of the effects before the sends, and of the direct position, that explain wet best.

    Args:
        chain: effects in series; the last may be sends. On the CPU.
        chunks: of a pair, loud ones.
        raws: of the chain, to begin with.
        pause: called between iterations; may raise.

    By full name; empty for another chain.

    Source: Golub and Pereyra, The Differentiation of Pseudo-Inverses and Nonlinear Least Squares Problems Whose
    Variables Separate, SIAM J. Numer. Anal. 10(2), 1973; derivatives by Kaufman, BIT 15, 1975.
    """
    return _Problem(chain, chunks).solve(raws, pause) if isinstance(chain, Serial) else {}


class _Problem:
    """The error of the waveform, after a whitening filter, as a function of raw parameters (P,)."""

    def __init__(self, chain: Serial, chunks: Chunks) -> None:
        end = sends_at_end(chain)
        if end and end.sends.runs_by_sample:
            end = None
        self.before, self.last, self.sends = end or (list(chain.parts()), "", None)
        self.knobs, self.layout, self.chunks, self.sr = Knobs(chain), ParameterLayout(chain), chunks, chain.sr
        self.length = round(RESPONSE_S * chain.sr) if self.sends else 1
        self.first = round(EARLIER * _earliest(self.sends)) if self.sends else 1
        self.n = fast_length(chunks.dry.shape[-1] + self.length)
        number, direct, levels = 0, [], []
        for name, p in chain.walk():
            size = math.prod(p.shape)
            if not self.sends or not name.startswith(f"{self.last}.") or name.startswith(f"{self.last}.direct."):
                direct += range(number, number + size)
                levels += [p.is_level] * size
            number += size
        self.releases = {name: p.mapping for name, p in chain.walk() if p.name == "release"}
        self.columns, self.levels = torch.tensor(direct), torch.tensor(levels)

    def solve(self, raws: Raws, pause: Callable[[], object]) -> Raws:
        """Raw parameters of the direct sound by name, from those of the chain."""
        row = self.layout.join(raws).float()
        self.start = row[self.columns]
        self.widths = torch.where(self.levels, PRIOR_DB, PRIOR_RAW)
        point = self._descend(self._prepared(row), ITERATIONS, pause)
        for slow in self._slow_releases(point) if point.cost > UNEXPLAINED else ():
            other = self._descend(self._at(slow, point.h, FIRST_STEPS), SLOW_ITERATIONS, pause)
            if other.cost < point.cost / 2:
                point = self._descend(other, ITERATIONS, pause)
        found = set(self.columns.tolist())
        numbers = self.layout.split(torch.arange(len(point.row)))
        return {n: raw for n, raw in self.layout.split(point.row).items() if numbers[n].flatten()[0].item() in found}

    def _descend(self, point: _Point, iterations: int, pause: Callable[[], object]) -> _Point:
        return minimise(
            point,
            self._derivatives,
            self._moved,
            iterations=iterations,
            least_gain=LEAST_GAIN,
            least_cost=LEAST_ERROR,
            pause=pause,
        )

    def _slow_releases(self, point: _Point) -> Iterator[Tensor]:
        """The raw parameters (P,) of a point with the release of each compressor slow, unless it is already."""
        raws = self.layout.split(point.row)
        for name, mapping in self.releases.items():
            if float(mapping.value(raws[name])) < SLOW_MS:
                slow = mapping.raw(mapping.inside(torch.tensor(SLOW_MS).double()))
                yield self.layout.join(raws | {name: slow.to(point.row)})

    def _prepared(self, row: Tensor) -> _Point:
        """Sets the filter by the input of the sends, and gives the first point."""
        self._filter = torch.ones(self.n // 2 + 1)
        x, gains = next(self._spectra(row[None]))
        self._filter = whitening(x.abs().square().sum((0, 1, 2)), self.n, self.sr).sqrt()
        self.target = torch.fft.rfft(self.chunks.wet, self.n) * self._filter
        self.energy = float(_product(self.target, self.target)) + torch.finfo(self.target.real.dtype).tiny
        first = torch.zeros(2, self.length)
        return self._point(row, x[0] * self._filter, gains[0], first, FIRST_STEPS)

    @torch.no_grad()
    def _spectra(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """In batches, spectra (g, n, C, bins) after the effects and gains (g, 2, 1) of the direct sound."""
        n = len(self.chunks.dry)
        for batch in rows.split(BATCH):
            values = functional_call(self.knobs, self.layout.split(batch), ())
            x = render_series(self.before, self.chunks.dry.repeat(len(batch), 1, 1), values)
            gains = x.new_ones(len(batch), 2, 1)
            if self.sends is not None and self.sends.direct is not None:
                direct = part_values(part_values(values, self.last), "direct")
                gains = self.sends.direct.response(**own_values(direct))[..., 0]
            yield (torch.fft.rfft(x, self.n) * self._filter).unflatten(0, (len(batch), n)), gains

    def _point(self, row: Tensor, spectra: Tensor, gains: Tensor, start: Tensor, steps: int) -> _Point:
        """As `_at`, with the spectra and gains of these raw parameters."""
        h, rest = start, self.target - gains * spectra
        if self.sends:
            h = least_squares(self._correlation(spectra), self._cross(spectra, rest), steps, start, self.first)
            rest = rest - torch.fft.rfft(h, self.n) * spectra
        prior = PRIOR * float((self._distance(row) / self.widths).square().sum())
        return _Point(row, spectra, gains, h, rest, float(_product(rest, rest)) / self.energy * (1 + prior))

    def _moved(self, point: _Point, step: Tensor) -> _Point:
        """The point after a step (p,) of the parameters of the direct sound."""
        farthest = FARTHEST * torch.where(self.levels, LEVELS, 1.0)
        row = point.row.index_add(0, self.columns, step.clamp(-farthest, farthest))
        return self._at(row, point.h, RESPONSE_STEPS)

    def _at(self, row: Tensor, start: Tensor, steps: int) -> _Point:
        """The point at raw parameters (P,), its response found from `start` by some steps."""
        x, gains = next(self._spectra(row[None]))
        return self._point(row, x[0], gains[0], start, steps)

    def _derivatives(self, point: _Point) -> tuple[Tensor, Tensor]:
        """Half the second derivatives (p, p) of the squared error, and half its negative gradient (p,).

        With the response free: what a change of parameters could also be by a change of the response does not count.
        """
        H = torch.fft.rfft(point.h, self.n)
        moved = point.row + STEP * torch.eye(len(point.row))[self.columns]
        was = (point.gains + H) * point.spectra
        slopes = torch.cat([((g[:, None] + H) * x - was) / STEP for x, g in self._spectra(moved)])
        flat = slopes.flatten(1)
        curvature = 2 / self.n * (flat.conj() @ flat.T).real.double()
        slope = 2 / self.n * (flat.conj() @ point.error.flatten()).real.double()
        if self.sends:
            cross = self._cross(point.spectra, slopes)
            h = least_squares(self._correlation(point.spectra), cross, SLOPE_STEPS, first=self.first)
            seen = cross[..., self.first :].flatten(1).double() @ h[..., self.first :].flatten(1).double().T
            curvature = curvature - (seen + seen.T) / 2
        # The prior, whose share of the error is taken as it is at this point.
        error = float(_product(point.error, point.error)) * 2 / self.n
        weights = (PRIOR * error / self.widths**2).double()
        return curvature + weights.diag(), slope - weights * self._distance(point.row)

    def _distance(self, row: Tensor) -> Tensor:
        """Of raw parameters (P,) from the middle of their prior, (p,): levels from 0 dB, others from the start."""
        return row[self.columns] - torch.where(self.levels, 0.0, self.start)

    def _correlation(self, spectra: Tensor) -> Tensor:
        """Autocorrelation (L,) of spectra (n, 1, bins)."""
        return torch.fft.irfft(spectra.abs().square().sum((0, 1)), self.n)[: self.length]

    def _cross(self, spectra: Tensor, others: Tensor) -> Tensor:
        """Cross-correlation (…, 2, L) of others (…, n, 2, bins) with spectra (n, 1, bins)."""
        return torch.fft.irfft((others * spectra.conj()).sum(-3), self.n)[..., : self.length]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of spectra, without the factor of Parseval's theorem."""
    return (a.conj() * b).real.sum()


def _earliest(sends: Sends) -> int:
    """The first sample at which the effects of sends can be heard beside the direct sound."""
    return min((part.response_start for name, part in sends.parts() if name != "direct"), default=0)
