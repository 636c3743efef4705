"""Recursive filters as compiled loops, parallel over rows; see afx.kernels.recursions for what they compute."""

import math

import numpy as np
from numba import njit, prange
from numpy import empty  # under a name of its own, so that tests can poison what is handed out

BLOCK = 1024  # samples between checkpoints of the cascade: signals of all sections then fit the L1/L2 cache
FLOOR = 1e-8
DB_PER_NEPER = 20.0 / math.log(10.0)


def biquad_cascade_forward(x: np.ndarray, coefs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Run the cascade; saved are the states at the start of each block."""
    y = empty(x.shape, x.dtype)
    checkpoints = empty((x.shape[0], -(-x.shape[1] // BLOCK), coefs.shape[1], 2))
    _cascade_forward(x, coefs, state, y, checkpoints)
    return y, (checkpoints,)


def biquad_cascade_backward(
    grad_y: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    coefs: np.ndarray,
    saved: tuple,
    want_x: bool,
    want_coefs: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the adjoint cascade backwards, recomputing the signals between the sections block by block."""
    grad_x, grad_coefs = empty(x.shape, x.dtype), empty(coefs.shape)
    _cascade_backward(grad_y, x, coefs, saved[0], grad_x, grad_coefs)
    return grad_x, grad_coefs


def one_pole_forward(x: np.ndarray, coefs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Run the average."""
    y = empty(x.shape, x.dtype)
    _one_pole_forward(x, coefs, state, y)
    return y, ()


def one_pole_backward(
    grad_y: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    coefs: np.ndarray,
    saved: tuple,
    want_x: bool,
    want_coefs: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the average backwards."""
    grad_x, grad_coefs = empty(x.shape, x.dtype), empty(coefs.shape)
    _one_pole_backward(grad_y, x, y, coefs, grad_x, grad_coefs)
    return grad_x, grad_coefs


def ballistics_forward(x: np.ndarray, coefs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Run the smoothing; saved are the initial values and the samples that took the attack coefficient."""
    y, falling, initial = empty(x.shape, x.dtype), empty(x.shape, np.bool_), state.copy()
    _ballistics_forward(x, coefs, state, y, falling)
    return y, (initial, falling)


def ballistics_backward(
    grad_y: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    coefs: np.ndarray,
    saved: tuple,
    want_x: bool,
    want_coefs: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Run the smoothing backwards over the decisions that were taken."""
    grad_x, grad_coefs = empty(x.shape, x.dtype), empty(coefs.shape)
    _ballistics_backward(grad_y, x, y, coefs, *saved, grad_x, grad_coefs)
    return grad_x, grad_coefs


def compressor_gain_forward(x: np.ndarray, coefs: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Run level, curve and smoothing; saved are the levels, the static gains and the decisions."""
    y, falling = empty(x.shape, x.dtype), empty(x.shape, np.bool_)
    level, static = empty(x.shape, x.dtype), empty(x.shape, x.dtype)
    initial = state.copy()
    _compressor_forward(x, coefs, state, y, level, static, falling)
    return y, (initial, level, static, falling)


def compressor_gain_backward(
    grad_y: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    coefs: np.ndarray,
    saved: tuple,
    want_x: bool,
    want_coefs: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Run smoothing, curve and level backwards."""
    grad_x, grad_coefs = empty(x.shape, x.dtype), empty(coefs.shape)
    _compressor_backward(grad_y, x, y, coefs, *saved, grad_x, grad_coefs)
    return grad_x, grad_coefs


@njit(parallel=True, cache=True)
def _cascade_forward(x, coefs, state, y, checkpoints):
    rows, samples = x.shape
    for r in prange(rows):
        signal = np.empty(BLOCK)
        for block in range(checkpoints.shape[1]):
            start = block * BLOCK
            m = min(BLOCK, samples - start)
            signal[:m] = x[r, start : start + m]
            checkpoints[r, block] = state[r]
            for k in range(coefs.shape[1]):
                b0, b1, b2, a1, a2 = coefs[r, k]
                s1, s2 = state[r, k]
                for i in range(m):
                    v = signal[i]
                    o = b0 * v + s1
                    s1 = b1 * v - a1 * o + s2
                    s2 = b2 * v - a2 * o
                    signal[i] = o
                state[r, k, 0] = s1
                state[r, k, 1] = s2
            y[r, start : start + m] = signal[:m]


@njit(parallel=True, cache=True)
def _cascade_backward(grad_y, x, coefs, checkpoints, grad_x, grad_coefs):
    rows, samples = x.shape
    sections = coefs.shape[1]
    for r in prange(rows):
        signals = np.empty((sections + 1, BLOCK))
        grad = np.empty(BLOCK)
        v = np.empty(BLOCK + 2)
        adjoint = np.zeros((sections, 2))
        grad_coefs[r] = 0.0
        for block in range(checkpoints.shape[1] - 1, -1, -1):
            start = block * BLOCK
            m = min(BLOCK, samples - start)
            signals[0, :m] = x[r, start : start + m]
            for k in range(sections):
                b0, b1, b2, a1, a2 = coefs[r, k]
                s1, s2 = checkpoints[r, block, k]
                for i in range(m):
                    u = signals[k, i]
                    o = b0 * u + s1
                    s1 = b1 * u - a1 * o + s2
                    s2 = b2 * u - a2 * o
                    signals[k + 1, i] = o
            grad[:m] = grad_y[r, start : start + m]
            for k in range(sections - 1, -1, -1):
                b0, b1, b2, a1, a2 = coefs[r, k]
                v1, v2 = adjoint[k]
                v[m] = v1
                v[m + 1] = v2
                for i in range(m - 1, -1, -1):
                    u = grad[i] - a1 * v1 - a2 * v2
                    v[i] = u
                    v2 = v1
                    v1 = u
                adjoint[k, 0] = v1
                adjoint[k, 1] = v2
                c0 = c1 = c2 = c3 = c4 = 0.0
                for i in range(m):
                    c0 += v[i] * signals[k, i]
                    c1 += v[i + 1] * signals[k, i]
                    c2 += v[i + 2] * signals[k, i]
                    c3 -= v[i + 1] * signals[k + 1, i]
                    c4 -= v[i + 2] * signals[k + 1, i]
                    grad[i] = b0 * v[i] + b1 * v[i + 1] + b2 * v[i + 2]
                grad_coefs[r, k, 0] += c0
                grad_coefs[r, k, 1] += c1
                grad_coefs[r, k, 2] += c2
                grad_coefs[r, k, 3] += c3
                grad_coefs[r, k, 4] += c4
            grad_x[r, start : start + m] = grad[:m]


@njit(parallel=True, cache=True)
def _one_pole_forward(x, coefs, state, y):
    rows, samples = x.shape
    for r in prange(rows):
        c = coefs[r, 0]
        s = state[r]
        for n in range(samples):
            s = (1.0 - c) * s + c * x[r, n]
            y[r, n] = s
        state[r] = s


@njit(parallel=True, cache=True)
def _one_pole_backward(grad_y, x, y, coefs, grad_x, grad_coefs):
    rows, samples = x.shape
    for r in prange(rows):
        c = coefs[r, 0]
        adjoint = 0.0
        total = 0.0
        for n in range(samples - 1, -1, -1):
            adjoint = (1.0 - c) * adjoint + grad_y[r, n]
            previous = y[r, n - 1] if n > 0 else 0.0
            total += adjoint * (x[r, n] - previous)
            grad_x[r, n] = c * adjoint
        grad_coefs[r, 0] = total


@njit(parallel=True, cache=True)
def _ballistics_forward(x, coefs, state, y, falling):
    rows, samples = x.shape
    for r in prange(rows):
        attack, release = coefs[r]
        s = state[r]
        for n in range(samples):
            v = np.float64(x[r, n])
            fall = v < s
            c = attack if fall else release
            s += c * (v - s)
            y[r, n] = s
            falling[r, n] = fall
        state[r] = s


@njit(parallel=True, cache=True)
def _ballistics_backward(grad_y, x, y, coefs, initial, falling, grad_x, grad_coefs):
    rows, samples = x.shape
    for r in prange(rows):
        attack, release = coefs[r]
        adjoint = 0.0
        total_attack = 0.0
        total_release = 0.0
        for n in range(samples - 1, -1, -1):
            adjoint += grad_y[r, n]
            previous = np.float64(y[r, n - 1]) if n > 0 else initial[r]
            d = adjoint * (x[r, n] - previous)
            if falling[r, n]:
                total_attack += d
                step = attack * adjoint
            else:
                total_release += d
                step = release * adjoint
            grad_x[r, n] = step
            adjoint -= step
        grad_coefs[r, 0] = total_attack
        grad_coefs[r, 1] = total_release


@njit(parallel=True, cache=True)
def _compressor_forward(x, coefs, state, y, level, static, falling):
    rows, samples = x.shape
    for r in prange(rows):
        avg, cmp_threshold, cmp_slope, exp_threshold, exp_slope, attack, release = coefs[r]
        p, gain = state[r]
        for n in range(samples):
            v = np.float64(x[r, n])
            p = (1.0 - avg) * p + avg * max(v * v, FLOOR)
            db = 10.0 * math.log10(p)
            g = min(0.0, min(cmp_slope * (cmp_threshold - db), exp_slope * (exp_threshold - db)))
            f = math.exp(g / DB_PER_NEPER)
            fall = f < gain
            c = attack if fall else release
            gain += c * (f - gain)
            y[r, n] = gain
            level[r, n] = p
            static[r, n] = f
            falling[r, n] = fall
        state[r, 0] = p
        state[r, 1] = gain


@njit(parallel=True, cache=True)
def _compressor_backward(grad_y, x, y, coefs, initial, level, static, falling, grad_x, grad_coefs):
    rows, samples = x.shape
    for r in prange(rows):
        avg, cmp_threshold, cmp_slope, exp_threshold, exp_slope, attack, release = coefs[r]
        adjoint_gain = 0.0
        adjoint_level = 0.0
        grad_coefs[r] = 0.0
        for n in range(samples - 1, -1, -1):
            first = n == 0
            f = np.float64(static[r, n])
            p = np.float64(level[r, n])
            adjoint_gain += grad_y[r, n]
            d = adjoint_gain * (f - (initial[r, 1] if first else np.float64(y[r, n - 1])))
            c = attack if falling[r, n] else release
            if falling[r, n]:
                grad_coefs[r, 5] += d
            else:
                grad_coefs[r, 6] += d
            grad_f = c * adjoint_gain
            adjoint_gain -= grad_f
            if f < 1.0:
                grad_g = grad_f * f / DB_PER_NEPER
                db = 10.0 * math.log10(p)
                if cmp_slope * (cmp_threshold - db) < exp_slope * (exp_threshold - db):
                    grad_coefs[r, 1] += grad_g * cmp_slope
                    grad_coefs[r, 2] += grad_g * (cmp_threshold - db)
                    grad_db = -grad_g * cmp_slope
                else:
                    grad_coefs[r, 3] += grad_g * exp_slope
                    grad_coefs[r, 4] += grad_g * (exp_threshold - db)
                    grad_db = -grad_g * exp_slope
                adjoint_level += grad_db * 0.5 * DB_PER_NEPER / p
            v = np.float64(x[r, n])
            previous = initial[r, 0] if first else np.float64(level[r, n - 1])
            grad_coefs[r, 0] += adjoint_level * (max(v * v, FLOOR) - previous)
            grad_x[r, n] = 2.0 * avg * v * adjoint_level if v * v >= FLOOR else 0.0
            adjoint_level *= 1.0 - avg
