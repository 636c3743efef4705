"""How two recordings of one take lie against each other: lag, polarity, drift, edits, and whether they are related."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from reknob.data.bandwidth import band_edge

#: Blocks in which takes are compared, in seconds: the length for which `RELATED` was found.
BLOCK = 12.0
#: Least whitened correlation of a take and its mix. The lowest of ten vocal pairs had 0.115 (median 0.72), a reverb
#: without its direct sound 0.066, and the highest of 388 mismatched pairs, same singer included, 0.031.
RELATED = 0.05
BAND = (100.0, 8000.0)  # Hz; where voices have energy and lossy codecs keep the phase
WINDOW = (1.5, 8.0)  # s; shortest and longest window in which a lag is measured
FINE_WINDOW = 2.5  # s; longest in the second pass
MOST_WINDOWS = 24
COARSE_RATE = 5500.0  # Hz, of the search over all lags
COARSE_BAND = (100.0, 2000.0)  # Hz; here a drift of 300 ppm leaves a window coherent
FINE_BAND = (100.0, 16000.0)  # Hz; high frequencies place a peak best
COARSE_REACH, FINE_REACH = 0.1, 0.004  # s about an expected lag
QUIET = 1e-4  # power of a window that is left out, relative to the loudest
WANDER = 6.0  # a drift is larger over the recording than so many times the lags' median distance from its line
JUMP = 0.003  # s; an edit lies between windows whose lags differ by more, which no drift of a clock explains
CLEAR = 0.04  # least whitened correlation of a window whose lag counts; unrelated sounds have 0.02
#: Ratio of a negative peak to the positive one beside it from which wet counts as inverted. It was 2 and more in 14 of
#: 18 real pairs, 1.1 to 1.8 in four whose phase is turned by other means.
INVERTED = 1.6
OTHER = 1.5  # ratio of whitened correlations above which a window belongs to another candidate than most


@dataclass(frozen=True)
class Alignment:
    """How a wet recording lies against its dry one; lags in samples, positive where wet is later."""

    lag_samples: float  # at the start of dry
    polarity: tuple[int, ...]  # +1 or -1, of each channel of wet
    polarity_ratio: float  # of the peaks to those of the opposite sign beside them; below 2 the sign is uncertain
    drift_ppm: float  # by which wet runs faster than dry: after t s the lag is lag_samples - 1e-6 drift_ppm t sr
    edits: tuple[tuple[float, float], ...]  # (s of dry, samples by which the lag grows there)
    gcc_phat_peak: float  # median whitened correlation of the windows: 1 for a pure delay, near 0 for unrelated sounds
    agreement: float  # share of the windows whose lag lies within 3 ms of what is stated here
    lag_deviation: float  # samples: median distance of the windows' lags from what is stated here
    windows: tuple[tuple[float, float, float], ...]  # (s of dry, lag in samples, whitened correlation) of each


@dataclass(frozen=True)
class _Line:
    """Lags in s as a function of time: pieces with one slope."""

    slope: float  # s per s
    begins: np.ndarray  # (P,) s, where the pieces begin
    offsets: np.ndarray  # (P,) s, their lags extended to time 0

    def at(self, t: np.ndarray) -> np.ndarray:
        return self.offsets[np.searchsorted(self.begins[1:], t)] + self.slope * t


def measure_alignment(dry: Tensor, wet: Tensor, sr: int) -> Alignment:
    """Lag, polarity, drift and edits of `wet` `(C, T2)` against `dry` `(1, T1)`, both at `sr` Hz.

    Candidates of the lag are the highest peaks of the absolute plain and of the absolute whitened cross-correlation
    (GCC-PHAT, Knapp and Carter 1976; 100 Hz to 2 kHz, all lags). Windows along the recording, each whitened alone,
    choose among them; a robust line through their lags gives lag and drift, and a jump between two runs of them is an
    edit. A second pass along that line, up to 16 kHz and without the phase of an equaliser (see `_minimum_phase`),
    gives fractions of a sample. The sign of a channel's peak is its polarity.
    """
    a, b = (x.detach().cpu().float() for x in (dry, wet))
    a, b = (pad(x, (0, 1024 - x.shape[-1])).numpy() if x.shape[-1] < 1024 else x.numpy() for x in (a, b))
    step = max(1, round(sr / COARSE_RATE))
    low = _decimated(a, step), _decimated(b, step)
    candidates = _candidates(*low, sr / step)
    starts, length = _spread_windows(low[0].shape[1] * step / sr, low[1].shape[1] * step / sr, candidates)
    times = starts + length / 2
    places = _Windows(*low, sr / step, length, COARSE_BAND)
    rough = _choose([places.lags(times, np.full(len(times), lag), 0.0, COARSE_REACH) for lag in candidates])
    line = _fit(times, rough)
    top = min(FINE_BAND[1], 0.95 * band_edge(dry, sr), 0.95 * band_edge(wet, sr))
    places = _Windows(a, b, sr, min(length, FINE_WINDOW), (FINE_BAND[0], top))
    for _ in range(2 if abs(line.slope) > 1e-6 else 1):  # a drift smears the peaks until it is known
        fine = places.lags(times, line.at(times), line.slope, FINE_REACH, equalised=True)
        line = _fit(times, fine)
    clear = fine.strength > CLEAR
    far = np.median(np.abs(fine.lags - line.at(times))[clear]) if clear.any() else 0.0
    if abs(line.slope) * np.ptp(times) <= max(1.0 / sr, WANDER * far):
        line = _fit(times, fine, level=True)
    return _summary(times, fine, line, sr)


def _summary(times: np.ndarray, lags: "_Lags", line: _Line, sr: int) -> Alignment:
    far = np.abs(lags.lags - line.at(times))
    clear = lags.strength > CLEAR
    ratio = np.abs(lags.peaks).sum(axis=0) / np.maximum(lags.opposite.sum(axis=0), 1e-6)
    inverted = ((lags.peaks * np.abs(lags.peaks)).sum(axis=0) < 0) & (ratio > INVERTED)
    jumps = zip(line.begins[1:].tolist(), (np.diff(line.offsets) * sr).tolist(), strict=True)
    return Alignment(
        lag_samples=float(line.offsets[0] * sr),
        polarity=tuple(-1 if each else 1 for each in inverted),
        polarity_ratio=float(ratio[ratio > 0].min(initial=np.inf)),
        drift_ppm=float(-1e6 * line.slope),
        edits=tuple(jumps),
        gcc_phat_peak=float(np.median(lags.strength[lags.loud])) if lags.loud.any() else 0.0,
        agreement=float((far[clear] < JUMP).sum() / max(1, lags.loud.sum())),
        lag_deviation=float(np.median(far[clear]) * sr) if clear.any() else 0.0,
        windows=tuple(zip(times.tolist(), (lags.lags * sr).tolist(), lags.strength.tolist(), strict=True)),
    )


def _decimated(x: np.ndarray, step: int) -> np.ndarray:
    """Means of `step` samples of x (C, T); what aliases in dry aliases in wet as well."""
    return avg_pool1d(torch.from_numpy(x), step).numpy()


def _candidates(a: np.ndarray, b: np.ndarray, rate: float, count: int = 3) -> list[float]:
    """Lags in s at the highest peaks of the plain and of the whitened absolute cross-correlation of all of a and b."""
    size = fft.next_fast_len(a.shape[1] + b.shape[1], real=True)
    cross = fft.rfft(b, size, workers=2) * fft.rfft(a, size, workers=2).conj()
    freq = fft.rfftfreq(size, 1 / rate)
    cross *= (freq >= COARSE_BAND[0]) & (freq <= COARSE_BAND[1])
    near = np.arange(-round(0.02 * rate), round(0.02 * rate) + 1)
    lags = []
    for spectrum in (_whitened(cross), cross):
        height = np.abs(fft.irfft(spectrum, size, workers=2)).sum(axis=0)
        for _ in range(count):
            place = int(height.argmax())
            lag = (place if place < b.shape[1] else place - size) / rate
            if all(abs(lag - other) > COARSE_REACH / 2 for other in lags):
                lags.append(lag)
            height[(place + near) % size] = 0
    return lags


def _whitened(cross: np.ndarray) -> np.ndarray:
    return cross / np.maximum(np.abs(cross), np.finfo(np.float32).tiny)


def _spread_windows(dry_s: float, wet_s: float, candidates: list[float]) -> tuple[np.ndarray, float]:
    """Where windows begin in dry, in s, and their length in s: all over what overlaps at any of the lags."""
    first = max(0.0, min(-lag for lag in candidates))
    last = max(min(dry_s, wet_s - lag) for lag in candidates)
    length = min(max((last - first) / 5, WINDOW[0]), WINDOW[1], max(last - first, 0.1))
    count = int(np.clip(2 * (last - first) / length - 1, 1, MOST_WINDOWS))
    return np.linspace(first, max(first, last - length), count), length


@dataclass(frozen=True)
class _Lags:
    """What windows measured: lags in s, and signed whitened peaks of the channels.

    Beside each peak the highest of the opposite sign within 0.5 ms, and which windows hold sound on both sides.
    """

    lags: np.ndarray  # (W,)
    peaks: np.ndarray  # (W, C)
    opposite: np.ndarray  # (W, C)
    loud: np.ndarray  # (W,)

    @property
    def strength(self) -> np.ndarray:
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
        """Lags of the windows around `times` (W,) in s, within `reach` s of the expected ones (W,) in s.

        A slope of the lag is undone inside of the windows, and with `equalised` the phase of an equaliser.
        """
        n = fft.next_fast_len(max(64, round(self.length * self.rate)), real=True)
        begins = np.round((times - self.length / 2) * self.rate).astype(int)
        offsets = np.round(expected * self.rate).astype(int)
        x, y = _segments(self.dry, begins, n), _segments(self.wet, begins + offsets, n)
        if abs(slope) * n > 0.25:
            t = np.arange(n) - n / 2
            y = np.stack([[np.interp(t * (1 + slope), t, c) for c in part] for part in y]).astype(np.float32)
        power = [(z**2).mean(axis=2).max(axis=1) for z in (x, y)]
        loud = np.logical_and(*(p > QUIET * p.max() for p in power))
        taper = np.sqrt(np.hanning(n)).astype(np.float32)
        freq = fft.rfftfreq(n, 1 / self.rate)
        inside = (freq >= self.band[0]) & (freq <= min(self.band[1], 0.45 * self.rate))
        x, y = fft.rfft(x * taper, workers=2), fft.rfft(y * taper, workers=2)
        cross = _whitened(y * x.conj()) * (inside * loud[:, None])[:, None]
        if equalised:
            cross *= np.exp(-1j * _minimum_phase(x, y, freq, self.band[1])).astype(np.complex64)
        c = fft.irfft(cross, 2 * n, workers=2) * (n / max(1, inside.sum()))
        half = min(n - 2, round(2 * reach * self.rate))
        c = np.concatenate([c[..., -half:], c[..., : half + 1]], axis=-1)
        place, peaks = _peaks(c)
        near = np.abs(np.arange(2 * half + 1) - place[:, None]) <= 2 * 0.0005 * self.rate
        opposite = (-np.sign(peaks)[..., None] * c * near[:, None]).max(axis=-1)
        return _Lags((offsets + (place - half) / 2) / self.rate, peaks, opposite, loud)


def _segments(x: np.ndarray, begins: np.ndarray, n: int) -> np.ndarray:
    """The samples begins[i] to begins[i] + n of x (C, T) as (W, C, n), zeros outside of it."""
    parts = np.zeros((len(begins), len(x), n), np.float32)
    for part, begin in zip(parts, begins.tolist(), strict=True):
        first, last = max(begin, 0), min(begin + n, x.shape[1])
        if last > first:
            part[:, first - begin : last - begin] = x[:, first:last]
    return parts


def _peaks(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the absolute values of c (W, C, K), summed over channels, are highest, by a parabola; c there (W, C)."""
    height = np.abs(c).sum(axis=1)
    place = height[:, 1:-1].argmax(axis=1) + 1
    rows = np.arange(len(c))
    before, top, after = (height[rows, place + k] for k in (-1, 0, 1))
    bend = before - 2 * top + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0).clip(-0.5, 0.5)
    return place + shift, c[rows, :, place]


