"""Alignment of a wet recording to its dry one: lag, polarity, clock drift, edits, and whether they are related."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from reknob.data.bandwidth import band_edge
from reknob.data.fourier import irfft, next_fast_len, rfft, rfftfreq

BLOCK = 12.0  # s; length of the blocks that `gcc_phat_peak` correlates, for which `RELATED` was measured
#: Smallest `gcc_phat_peak` of a related pair, the maximum over blocks. The lowest of ten vocal pairs had 0.115 (median
#: 0.72), a reverb without its direct sound 0.066; the highest of 388 mismatched pairs, same singer included, had 0.031.
RELATED = 0.05
BAND = (100.0, 8000.0)  # Hz; where voices have energy and lossy codecs keep the phase
WINDOW = (1.5, 8.0)  # s; shortest and longest window in which a lag is measured
FINE_WINDOW = 2.5  # s; longest in the second pass
MOST_WINDOWS = 24
COARSE_RATE = 5500.0  # Hz; sample rate of the search over all lags
COARSE_BAND = (100.0, 2000.0)  # Hz; below 2 kHz a drift of 300 ppm leaves a window coherent
FINE_BAND = (100.0, 16000.0)  # Hz; high frequencies determine the position of a peak best
COARSE_REACH, FINE_REACH = 0.1, 0.004  # s; largest difference between the expected and the measured lag of a window
QUIET = 1e-4  # power below which a window is ignored, relative to the loudest window
DRIFT_DEVIATIONS = 6.0  # a drift counts if the lag changes by more than this many median deviations from its line
JUMP = 0.003  # s; lags of neighbouring windows that differ by more are an edit, as no clock drifts that much
CLEAR = 0.04  # smallest whitened correlation of a window whose lag counts; unrelated sounds have 0.02
#: Ratio of a negative peak to the positive one beside it above which wet counts as inverted. It was at least 2 in 14 of
#: 18 real pairs, and 1.1 to 1.8 in four whose phase is altered by other processing.
INVERTED = 1.6
OTHER = 1.5  # a window takes its lag from another candidate whose whitened correlation is this much higher


@dataclass(frozen=True)
class Alignment:
    """Position in time and polarity of a wet recording relative to its dry one; lags are positive if wet is later."""

    lag_samples: float  # at the start of dry
    polarity: tuple[int, ...]  # +1 or -1, of each channel of wet
    polarity_ratio: float  # of the peaks to the highest of opposite sign near them; below 2 the sign is uncertain
    drift_ppm: float  # by which wet runs faster than dry: after t s the lag is lag_samples - 1e-6 drift_ppm t sr
    edits: tuple[tuple[float, float], ...]  # (time in dry in s, change of the lag in samples)
    gcc_phat_peak: float  # median whitened correlation of the windows: 1 for a pure delay, near 0 for unrelated sounds
    agreement: float  # fraction of the windows whose lag is within 3 ms of the fitted line
    lag_deviation: float  # samples: median distance of the windows' lags from the fitted line
    windows: tuple[tuple[float, float, float], ...]  # (time in dry in s, lag in samples, whitened correlation)


@dataclass(frozen=True)
class _Line:
    """The lag in s as a piecewise linear function of time; all P pieces have the same slope."""

    slope: float  # s per s
    begins: np.ndarray  # (P,) s, where the pieces begin
    offsets: np.ndarray  # (P,) s, their lags extrapolated to time 0

    def at(self, t: np.ndarray) -> np.ndarray:
        """Lags `(W,)` in s at the times `t` `(W,)` in s."""
        return self.offsets[np.searchsorted(self.begins[1:], t)] + self.slope * t


def measure_alignment(dry: Tensor, wet: Tensor, sr: int) -> Alignment:
    """Lag, polarity, drift and edits of `wet` `(C, T2)` relative to `dry` `(1, T1)`, both at `sr` Hz.

    1. Candidates for the lag are the highest peaks of the absolute cross-correlation of the recordings, plain and
       whitened (GCC-PHAT, Knapp and Carter 1976; 100 Hz to 2 kHz, all lags).
    2. W windows along the recording measure their lags near every candidate. The candidate with the highest whitened
       correlation on average is used, except in windows where another one has a far higher correlation.
    3. A robust line through the W lags gives lag and drift; where the lags jump, an edit, a new piece of it begins.
    4. The windows measure again along that line, up to 16 kHz and with the phase of an equaliser compensated (see
       `_minimum_phase`), which resolves fractions of a sample. The sign of a channel's peak is its polarity.
    """
    a, b = (x.detach().cpu().float() for x in (dry, wet))
    a, b = (pad(x, (0, 1024 - x.shape[-1])).numpy() if x.shape[-1] < 1024 else x.numpy() for x in (a, b))
    step = max(1, round(sr / COARSE_RATE))
    low = _decimated(a, step), _decimated(b, step)
    candidates = _candidates(*low, sr / step)
    starts, length = _window_starts(low[0].shape[1] * step / sr, low[1].shape[1] * step / sr, candidates)
    times = starts + length / 2
    windows = _Windows(*low, sr / step, length, COARSE_BAND)
    rough = _best_candidates([windows.lags(times, np.full(len(times), lag), 0.0, COARSE_REACH) for lag in candidates])
    line = _fit_line(times, rough)
    # Above the edge of a low-pass the phase is noise.
    top = min(FINE_BAND[1], 0.95 * band_edge(dry, sr), 0.95 * band_edge(wet, sr))
    windows = _Windows(a, b, sr, min(length, FINE_WINDOW), (FINE_BAND[0], top))
    fine = windows.lags(times, line.at(times), line.slope, FINE_REACH, equalised=True)
    drifts = abs(line.slope) > 1e-6
    line = _fit_line(times, fine)
    if drifts:  # once more: an inaccurate slope widens the peaks
        fine = windows.lags(times, line.at(times), line.slope, FINE_REACH, equalised=True)
        line = _fit_line(times, fine)
    clear = fine.strength > CLEAR
    deviation = np.median(np.abs(fine.lags - line.at(times))[clear]) if clear.any() else 0.0
    # A slope that the scatter of the lags explains, or of less than a sample in all, is no drift.
    if abs(line.slope) * np.ptp(times) <= max(1.0 / sr, DRIFT_DEVIATIONS * deviation):
        line = _fit_line(times, fine, constant=True)
    return _summary(times, fine, line, sr)


def _summary(times: np.ndarray, lags: "_Lags", line: _Line, sr: int) -> Alignment:
    """The alignment `(C channels)` that the line through the lags `(W,)` of the windows around `times` `(W,)` gives."""
    deviation = np.abs(lags.lags - line.at(times))
    clear = lags.strength > CLEAR
    ratio = np.abs(lags.peaks).sum(axis=0) / np.maximum(lags.opposite.sum(axis=0), 1e-6)
    # Squares with their signs, so that windows with a clear peak count most.
    inverted = ((lags.peaks * np.abs(lags.peaks)).sum(axis=0) < 0) & (ratio > INVERTED)
    jumps = zip(line.begins[1:].tolist(), (np.diff(line.offsets) * sr).tolist(), strict=True)
    return Alignment(
        lag_samples=float(line.offsets[0] * sr),
        polarity=tuple(-1 if each else 1 for each in inverted),
        polarity_ratio=float(ratio[ratio > 0].min(initial=np.inf)),
        drift_ppm=float(-1e6 * line.slope),
        edits=tuple(jumps),
        gcc_phat_peak=float(np.median(lags.strength[lags.loud])) if lags.loud.any() else 0.0,
        agreement=float((deviation[clear] < JUMP).sum() / max(1, lags.loud.sum())),
        lag_deviation=float(np.median(deviation[clear]) * sr) if clear.any() else 0.0,
        windows=tuple(zip(times.tolist(), (lags.lags * sr).tolist(), lags.strength.tolist(), strict=True)),
    )


def _decimated(x: np.ndarray, step: int) -> np.ndarray:
    """Means `(C, T // step)` of `step` samples of x `(C, T)`; aliases do no harm, as dry and wet have the same ones."""
    return avg_pool1d(torch.from_numpy(x), step).numpy()


def _candidates(a: np.ndarray, b: np.ndarray, rate: float, count: int = 3) -> list[float]:
    """Lags in s at the `count` highest peaks of the absolute cross-correlation of a `(1, T1)` and b `(C, T2)`.

    Of the whitened correlation first, then of the plain one; lags of the same peak are given once.
    """
    size = next_fast_len(a.shape[1] + b.shape[1])
    cross = rfft(b, size, workers=2) * rfft(a, size, workers=2).conj()
    freq = rfftfreq(size, 1 / rate)
    cross *= (freq >= COARSE_BAND[0]) & (freq <= COARSE_BAND[1])
    near = np.arange(-round(0.02 * rate), round(0.02 * rate) + 1)
    lags: list[float] = []
    for spectrum in (_whitened(cross), cross):
        height = np.abs(irfft(spectrum, size, workers=2)).sum(axis=0)
        for _ in range(count):
            index = int(height.argmax())
            lag = (index if index < b.shape[1] else index - size) / rate  # the second half holds negative lags
            if all(abs(lag - other) > COARSE_REACH / 2 for other in lags):
                lags.append(lag)
            height[(index + near) % size] = 0
    return lags


def _whitened(cross: np.ndarray) -> np.ndarray:
    """A spectrum with all magnitudes set to 1."""
    return cross / np.maximum(np.abs(cross), np.finfo(np.float32).tiny)


def _window_starts(dry_s: float, wet_s: float, candidates: list[float]) -> tuple[np.ndarray, float]:
    """Starts `(W,)` in dry and length, in s, of windows that cover what overlaps at any of the candidate lags."""
    first = max(0.0, min(-lag for lag in candidates))
    last = max(min(dry_s, wet_s - lag) for lag in candidates)
    length = min(max((last - first) / 5, WINDOW[0]), WINDOW[1], max(last - first, 0.1))
    count = int(np.clip(2 * (last - first) / length - 1, 1, MOST_WINDOWS))
    return np.linspace(first, max(first, last - length), count), length


@dataclass(frozen=True)
class _Lags:
    """Measurements of W windows over C channels."""

    lags: np.ndarray  # (W,) s
    peaks: np.ndarray  # (W, C), the whitened correlation at these lags, with its sign
    opposite: np.ndarray  # (W, C), the highest whitened correlation of opposite sign within 0.5 ms
    loud: np.ndarray  # (W,), whether dry and wet both contain sound

    @property
    def strength(self) -> np.ndarray:
        """The whitened correlation `(W,)` of the channel where it is highest."""
        return np.abs(self.peaks).max(axis=1)


@dataclass(frozen=True)
class _Windows:
    """Windows of `length` s of dry and wet, (1, T1) and (C, T2), compared in a band of frequencies in Hz."""

    dry: np.ndarray
    wet: np.ndarray
    rate: float
    length: float
    band: tuple[float, float]

    def lags(
        self, times: np.ndarray, expected: np.ndarray, slope: float, reach: float, equalised: bool = False
    ) -> _Lags:
        """Lags of the windows around `times` `(W,)` in s, within `reach` s of the expected lags `(W,)` in s.

        A `slope` of the lag is compensated within each window by resampling wet; `equalised` also compensates the phase
        of an equaliser. Segments `(W, C, n)` become cross-spectra `(W, C, n // 2 + 1)` and, at twice the rate,
        correlations `(W, C, K)` around the expected lag.
        """
        n = next_fast_len(max(64, round(self.length * self.rate)))
        begins = np.round((times - self.length / 2) * self.rate).astype(int)
        offsets = np.round(expected * self.rate).astype(int)
        x, y = _segments(self.dry, begins, n), _segments(self.wet, begins + offsets, n)
        if abs(slope) * n > 0.25:
            t = np.arange(n) - n / 2
            y = np.stack([[np.interp(t * (1 + slope), t, c) for c in part] for part in y]).astype(np.float32)
        power = [(z**2).mean(axis=2).max(axis=1) for z in (x, y)]
        loud = np.logical_and(*(p > QUIET * p.max() for p in power))
        taper = np.sqrt(np.hanning(n)).astype(np.float32)
        freq = rfftfreq(n, 1 / self.rate)
        inside = (freq >= self.band[0]) & (freq <= min(self.band[1], 0.45 * self.rate))
        x, y = rfft(x * taper, workers=2), rfft(y * taper, workers=2)
        cross = _whitened(y * x.conj()) * (inside * loud[:, None])[:, None]
        if equalised:
            cross *= np.exp(-1j * _minimum_phase(x, y, freq, self.band[1])).astype(np.complex64)
        # Twice as many samples as the spectrum has: the parabola of `_peaks` is accurate on the finer grid. The factor
        # makes the peak of a pure delay 1, however many bins are inside the band.
        c = irfft(cross, 2 * n, workers=2) * (n / max(1, inside.sum()))
        half = min(n - 2, round(2 * reach * self.rate))
        c = np.concatenate([c[..., -half:], c[..., : half + 1]], axis=-1)
        index, peaks = _peaks(c)
        near = np.abs(np.arange(2 * half + 1) - index[:, None]) <= 2 * 0.0005 * self.rate
        opposite = (-np.sign(peaks)[..., None] * c * near[:, None]).max(axis=-1)
        return _Lags((offsets + (index - half) / 2) / self.rate, peaks, opposite, loud)


def _segments(x: np.ndarray, begins: np.ndarray, n: int) -> np.ndarray:
    """The samples begins[i] to begins[i] + n of x (C, T) as (W, C, n), zeros outside of it."""
    parts = np.zeros((len(begins), len(x), n), np.float32)
    for part, begin in zip(parts, begins.tolist(), strict=True):
        first, last = max(begin, 0), min(begin + n, x.shape[1])
        if last > first:
            part[:, first - begin : last - begin] = x[:, first:last]
    return parts


def _peaks(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index `(W,)` of the highest absolute value of c `(W, C, K)`, summed over channels, and c there `(W, C)`.

    The index is refined to a fraction by a parabola through the three samples around it.
    """
    height = np.abs(c).sum(axis=1)
    index = height[:, 1:-1].argmax(axis=1) + 1
    rows = np.arange(len(c))
    before, top, after = (height[rows, index + k] for k in (-1, 0, 1))
    bend = before - 2 * top + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0).clip(-0.5, 0.5)
    return index + shift, c[rows, :, index]


