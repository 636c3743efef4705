"""The compiled loops behind numba_cpu.recursions, parallel over rows.

Rows of x (R, T) are processed in blocks, in float64 buffers that stay in the L1 cache. A forward pass updates state
(R, D), writes y (R, T) and the state before each block, checkpoints (R, blocks, D). A backward pass, last block first,
recomputes a block, runs the adjoint with a carry from the block after it, writes grad_x and adds to grad_coefs.
"""

import math

import numpy as np
from numba import prange

from reknob.afx.kernels.numba_cpu.cache import kernel

Array = np.ndarray
BLOCK = 512  # samples; six buffers of a compressor, 8 bytes per sample, take 24 KB of the L1 cache
FLOOR = 1e-8  # of the squared signal: -80 dB
TINY = 1e-30  # smaller states are set to 0: decays would end in denormal numbers, whose arithmetic is slow
DB_PER_LOG2 = 10.0 * math.log10(2.0)  # of power
LOG2_PER_DB = math.log2(10.0) / 20.0  # of amplitude
NEPER_PER_DB = math.log(10.0) / 20.0

# log2(m) = 2 / ln 2 * atanh(s), s = (m - 1) / (m + 1), as a series in s^2 <= 0.0295; 2^z as a series in |z| <= 1/2.
L0, L1, L2, L3, L4, L5, L6, L7, L8, L9, L10 = (2.0 / math.log(2.0) / (2 * i + 1) for i in range(11))
E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11, E12, E13 = (math.log(2.0) ** i / math.factorial(i) for i in range(14))

# A double is 52 bits of mantissa below the exponent + 1023. The integer n in the mantissa of 2^52 makes it 2^52 + n.
MANTISSA_BITS = np.uint64(52)
MANTISSA = np.uint64(2**52 - 1)
TWO_52 = np.float64(2.0**52).view(np.uint64)
SQRT_HALF = np.float64(math.sqrt(0.5)).view(np.uint64)
ONE_OVER_SQRT_HALF = np.float64(1.0).view(np.uint64) - SQRT_HALF
EXPONENT_OFFSET = 2.0**52 + 1023.0


@kernel(parallel=True)
def cascade_forward(x: Array, coefs: Array, state: Array, y: Array, checkpoints: Array) -> None:
    for r in prange(x.shape[0]):
        signals = np.empty((coefs.shape[1] + 1, BLOCK))
        for block in range(checkpoints.shape[1]):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _copy(state[r], checkpoints[r, block], state.shape[1])
            _copy(x[r, start:], signals[0], m)
            _cascade(signals, m, coefs[r], state[r])
            _copy(signals[-1], y[r, start:], m)


@kernel(parallel=True)
def cascade_backward(
    grad_y: Array,
    x: Array,
    coefs: Array,
    checkpoints: Array,
    want_x: bool,
    want_coefs: bool,
    grad_x: Array,
    grad_coefs: Array,
) -> None:
    for r in prange(x.shape[0]):
        signals = np.empty((coefs.shape[1] + 1, BLOCK))
        grad = np.empty(BLOCK)
        v = np.empty(BLOCK + 2)  # and the first two of the next block, which the adjoint's delays reach
        carry = np.zeros((coefs.shape[1], 2))
        grad_coefs[r] = 0.0
        for block in range(checkpoints.shape[1] - 1, -1, -1):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            if want_coefs:
                _copy(x[r, start:], signals[0], m)
                _cascade(signals, m, coefs[r], checkpoints[r, block].copy())  # a copy, since it is advanced in place
            _copy(grad_y[r, start:], grad, m)
            for k in range(coefs.shape[1] - 1, -1, -1):  # the last first: gradients enter at the output
                _section_adjoint(grad, v, m, coefs[r, k], carry[k])
                if want_coefs:
                    _add_section_gradient(v, signals[k], signals[k + 1], m, grad_coefs[r, k])
            if want_x:
                _copy(grad, grad_x[r, start:], m)


@kernel(parallel=True)
def one_pole_forward(x: Array, coefs: Array, state: Array, y: Array, checkpoints: Array) -> None:
    for r in prange(x.shape[0]):
        average = np.empty(BLOCK + 1)  # from index 1 on; index 0 is the state before the block
        for block in range(checkpoints.shape[1]):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _copy(state[r], checkpoints[r, block], state.shape[1])
            state[r, 0] = _average(x[r, start:], average, m, coefs[r, 0], state[r, 0])
            _copy(average[1:], y[r, start:], m)


