"""What bends a sound: tone curves, moving filters, envelopes, compression, saturation and rooms."""

import numpy as np
import scipy.fft as fft

from .draws import gain

_GRID_HZ = np.geomspace(10.0, 96000.0, 400)


def curve(freq: np.ndarray, points: dict[float, float]) -> np.ndarray:
    """Magnitude at freq (Hz) of the response through points {Hz: dB}, straight lines on a logarithmic axis."""
    hz = sorted(points)
    db = np.interp(np.log(np.maximum(freq, 1.0)), np.log(hz), [points[f] for f in hz])
    return gain(db).astype(np.float32)


def spectrum_curve(bins: int, sr: int, *points: dict[float, float]) -> np.ndarray:
    """Magnitudes (bins,) float32 of one or several curves on the grid of a real transform whose last bin is sr / 2."""
    # Powers and logarithms are taken on a coarse grid only: a long transform has too many bins.
    freq = np.linspace(0.0, sr / 2, bins, dtype=np.float32)
    coarse = np.prod([curve(_GRID_HZ, each) for each in points], axis=0)
    return np.interp(freq, _GRID_HZ, coarse).astype(np.float32)


def toned(x: np.ndarray, sr: int, points: dict[float, float]) -> np.ndarray:
    """x (n,) with the tone curve {Hz: dB} applied by one transform pair."""
    size = fft.next_fast_len(len(x) + sr // 20, real=True)
    spectrum = fft.rfft(x, size)
    return fft.irfft(spectrum * spectrum_curve(len(spectrum), sr, points), size)[: len(x)]


def frame_times(n: int, frame: int, sr: int) -> np.ndarray:
    """Times in seconds of the frame centres that `moving_filter` uses for n samples."""
    return (np.arange(-(-n // (frame // 2)) + 1) * (frame // 2)) / sr


def moving_filter(x: np.ndarray, response: np.ndarray, frame: int) -> np.ndarray:
    """x (n,) filtered by magnitudes that change in time: response (frames, frame / 2 + 1), see `frame_times`.

    Frames overlap by half and are windowed with a sine before and after, which adds up to one for a flat response.
    """
    hop = frame // 2
    rows = -(-len(x) // hop) + 1
    padded = np.zeros((rows + 1) * hop, np.float32)
    padded[hop : hop + len(x)] = x
    window = np.sin(np.pi * (np.arange(frame) + 0.5) / frame).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop] * window
    frames = fft.irfft(fft.rfft(frames, axis=1) * response.astype(np.float32), frame, axis=1) * window
    padded[:] = 0.0
    padded[: rows * hop] += frames[:, :hop].ravel()
    padded[hop:] += frames[:, hop:].ravel()
    return padded[hop : hop + len(x)]


def swell(n: int, attack: float, release: float, sr: int) -> np.ndarray:
    """Envelope (n,) float32 that rises in attack and falls in release seconds, both within n."""
    envelope = np.ones(n, np.float32)
    rise, fall = min(int(attack * sr) + 1, n), min(int(release * sr) + 1, n)
    envelope[:rise] = np.sin(np.linspace(0.0, np.pi / 2, rise)) ** 2
    envelope[n - fall :] *= np.cos(np.linspace(0.0, np.pi / 2, fall)) ** 2
    return envelope


def add(out: np.ndarray, x: np.ndarray, start: int) -> None:
    """Add x to out from sample start on, in place; what lies outside is cut off."""
    first, last = max(start, 0), min(start + len(x), len(out))
    if last > first:
        out[first:last] += x[first - start : last - start]


def compress(x: np.ndarray, sr: int, below_peak_db: float, ratio: float, attack: float, release: float) -> np.ndarray:
    """x (n,) through a feed-forward compressor, its threshold below_peak_db under the peak; times in seconds.

    Level and gain live on blocks of 64 samples; the gain is interpolated between them.
    """
    block = 64
    rows = -(-len(x) // block)
    padded = np.zeros(rows * block, np.float32)
    padded[: len(x)] = np.abs(x)
    level = padded.reshape(rows, block).max(1)
    threshold = float(level.max()) * gain(-below_peak_db) + 1e-9
    target = (1 - 1 / ratio) * 20 * np.log10(np.maximum(level / threshold, 1.0))
    up, down = (1 - np.exp(-block / (seconds * sr)) for seconds in (attack, release))
    state, reduction = 0.0, []
    for wanted in target.tolist():
        state += (wanted - state) * (up if wanted > state else down)
        reduction.append(state)
    blocks = gain(-np.array(reduction))
    return x * np.interp(np.arange(len(x)), np.arange(rows) * block + block / 2, blocks).astype(np.float32)


def saturate(x: np.ndarray, drive_db: float, bias: float = 0.0) -> np.ndarray:
    """x (n,) driven drive_db above its peak into tanh; a bias makes even harmonics. Returns a peak near 1."""
    peak = float(np.abs(x).max()) + 1e-9
    return np.tanh(x * np.float32(gain(drive_db) / peak) + np.float32(bias)) - np.float32(np.tanh(bias))


def room(rng: np.random.Generator, sr: int, seconds: float, brightness: float, predelay: float) -> np.ndarray:
    """Impulse response (m,) float32 of a room without its direct sound, of unit energy.

    seconds is the time to -60 dB at 500 Hz; brightness in 0..1 sets how much longer than high frequencies low ones
    ring; predelay in seconds. Noise through a moving filter whose bands decay each at its own rate.
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
