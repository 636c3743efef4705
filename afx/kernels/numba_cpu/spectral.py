"""Deviations of magnitude spectra as compiled passes over blocks of bins; see afx.kernels.spectral for the definition.

Signals are the S = 2 channels of a pair, or four with their sum and difference. target (R, F, K) has one signal per
row, and rows (B, S) is the row that each signal is compared with.

Data flow of one pair (2, T): it is extended by reflection to (2, T + N), cut into windowed frames (2, f, N), a few at a
time so that frames and spectra stay in the cache and memory does not depend on B, and transformed to spectra (2, f K 2)
with real and imaginary parts alternating. A pass over blocks of BINS bins then computes the sums (S, 2), or in the
backward pass the gradients of the spectra, which are transformed back and overlap-added to (2, T + N); the extension is
added back to the samples it was copied from. The backward pass transforms again: storing the spectra of a batch would
take twelve times the memory of its audio, and writing them most of the time saved.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numba import prange
from numpy import empty  # under a name of its own, so that tests can poison what is handed out

from reknob.afx.kernels.numba_cpu.cache import kernel

FLOOR = 1e-8
COMPLEX = {np.dtype(np.float32): np.complex64, np.dtype(np.float64): np.complex128}
FRAME_SAMPLES = 1 << 18  # per channel transformed at once; with fewer, synchronising the threads takes longer
BINS = 1024  # of a block: its spectra, targets and ratios fit the L1 cache together
FIR_BLOCK = 512  # outputs accumulated in the L1 cache
LARGE = 1e150  # a product of 16 more magnitude ratios still fits a float64
FAST = {"reassoc", "contract", "nsz"}  # sums in any order and fused products; NaN and infinity are still respected


def fir_forward(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Correlate rows (R, T) with an odd number of taps."""
    y = empty(x.shape, x.dtype)
    half = taps.shape[0] // 2
    # Padded once, so that the inner loop does not test for the ends.
    _correlate(np.pad(x, ((0, 0), (half, half))), taps.astype(x.dtype), y)
    return y


