"""Sound sources: damped modes, detuned partials, wavetable oscillators and noise."""

import numpy as np

from reknob.data.fourier import irfft

from .draws import gain

HOP = 64  # samples between two values of a contour
_BLOCK = 128
_TABLE = 2048
_CLOUD = 1 << 16


def modes(
    freq: np.ndarray, decay: np.ndarray, amp: np.ndarray, n: int, sr: int, phase: np.ndarray | float = 0.0
) -> np.ndarray:
    """Sum of damped sinusoids y[t] = sum_k amp_k exp(-t / (decay_k sr)) sin(2 pi freq_k t / sr + phase_k).

    freq (K,) Hz, decay (K,) seconds to 1/e, amp (K,), phase (K,) or scalar in radians; returns (n,) float32. Modes
    above 0.47 sr are left out. With t = block a + b, every mode is a product f(a) g(b), so that the sum over modes is
    a matrix product of (n / block, 2 K) by (2 K, block).
    """
    keep = freq < 0.47 * sr
    freq, decay, amp = freq[keep], decay[keep], amp[keep]
    phase = np.broadcast_to(phase, keep.shape)[keep]
    start = np.arange(-(-n // _BLOCK))[:, None] * _BLOCK
    slow = _rotation(start * (freq / sr) + phase / (2 * np.pi), start / (decay * sr), amp)
    step = np.arange(_BLOCK)[:, None]
    fast = _rotation(step * (freq / sr), step / (decay * sr), 1.0)
    left = np.concatenate([slow[1], slow[0]], axis=1)
    right = np.concatenate([fast[0], fast[1]], axis=1)
    return product(left, right.T).reshape(-1)[:n]


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matrix product of (m, k) by (k, n), whose rounding does not depend on the number of threads.

    It is computed in slices of rows that BLAS computes in one thread (below 2^18 multiplications), but of at least two
    rows: BLAS uses several threads for much smaller products with a vector.
    """
    rows = max(2, (1 << 17) // right.size)
    return np.concatenate([left[i : i + rows] @ right for i in range(0, len(left), rows)])


def _rotation(turns: np.ndarray, decays: np.ndarray, amp: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part of amp exp(-decays + 2 pi i turns) in float32, exactly 0 below -156 dB."""
    angle = ((turns % 1.0) * (2 * np.pi)).astype(np.float32)
    # Subnormal numbers would slow the matrix product down by an order of magnitude.
    size = np.where(decays < 18.0, amp * np.exp(-np.minimum(decays, 18.0)), 0.0).astype(np.float32)
    return size * np.cos(angle), size * np.sin(angle)


def cloud(freq: np.ndarray, amp: np.ndarray, detune_cents: float, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Seamless loop of partials that are each a narrow band, the sound of many instruments in near unison.

    freq (K,) Hz, amp (K,), detune_cents the standard deviation of the band; returns (65536,) float32. Every partial
    is 24 sinusoids of random phase and normal detuning, summed by one inverse FFT (after PADsynth, P. Nasca).
    """
    keep = freq < 0.45 * sr
    detuned = freq[keep, None] * 2.0 ** (detune_cents / 1200.0 * rng.standard_normal((int(keep.sum()), 24)))
    weight = amp[keep, None] * np.exp(2j * np.pi * rng.random(detuned.shape))
    bins = np.minimum(np.round(detuned * _CLOUD / sr).astype(np.int64), _CLOUD // 2).ravel()
    size = _CLOUD // 2 + 1
    real, imaginary = (np.bincount(bins, part.ravel(), size) for part in (np.real(weight), np.imag(weight)))
    return irfft(((real + 1j * imaginary) * (_CLOUD / 24**0.5)).astype(np.complex64), _CLOUD)


def upsample_contour(contour: np.ndarray, n: int) -> np.ndarray:
    """Linear interpolation (n,) float32 of a contour (m,) of one value every HOP samples; n <= (m - 1) HOP."""
    ramp = np.arange(HOP, dtype=np.float32) / HOP
    contour = contour[: -(-n // HOP) + 1].astype(np.float32)
    return (contour[:-1, None] + np.diff(contour)[:, None] * ramp).reshape(-1)[:n]


def oscillator(freq: np.ndarray, harmonics: np.ndarray, n: int, sr: int, start: float = 0.0) -> np.ndarray:
    """Periodic wave (n,) float32 of varying fundamental frequency without aliasing.

    freq (m,) is a contour in Hz, harmonics (K,) the complex amplitudes of the partials 1..K <= 1023, start the initial
    phase in turns. A wavetable per third of an octave has only the partials below half the sample rate.
    """
    low = float(freq.min())
    row = (3.0 * np.log2(freq / low)).astype(np.int32)
    row = np.maximum(row[:-1], row[1:])  # the table for the higher frequency of a hop, whose partials all fit
    tables = np.zeros((int(row.max()) + 1, _TABLE // 2 + 1), np.complex64)
    for i, table in enumerate(tables):
        top = low * 2.0 ** ((i + 1) / 3.0)
        count = min(len(harmonics), _TABLE // 2 - 1, int(0.48 * sr / top))
        table[1 : count + 1] = harmonics[:count] * (_TABLE / 2)
    wave = irfft(tables, _TABLE)
    # Each table is followed by its first sample, for the interpolation of the last one.
    wave = np.concatenate([wave, wave[:, :1]], axis=1).ravel()
    turn = np.cumsum(upsample_contour(freq / sr, n), dtype=np.float64) + start
    position = (turn - np.floor(turn)) * _TABLE
    index = position.astype(np.int32)
    fraction = (position - index).astype(np.float32)
    index += np.repeat(row * (_TABLE + 1), HOP)[:n]
    lower = np.take(wave, index)
    return lower + fraction * (np.take(wave, index + 1) - lower)


def white(n: int, rng: np.random.Generator) -> np.ndarray:
    """White Gaussian noise (n,) float32 of unit power."""
    return rng.standard_normal(n, dtype=np.float32)


def resonances(freq: np.ndarray, centre: np.ndarray, width: np.ndarray, level_db: np.ndarray) -> np.ndarray:
    """Magnitude at freq (Hz) of a body: bells in dB, centre in Hz, width in octaves, level in dB, added up."""
    distance = np.log2(np.maximum(freq, 1.0))[..., None] - np.log2(centre)
    return gain((level_db * np.exp(-0.5 * (distance / width) ** 2)).sum(-1))
