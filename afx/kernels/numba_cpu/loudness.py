"""Loudness ratios as compiled loops, parallel over signals; see afx.kernels.loudness for what they compute.

x (B, 2, T) are pairs of channels and mix (S, 2) the weights of left and right in S signals. coefs (P, 2) and shifts
(P,) describe P pairs of a short and a long average. target (R, P, T) has one signal per row, and rows (B, S) is the row
that each signal is compared with.

A signal is processed in blocks of BLOCK samples, whose buffers stay in the L1 cache; in each, the long average is that
of the samples `shift` later. Before the first block, the long average is run over the first `shift` samples. The
forward pass stores both averages at the start of each block; the backward pass recomputes the averages of a block from
these, from the last block to the first, replaces them by their gradients, runs the adjoint averages, and adds the
gradients of the powers to one row per signal (B, S, T). These become gradients of the samples, then of the channels.
"""

import numpy as np
from numba import prange
from numpy import empty  # under a name of its own, so that tests can poison what is handed out

from reknob.afx.kernels.numba_cpu.cache import kernel
from reknob.afx.kernels.numba_cpu.spectral import FAST, FLOOR, log_product

Array = np.ndarray

BLOCK = 1024


def loudness_ratio_forward(x: Array, coefs: Array, shifts: Array, mix: Array) -> Array:
    """Ratios (B, S, P, T) of x (B, 2, T)."""
    ratio = empty((x.shape[0], mix.shape[0], coefs.shape[0], x.shape[2]), x.dtype)
    _loudness_ratio(x, coefs, shifts, mix, ratio)
    return ratio


