"""Response of a feedback delay network: complex elimination of many bins at a time, and its adjoint.

LANES neighbouring bins are solved together: every inner loop is a vector loop over them, and their data fit the L1 and
L2 caches. With M lines, I inputs and O outputs, the system of a block of bins is an array (M + O, M + I, 2, LANES) of
real and imaginary parts: the matrix A = diag(e^{i w m}) - U diag(gain) bordered to [[A, b], [-c, 0]]. Elimination of A
leaves its Schur complement H = c A^-1 b in the corner (O, I). The backward pass substitutes, so that the borders become
X = A^-1 b and -Z = -c A^-1, from which all gradients follow; it eliminates again, which takes less time than storing.

A task is SPAN bins of one of G networks, and tasks run in parallel. Gradients that are sums over bins are accumulated
per lane in the precision of the arguments, added in float64 per task, and over tasks by the wrapper.
"""

import math

import numpy as np
from numba import prange
from numpy import empty  # under its own name, so that a test can poison what the wrappers hand out

from reknob.afx.kernels.numba_cpu.cache import kernel

Array = np.ndarray

LANES = 128
SPAN = 8 * LANES  # bins of a task
# Fused multiply-adds, but no sum is reordered. The error model of numpy divides without testing for 0, which would keep
# loops from compiling to vector instructions.
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


def fdn_response_forward(feedback: Array, line_gain: Array, b: Array, c: Array, delays: Array, n: int) -> Array:
    """Return H (G, O, I, F) in the complex type of `feedback`; arguments as in afx.kernels.fdn, contiguous."""
    H = empty((len(feedback), c.shape[1], b.shape[2], line_gain.shape[2], 2), feedback.dtype)
    _forward(feedback, line_gain, b, c, delays, _rotations(delays, n), n, H)
    return H.view(np.result_type(feedback.dtype, np.complex64))[..., 0]


def fdn_response_backward(
    grad_H: Array, feedback: Array, line_gain: Array, b: Array, c: Array, delays: Array, n: int
) -> tuple[Array, ...]:
    """Return the gradients of feedback, line_gain, b, c and delays, of the arguments' shapes."""
    parts = grad_H.view(feedback.dtype).reshape(*grad_H.shape, 2)
    tasks = _count(line_gain.shape[2], SPAN)
    # A slot per task, as threads that add to one array would interfere; summed in a fixed order below.
    sums = [empty((len(a), tasks, *a.shape[1:]), np.float64) for a in (feedback, b, c, delays)]
    grad_gain = empty(line_gain.shape, line_gain.dtype)
    _backward(parts, feedback, line_gain, b, c, delays, _rotations(delays, n), n, *sums, grad_gain)
    grad_feedback, grad_b, grad_c = (s.sum(1).astype(feedback.dtype) for s in sums[:3])
    return grad_feedback, grad_gain, grad_b, grad_c, sums[3].sum(1)


def _rotations(delays: Array, n: int) -> Array:
    """Return e^{i w m} at the first LANES bins, (G, M, 2, LANES): the factors from a block's first phasor to all."""
    # Whole turns are removed before the product with 2 pi rounds them.
    angle = 2.0 * math.pi * (delays[:, :, None] * np.arange(LANES) / n % 1.0)
    return np.stack([np.cos(angle), np.sin(angle)], axis=2)


@kernel(**OPTIONS)
def _count(size: int, part: int) -> int:
    """Number of parts of a size, rounded up."""
    return (size + part - 1) // part


@kernel(parallel=True, nogil=True, **OPTIONS)
def _forward(
    feedback: Array, line_gain: Array, b: Array, c: Array, delays: Array, rotations: Array, n: int, H: Array
) -> None:
    tasks = _count(line_gain.shape[2], SPAN)
    for k in prange(len(feedback) * tasks):
        g, task = k // tasks, k % tasks
        _forward_task(task, feedback[g], line_gain[g], b[g], c[g], delays[g], rotations[g], n, H[g])


