"""Passes of the biquad cascade: all sections at once, so that the state of a lane has two numbers a section.

Backwards, a section is v = grad / A, then grad = B v, with the state (v[n+1], v[n+2]).
"""

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.lanes import load_row, load_steps, place

STEPS = tl.constexpr(2)  # samples that a lane loads at once: each is many instructions already
AHEAD = tl.constexpr(4)  # chunks whose ends the scan loads at once


@triton.jit
def unit_states(lane: tl.tensor, rows: tl.tensor, chunks: tl.tensor, K: tl.constexpr) -> tl.tuple:
    """Zeros, and for the 2K lanes a row beyond those of the chunks one unit vector each."""
    unit = tl.where(lane < rows * chunks, -1, (lane - rows * chunks) % (2 * K))
    states = ()
    for i in tl.static_range(2 * K):
        states = states + (tl.where(unit == i, 1.0, 0.0).to(tl.float64),)
    return states


@triton.jit
def sections(u: tl.tensor, coefs: tl.tuple, state: tl.tuple, K: tl.constexpr) -> tl.tuple:
    """One sample through K sections: what leaves each, and the states."""
    outputs = ()
    after = ()
    for k in tl.static_range(K):
        y = coefs[5 * k] * u + state[2 * k]
        after = after + (coefs[5 * k + 1] * u - coefs[5 * k + 3] * y + state[2 * k + 1],)
        after = after + (coefs[5 * k + 2] * u - coefs[5 * k + 4] * y,)
        outputs = outputs + (y,)
        u = y
    return outputs, after


@triton.jit
def sections_adjoint(grad: tl.tensor, coefs: tl.tuple, state: tl.tuple, K: tl.constexpr) -> tl.tuple:
    """One sample backwards through K sections, the last one first: the gradient and the states, in their order."""
    after = ()
    for k in tl.static_range(K - 1, -1, -1):
        v = grad - coefs[5 * k + 4] * state[2 * k + 1] - coefs[5 * k + 3] * state[2 * k]
        grad = coefs[5 * k] * v + coefs[5 * k + 1] * state[2 * k] + coefs[5 * k + 2] * state[2 * k + 1]
        after = (v, state[2 * k]) + after
    return grad, after


@triton.jit
def choose(condition: tl.tensor, chosen: tl.tuple, other: tl.tuple, COUNT: tl.constexpr) -> tl.tuple:
    values = ()
    for i in tl.static_range(COUNT):
        values = values + (tl.where(condition, chosen[i], other[i]),)
    return values


@triton.jit
def ends_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    ends: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    K: tl.constexpr,
    ADJOINT: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """End states (lanes, 2K) of every chunk from zero, in order of the pass, then of silence from each unit state."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    if ADJOINT:
        row, chunk, count = place(lane - 2 * chunk + chunks - 1, rows, chunks, samples, size)
    is_chunk = lane < rows * chunks
    inside = lane < rows * (chunks + 2 * K)
    count = tl.where(is_chunk, count, 0)
    row = tl.where(is_chunk, row, (lane - rows * chunks) // (2 * K))
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    state = unit_states(lane, rows, chunks, K)
    source = x + row.to(tl.int64) * samples + chunk * size
    for done in range(0, size, STEPS):
        first = size - STEPS - done if ADJOINT else done
        values = load_steps(source + first, 1, count - first, STEPS)
        for j in tl.static_range(STEPS):
            if ADJOINT:
                _, state = sections_adjoint(values[STEPS - 1 - j], c, state, K)
            else:
                _, state = sections(values[j], c, state, K)
    for i in tl.static_range(2 * K):
        tl.store(ends + lane.to(tl.int64) * 2 * K + i, state[i], mask=inside)


@triton.jit
def scan_kernel(
    ends: tl.tensor,
    initial: tl.tensor,
    starts: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """States (R, C, D) before each chunk: s <- M s + end, the columns of M being the ends of the unit states."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    square = (i < D)[:, None] & (i < D)[None, :]
    units = ends + (rows * chunks + row * D) * D
    matrix = tl.load(units + i[None, :] * D + i[:, None], mask=square, other=0.0)
    state = tl.load(initial + row * D + i, mask=i < D, other=0.0)
    ends += row * chunks * D + i
    starts += row * chunks * D + i
    for chunk in range(0, chunks, AHEAD):
        count = tl.where(i < D, chunks - chunk, 0)
        end = load_steps(ends + chunk * D, D, count, AHEAD)
        for j in tl.static_range(AHEAD):
            tl.store(starts + (chunk + j) * D, state, mask=j < count)
            state = tl.sum(matrix * state[None, :], 1) + end[j]


@triton.jit
def forward_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    state_out: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    K: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Run every chunk from its start, write the output, and the state at the end of each row."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    state = load_row(starts + lane * 2 * K, 2 * K, inside)
    first = row.to(tl.int64) * samples + chunk * size
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            outputs, after = sections(values[j], c, state, K)
            tl.store(y + first + n + j, outputs[K - 1], mask=n + j < count)
            state = choose(n + j < count, after, state, 2 * K)
    for i in tl.static_range(2 * K):
        tl.store(state_out + row * 2 * K + i, state[i], mask=inside & (chunk == chunks - 1))


@triton.jit
def gradient_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    adjoint_starts: tl.tensor,
    scratch: tl.tensor,
    grad_x: tl.tensor,
    sums: tl.tensor,
    first_program: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    K: tl.constexpr,
    COEFS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Run every chunk backwards from its adjoint start; with COEFS, sum the gradients (5K, lanes) of coefficients.

    What leaves the sections is then computed first, and kept in `scratch`, where the lanes of a program lie side by
    side.
    """
    here = tl.arange(0, LANES)
    lane = (first_program + tl.program_id(0)) * LANES + here
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    first = row.to(tl.int64) * samples + chunk * size
    scratch += tl.program_id(0).to(tl.int64) * size * K * LANES + here
    total = ()
    if COEFS:
        state = load_row(starts + lane * 2 * K, 2 * K, inside)
        for n in range(0, size, STEPS):
            values = load_steps(x + first + n, 1, count - n, STEPS)
            for j in tl.static_range(STEPS):
                outputs, state = sections(values[j], c, state, K)
                for k in tl.static_range(K):
                    tl.store(scratch + ((n + j) * K + k) * LANES, outputs[k])
        for _ in tl.static_range(5 * K):
            total = total + (tl.zeros((LANES,), tl.float64),)
        tl.debug_barrier()
    mirrored = lane - 2 * chunk + chunks - 1
    v = load_row(adjoint_starts + mirrored * 2 * K, 2 * K, inside)
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        if COEFS:
            values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            if COEFS:  # ahead of the arithmetic, which hides the time that this takes
                outputs = load_steps(scratch + (n + j) * K * LANES, LANES, K, K)
            grad, after = sections_adjoint(grads[j], c, v, K)
            tl.store(grad_x + first + n + j, grad, mask=n + j < count)
            if COEFS:
                added = ()
                u = values[j]
                for k in tl.static_range(K):
                    y = outputs[k]
                    added = added + (total[5 * k] + after[2 * k] * u, total[5 * k + 1] + v[2 * k] * u)
                    added = added + (total[5 * k + 2] + v[2 * k + 1] * u, total[5 * k + 3] - v[2 * k] * y)
                    added = added + (total[5 * k + 4] - v[2 * k + 1] * y,)
                    u = y
                total = added
            v = after
    if COEFS:
        for i in tl.static_range(5 * K):
            tl.store(sums + i * rows * chunks + lane, total[i], mask=inside)