@kernel(parallel=True)
def one_pole_backward(
    grad_y: Array,
    x: Array,
    coefs: Array,
    checkpoints: Array,
    want_x: bool,
    want_coefs: bool,
    grad_x: Array,
    grad_coefs: Array,
) -> None:
    for r in prange(x.shape[0]):
        average = np.empty(BLOCK + 1)
        adjoint = np.empty(BLOCK)
        carry = 0.0
        grad_coefs[r] = 0.0
        for block in range(checkpoints.shape[1] - 1, -1, -1):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            carry = _average_adjoint(grad_y[r, start:], adjoint, m, coefs[r, 0], carry)
            if want_coefs:
                _average(x[r, start:], average, m, coefs[r, 0], checkpoints[r, block, 0])
                grad_coefs[r, 0] += _average_gradient(adjoint, x[r, start:], average, m)
            if want_x:
                out = grad_x[r, start:]
                for i in range(m):
                    out[i] = coefs[r, 0] * adjoint[i]


@kernel(parallel=True)
def ballistics_forward(x: Array, coefs: Array, state: Array, y: Array, checkpoints: Array) -> None:
    for r in prange(x.shape[0]):
        smooth = np.empty(BLOCK + 1)
        for block in range(checkpoints.shape[1]):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _copy(state[r], checkpoints[r, block], state.shape[1])
            state[r, 0] = _smooth(x[r, start:], smooth, m, coefs[r, 0], coefs[r, 1], state[r, 0])
            _copy(smooth[1:], y[r, start:], m)


@kernel(parallel=True)
def ballistics_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, grad_x: Array, grad_coefs: Array
) -> None:
    for r in prange(x.shape[0]):
        smooth = np.empty(BLOCK + 1)
        grad = np.empty(BLOCK)
        carry = 0.0
        grad_coefs[r] = 0.0
        for block in range(checkpoints.shape[1] - 1, -1, -1):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _smooth(x[r, start:], smooth, m, coefs[r, 0], coefs[r, 1], checkpoints[r, block, 0])
            carry = _smooth_adjoint(grad_y[r, start:], x[r, start:], smooth, grad, m, coefs[r], carry, grad_coefs[r])
            if want_x:
                _copy(grad, grad_x[r, start:], m)


@kernel(parallel=True)
def compressor_forward(x: Array, coefs: Array, state: Array, y: Array, checkpoints: Array) -> None:
    for r in prange(x.shape[0]):
        buffers = _compressor_buffers()
        for block in range(checkpoints.shape[1]):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _copy(state[r], checkpoints[r, block], state.shape[1])
            _compress(x[r, start:], buffers, m, coefs[r], state[r])
            _copy(buffers[4][1:], y[r, start:], m)


@kernel(parallel=True)
def compressor_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, grad_x: Array, grad_coefs: Array
) -> None:
    for r in prange(x.shape[0]):
        buffers = _compressor_buffers()
        power, level, level_db, static, gain, grad = buffers
        carry_level = carry_gain = 0.0  # nothing after the last sample depends on the states
        avg, times, grad_times = coefs[r, 0], coefs[r, 5:], grad_coefs[r, 5:]
        grad_coefs[r] = 0.0
        for block in range(checkpoints.shape[1] - 1, -1, -1):
            start = block * BLOCK
            m = min(BLOCK, x.shape[1] - start)
            _compress(x[r, start:], buffers, m, coefs[r], checkpoints[r, block].copy())
            carry_gain = _smooth_adjoint(grad_y[r, start:], static, gain, grad, m, times, carry_gain, grad_times)
            _curve_adjoint(grad, level, level_db, static, m, coefs[r], grad_coefs[r])
            carry_level = _average_adjoint(grad, grad, m, avg, carry_level)
            grad_coefs[r, 0] += _average_gradient(grad, power, level, m)
            if want_x:
                source, out = x[r, start:], grad_x[r, start:]
                for i in range(m):
                    v = np.float64(source[i])
                    out[i] = 2.0 * avg * v * grad[i] if v * v >= FLOOR else 0.0


@kernel()
def _copy(source: Array, target: Array, m: int) -> None:
    for i in range(m):  # since assigning slices of two dtypes does not compile to vector instructions
        target[i] = source[i]


@kernel()
def _flush(state: float) -> float:
    return 0.0 if abs(state) < TINY else state  # NaN stays


@kernel(fastmath={"contract"})
def _cascade(signals: Array, m: int, coefs: Array, state: Array) -> None:
    """Filter signals[0, :m]; signals[k + 1] is the output of section k."""
    for k in range(coefs.shape[0]):
        b0, b1, b2, a1, a2 = coefs[k]
        u, y = signals[k], signals[k + 1]
        s1, s2 = state[2 * k], state[2 * k + 1]
        for i in range(min(2, m)):  # transposed direct form II, in which the state is defined
            y[i] = b0 * u[i] + s1
            s1 = b1 * u[i] - a1 * y[i] + s2
            s2 = b2 * u[i] - a2 * y[i]
        if m > 2:
            # Direct form I from here: the dependency between two outputs is a single multiply-add.
            u2, u1, y2, y1 = u[0], u[1], y[0], y[1]
            for i in range(2, m):
                out = (b0 * u[i] + b1 * u1 + b2 * u2 - a2 * y2) - a1 * y1
                y[i] = out
                u2, u1, y2, y1 = u1, u[i], y1, out
            s1 = b1 * u1 + b2 * u2 - a1 * y1 - a2 * y2  # that state again, so that a next block of any size continues
            s2 = b2 * u1 - a2 * y1
        state[2 * k], state[2 * k + 1] = _flush(s1), _flush(s2)


