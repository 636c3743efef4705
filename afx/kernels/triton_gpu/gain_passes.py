"""Passes of exponential averages, of smoothing with attack and release, and of the compressor's gain.

Averages of x (R, T) in C chunks per row: `average_ends_kernel` gives the affine map of each chunk, (2, R C); a scan
gives the states (R, C) before each chunk; `average_kernel` runs the chunks from these. The compressor's level is such
an average; `static_kernel` turns it into the static gain. Smoothing is not affine, as it chooses attack or release per
sample: `settle_kernel` iterates for the states (R, C) before each chunk; `smooth_kernel` runs the chunks from these.

Signals between two passes are laid out (R, sample of a chunk, C), so that neighbouring lanes access neighbouring
addresses.
"""

import math

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.lanes import STEPS, follow, load_row, load_steps, locate

FLOOR = tl.constexpr(1e-8)  # of the squared signal: -80 dB
DB_PER_LOG2 = tl.constexpr(10.0 * math.log10(2.0))  # of power
LOG2_PER_DB = tl.constexpr(math.log2(10.0) / 20.0)  # of amplitude
NEPER_PER_DB = tl.constexpr(math.log(10.0) / 20.0)
SETTLED = tl.constexpr(1e-12)  # relative change of a state below which it has converged


@triton.jit
def power(x: tl.tensor) -> tl.tensor:
    """max(x^2, FLOOR); NaN where x is NaN."""
    floor = tl.full(x.shape, FLOOR, tl.float64)  # a comparison with the constant itself would round it to float32
    return tl.where(x * x < floor, floor, x * x)


@triton.jit
def is_above_floor(x: tl.tensor) -> tl.tensor:
    """Whether the power of x is its square, which has a gradient, and not the floor."""
    return x * x >= tl.full(x.shape, FLOOR, tl.float64)


@triton.jit
def smooth(x: tl.tensor, state: tl.tensor, attack: tl.tensor, release: tl.tensor) -> tl.tuple:
    """One step of the ballistics: the new state, x minus the old state, and the weight of the old state in the new."""
    step = x - state
    coef = tl.where(step < 0, attack, release)
    return state + coef * step, step, 1 - coef


@triton.jit
def curve(level: tl.tensor, coefs: tl.tuple) -> tl.tuple:
    """Static gain in dB before it is limited to 0, whether the compressor determines it, and the level in dB."""
    db = tl.log2(level) * DB_PER_LOG2
    compressed, expanded = coefs[2] * (coefs[1] - db), coefs[4] * (coefs[3] - db)
    return tl.where(compressed < expanded, compressed, expanded), compressed < expanded, db


@triton.jit
def static_gain(g: tl.tensor) -> tl.tensor:
    """Linear gain of min(g, 0) dB; NaN where g is NaN."""
    return tl.exp2(tl.where(g > 0, 0 * g, g) * LOG2_PER_DB)