def _minimum_phase(x: np.ndarray, y: np.ndarray, freq: np.ndarray, top: float, grid: int = 512) -> np.ndarray:
    """Phase `(F,)` of the minimum-phase filter with the magnitude ratio of spectra y to x `(W, C, F)` at `freq` Hz.

    Computed by the folded cepstrum of the power ratio in 512 bands up to `top` Hz. Only 30 coefficients are kept: the
    part of the ratio that is smooth in frequency, as that of an equaliser, whose phase moves a peak by up to a sample.
    """
    bands = np.minimum((freq / freq[-1] * grid).astype(int), grid - 1)
    powers = [np.bincount(bands, (np.abs(z) ** 2).mean(axis=(0, 1)), grid) for z in (x, y)]
    low_x, low_y = (p + 1e-12 * p.max() + np.finfo(np.float32).tiny for p in powers)
    log_ratio = 0.5 * np.log(low_y / low_x)
    lowest, highest = (
        int(np.clip(f / freq[-1] * grid, 1, grid - 1)) for f in (80.0, top if top < FINE_BAND[1] else 20000.0)
    )
    log_ratio[:lowest] = log_ratio[lowest]
    log_ratio[highest:] = log_ratio[max(0, highest - 8) : highest].mean()
    cepstrum = np.fft.ifft(np.concatenate([log_ratio, log_ratio[::-1]])).real
    phase = np.fft.fft(2 * cepstrum * (np.arange(2 * grid) < 30) * (np.arange(2 * grid) > 0)).imag[:grid]
    return np.interp(freq, (np.arange(grid) + 0.5) * freq[-1] / grid, phase)