@kernel(fastmath={"contract"})
def _section_adjoint(grad: Array, v: Array, m: int, coefs: Array, carry: Array) -> None:
    """Run the adjoint of one section: v = grad / A, then grad = B v; v[m:m+2] are the first two of the next block."""
    b0, b1, b2, a1, a2 = coefs
    v1, v2 = carry
    v[m], v[m + 1] = v1, v2
    for i in range(m - 1, -1, -1):
        out = (grad[i] - a2 * v2) - a1 * v1
        v[i] = out
        grad[i] = b0 * out + b1 * v1 + b2 * v2
        v2, v1 = v1, out
    carry[0], carry[1] = _flush(v1), _flush(v2)


@kernel(fastmath={"contract", "reassoc"})  # sums in any order, which vector instructions need
def _add_section_gradient(v: Array, u: Array, y: Array, m: int, total: Array) -> None:
    """Add the gradients of a section's coefficients: sum v[n] u[n-j] for b_j and -sum v[n] y[n-j] for a_j."""
    b0 = b1 = b2 = a1 = a2 = 0.0
    for i in range(m):
        b0 += v[i] * u[i]
        b1 += v[i + 1] * u[i]
        b2 += v[i + 2] * u[i]
        a1 -= v[i + 1] * y[i]
        a2 -= v[i + 2] * y[i]
    total[0] += b0
    total[1] += b1
    total[2] += b2
    total[3] += a1
    total[4] += a2


@kernel(fastmath={"contract"})
def _average(x: Array, y: Array, m: int, coef: float, state: float) -> float:
    """Average x[:m] into y[1:m+1], from y[0] = state; return the last value."""
    y[0] = state
    for i in range(m):
        state = (1.0 - coef) * state + coef * x[i]
        y[i + 1] = state
    return _flush(state)


@kernel(fastmath={"contract"})
def _average_adjoint(grad: Array, adjoint: Array, m: int, coef: float, carry: float) -> float:
    """Set adjoint[n] = sum over k >= n, later blocks included, of (1 - coef)^(k-n) grad[k]; return adjoint[0]."""
    for i in range(m - 1, -1, -1):
        carry = (1.0 - coef) * carry + grad[i]
        adjoint[i] = carry
    return _flush(carry)


@kernel(fastmath={"contract", "reassoc"})
def _average_gradient(adjoint: Array, x: Array, y: Array, m: int) -> float:
    total = 0.0
    for i in range(m):
        total += adjoint[i] * (x[i] - y[i])
    return total


@kernel(fastmath={"contract"})
def _smooth(x: Array, y: Array, m: int, attack: float, release: float, state: float) -> float:
    """Smooth x[:m] into y[1:m+1], from y[0] = state; return the last value."""
    y[0] = state
    for i in range(m):
        # A minimum where attack is faster, else a maximum, equals the choice by x < state, without a branch.
        fall = (1.0 - attack) * state + attack * x[i]
        rise = (1.0 - release) * state + release * x[i]
        state = min(fall, rise) if attack >= release else max(fall, rise)
        y[i + 1] = state
    return _flush(state)


@kernel(fastmath={"contract", "reassoc"})
def _smooth_adjoint(
    grad_y: Array, x: Array, y: Array, grad_x: Array, m: int, coefs: Array, carry: float, total: Array
) -> float:
    """Set grad_x from grad_y, add the gradients of attack and release to `total`, return that of y[0]."""
    attack, release = coefs[0], coefs[1]
    for i in range(m):  # apart from the recursion, whose loop then has no branch
        grad_x[i] = 1.0 - (attack if x[i] < y[i] else release)
    keep = 1.0  # as `carry` is already multiplied by the weight of the block's last state
    for i in range(m - 1, -1, -1):
        carry = keep * carry + grad_y[i]
        keep = grad_x[i]
        grad_x[i] = carry
    grad_attack = grad_release = 0.0
    for i in range(m):
        step = grad_x[i] * (x[i] - y[i])
        falling = x[i] < y[i]
        grad_attack += step if falling else 0.0
        grad_release += 0.0 if falling else step
        grad_x[i] *= attack if falling else release
    total[0] += grad_attack
    total[1] += grad_release
    return _flush(keep * carry)