@kernel(parallel=True, nogil=True, **OPTIONS)
def _backward(
    grad_H: Array,
    feedback: Array,
    line_gain: Array,
    b: Array,
    c: Array,
    delays: Array,
    rotations: Array,
    n: int,
    sum_feedback: Array,
    sum_b: Array,
    sum_c: Array,
    sum_delays: Array,
    grad_gain: Array,
) -> None:
    tasks = _count(line_gain.shape[2], SPAN)
    for k in prange(len(feedback) * tasks):
        g, task = k // tasks, k % tasks
        sums = sum_feedback[g, task], sum_b[g, task], sum_c[g, task], sum_delays[g, task]
        network = feedback[g], line_gain[g], b[g], c[g], delays[g], rotations[g]
        _backward_task(task, grad_H[g], *network, n, *sums, grad_gain[g])


@kernel(**OPTIONS)
def _forward_task(
    task: int,
    feedback: Array,
    line_gain: Array,
    b: Array,
    c: Array,
    delays: Array,
    rotations: Array,
    n: int,
    H: Array,
) -> None:
    lines, inputs, outputs, dtype = b.shape[0], b.shape[1], c.shape[0], feedback.dtype
    # Allocated per task and reused by all its blocks.
    system = np.empty((lines + outputs, lines + inputs, 2, LANES), dtype)
    gain, phasor = np.empty((lines, LANES), dtype), np.empty((lines, 2, LANES), dtype)
    for first in range(task * SPAN, min((task + 1) * SPAN, line_gain.shape[1]), LANES):
        _load(line_gain, first, gain)
        _border(system, gain, phasor, feedback, b, c, delays, rotations, first, n)
        _eliminate(system, lines)
        for o in range(outputs):
            for q in range(inputs):
                for w in range(min(LANES, line_gain.shape[1] - first)):
                    H[o, q, first + w, 0] = system[lines + o, lines + q, 0, w]
                    H[o, q, first + w, 1] = system[lines + o, lines + q, 1, w]


@kernel(**OPTIONS)
def _backward_task(
    task: int,
    grad_H: Array,
    feedback: Array,
    line_gain: Array,
    b: Array,
    c: Array,
    delays: Array,
    rotations: Array,
    n: int,
    sum_feedback: Array,
    sum_b: Array,
    sum_c: Array,
    sum_delays: Array,
    grad_gain: Array,
) -> None:
    lines, inputs, outputs, dtype = b.shape[0], b.shape[1], c.shape[0], feedback.dtype
    system = np.empty((lines + outputs, lines + inputs, 2, LANES), dtype)
    gain, phasor = np.empty((lines, LANES), dtype), np.empty((lines, 2, LANES), dtype)
    seed, adjoint = np.empty((outputs, inputs, 2, LANES), dtype), np.empty((lines, inputs, 2, LANES), dtype)
    # Sums are kept per lane over all blocks, so that each adds SPAN / LANES terms in the arguments' precision at most.
    lane_feedback, lane_gain = np.zeros((lines, lines, LANES), dtype), np.empty((lines, LANES), dtype)
    lane_b, lane_c = np.zeros((lines, inputs, LANES), dtype), np.zeros((outputs, lines, LANES), dtype)
    lane_delays = np.zeros((1, lines, LANES), dtype)
    for first in range(task * SPAN, min((task + 1) * SPAN, line_gain.shape[1]), LANES):
        _load(line_gain, first, gain)
        for o in range(outputs):
            for part in range(2):
                _load(grad_H[o, :, :, part], first, seed[o, :, part])
        _border(system, gain, phasor, feedback, b, c, delays, rotations, first, n)
        _eliminate(system, lines)
        _substitute(system, lines)
        _adjoint(system, seed, adjoint, lane_b, lane_c)
        _feedback_grads(system, adjoint, gain, feedback, lane_feedback, lane_gain)
        _delay_grads(system, adjoint, phasor, first, n, lane_delays[0])
        for i in range(lines):
            for w in range(min(LANES, line_gain.shape[1] - first)):
                grad_gain[i, first + w] = lane_gain[i, w]
    _add_lanes(lane_feedback, sum_feedback)
    _add_lanes(lane_b, sum_b)
    _add_lanes(lane_c, sum_c)
    _add_lanes(lane_delays, sum_delays.reshape(1, -1))


@kernel(**OPTIONS)
def _load(rows: Array, first: int, lanes: Array) -> None:
    """Copy bins from `first` on into the lanes; lanes beyond the last bin are set to 0 and add nothing to any sum."""
    count = min(LANES, rows.shape[1] - first)
    for i in range(rows.shape[0]):
        for w in range(count):
            lanes[i, w] = rows[i, first + w]
        # Gains of 0 leave A = diag(e^{i w m}), which is invertible: no unused lane divides by 0.
        for w in range(count, LANES):
            lanes[i, w] = 0