def loudness_deviation_forward(
    x: Array, target: Array, rows: Array, coefs: Array, shifts: Array, mix: Array
) -> tuple[Array, Array]:
    """Sums (B, S, P) over time of absolute log ratios, and both averages before each block (B, S, P, blocks, 2)."""
    sums = empty((x.shape[0], mix.shape[0], coefs.shape[0]), np.float64)
    checkpoints = empty((*sums.shape, -(-x.shape[2] // BLOCK), 2), np.float64)
    _loudness_deviation(x, target, rows, coefs, shifts, mix, sums, checkpoints)
    return sums, checkpoints


def loudness_deviation_backward(
    grad: Array, x: Array, target: Array, rows: Array, coefs: Array, shifts: Array, mix: Array, checkpoints: Array
) -> Array:
    """Gradient to x of the sums weighted by grad (B, S, P)."""
    signals = empty((x.shape[0], mix.shape[0], x.shape[2]), x.dtype)
    _loudness_gradient(grad, x, target, rows, coefs, shifts, mix, checkpoints, signals)
    grad_x = empty(x.shape, x.dtype)
    _unmix(signals, mix, grad_x)
    return grad_x


@kernel(parallel=True, error_model="numpy")
def _loudness_ratio(x: Array, coefs: Array, shifts: Array, mix: Array, ratio: Array) -> None:
    for job in prange(x.shape[0] * mix.shape[0]):
        b, s = job // mix.shape[0], job % mix.shape[0]
        left, right = _channels(x[b], mix[s])
        short, long = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
        for p in range(coefs.shape[0]):
            kept, state = x.shape[2] - shifts[p], np.zeros(2)
            # Both states in float64: poles close to 1 accumulate the rounding of all samples within their reach.
            _start_long(left, right, mix[s], coefs[p, 1], shifts[p], state)
            for start in range(0, kept, BLOCK):
                m = min(BLOCK, kept - start)
                _averages(left[start:], right[start:], mix[s], coefs[p], shifts[p], m, state, short, long)
                _divide(short[:m], long, ratio[b, s, p, start:])
            # 1, the ratio of equal averages, where there is no long one: its logarithm is 0.
            ratio[b, s, p, kept:] = 1


@kernel(parallel=True, error_model="numpy")
def _loudness_deviation(
    x: Array,
    target: Array,
    rows: Array,
    coefs: Array,
    shifts: Array,
    mix: Array,
    sums: Array,
    checkpoints: Array,
) -> None:
    for job in prange(x.shape[0] * mix.shape[0]):
        b, s = job // mix.shape[0], job % mix.shape[0]
        left, right = _channels(x[b], mix[s])
        short, long = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
        for p in range(coefs.shape[0]):
            kept, state, total = x.shape[2] - shifts[p], np.zeros(2), 0.0
            _start_long(left, right, mix[s], coefs[p, 1], shifts[p], state)
            for block in range(-(-kept // BLOCK)):
                start = block * BLOCK
                m = min(BLOCK, kept - start)
                # Before the block is run: the backward pass runs it again from here.
                checkpoints[b, s, p, block, 0], checkpoints[b, s, p, block, 1] = state[0], state[1]
                _averages(left[start:], right[start:], mix[s], coefs[p], shifts[p], m, state, short, long)
                _deviation_ratios(short[:m], long, target[rows[b, s], p, start:])
                total += log_product(short[:m])
            sums[b, s, p] = total


@kernel(parallel=True, error_model="numpy")
def _loudness_gradient(
    grad: Array,
    x: Array,
    target: Array,
    rows: Array,
    coefs: Array,
    shifts: Array,
    mix: Array,
    checkpoints: Array,
    out: Array,
) -> None:
    for job in prange(x.shape[0] * mix.shape[0]):
        b, s = job // mix.shape[0], job % mix.shape[0]
        left, right = _channels(x[b], mix[s])
        short, long = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
        # All pairs of averages add to it.
        out[b, s] = 0
        for p in range(coefs.shape[0]):
            kept, state = x.shape[2] - shifts[p], np.zeros(2)
            for block in range(-(-kept // BLOCK) - 1, -1, -1):
                start = block * BLOCK
                m = min(BLOCK, kept - start)
                # A copy, as _averages advances its state in place, and the checkpoints may serve a second backward
                # pass.
                average = checkpoints[b, s, p, block].copy()
                _averages(left[start:], right[start:], mix[s], coefs[p], shifts[p], m, average, short, long)
                _deviation_gradients(short[:m], long, target[rows[b, s], p, start:])
                _averages_backward(short[:m], long, coefs[p], state)
                # The adjoints are linear: their weight is applied once, after the recursion.
                _add_scaled(short[:m], grad[b, s, p] * coefs[p, 0], out[b, s, start:])
                _add_scaled(long[:m], grad[b, s, p] * coefs[p, 1], out[b, s, start + shifts[p] :])
            _fade(state[1], 1.0 - coefs[p, 1], grad[b, s, p] * coefs[p, 1], out[b, s, : shifts[p]])
        _power_backward(left, right, mix[s, 0], mix[s, 1], out[b, s])


@kernel()
def _channels(x: Array, weights: Array) -> tuple[Array, Array]:
    """The channels (T,) that a signal mixes; the used one twice where a weight is 0.

    The unused channel may belong to another item and contain NaN, which 0 * NaN would spread to this signal.
    """
    return x[0 if weights[0] != 0 else 1], x[1 if weights[1] != 0 else 0]


@kernel(fastmath=FAST, error_model="numpy")
def _start_long(left: Array, right: Array, weights: Array, coef: float, count: int, state: Array) -> None:
    """Run the long average, from zero, over the first `count` samples; the result is state[1]."""
    powers, b = np.empty(count), 0.0
    _powers(left, right, weights, coef, powers)
    for n in range(count):
        b = (1.0 - coef) * b + powers[n]
    state[1] = b


@kernel(fastmath=FAST, error_model="numpy")
def _averages(
    left: Array, right: Array, weights: Array, coefs: Array, shift: int, m: int, state: Array, short: Array, long: Array
) -> None:
    """One-pole averages of max((u L + v R)^2, floor) over m samples, the long one `shift` samples later."""
    keep_short, keep_long = 1.0 - coefs[0], 1.0 - coefs[1]
    a, b = state[0], state[1]
    powers, ahead = np.empty(m), np.empty(m)
    _powers(left, right, weights, coefs[0], powers)
    _powers(left[shift:], right[shift:], weights, coefs[1], ahead)
    # Only the recursions: each step depends on the one before, while all other loops compile to vector instructions.
    for n in range(m):
        a = keep_short * a + powers[n]
        b = keep_long * b + ahead[n]
        powers[n], ahead[n] = a, b
    # Rounded to the signal's type after the recursions, whose states stay in float64.
    for n in range(m):
        short[n] = powers[n]
    for n in range(m):
        long[n] = ahead[n]
    state[0], state[1] = a, b


@kernel(fastmath=FAST, error_model="numpy")
def _powers(left: Array, right: Array, weights: Array, scale: float, out: Array) -> None:
    """scale max((u L + v R)^2, floor)"""
    u, v = weights[0], weights[1]
    for n in range(out.shape[0]):
        z = np.float64(u * left[n] + v * right[n])
        out[n] = scale * max(z * z, FLOOR)


@kernel(fastmath=FAST, error_model="numpy")
def _divide(short: Array, long: Array, out: Array) -> None:
    for n in range(short.shape[0]):
        out[n] = short[n] / long[n]


@kernel(fastmath=FAST, error_model="numpy")
def _deviation_ratios(short: Array, long: Array, target: Array) -> None:
    """Replace short averages by max(r, q) / min(r, q) of the ratio r = short / long and the target's ratio q."""
    for n in range(short.shape[0]):
        r, q = short[n] / long[n], target[n]
        # At least 1, so that log_product takes one logarithm of many and no absolute value.
        short[n] = max(r, q) / min(r, q)


@kernel(fastmath=FAST, error_model="numpy")
def _deviation_gradients(short: Array, long: Array, target: Array) -> None:
    """Replace both averages by the gradients of |log(short / long) - log target|."""
    for n in range(short.shape[0]):
        a, b = short[n], long[n]
        r, q = a / b, target[n]
        # 0 where both are equal: a signal that equals its target gets no gradient.
        sign = np.float32(r > q) - np.float32(r < q)
        short[n] = sign / a
        long[n] = -sign / b


@kernel(fastmath=FAST, error_model="numpy")
def _averages_backward(short: Array, long: Array, coefs: Array, state: Array) -> None:
    """Run the adjoints of both averages in place, from the last sample to the first."""
    keep_short, keep_long = 1.0 - coefs[0], 1.0 - coefs[1]
    a, b = state[0], state[1]
    for n in range(short.shape[0] - 1, -1, -1):
        a = keep_short * a + short[n]
        b = keep_long * b + long[n]
        short[n] = a
        long[n] = b
    state[0], state[1] = a, b


@kernel(fastmath=FAST, error_model="numpy")
def _add_scaled(values: Array, scale: float, out: Array) -> None:
    for n in range(values.shape[0]):
        out[n] += scale * values[n]


@kernel(fastmath=FAST, error_model="numpy")
def _fade(value: float, keep: float, scale: float, out: Array) -> None:
    """Add the gradients of the first `shift` powers, which reach the ratios through the long average only."""
    for n in range(out.shape[0] - 1, -1, -1):
        value *= keep
        out[n] += scale * value


@kernel(fastmath=FAST, error_model="numpy")
def _power_backward(left: Array, right: Array, u: float, v: float, grad: Array) -> None:
    """Replace gradients of the powers by gradients of the samples; 0 below the floor."""
    floor, zero = left.dtype.type(FLOOR), left.dtype.type(0)
    for n in range(grad.shape[0]):
        z = u * left[n] + v * right[n]
        slope = (z + z) * grad[n]
        grad[n] = slope if z * z >= floor else zero


@kernel(parallel=True)
def _unmix(signals: Array, mix: Array, out: Array) -> None:
    """Gradients of the channels (B, 2, T) from those of the signals (B, S, T)."""
    for job in prange(2 * out.shape[0]):
        b, c = job // 2, job % 2
        out[b, c] = 0
        for s in range(mix.shape[0]):
            # Not multiplied by 0: the gradient of a signal that does not contain this channel may be NaN.
            if mix[s, c] != 0:
                _add_scaled(signals[b, s], mix[s, c], out[b, c])
