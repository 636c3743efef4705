"""Processing of samples: tone curves, time-varying filters, envelopes, compression, saturation and rooms."""

import numpy as np

from reknob.data.fourier import irfft, next_fast_len, rfft

from .draws import gain
from .synthesis import HOP, upsample_contour

_GRID_HZ = np.geomspace(10.0, 96000.0, 400)
Grid = tuple[np.ndarray, np.ndarray]


def curve(freq: np.ndarray, points: dict[float, float]) -> np.ndarray:
    """Magnitude at freq (Hz) of the response through points {Hz: dB}, straight lines on a logarithmic axis."""
    hz = sorted(points)
    db = np.interp(np.log(np.maximum(freq, 1.0)), np.log(hz), [points[f] for f in hz])
    return gain(db).astype(np.float32)


def bin_grid(bins: int, sr: int) -> Grid:
    """Positions of the bins of a real FFT, the last one at sr / 2, on a coarse logarithmic grid: index and fraction."""
    freq = np.linspace(0.0, sr / 2, bins, dtype=np.float32)
    step = np.float32(np.log(_GRID_HZ[1] / _GRID_HZ[0]))
    position = np.log(np.maximum(freq / np.float32(_GRID_HZ[0]), 1.0)) / step
    index = position.astype(np.int32)
    return index, position - index.astype(np.float32)


def spectrum_curve(grid: Grid, *points: dict[float, float]) -> np.ndarray:
    """Magnitudes (bins,) float32 of the product of curves on a grid made by `bin_grid`."""
    index, fraction = grid
    coarse = np.prod([curve(_GRID_HZ, each) for each in points], axis=0)
    rise = np.append(np.diff(coarse), 0).astype(np.float32)
    return np.take(coarse, index) + fraction * np.take(rise, index)


def toned(x: np.ndarray, sr: int, points: dict[float, float]) -> np.ndarray:
    """x (n,) filtered by the tone curve {Hz: dB}, by one FFT with 50 ms of padding."""
    size = next_fast_len(len(x) + sr // 20)
    spectrum = rfft(x, size)
    return irfft(spectrum * spectrum_curve(bin_grid(len(spectrum), sr), points), size)[: len(x)]


def frame_times(n: int, frame: int, sr: int) -> np.ndarray:
    """Times in seconds of the frame centres that `moving_filter` uses for n samples."""
    return (np.arange(-(-n // (frame // 2)) + 1) * (frame // 2)) / sr


def moving_filter(x: np.ndarray, response: np.ndarray, frame: int) -> np.ndarray:
    """x (n,) through a time-varying filter of the magnitudes response (frames, frame / 2 + 1) at `frame_times`.

    Frames overlap by half. A sine window before and after the filter makes a flat response the identity.
    """
    hop = frame // 2
    rows = -(-len(x) // hop) + 1
    padded = np.zeros((rows + 1) * hop, np.float32)
    padded[hop : hop + len(x)] = x
    window = np.sin(np.pi * (np.arange(frame) + 0.5) / frame).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop] * window
    frames = irfft(rfft(frames) * response.astype(np.float32), frame) * window
    padded[:] = 0.0
    padded[: rows * hop] += frames[:, :hop].ravel()
    padded[hop:] += frames[:, hop:].ravel()
    return padded[hop : hop + len(x)]


def fade(x: np.ndarray, attack: float, release: float, sr: int) -> np.ndarray:
    """x (n,), modified in place, faded in over attack and out over release seconds."""
    rise, fall = min(int(attack * sr) + 1, len(x)), min(int(release * sr) + 1, len(x))
    x[:rise] *= _rise(rise)
    x[len(x) - fall :] *= _rise(fall)[::-1]
    return x


def _rise(n: int) -> np.ndarray:
    """Squared sine (n,) float32 from near 0 to 1."""
    return np.sin(np.arange(1, n + 1, dtype=np.float32) * np.float32(np.pi / 2 / n)) ** 2


def add(out: np.ndarray, x: np.ndarray, start: int) -> None:
    """Add x to out from sample start on, in place; samples outside of out are dropped."""
    first, last = max(start, 0), min(start + len(x), len(out))
    if last > first:
        out[first:last] += x[first - start : last - start]


def compress(x: np.ndarray, sr: int, below_peak_db: float, ratio: float, attack: float, release: float) -> np.ndarray:
    """x (n,) through a feed-forward compressor whose threshold is below_peak_db under the peak; times in seconds.

    Level and gain are computed per block of HOP samples, and the gain is interpolated linearly.
    """
    rows = -(-len(x) // HOP)
    padded = np.zeros(rows * HOP, np.float32)
    padded[: len(x)] = np.abs(x)
    level = padded.reshape(rows, HOP).max(1)
    threshold = float(level.max()) * gain(-below_peak_db) + 1e-9
    target = (1 - 1 / ratio) * 20 * np.log10(np.maximum(level / threshold, 1.0))
    up, down = (1 - np.exp(-HOP / (seconds * sr)) for seconds in (attack, release))
    state, reduction = 0.0, [0.0]
    for target_db in target.tolist():
        state += (target_db - state) * (up if target_db > state else down)
        reduction.append(state)
    return x * upsample_contour(gain(-np.array(reduction)), len(x))


def saturate(x: np.ndarray, drive_db: float, bias: float = 0.0) -> np.ndarray:
    """tanh of x (n,) scaled to a peak of drive_db, with a bias that adds even harmonics; zero input gives zero."""
    peak = float(np.abs(x).max()) + 1e-9
    return np.tanh(x * np.float32(gain(drive_db) / peak) + np.float32(bias)) - np.float32(np.tanh(bias))


def room(rng: np.random.Generator, sr: int, seconds: float, brightness: float, predelay: float) -> np.ndarray:
    """Impulse response (m,) float32 of a room without its direct sound, of unit energy.

    seconds is the reverberation time at low frequencies; a higher brightness in 0..1 damps high frequencies less;
    predelay in seconds. It is noise through a time-varying filter with a decay rate per frequency, and eight random
    early reflections.
    """
    frame = 512
    n = int(min(1.1 * seconds + 0.05, 3.0) * sr)
    freq = np.linspace(0.0, sr / 2, frame // 2 + 1)
    damping = 1.0 + (freq / (500.0 + 9000.0 * brightness)) ** 1.3
    colour = curve(freq, {60.0: -12.0, 200.0: 0.0, 2000.0: -2.0, 16000.0: -14.0 + 8.0 * brightness})
    times = frame_times(n, frame, sr)[:, None]
    response = colour * gain(-60.0 * times / seconds * damping)
    tail = moving_filter(rng.standard_normal(n, dtype=np.float32), response, frame)
    early = (rng.random(8) ** 1.5 * min(0.08, 0.3 * seconds) * sr).astype(int)
    tail[np.minimum(early, n - 1)] += rng.standard_normal(8).astype(np.float32) * 3.0 * np.abs(tail).max()
    delayed = np.concatenate([np.zeros(int(predelay * sr), np.float32), tail])
    return delayed / np.sqrt((delayed**2).sum())