def _minimum_phase(x: np.ndarray, y: np.ndarray, freq: np.ndarray, top: float, grid: int = 512) -> np.ndarray:
    """The phase (F,) of a minimum-phase filter with the magnitude of y over x, spectra (W, C, F) at `freq` Hz.

    By the folded cepstrum of the ratio of their powers in 512 bands, up to `top` Hz and with 30 coefficients: the phase
    of what is smooth in frequency, which is an equaliser's. It moves a peak by up to a sample.
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


def _choose(found: list[_Lags]) -> _Lags:
    """For every window the measurement around the best candidate, or around another where that is far stronger."""
    strengths = np.stack([each.strength for each in found])
    best = strengths.mean(axis=1).argmax()
    chosen = np.where(strengths.max(axis=0) > OTHER * strengths[best], strengths.argmax(axis=0), best)
    rows = np.arange(len(chosen))
    fields = ("lags", "peaks", "opposite", "loud")
    return _Lags(*(np.stack([getattr(each, name) for each in found])[chosen, rows] for name in fields))


def _fit(times: np.ndarray, found: _Lags, level: bool = False) -> _Line:
    """A line through lags at times (W,) in s, in pieces where they jump: median slope, 0 if `level`, median offsets."""
    clear = found.strength > max(CLEAR, 0.3 * np.median(found.strength))
    t, lags = times[clear], found.lags[clear]
    if not len(t):
        return _Line(0.0, np.zeros(1), found.lags[[found.strength.argmax()]])
    slope = 0.0
    for _ in range(2):  # pieces are told apart better once their slope is known
        pieces = _pieces(lags - slope * t)
        slopes = np.concatenate([_slopes(t[piece], lags[piece]) for piece in pieces])
        slope = float(np.median(slopes)) if len(slopes) and not level else 0.0
    offsets = [float(np.median(lags[piece] - slope * t[piece])) for piece in pieces]
    bounds = [(t[p[-1]] + t[q[0]]) / 2 for p, q in zip(pieces, pieces[1:], strict=False)]
    return _Line(slope, np.array([0.0, *bounds]), np.array(offsets))


def _pieces(lags: np.ndarray) -> list[np.ndarray]:
    """Indices of runs of at least two lags without a jump; a lone lag between two of one piece belongs to none."""
    runs = np.split(np.arange(len(lags)), np.flatnonzero(np.abs(np.diff(lags)) > JUMP) + 1)
    pieces: list[np.ndarray] = []
    for run in (run for run in runs if len(run) > 1):
        if pieces and abs(lags[pieces[-1][-1]] - lags[run[0]]) < JUMP:
            pieces[-1] = np.concatenate([pieces[-1], run])
        else:
            pieces.append(run)
    return pieces or [np.arange(len(lags))]


def _slopes(t: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """The slopes of all pairs of points (Theil and Sen)."""
    i, j = np.triu_indices(len(t), 1)
    return (lags[j] - lags[i]) / (t[j] - t[i])


def find_lag(x: Tensor, y: Tensor) -> int:
    """By how many samples k `y` `(.., M)` is later than `x` `(.., N)`, as in y[n] = x[n - k].

    k = argmax of sum_n x[n] y[n + k] over -N < k < M, by FFT in float64 on the channel means.
    """
    a, b = _mono(x), _mono(y)
    size = fft.next_fast_len(len(a) + len(b) - 1, real=True)
    correlation = fft.irfft(fft.rfft(b, size) * fft.rfft(a, size).conj(), size)
    lags = np.roll(correlation, len(a) - 1)[: len(a) + len(b) - 1]
    return int(lags.argmax()) - (len(a) - 1)


def gcc_phat_peak(x: Tensor, y: Tensor, sr: int) -> float:
    """Peak of the whitened cross-correlation of `x` and `y` `(.., T)`: 1 for a pure delay, near 0 for unrelated sounds.

    Only phases count, between 100 Hz and 8 kHz, so equalisers and levels do not (generalised cross-correlation with
    phase transform, Knapp and Carter 1976). Taken in blocks of 12 s, of which the most alike decides.
    """
    a, b = _mono(x), _mono(y)
    block = min(len(a), round(BLOCK * sr))
    size = fft.next_fast_len(2 * block - 1, real=True)
    freq = fft.rfftfreq(size, 1 / sr)
    band = (freq >= BAND[0]) & (freq <= BAND[1])
    peak = 0.0
    for start in range(0, len(a) - block + 1, block):
        part = slice(start, start + block)
        cross = fft.rfft(b[part], size) * fft.rfft(a[part], size).conj() * band
        phase = cross / np.maximum(np.abs(cross), np.finfo(float).tiny)
        correlation = fft.irfft(phase, size) * (size / (2 * band.sum()))
        peak = max(peak, float(np.abs(correlation).max()))
    return peak


def level_percentile(x: Tensor, sr: int) -> float:
    """Level in dB, relative to the whole of `x` `(.., T)`, that 90 % of its 50 ms frames exceed; at least -100 dB."""
    a = x.detach().cpu().reshape(-1, x.shape[-1]).mean(dim=0)
    frame = min(len(a), round(0.05 * sr))
    frames = a[: len(a) // frame * frame].reshape(-1, frame)
    power = (torch.linalg.vector_norm(frames, dim=1).double() ** 2 / frame).numpy()
    return float(10 * np.log10(max(np.quantile(power, 0.1) / max(power.mean(), 1e-300), 1e-10)))


def _mono(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().reshape(-1, x.shape[-1]).mean(dim=0).numpy()
