"""Response of a feedback delay network: complex elimination of many bins at a time, and its adjoint."""

import math

import numpy as np
from numba import njit, prange

LANES = 64
BLOCKS = 16
"""LANES neighbouring bins are eliminated together so that every inner loop is a vector loop over data in the first
cache; BLOCKS such blocks are one task, after which sums over bins pass from the lanes into float64."""

_JIT = {"cache": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def fdn_response_forward(
    feedback: np.ndarray, line_gain: np.ndarray, b: np.ndarray, c: np.ndarray, delays: np.ndarray, n: int
) -> np.ndarray:
    """H (G, O, I, F), complex of the type of feedback; arguments as in afx.kernels.fdn, all contiguous."""
    groups, inputs, outputs = len(feedback), b.shape[2], c.shape[1]
    response = np.empty((groups, outputs, inputs, line_gain.shape[2], 2), feedback.dtype)
    _forward(feedback, line_gain, b, c, delays, _steps(delays, n), n, response)
    return response.view(np.result_type(feedback.dtype, np.complex64))[..., 0]


def fdn_response_backward(
    grad: np.ndarray,
    feedback: np.ndarray,
    line_gain: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    delays: np.ndarray,
    n: int,
) -> tuple[np.ndarray, ...]:
    """Gradients of feedback, line_gain, b, c and delays from that of H."""
    tasks = -(-line_gain.shape[2] // (LANES * BLOCKS))
    sums = [np.empty((len(a), tasks, *a.shape[1:])) for a in (feedback, b, c, delays)]
    grad_gain = np.empty_like(line_gain)
    grad_parts = grad.view(feedback.dtype).reshape(*grad.shape, 2)
    _backward(grad_parts, feedback, line_gain, b, c, delays, _steps(delays, n), n, *sums, grad_gain)
    grad_feedback, grad_b, grad_c, grad_delays = (s.sum(1) for s in sums)
    dtype = feedback.dtype
    return grad_feedback.astype(dtype), grad_gain, grad_b.astype(dtype), grad_c.astype(dtype), grad_delays


def _steps(delays: np.ndarray, n: int) -> np.ndarray:
    """(G, M, 2, LANES) cosine and sine of w m for the first bins: the rotation from a block's first bin to its others."""
    angle = 2.0 * math.pi * (delays[:, :, None] * np.arange(LANES) / n % 1.0)
    return np.stack([np.cos(angle), np.sin(angle)], axis=2)


@njit(**_JIT)
def _bordered(system, gain, phasor, feedback, b, c, delays, steps, first, n):
    """The matrix [[diag(phasor) - U diag(gain), b], [-c, 0]] of each lane, from bin `first` on."""
    lines, inputs, outputs = b.shape[0], b.shape[1], c.shape[0]
    system[:] = 0
    for i in range(lines):
        angle = 2.0 * math.pi * (first * delays[i] % n / n)
        re, im = math.cos(angle), math.sin(angle)
        for w in range(LANES):
            phasor[i, 0, w] = re * steps[i, 0, w] - im * steps[i, 1, w]
            phasor[i, 1, w] = re * steps[i, 1, w] + im * steps[i, 0, w]
        for j in range(lines):
            u = feedback[i, j]
            for w in range(LANES):
                system[i, j, 0, w] = -u * gain[j, w]
        for w in range(LANES):
            system[i, i, 0, w] += phasor[i, 0, w]
            system[i, i, 1, w] = phasor[i, 1, w]
        for j in range(inputs):
            system[i, lines + j, 0] = b[i, j]
        for j in range(outputs):
            system[lines + j, i, 0] = -c[j, i]


@njit(**_JIT)
def _eliminate(system, lines):
    """Eliminates the first `lines` columns in place; pivots are left inverted, multipliers below them.

    What stands in the corner afterwards is the Schur complement: c A^-1 b.
    """
    rows, columns = system.shape[0], system.shape[1]
    one = system.dtype.type(1)
    for k in range(lines):
        for w in range(LANES):
            re, im = system[k, k, 0, w], system[k, k, 1, w]
            scale = one / (re * re + im * im)
            system[k, k, 0, w] = re * scale
            system[k, k, 1, w] = -im * scale
        for i in range(k + 1, rows):
            for w in range(LANES):
                re, im = system[i, k, 0, w], system[i, k, 1, w]
                system[i, k, 0, w] = re * system[k, k, 0, w] - im * system[k, k, 1, w]
                system[i, k, 1, w] = re * system[k, k, 1, w] + im * system[k, k, 0, w]
            for j in range(k + 1, columns):
                for w in range(LANES):
                    re, im = system[i, k, 0, w], system[i, k, 1, w]
                    system[i, j, 0, w] = system[i, j, 0, w] - re * system[k, j, 0, w] + im * system[k, j, 1, w]
                    system[i, j, 1, w] = system[i, j, 1, w] - re * system[k, j, 1, w] - im * system[k, j, 0, w]


@njit(**_JIT)
def _substitute(system, lines):
    """After elimination: turns the right border into X = A^-1 b and the lower one into -Z = -c A^-1."""
    for q in range(lines, system.shape[1]):
        for i in range(lines - 1, -1, -1):
            for j in range(i + 1, lines):
                for w in range(LANES):
                    re, im = system[i, j, 0, w], system[i, j, 1, w]
                    system[i, q, 0, w] -= re * system[j, q, 0, w] - im * system[j, q, 1, w]
                    system[i, q, 1, w] -= re * system[j, q, 1, w] + im * system[j, q, 0, w]
            for w in range(LANES):
                re, im = system[i, q, 0, w], system[i, q, 1, w]
                system[i, q, 0, w] = re * system[i, i, 0, w] - im * system[i, i, 1, w]
                system[i, q, 1, w] = re * system[i, i, 1, w] + im * system[i, i, 0, w]
    for o in range(lines, system.shape[0]):
        for j in range(lines - 1, -1, -1):
            for i in range(j + 1, lines):
                for w in range(LANES):
                    re, im = system[i, j, 0, w], system[i, j, 1, w]
                    system[o, j, 0, w] -= re * system[o, i, 0, w] - im * system[o, i, 1, w]
                    system[o, j, 1, w] -= re * system[o, i, 1, w] + im * system[o, i, 0, w]


@njit(parallel=True, **_JIT)
def _forward(feedback, line_gain, b, c, delays, steps, n, response):
    groups, lines, bins = line_gain.shape
    inputs, outputs, dtype = b.shape[2], c.shape[1], feedback.dtype
    tasks = -(-bins // (LANES * BLOCKS))
    for task in prange(groups * tasks):
        g, start = task // tasks, task % tasks * LANES * BLOCKS
        system = np.empty((lines + outputs, lines + inputs, 2, LANES), dtype)
        gain, phasor = np.zeros((lines, LANES), dtype), np.empty((lines, 2, LANES), dtype)
        for first in range(start, min(bins, start + LANES * BLOCKS), LANES):
            count = min(LANES, bins - first)
            gain[:, :count] = line_gain[g, :, first : first + count]
            _bordered(system, gain, phasor, feedback[g], b[g], c[g], delays[g], steps[g], first, n)
            _eliminate(system, lines)
            for o in range(outputs):
                for q in range(inputs):
                    for w in range(count):
                        response[g, o, q, first + w, 0] = system[lines + o, lines + q, 0, w]
                        response[g, o, q, first + w, 1] = system[lines + o, lines + q, 1, w]


@njit(parallel=True, **_JIT)
def _backward(
    grad, feedback, line_gain, b, c, delays, steps, n, sum_feedback, sum_b, sum_c, sum_delays, grad_gain
):
    groups, lines, bins = line_gain.shape
    inputs, outputs, dtype = b.shape[2], c.shape[1], feedback.dtype
    tasks = -(-bins // (LANES * BLOCKS))
    for task in prange(groups * tasks):
        g, part = task // tasks, task % tasks
        start = part * LANES * BLOCKS
        system = np.empty((lines + outputs, lines + inputs, 2, LANES), dtype)
        gain, phasor = np.zeros((lines, LANES), dtype), np.empty((lines, 2, LANES), dtype)
        seed = np.zeros((outputs, inputs, 2, LANES), dtype)
        adjoint = np.empty((lines, inputs, 2, LANES), dtype)
        lane_feedback = np.zeros((lines, lines, LANES), dtype)
        lane_b = np.zeros((lines, inputs, LANES), dtype)
        lane_c = np.zeros((outputs, lines, LANES), dtype)
        lane_delays = np.zeros((lines, LANES), dtype)
        lane_gain = np.empty((lines, LANES), dtype)
        for first in range(start, min(bins, start + LANES * BLOCKS), LANES):
            count = min(LANES, bins - first)
            gain[:, :count] = line_gain[g, :, first : first + count]
            seed[:] = 0
            for o in range(outputs):
                for q in range(inputs):
                    for w in range(count):
                        seed[o, q, 0, w] = grad[g, o, q, first + w, 0]
                        seed[o, q, 1, w] = grad[g, o, q, first + w, 1]
            _bordered(system, gain, phasor, feedback[g], b[g], c[g], delays[g], steps[g], first, n)
            _eliminate(system, lines)
            _substitute(system, lines)
            _adjoint(system, seed, adjoint, lane_b, lane_c)
            _feedback_sums(system, adjoint, gain, feedback[g], lane_feedback, lane_gain)
            _delay_sums(system, adjoint, phasor, first, n, lane_delays)
            grad_gain[g, :, first : first + count] = lane_gain[:, :count]
        _add_lanes(lane_feedback, sum_feedback[g, part])
        _add_lanes(lane_b, sum_b[g, part])
        _add_lanes(lane_c, sum_c[g, part])
        for i in range(lines):
            sum_delays[g, part, i] = lane_delays[i].astype(np.float64).sum()


@njit(**_JIT)
def _adjoint(system, seed, adjoint, lane_b, lane_c):
    """adjoint[i, q] = sum_o conj(seed[o, q]) Z[o, i], the conjugate of A^-H c^T seed; adds the sums of b and c."""
    lines, inputs, outputs = adjoint.shape[0], adjoint.shape[1], seed.shape[0]
    adjoint[:] = 0
    for i in range(lines):
        for q in range(inputs):
            for o in range(outputs):
                for w in range(LANES):
                    re, im = seed[o, q, 0, w], seed[o, q, 1, w]
                    adjoint[i, q, 0, w] -= re * system[lines + o, i, 0, w] + im * system[lines + o, i, 1, w]
                    adjoint[i, q, 1, w] -= re * system[lines + o, i, 1, w] - im * system[lines + o, i, 0, w]
                    lane_c[o, i, w] += re * system[i, lines + q, 0, w] + im * system[i, lines + q, 1, w]
            for w in range(LANES):
                lane_b[i, q, w] += adjoint[i, q, 0, w]


@njit(**_JIT)
def _feedback_sums(system, adjoint, gain, feedback, lane_feedback, lane_gain):
    """With s = Re sum_q adjoint[i, q] X[j, q]: adds s g_j to U's gradient, sets that of g_j to sum_i U_ij s."""
    lines, inputs = adjoint.shape[0], adjoint.shape[1]
    product = np.empty(LANES, gain.dtype)
    lane_gain[:] = 0
    for j in range(lines):
        for i in range(lines):
            u = feedback[i, j]
            product[:] = 0
            for q in range(inputs):
                for w in range(LANES):
                    product[w] += adjoint[i, q, 0, w] * system[j, lines + q, 0, w]
                    product[w] -= adjoint[i, q, 1, w] * system[j, lines + q, 1, w]
            for w in range(LANES):
                lane_feedback[i, j, w] += product[w] * gain[j, w]
                lane_gain[j, w] += product[w] * u


@njit(**_JIT)
def _delay_sums(system, adjoint, phasor, first, n, lane_delays):
    """Adds the gradient of the delays: Re(-i w e^{i w m_i} sum_q adjoint[i, q] X[i, q])."""
    lines, inputs = adjoint.shape[0], adjoint.shape[1]
    for i in range(lines):
        for q in range(inputs):
            for w in range(LANES):
                omega = adjoint.dtype.type(2.0 * math.pi * (first + w) / n)
                re = adjoint[i, q, 0, w] * system[i, lines + q, 0, w] - adjoint[i, q, 1, w] * system[i, lines + q, 1, w]
                im = adjoint[i, q, 0, w] * system[i, lines + q, 1, w] + adjoint[i, q, 1, w] * system[i, lines + q, 0, w]
                lane_delays[i, w] += omega * (re * phasor[i, 1, w] + im * phasor[i, 0, w])


@njit(**_JIT)
def _add_lanes(lanes, total):
    """total = the sum of `lanes` over its last axis, in float64."""
    for i in range(lanes.shape[0]):
        for j in range(lanes.shape[1]):
            total[i, j] = lanes[i, j].astype(np.float64).sum()