def _best_candidates(measurements: list[_Lags]) -> _Lags:
    """For every window the measurement near the best candidate, or near another one where that is far stronger."""
    strengths = np.stack([each.strength for each in measurements])
    best = strengths.mean(axis=1).argmax()
    chosen = np.where(strengths.max(axis=0) > OTHER * strengths[best], strengths.argmax(axis=0), best)
    rows = np.arange(len(chosen))
    fields = ("lags", "peaks", "opposite", "loud")
    return _Lags(*(np.stack([getattr(each, name) for each in measurements])[chosen, rows] for name in fields))


def _fit_line(times: np.ndarray, measured: _Lags, constant: bool = False) -> _Line:
    """A robust line through the lags at `times` `(W,)` in s, with a new piece wherever they jump.

    One slope for all pieces, the median of those between any two windows of a piece (0 if `constant`); the offset of a
    piece is a median, too.
    """
    clear = measured.strength > max(CLEAR, 0.3 * np.median(measured.strength))
    t, lags = times[clear], measured.lags[clear]
    if not len(t):
        return _Line(0.0, np.zeros(1), measured.lags[[measured.strength.argmax()]])
    pieces, slope = _pieces(lags), 0.0
    if not constant:
        # Twice: jumps are detected more reliably once the drift is removed.
        slope = _median_slope(t, lags, pieces)
        pieces = _pieces(lags - slope * t)
        slope = _median_slope(t, lags, pieces)
    offsets = [float(np.median(lags[piece] - slope * t[piece])) for piece in pieces]
    bounds = [(t[p[-1]] + t[q[0]]) / 2 for p, q in zip(pieces, pieces[1:], strict=False)]
    return _Line(slope, np.array([0.0, *bounds]), np.array(offsets))