@kernel()
def _compressor_buffers() -> tuple[Array, ...]:
    """Allocate power, level (from index 1 on), level in dB, static gain, gain (from index 1 on) and scratch space."""
    size = BLOCK + 1
    return np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size)


@kernel(fastmath={"contract"})
def _compress(x: Array, buffers: tuple[Array, ...], m: int, coefs: Array, state: Array) -> None:
    """Compute power, level, level in dB, static gain and gain of x[:m] into the buffers."""
    power, level, level_db, static, gain, scratch = buffers
    avg, cmp_threshold, cmp_slope, exp_threshold, exp_slope, attack, release = coefs
    for i in range(m):
        v = np.float64(x[i])
        power[i] = FLOOR if v * v < FLOOR else v * v
    state[0] = _average(power, level, m, avg, state[0])
    _copy(level[1:], level_db, m)
    _log2(level_db, scratch, m)
    for i in range(m):
        db = DB_PER_LOG2 * level_db[i] + 0.0 * level[i + 1]  # keeps NaN, which _log2 loses
        level_db[i] = db
        compressed, expanded = cmp_slope * (cmp_threshold - db), exp_slope * (exp_threshold - db)
        g = compressed if compressed < expanded else expanded
        static[i] = 0.0 if g > 0.0 else LOG2_PER_DB * g
    _exp2(static, scratch, m)
    state[1] = _smooth(static, gain, m, attack, release, state[1])


@kernel(error_model="numpy", fastmath={"contract", "reassoc"})
def _curve_adjoint(
    grad: Array, level: Array, level_db: Array, static: Array, m: int, coefs: Array, total: Array
) -> None:
    """Replace the gradients of the static gain by those of the level; add those of thresholds and slopes to `total`."""
    _, cmp_threshold, cmp_slope, exp_threshold, exp_slope, _, _ = coefs
    cmp_sum = cmp_slope_sum = exp_sum = exp_slope_sum = 0.0
    for i in range(m):
        cmp_over, exp_over = cmp_threshold - level_db[i], exp_threshold - level_db[i]
        compressed, expanded = cmp_slope * cmp_over, exp_slope * exp_over
        grad_g = grad[i] * static[i] * NEPER_PER_DB if min(compressed, expanded) < 0.0 else 0.0
        grad_cmp = grad_g if compressed < expanded else 0.0
        grad_exp = grad_g - grad_cmp
        cmp_sum += grad_cmp
        cmp_slope_sum += grad_cmp * cmp_over
        exp_sum += grad_exp
        exp_slope_sum += grad_exp * exp_over
        grad[i] = -(cmp_slope * grad_cmp + exp_slope * grad_exp) * (0.5 / NEPER_PER_DB) / level[i + 1]
    total[1] += cmp_slope * cmp_sum
    total[2] += cmp_slope_sum
    total[3] += exp_slope * exp_sum
    total[4] += exp_slope_sum


@kernel(error_model="numpy", fastmath={"contract"})
def _log2(v: Array, exponent: Array, m: int) -> None:
    """Replace v[:m] > 0 by its base-2 logarithm (to 1e-15), in loops that compile to vector instructions."""
    bits, exponent_bits = v.view(np.uint64), exponent.view(np.uint64)
    for i in range(m):
        shifted = bits[i] + ONE_OVER_SQRT_HALF  # the mantissa then lies between sqrt(1/2) and sqrt(2)
        exponent_bits[i] = (shifted >> MANTISSA_BITS) | TWO_52
        bits[i] = (shifted & MANTISSA) + SQRT_HALF
    for i in range(m):
        s = (v[i] - 1.0) / (v[i] + 1.0)
        z = s * s
        high = L5 + z * (L6 + z * (L7 + z * (L8 + z * (L9 + z * L10))))
        v[i] = exponent[i] - EXPONENT_OFFSET + s * (L0 + z * (L1 + z * (L2 + z * (L3 + z * (L4 + z * high)))))


@kernel(error_model="numpy", fastmath={"contract"})
def _exp2(v: Array, power: Array, m: int) -> None:
    """Replace v[:m] <= 0 by 2^v (to 1e-15; 2^-1022 below v = -1022), in loops that compile to vector instructions."""
    power_bits = power.view(np.uint64)
    for i in range(m):
        exponent = -1022.0 if v[i] < -1022.0 else v[i]
        integer = np.rint(exponent)
        z = exponent - integer
        power[i] = integer + EXPONENT_OFFSET
        high = E7 + z * (E8 + z * (E9 + z * (E10 + z * (E11 + z * (E12 + z * E13)))))
        v[i] = E0 + z * (E1 + z * (E2 + z * (E3 + z * (E4 + z * (E5 + z * (E6 + z * high))))))
    for i in range(m):
        power_bits[i] = power_bits[i] << MANTISSA_BITS
    for i in range(m):
        v[i] *= power[i]