def fir_backward(grad: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """The adjoint: correlate with the taps reversed."""
    return fir_forward(grad, taps[::-1])


def stft_magnitude_forward(x: np.ndarray, window: np.ndarray, hop: int, mid_side: bool) -> np.ndarray:
    """Magnitudes (B, S, F, K) of x (B, 2, T)."""
    bins = window.shape[0] // 2 + 1
    out = empty((x.shape[0], 4 if mid_side else 2, x.shape[2] // hop + 1, bins), x.dtype)
    for item, magnitudes in zip(x, out.reshape(*out.shape[:2], -1), strict=True):
        for start, spectra in _spectra(item, window, hop):
            _magnitudes(spectra, x.dtype.type(FLOOR), start * bins, magnitudes)
    return out


def stft_deviation_forward(
    x: np.ndarray, target: np.ndarray, rows: np.ndarray, window: np.ndarray, hop: int
) -> np.ndarray:
    """Sums (B, S, 2) over bins and frames: squares of magnitude differences, absolute log ratios."""
    sums = np.zeros((*rows.shape, 2))
    flat = target.reshape(len(target), -1)
    for item, item_rows, out in zip(x, rows, sums, strict=True):
        for start, spectra in _spectra(item, window, hop):
            parts = empty((_blocks(spectra), rows.shape[1], 2), np.float64)
            _compare(spectra, flat, item_rows, start * target.shape[2], x.dtype.type(FLOOR), parts)
            out += parts.sum(0)
    return sums


def stft_deviation_backward(
    grad: np.ndarray, x: np.ndarray, target: np.ndarray, rows: np.ndarray, window: np.ndarray, hop: int
) -> np.ndarray:
    """Gradient to x of the sums weighted by grad (B, S, 2)."""
    size, samples = window.shape[0], x.shape[2]
    grad_x = empty(x.shape, x.dtype)
    flat = target.reshape(len(target), -1)
    # 2 (m - y) dm and dm / m are the differentials of both sums; with the halving of _weigh, the factors are 1 and 1/2.
    for item, item_rows, scale, out in zip(x, rows, (grad * [1, 0.5]).astype(x.dtype), grad_x, strict=True):
        padded = np.zeros((2, samples + size), x.dtype)
        for start, spectra in _spectra(item, window, hop):
            weighed = empty(spectra.shape, x.dtype)
            _weigh(spectra, flat, item_rows, start * target.shape[2], x.dtype.type(FLOOR), scale, weighed)
            weighed = weighed.reshape(2, -1, size + 2)
            # The inverse real transform counts all bins twice but the first and the last.
            weighed[..., :2] *= 2
            weighed[..., -2:] *= 2
            frames = torch.fft.irfft(torch.from_numpy(weighed.view(COMPLEX[x.dtype])), size, norm="forward")
            _overlap_add(frames.numpy(), start, window, hop, padded)
        half, end = size // 2, size // 2 + samples
        out[:] = padded[:, half:end]
        out[:, 1 : half + 1] += padded[:, half - 1 :: -1]  # the adjoint of the reflection
        out[:, samples - 1 - half : samples - 1] += padded[:, : end - 1 : -1]
    return grad_x


def _spectra(item: np.ndarray, window: np.ndarray, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of the first frame and the spectra (2, f K 2) of a few frames of a pair (2, T) at a time."""
    size = window.shape[0]
    count = item.shape[1] // hop + 1
    ends = item[:, size // 2 : 0 : -1], item[:, -2 : -2 - size // 2 : -1]
    padded = np.concatenate([ends[0], item, ends[1]], 1)
    step = max(1, FRAME_SAMPLES // size)
    for start in range(0, count, step):
        frames = empty((2, min(step, count - start), size), item.dtype)
        _frame(padded, start, window, hop, frames)
        yield start, torch.fft.rfft(torch.from_numpy(frames)).numpy().view(item.dtype).reshape(2, -1)


# Serial: cutting and adding frames take a tenth of a block's time, less than starting a second thread.
@kernel()
def _frame(padded: np.ndarray, start: int, window: np.ndarray, hop: int, frames: np.ndarray) -> None:
    for c in range(2):
        for f in range(frames.shape[1]):
            samples, frame = padded[c, (start + f) * hop :], frames[c, f]
            for i in range(window.shape[0]):
                frame[i] = samples[i] * window[i]


@kernel()
def _overlap_add(frames: np.ndarray, start: int, window: np.ndarray, hop: int, out: np.ndarray) -> None:
    for c in range(2):
        for f in range(frames.shape[1]):
            samples, frame = out[c, (start + f) * hop :], frames[c, f]
            for i in range(window.shape[0]):
                samples[i] += frame[i] * window[i]


@kernel()
def _blocks(spectra: np.ndarray) -> int:
    return -(-spectra.shape[1] // (2 * BINS))


@kernel()
def _signal(spectra: np.ndarray, job: int, s: int, mixed: np.ndarray) -> np.ndarray:
    """Return a block of the spectrum of signal s: L, R, L + R or L - R, the last two computed into `mixed`.

    L and R are returned as they are: they may belong to two items, and a NaN of one must not reach the other.
    """
    left = spectra[0, 2 * BINS * job : 2 * BINS * (job + 1)]
    right = spectra[1, 2 * BINS * job : 2 * BINS * (job + 1)]
    if s < 2:
        return left if s == 0 else right
    sign = spectra.dtype.type(1 if s == 2 else -1)
    for k in range(left.shape[0]):
        mixed[k] = left[k] + sign * right[k]
    return mixed[: left.shape[0]]


@kernel(parallel=True, error_model="numpy")
def _magnitudes(spectra: np.ndarray, floor: float, first: int, out: np.ndarray) -> None:
    for job in prange(_blocks(spectra)):
        mixed = np.empty(2 * BINS, spectra.dtype)
        for s in range(out.shape[0]):
            _magnitude(_signal(spectra, job, s, mixed), floor, out[s, first + BINS * job :])


@kernel(fastmath=FAST, error_model="numpy")
def _magnitude(spectrum: np.ndarray, floor: float, out: np.ndarray) -> None:
    """sqrt(max(|X|^2, floor)) of a spectrum whose real and imaginary parts alternate."""
    for k in range(spectrum.shape[0] // 2):
        out[k] = np.sqrt(_power(spectrum[2 * k], spectrum[2 * k + 1], floor))


@kernel()
def _power(re: float, im: float, floor: float) -> float:
    """Compiled without fused products, so that equal signals have exactly equal magnitudes in every pass."""
    return max(re * re + im * im, floor)


@kernel(parallel=True, error_model="numpy")
def _compare(
    spectra: np.ndarray, target: np.ndarray, rows: np.ndarray, first: int, floor: float, sums: np.ndarray
) -> None:
    for job in prange(sums.shape[0]):
        mixed, ratio = np.empty(2 * BINS, spectra.dtype), np.empty(BINS, spectra.dtype)
        for s in range(rows.shape[0]):
            spectrum = _signal(spectra, job, s, mixed)
            sums[job, s, 0] = _ratios(spectrum, target[rows[s], first + BINS * job :], floor, ratio)
            sums[job, s, 1] = log_product(ratio[: spectrum.shape[0] // 2])


@kernel(fastmath=FAST, error_model="numpy")
def _ratios(spectrum: np.ndarray, target: np.ndarray, floor: float, ratio: np.ndarray) -> float:
    """Set `ratio` to the larger over the smaller magnitude; return the sum of the squared differences."""
    # 0 in the type of the spectra: a literal would make the sum float64, and its vectors half as wide.
    total = floor - floor
    for k in range(spectrum.shape[0] // 2):
        m, y = np.sqrt(_power(spectrum[2 * k], spectrum[2 * k + 1], floor)), target[k]
        total += (m - y) * (m - y)
        ratio[k] = max(m, y) / min(m, y)
    return total


@kernel(fastmath=FAST, error_model="numpy")
def log_product(row: np.ndarray) -> float:
    """Sum of the logarithms of numbers >= 1, with one logarithm per product that becomes LARGE."""
    total, product, k = 0.0, 1.0, 0
    while k + 16 <= row.shape[0]:
        p = 1.0
        for i in range(k, k + 16):
            p *= np.float64(row[i])
        product *= p
        if product > LARGE:
            total += math.log(product)
            product = 1.0
        k += 16
    for i in range(k, row.shape[0]):
        product *= np.float64(row[i])
    return total + math.log(product)


@kernel(parallel=True, error_model="numpy")
def _weigh(
    spectra: np.ndarray,
    target: np.ndarray,
    rows: np.ndarray,
    first: int,
    floor: float,
    grad: np.ndarray,
    out: np.ndarray,
) -> None:
    """Gradients of the spectra, halved because the inverse real transform counts each bin twice."""
    for job in prange(_blocks(spectra)):
        mixed, part = np.empty(2 * BINS, spectra.dtype), np.empty(2 * BINS, spectra.dtype)
        # Views of `out`, set by the signals L and R, which come first; sum and difference are then added.
        left, right = _signal(out, job, 0, part), _signal(out, job, 1, part)
        for s in range(rows.shape[0]):
            out_s = left if s == 0 else right if s == 1 else part
            spectrum = _signal(spectra, job, s, mixed)
            _weigh_signal(spectrum, target[rows[s], first + BINS * job :], floor, grad[s, 0], grad[s, 1], out_s)
            if s >= 2:
                _add(part, spectra.dtype.type(1), left)
                _add(part, spectra.dtype.type(1 if s == 2 else -1), right)


@kernel(fastmath=FAST, error_model="numpy")
def _weigh_signal(
    spectrum: np.ndarray, target: np.ndarray, floor: float, grad_square: float, grad_log: float, out: np.ndarray
) -> None:
    """Gradients of the spectrum of one signal; 0 where the power is at the floor."""
    zero = floor - floor
    for k in range(spectrum.shape[0] // 2):
        re, im = spectrum[2 * k], spectrum[2 * k + 1]
        power = _power(re, im, floor)
        m = np.sqrt(power)
        inverse, difference = m / power, m - target[k]
        sign = grad_log if difference > zero else (-grad_log if difference < zero else zero)
        gain = (grad_square * difference + sign * inverse) * inverse
        gain = gain if power > floor else zero
        out[2 * k] = gain * re
        out[2 * k + 1] = gain * im


@kernel(fastmath=FAST, error_model="numpy")
def _add(part: np.ndarray, sign: float, out: np.ndarray) -> None:
    for k in range(out.shape[0]):
        out[k] += sign * part[k]


@kernel(parallel=True, fastmath=FAST, error_model="numpy")
def _correlate(padded: np.ndarray, taps: np.ndarray, y: np.ndarray) -> None:
    rows, samples = y.shape
    blocks = -(-samples // FIR_BLOCK)
    for job in prange(rows * blocks):
        row, start = job // blocks, job % blocks * FIR_BLOCK
        stop = min(start + FIR_BLOCK, samples)
        _correlate_block(padded[row, start:], taps, y[row, start:stop])


@kernel(fastmath=FAST, error_model="numpy")
def _correlate_block(x: np.ndarray, taps: np.ndarray, y: np.ndarray) -> None:
    y[:] = 0
    k = 0
    # Four taps at a time, as each pass reads and writes all of y.
    while k + 4 <= taps.shape[0]:
        h0, h1, h2, h3 = taps[k], taps[k + 1], taps[k + 2], taps[k + 3]
        for n in range(y.shape[0]):
            y[n] += h0 * x[n + k] + h1 * x[n + k + 1] + h2 * x[n + k + 2] + h3 * x[n + k + 3]
        k += 4
    for j in range(k, taps.shape[0]):
        for n in range(y.shape[0]):
            y[n] += taps[j] * x[n + j]