@triton.jit
def average_ends_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    stride: tl.tensor,
    maps: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    POWER: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Maps (2, lanes) of each chunk's average, of x or of its power: slope, and end from zero."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    coef = tl.load(coefs + row * stride, mask=row < rows, other=0.0)
    source = x + row.to(tl.int64) * samples + chunk * size
    state = tl.zeros((LANES,), tl.float64)
    # The slope is of `size` samples even in an incomplete chunk, the last of its row, whose map no chunk follows.
    slope = state + 1
    for n in range(0, size, STEPS):
        values = load_steps(source + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            v = power(values[j]) if POWER else values[j]
            state = (1 - coef) * state + coef * v
            slope *= 1 - coef
    tl.store(maps + lane, slope, mask=row < rows)
    tl.store(maps + rows * chunks + lane, state, mask=row < rows)


@triton.jit
def average_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    state_out: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Average every chunk from its start; write it, and the state at the end of each row."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    coef = tl.load(coefs + row, mask=row < rows, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    state = tl.load(starts + lane, mask=row < rows, other=0.0)
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            state = tl.where(n + j < count, (1 - coef) * state + coef * values[j], state)
            tl.store(y + first + n + j, state, mask=n + j < count)
    tl.store(state_out + row, state, mask=(row < rows) & (chunk == chunks - 1))


@triton.jit
def interleave_kernel(
    x: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Lay x out (row, sample of a chunk, chunk)."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    source = x + row.to(tl.int64) * samples + chunk * size
    target = out + row.to(tl.int64) * size * chunks + chunk
    for n in range(0, size, STEPS):
        values = load_steps(source + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            tl.store(target + (n + j) * chunks, values[j], mask=row < rows)


@triton.jit
def static_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    state_out: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Static gain, (row, sample of a chunk, chunk), of a compressor with coefs (R, 7); the level at each row's end."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 7, 7, inside)
    level = tl.load(starts + lane, mask=inside, other=0.0)
    source = x + row.to(tl.int64) * samples + chunk * size
    target = out + row.to(tl.int64) * size * chunks + chunk
    for n in range(0, size, STEPS):
        values = load_steps(source + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            level = tl.where(n + j < count, (1 - c[0]) * level + c[0] * power(values[j]), level)
            g, _, _ = curve(level, c)
            # Beyond the row's end too, as settle_kernel reads whole chunks.
            tl.store(target + (n + j) * chunks, static_gain(g), mask=inside)
    tl.store(state_out + row * 2, level, mask=inside & (chunk == chunks - 1))


@triton.jit
def settle_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    stride: tl.tensor,
    initial: tl.tensor,
    initial_stride: tl.tensor,
    starts: tl.tensor,
    chunks: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """States (R, C) of the smoothing before each chunk of x (row, sample of a chunk, chunk), by Newton's iteration.

    From estimated states, every chunk is run, which chooses attack or release for each sample. With the choices fixed,
    a chunk is an affine map, and a scan over these gives the next estimates. The exact map from one start to the next
    is increasing and concave (attack faster) or convex, so that from the second sweep on the estimates converge from
    one side; each sweep makes the state of at least one more chunk per row exact, so that C sweeps suffice.
    """
    row = tl.program_id(0)
    chunk = tl.arange(0, BLOCK)
    inside = chunk < chunks
    attack, release = tl.load(coefs + row * stride), tl.load(coefs + row * stride + 1)
    first = tl.load(initial + row * initial_stride)
    source = x + row.to(tl.int64) * size * chunks + chunk
    starts += row * chunks
    # The initial state for all chunks: exact for the first, and any estimate will do for the others.
    start = tl.zeros((BLOCK,), tl.float64) + first
    sweeps, moved = 0, 1
    while (moved > 0) & (sweeps <= chunks):
        state = start
        slope = tl.full((BLOCK,), 1.0, tl.float64)
        for n in range(0, size, STEPS):
            values = load_steps(source + n * chunks, chunks, tl.where(inside, size - n, 0), STEPS)
            for j in tl.static_range(STEPS):
                state, _, keep = smooth(values[j], state, attack, release)
                slope *= keep
        # The affine map through (start, state) has the end state - slope start from zero.
        slope, end = tl.associative_scan((slope, state - slope * start), 0, follow)
        # The barriers order the threads' accesses: loads of the last sweep, these stores, the load below.
        tl.debug_barrier()
        tl.store(starts, first)
        tl.store(starts + chunk + 1, slope * first + end, mask=chunk + 1 < chunks)
        tl.debug_barrier()
        solved = tl.load(starts + chunk, mask=inside, other=0.0)
        # A comparison with NaN is false: a state that is NaN counts as settled, instead of forcing all sweeps.
        moved = tl.sum((tl.abs(solved - start) > tl.abs(solved) * SETTLED).to(tl.int32), 0)
        start = solved
        sweeps += 1


@triton.jit
def smooth_kernel(
    x: tl.tensor,
    coefs: tl.tensor,
    stride: tl.tensor,
    starts: tl.tensor,
    state_out: tl.tensor,
    state_stride: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Smooth x (row, sample of a chunk, chunk) from the starts to y (R, T); the state at the end of each row."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    attack = tl.load(coefs + row * stride, mask=inside, other=0.0)
    release = tl.load(coefs + row * stride + 1, mask=inside, other=0.0)
    state = tl.load(starts + lane, mask=inside, other=0.0)
    source = x + row.to(tl.int64) * size * chunks + chunk
    target = y + row.to(tl.int64) * samples + chunk * size
    for n in range(0, size, STEPS):
        values = load_steps(source + n * chunks, chunks, count - n, STEPS)
        for j in tl.static_range(STEPS):
            after, _, _ = smooth(values[j], state, attack, release)
            # Unchanged beyond the row's end: the last lane stores the state after the last sample.
            state = tl.where(n + j < count, after, state)
            tl.store(target + n + j, state, mask=n + j < count)
    tl.store(state_out + row * state_stride, state, mask=inside & (chunk == chunks - 1))
