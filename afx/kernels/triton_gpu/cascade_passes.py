"""Passes of the biquad cascade: a lane runs all K sections sample by sample, with a state of 2K numbers.

Data flow for x (R, T) in C chunks per row, forward: `ends_kernel` gives the states (R C + 2K R, 2K) at the end of each
chunk from zero state and, for each row, of a silent chunk from every unit state, which are the columns of the matrix M
of a chunk; `scan_kernel` combines them to the states (R, C, 2K) before each chunk; `forward_kernel` runs the chunks
from these and writes y (R, T). Backward: the same two passes over grad_y with time reversed give the adjoint states,
and `gradient_kernel` writes grad_x (R, T) and the gradients (5K, R C) of the coefficients per chunk.

The adjoint of a section is v = grad / A, then grad = B v, with the state (v[n+1], v[n+2]).
"""

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.lanes import load_row, load_steps, locate

STEPS = tl.constexpr(2)  # samples that a lane loads at once; few, as each sample is many instructions
AHEAD = tl.constexpr(4)  # chunks whose ends the scan loads at once


@triton.jit
def unit_states(lane: tl.tensor, rows: tl.tensor, chunks: tl.tensor, K: tl.constexpr) -> tl.tuple:
    """Initial states: zero for the lanes of chunks; for the 2K lanes per row after these, one unit vector each."""
    unit = tl.where(lane < rows * chunks, -1, (lane - rows * chunks) % (2 * K))
    states = ()
    for i in tl.static_range(2 * K):
        states = states + (tl.where(unit == i, 1.0, 0.0).to(tl.float64),)
    return states


@triton.jit
def sections(u: tl.tensor, coefs: tl.tuple, state: tl.tuple, K: tl.constexpr) -> tl.tuple:
    """Filter one sample by K sections: the output of each, and the states."""
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
    """Run the adjoint of K sections for one sample, the last section first: the gradient, and the states in order."""
    after = ()
    for k in tl.static_range(K - 1, -1, -1):
        v = grad - coefs[5 * k + 4] * state[2 * k + 1] - coefs[5 * k + 3] * state[2 * k]
        grad = coefs[5 * k] * v + coefs[5 * k + 1] * state[2 * k] + coefs[5 * k + 2] * state[2 * k + 1]
        after = (v, state[2 * k]) + after
    return grad, after


@triton.jit
def choose(condition: tl.tensor, chosen: tl.tuple, other: tl.tuple, COUNT: tl.constexpr) -> tl.tuple:
    """tl.where on tuples."""
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
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    if ADJOINT:
        # Lane r C + c runs chunk C - 1 - c: the adjoint's first chunk is the row's last. Zeros beyond the row's end
        # leave its zero state as it is; the forward pass never uses the end of that chunk.
        row, chunk, count = locate(lane - 2 * chunk + chunks - 1, rows, chunks, samples, size)
    is_chunk = lane < rows * chunks
    inside = lane < rows * (chunks + 2 * K)
    # No samples for the lanes of unit states, which run over silence.
    count = tl.where(is_chunk, count, 0)
    row = tl.where(is_chunk, row, (lane - rows * chunks) // (2 * K))
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    state = unit_states(lane, rows, chunks, K)
    # In int64, here and below: a batch may have more than 2^31 samples.
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
    # An end is stored per unit state, a column of M: hence the transposed addresses.
    matrix = tl.load(units + i[None, :] * D + i[:, None], mask=square, other=0.0)
    state = tl.load(initial + row * D + i, mask=i < D, other=0.0)
    ends += row * chunks * D + i
    starts += row * chunks * D + i
    # One chunk after another: applying M to a state takes D^2 products, composing two M, as a parallel scan would, D^3.
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
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    state = load_row(starts + lane * 2 * K, 2 * K, inside)
    first = row.to(tl.int64) * samples + chunk * size
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            outputs, after = sections(values[j], c, state, K)
            tl.store(y + first + n + j, outputs[K - 1], mask=n + j < count)
            # Unchanged beyond the row's end, so that the last lane ends in the state after the last sample.
            state = choose(n + j < count, after, state, 2 * K)
    for i in tl.static_range(2 * K):
        tl.store(state_out + row * 2 * K + i, state[i], mask=inside & (chunk == chunks - 1))


@triton.jit
def store_outputs(
    x: tl.tensor,
    coefs: tl.tuple,
    state: tl.tuple,
    scratch: tl.tensor,
    size: tl.tensor,
    count: tl.tensor,
    K: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Store the outputs of all sections over a chunk in scratch, (sample, K, lane)."""
    for n in range(0, size, STEPS):
        values = load_steps(x + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            outputs, state = sections(values[j], coefs, state, K)
            for k in tl.static_range(K):
                tl.store(scratch + ((n + j) * K + k) * LANES, outputs[k])


@triton.jit
def add_coef_gradients(
    total: tl.tuple, u: tl.tensor, outputs: tl.tuple, v: tl.tuple, after: tl.tuple, K: tl.constexpr
) -> tl.tuple:
    """Add the gradients at one sample: v[n] u[n-j] for b_j and -v[n] y[n-j] for a_j, summed over n in another order.

    u is the input and y the output of a section at this sample; `v` are the adjoint states before and `after` it.
    """
    added = ()
    for k in tl.static_range(K):
        # v[n + j] u[n], summed over n, equals v[n] u[n - j], and needs no inputs of earlier samples.
        y = outputs[k]
        added = added + (total[5 * k] + after[2 * k] * u, total[5 * k + 1] + v[2 * k] * u)
        added = added + (total[5 * k + 2] + v[2 * k + 1] * u, total[5 * k + 3] - v[2 * k] * y)
        added = added + (total[5 * k + 4] - v[2 * k + 1] * y,)
        u = y
    return added


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

    With COEFS, the outputs of the sections are computed first and stored in `scratch`, (program, sample of a chunk, K,
    lane), as neighbouring lanes then access neighbouring addresses.
    """
    offset = tl.arange(0, LANES)
    lane = (first_program + tl.program_id(0)) * LANES + offset
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 5 * K, 5 * K, inside)
    first = row.to(tl.int64) * samples + chunk * size
    scratch += tl.program_id(0).to(tl.int64) * size * K * LANES + offset
    total = ()
    if COEFS:
        state = load_row(starts + lane * 2 * K, 2 * K, inside)
        store_outputs(x + first, c, state, scratch, size, count, K, LANES)
        for _ in tl.static_range(5 * K):
            total = total + (tl.zeros((LANES,), tl.float64),)
        # The threads of a program are not ordered otherwise: all outputs are stored before any is loaded.
        tl.debug_barrier()
    # Adjoint starts are in the order of the adjoint pass, the last chunk of a row first.
    mirrored = lane - 2 * chunk + chunks - 1
    v = load_row(adjoint_starts + mirrored * 2 * K, 2 * K, inside)
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        if COEFS:
            values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            if COEFS:  # before the arithmetic, which hides the latency of the loads
                outputs = load_steps(scratch + (n + j) * K * LANES, LANES, K, K)
            grad, after = sections_adjoint(grads[j], c, v, K)
            tl.store(grad_x + first + n + j, grad, mask=n + j < count)
            if COEFS:
                total = add_coef_gradients(total, values[j], outputs, v, after, K)
            v = after
    if COEFS:
        for i in tl.static_range(5 * K):
            tl.store(sums + i * rows * chunks + lane, total[i], mask=inside)
