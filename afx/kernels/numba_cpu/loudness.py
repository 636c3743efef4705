"""Loudness ratios as compiled loops, parallel over signals; see afx.kernels.loudness for what they compute.

Signals are mixtures, mix (S, 2), of the channels of a pair; target (R, P, T) holds one signal a row, and rows (B, S)
says which row each signal is compared with. The backward pass averages again instead of keeping every average.
"""

import numpy as np
from numba import get_num_threads, get_thread_id, njit, prange
from numpy import empty  # under a name of its own, so that tests can poison what is handed out

from afx.kernels.numba_cpu.spectral import FAST, FLOOR, log_product


def loudness_ratio_forward(x: np.ndarray, coefs: np.ndarray, shifts: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Ratios (B, S, P, T) of x (B, 2, T)."""
    ratio = empty((x.shape[0], mix.shape[0], coefs.shape[0], x.shape[2]), x.dtype)
    _loudness_ratio(x, coefs, shifts, mix, _workspace(x), ratio)
    return ratio


def loudness_deviation_forward(
    x: np.ndarray, target: np.ndarray, rows: np.ndarray, coefs: np.ndarray, shifts: np.ndarray, mix: np.ndarray
) -> np.ndarray:
    """Sums (B, S, P) over time of absolute log ratios."""
    sums = empty((x.shape[0], mix.shape[0], coefs.shape[0]), np.float64)
    _loudness_deviation(x, target, rows, coefs, shifts, mix, _workspace(x), sums)
    return sums


def loudness_deviation_backward(
    grad: np.ndarray,
    x: np.ndarray,
    target: np.ndarray,
    rows: np.ndarray,
    coefs: np.ndarray,
    shifts: np.ndarray,
    mix: np.ndarray,
) -> np.ndarray:
    """Gradient to x of the sums weighted by grad (B, S, P)."""
    signals = empty((x.shape[0], mix.shape[0], x.shape[2]), x.dtype)
    _loudness_gradient(grad, x, target, rows, coefs, shifts, mix, _workspace(x), signals)
    grad_x = np.zeros(x.shape, x.dtype)
    _unmix(signals, mix, grad_x)
    return grad_x


@njit(cache=True)
def _channels(weights: np.ndarray) -> tuple[int, int]:
    """The channels that a mixture reads: one that it leaves out may be another signal's, and not a number."""
    return 0 if weights[0] != 0 else 1, 1 if weights[1] != 0 else 0


def _workspace(x: np.ndarray) -> np.ndarray:
    """Two rows for every thread: a fresh row each time would cost more than what is computed in it."""
    return empty((get_num_threads(), 2, x.shape[2]), x.dtype)


@njit(parallel=True, cache=True, error_model="numpy")
def _loudness_ratio(
    x: np.ndarray, coefs: np.ndarray, shifts: np.ndarray, mix: np.ndarray, work: np.ndarray, ratio: np.ndarray
) -> None:
    signals = mix.shape[0]
    for job in prange(x.shape[0] * signals):
        b, s = job // signals, job % signals
        short, long = work[get_thread_id()]
        left, right = _channels(mix[s])
        for p in range(coefs.shape[0]):
            kept = x.shape[2] - shifts[p]
            _averages(x[b, left], x[b, right], mix[s, 0], mix[s, 1], coefs[p, 0], coefs[p, 1], short, long)
            ratio[b, s, p, :kept] = short[:kept] / long[shifts[p] :]
            ratio[b, s, p, kept:] = 1


@njit(parallel=True, cache=True, error_model="numpy")
def _loudness_deviation(
    x: np.ndarray,
    target: np.ndarray,
    rows: np.ndarray,
    coefs: np.ndarray,
    shifts: np.ndarray,
    mix: np.ndarray,
    work: np.ndarray,
    sums: np.ndarray,
) -> None:
    signals = mix.shape[0]
    for job in prange(x.shape[0] * signals):
        b, s = job // signals, job % signals
        short, long = work[get_thread_id()]
        left, right = _channels(mix[s])
        for p in range(coefs.shape[0]):
            kept = x.shape[2] - shifts[p]
            _averages(x[b, left], x[b, right], mix[s, 0], mix[s, 1], coefs[p, 0], coefs[p, 1], short, long)
            _range_ratios(short[:kept], long[shifts[p] :], target[rows[b, s], p])
            sums[b, s, p] = log_product(short[:kept])


@njit(parallel=True, cache=True, error_model="numpy")
def _loudness_gradient(
    grad: np.ndarray,
    x: np.ndarray,
    target: np.ndarray,
    rows: np.ndarray,
    coefs: np.ndarray,
    shifts: np.ndarray,
    mix: np.ndarray,
    work: np.ndarray,
    out: np.ndarray,
) -> None:
    signals = mix.shape[0]
    for job in prange(x.shape[0] * signals):
        b, s = job // signals, job % signals
        short, long = work[get_thread_id()]
        out[b, s] = 0
        for p in range(coefs.shape[0]):
            kept = x.shape[2] - shifts[p]
            _averages(x[b, 0], x[b, 1], mix[s, 0], mix[s, 1], coefs[p, 0], coefs[p, 1], short, long)
            _range_gradients(short[:kept], long[shifts[p] :], target[rows[b, s], p])
            short[kept:] = 0
            long[: shifts[p]] = 0
            _averages_backward(short, long, coefs[p, 0], coefs[p, 1], grad[b, s, p], out[b, s])
        _power_backward(x[b, 0], x[b, 1], mix[s, 0], mix[s, 1], out[b, s])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _averages(
    left: np.ndarray,
    right: np.ndarray,
    u: float,
    v: float,
    coef_short: float,
    coef_long: float,
    short: np.ndarray,
    long: np.ndarray,
) -> None:
    """One-pole averages of max((u L + v R)^2, floor), from zero."""
    keep_short, keep_long = 1.0 - coef_short, 1.0 - coef_long
    a, b = 0.0, 0.0
    for n in range(short.shape[0]):
        z = np.float64(u * left[n] + v * right[n])
        power = max(z * z, FLOOR)
        a = keep_short * a + coef_short * power
        b = keep_long * b + coef_long * power
        short[n] = a
        long[n] = b


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _range_ratios(short: np.ndarray, long: np.ndarray, target: np.ndarray) -> None:
    """Replace short averages by ratios >= 1 between short / long and the target's."""
    for n in range(short.shape[0]):
        r, q = short[n] / long[n], target[n]
        short[n] = max(r, q) / min(r, q)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _range_gradients(short: np.ndarray, long: np.ndarray, target: np.ndarray) -> None:
    """Replace both averages by the gradients of |log(short / long) - log target|."""
    for n in range(short.shape[0]):
        a, b = short[n], long[n]
        r, q = a / b, target[n]
        sign = np.float32(r > q) - np.float32(r < q)
        short[n] = sign / a
        long[n] = -sign / b


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _averages_backward(
    short: np.ndarray, long: np.ndarray, coef_short: float, coef_long: float, scale: float, out: np.ndarray
) -> None:
    """Run both averages backwards and add the scaled result."""
    keep_short, keep_long = 1.0 - coef_short, 1.0 - coef_long
    a, b = 0.0, 0.0
    for n in range(short.shape[0] - 1, -1, -1):
        a = keep_short * a + short[n]
        b = keep_long * b + long[n]
        out[n] += scale * (coef_short * a + coef_long * b)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _power_backward(left: np.ndarray, right: np.ndarray, u: float, v: float, grad: np.ndarray) -> None:
    """Turn gradients to the powers into gradients to the samples: 0 below the floor."""
    for n in range(grad.shape[0]):
        z = u * left[n] + v * right[n]
        grad[n] = 2 * z * grad[n] if z * z >= FLOOR else 0.0


@njit(cache=True)
def _unmix(signals: np.ndarray, mix: np.ndarray, out: np.ndarray) -> None:
    """Adjoint of the mixtures."""
    for b in range(out.shape[0]):
        for s in range(mix.shape[0]):
            left, right, u, v = out[b, 0], out[b, 1], mix[s, 0], mix[s, 1]
            for n in range(out.shape[2]):
                left[n] += u * signals[b, s, n]
                right[n] += v * signals[b, s, n]