def _pieces(lags: np.ndarray) -> list[np.ndarray]:
    """Indices of runs of at least two lags without a jump; a single outlier within a piece belongs to none."""
    runs = np.split(np.arange(len(lags)), np.flatnonzero(np.abs(np.diff(lags)) > JUMP) + 1)
    pieces: list[np.ndarray] = []
    for run in (run for run in runs if len(run) > 1):
        if pieces and abs(lags[pieces[-1][-1]] - lags[run[0]]) < JUMP:
            pieces[-1] = np.concatenate([pieces[-1], run])
        else:
            pieces.append(run)
    return pieces or [np.arange(len(lags))]


def _median_slope(t: np.ndarray, lags: np.ndarray, pieces: list[np.ndarray]) -> float:
    """The median slope between any two points of one piece (Theil and Sen); 0 without two."""
    slopes = []
    for piece in pieces:
        first, second = np.triu_indices(len(piece), 1)
        first, second = piece[first], piece[second]
        slopes.append((lags[second] - lags[first]) / (t[second] - t[first]))
    slopes = np.concatenate(slopes)
    return float(np.median(slopes)) if len(slopes) else 0.0


def gcc_phat_peak(x: Tensor, y: Tensor, sr: int) -> float:
    """Peak of the whitened cross-correlation of `x` and `y` `(.., T)`: 1 for a pure delay, near 0 for unrelated sounds.

    Only phases between 100 Hz and 8 kHz count, so that magnitudes of equalisers and levels do not matter (generalised
    cross-correlation with phase transform, Knapp and Carter 1976). The maximum over blocks of 12 s.
    """
    a, b = _mono(x), _mono(y)
    block = min(len(a), round(BLOCK * sr))
    size = next_fast_len(2 * block - 1)
    freq = rfftfreq(size, 1 / sr)
    band = (freq >= BAND[0]) & (freq <= BAND[1])
    peak = 0.0
    for start in range(0, len(a) - block + 1, block):
        part = slice(start, start + block)
        cross = rfft(b[part], size) * rfft(a[part], size).conj() * band
        phase = cross / np.maximum(np.abs(cross), np.finfo(float).tiny)
        correlation = irfft(phase, size) * (size / (2 * band.sum()))
        peak = max(peak, float(np.abs(correlation).max()))
    return peak


def level_percentile(x: Tensor, sr: int) -> float:
    """Level in dB, relative to the mean power of `x` `(.., T)`, that 90 % of its 50 ms frames exceed; at least -100."""
    a = x.detach().cpu().reshape(-1, x.shape[-1]).mean(dim=0)
    frame = min(len(a), round(0.05 * sr))
    frames = a[: len(a) // frame * frame].reshape(-1, frame)
    power = (torch.linalg.vector_norm(frames, dim=1).double() ** 2 / frame).numpy()
    return float(10 * np.log10(max(np.quantile(power, 0.1) / max(power.mean(), 1e-300), 1e-10)))


def _mono(x: Tensor) -> np.ndarray:
    """The channel mean `(T,)` of x `(.., T)` in float64."""
    return x.detach().cpu().double().reshape(-1, x.shape[-1]).mean(dim=0).numpy()