@kernel(**OPTIONS)
def _border(
    system: Array,
    gain: Array,
    phasor: Array,
    feedback: Array,
    b: Array,
    c: Array,
    delays: Array,
    rotations: Array,
    first: int,
    n: int,
) -> None:
    """Fill in [[diag(e^{i w m}) - U diag(gain), b], [-c, 0]] and the phasors e^{i w m} themselves."""
    lines = b.shape[0]
    system[:] = 0
    for i in range(lines):
        # Whole turns are removed while first * delay is exact, so that large phases lose no digits.
        angle = 2.0 * math.pi * (first * delays[i] % n / n)
        re, im = math.cos(angle), math.sin(angle)
        # e^{i (a + b)} = e^{ia} e^{ib}: one cosine and sine per line and block, then products.
        for w in range(LANES):
            phasor[i, 0, w] = re * rotations[i, 0, w] - im * rotations[i, 1, w]
            phasor[i, 1, w] = re * rotations[i, 1, w] + im * rotations[i, 0, w]
        for j in range(lines):
            u = feedback[i, j]
            for w in range(LANES):
                system[i, j, 0, w] = -u * gain[j, w]
        for w in range(LANES):
            system[i, i, 0, w] += phasor[i, 0, w]
            system[i, i, 1, w] = phasor[i, 1, w]
        for q in range(b.shape[1]):
            for w in range(LANES):
                system[i, lines + q, 0, w] = b[i, q]
        for o in range(c.shape[0]):
            for w in range(LANES):
                system[lines + o, i, 0, w] = -c[o, i]


@kernel(**OPTIONS)
def _eliminate(system: Array, lines: int) -> None:
    """Eliminate A without pivoting: leaves its factors with inverted pivots, and the Schur complement in the corner."""
    rows, columns = system.shape[0], system.shape[1]
    one = system.dtype.type(1)
    # Pivoting would differ from lane to lane. Without it, all take the same steps; see afx.kernels.fdn for when that is
    # stable.
    for k in range(lines):
        for w in range(LANES):
            # Inverted, so that each pivot costs one division and all else are products.
            re, im = system[k, k, 0, w], system[k, k, 1, w]
            scale = one / (re * re + im * im)
            system[k, k, 0, w] = re * scale
            system[k, k, 1, w] = -im * scale
        # The rows of -c are reduced like those of A, which leaves c A^-1 b in the corner. Multipliers replace the
        # entries that they eliminate: the factor L, which _substitute needs.
        for i in range(k + 1, rows):
            _scale(system, i, k, k)
            for j in range(k + 1, columns):
                _subtract(system, i, j, i, k, k, j)


@kernel(**OPTIONS)
def _substitute(system: Array, lines: int) -> None:
    """After elimination, turn the right border into X = A^-1 b and the lower one into -Z = -c A^-1."""
    # Elimination has applied L^-1 to b: U^-1 is left, from the last row up.
    for q in range(lines, system.shape[1]):
        for i in range(lines - 1, -1, -1):
            for j in range(i + 1, lines):
                _subtract(system, i, q, i, j, j, q)
            _scale(system, i, q, i)
    # It has left -c U^-1 in the lower border: L^-1 is left, whose diagonal is 1, hence no scaling.
    for o in range(lines, system.shape[0]):
        for j in range(lines - 1, -1, -1):
            for i in range(j + 1, lines):
                _subtract(system, o, j, o, i, i, j)


@kernel(**OPTIONS)
def _scale(s: Array, i: int, j: int, k: int) -> None:
    """s[i, j] *= s[k, k]"""
    for w in range(LANES):
        re, im = s[i, j, 0, w], s[i, j, 1, w]
        s[i, j, 0, w] = re * s[k, k, 0, w] - im * s[k, k, 1, w]
        s[i, j, 1, w] = re * s[k, k, 1, w] + im * s[k, k, 0, w]


@kernel(**OPTIONS)
def _subtract(s: Array, i: int, j: int, i1: int, j1: int, i2: int, j2: int) -> None:
    """s[i, j] -= s[i1, j1] s[i2, j2]"""
    for w in range(LANES):
        re, im = s[i1, j1, 0, w], s[i1, j1, 1, w]
        s[i, j, 0, w] = s[i, j, 0, w] - re * s[i2, j2, 0, w] + im * s[i2, j2, 1, w]
        s[i, j, 1, w] = s[i, j, 1, w] - re * s[i2, j2, 1, w] - im * s[i2, j2, 0, w]


@kernel(**OPTIONS)
def _adjoint(system: Array, seed: Array, adjoint: Array, lane_b: Array, lane_c: Array) -> None:
    """Set adjoint[i, q] = sum_o conj(seed[o, q]) Z[o, i], which is conj(A^-H c^T seed); add to the sums of b and c."""
    lines, inputs, outputs = adjoint.shape[0], adjoint.shape[1], seed.shape[0]
    adjoint[:] = 0
    for i in range(lines):
        for q in range(inputs):
            for o in range(outputs):
                for w in range(LANES):
                    re, im = seed[o, q, 0, w], seed[o, q, 1, w]
                    z_re, z_im = system[lines + o, i, 0, w], system[lines + o, i, 1, w]
                    # The border holds -Z, hence the signs.
                    adjoint[i, q, 0, w] = adjoint[i, q, 0, w] - re * z_re - im * z_im
                    adjoint[i, q, 1, w] = adjoint[i, q, 1, w] - re * z_im + im * z_re
                for w in range(LANES):
                    re, im = seed[o, q, 0, w], seed[o, q, 1, w]
                    x_re, x_im = system[i, lines + q, 0, w], system[i, lines + q, 1, w]
                    # b, c, U and the gains are real: their gradients are the real parts of complex products.
                    lane_c[o, i, w] = lane_c[o, i, w] + re * x_re + im * x_im
            for w in range(LANES):
                lane_b[i, q, w] += adjoint[i, q, 0, w]


@kernel(**OPTIONS)
def _feedback_grads(
    system: Array, adjoint: Array, gain: Array, feedback: Array, lane_feedback: Array, lane_gain: Array
) -> None:
    """Add the gradients of U and set those of the gains.

    With s_ij = Re sum_q adjoint[i, q] X[j, q], that of U_ij is s_ij gain_j and that of gain_j is sum_i U_ij s_ij.
    """
    lines, inputs = adjoint.shape[0], adjoint.shape[1]
    product = np.empty(LANES, gain.dtype)
    lane_gain[:] = 0
    for j in range(lines):
        for i in range(lines):
            product[:] = 0
            for q in range(inputs):
                for w in range(LANES):
                    x_re, x_im = system[j, lines + q, 0, w], system[j, lines + q, 1, w]
                    product[w] = product[w] + adjoint[i, q, 0, w] * x_re - adjoint[i, q, 1, w] * x_im
            u = feedback[i, j]
            for w in range(LANES):
                lane_feedback[i, j, w] += product[w] * gain[j, w]
                lane_gain[j, w] += product[w] * u


@kernel(**OPTIONS)
def _delay_grads(system: Array, adjoint: Array, phasor: Array, first: int, n: int, lane_delays: Array) -> None:
    """Add Re(-i w e^{i w m_i} sum_q adjoint[i, q] X[i, q]) to the gradient of each delay."""
    lines, inputs, dtype = adjoint.shape[0], adjoint.shape[1], adjoint.dtype
    for i in range(lines):
        for q in range(inputs):
            for w in range(LANES):
                omega = dtype.type(2.0 * math.pi / n * (first + w))
                re, im = adjoint[i, q, 0, w], adjoint[i, q, 1, w]
                x_re, x_im = system[i, lines + q, 0, w], system[i, lines + q, 1, w]
                # Re(-i w z) = w Im z, z = adjoint X e^{i w m}: the real part of z is never needed.
                turned = (re * x_re - im * x_im) * phasor[i, 1, w] + (re * x_im + im * x_re) * phasor[i, 0, w]
                lane_delays[i, w] += omega * turned


@kernel(**OPTIONS)
def _add_lanes(lanes: Array, total: Array) -> None:
    """Set `total` to the sum of `lanes` over their last axis, in float64."""
    for i in range(lanes.shape[0]):
        for j in range(lanes.shape[1]):
            total[i, j] = 0.0
            for w in range(LANES):
                total[i, j] += lanes[i, j, w]
