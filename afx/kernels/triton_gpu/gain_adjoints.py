"""Adjoint passes of averages, of smoothing with attack and release, and of the compressor's gain: time runs backwards.

Before, each chunk's map from what reaches its end to what leaves its start is computed, in any order of time. The
arrays of such maps hold the last chunk of a row first. Scratch is laid out (row, sample of a chunk, chunk).
"""

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.gain_passes import (
    DB_PER_LOG2,
    NEPER_PER_DB,
    curve,
    is_heard,
    power,
    smooth,
    static_gain,
)
from reknob.afx.kernels.triton_gpu.lanes import STEPS, load_row, load_steps, place


@triton.jit
def average_adjoint_maps_kernel(
    grad_y: tl.tensor,
    coefs: tl.tensor,
    maps: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Maps (5, lanes), last chunk of a row first, of what `average_adjoint_kernel` carries."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    coef = tl.load(coefs + row, mask=row < rows, other=0.0)
    source = grad_y + row.to(tl.int64) * samples + chunk * size
    adjoint = tl.zeros((LANES,), tl.float64)
    twice, cross = adjoint, adjoint
    slope = adjoint + 1
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(source + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            twice = (1 - coef) * twice + adjoint
            adjoint = (1 - coef) * adjoint + grads[STEPS - 1 - j]
            cross = (1 - coef) * cross + slope
            slope *= 1 - coef
    maps += lane - 2 * chunk + chunks - 1
    lanes = rows * chunks
    tl.store(maps, slope, mask=row < rows)
    tl.store(maps + lanes, cross, mask=row < rows)
    tl.store(maps + 2 * lanes, slope, mask=row < rows)
    tl.store(maps + 3 * lanes, adjoint, mask=row < rows)
    tl.store(maps + 4 * lanes, twice, mask=row < rows)


@triton.jit
def average_adjoint_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    grad_x: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Gradient of x, and of the coefficient c summed over each chunk, of an average y from zero.

    a[n] = (1-c) a[n+1] + grad_y[n] and q[n] = (1-c) q[n+1] + a[n+1] give grad_x = c a and, since the gradient of c is
    the sum of a[n] (x[n] - y[n-1]), the sum of x (a - c q), without y.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    coef = tl.load(coefs + row, mask=row < rows, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    mirrored = lane - 2 * chunk + chunks - 1
    adjoint = tl.load(starts + mirrored, mask=row < rows, other=0.0)
    twice = tl.load(starts + rows * chunks + mirrored, mask=row < rows, other=0.0)
    total = tl.zeros((LANES,), tl.float64)
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        values = load_steps(x + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            twice = (1 - coef) * twice + adjoint
            adjoint = (1 - coef) * adjoint + grads[j]
            tl.store(grad_x + first + n + j, coef * adjoint, mask=n + j < count)
            total += values[j] * (adjoint - coef * twice)
    tl.store(sums + lane, total, mask=row < rows)


@triton.jit
def smooth_maps_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    times: tl.tensor,
    starts: tl.tensor,
    scratch: tl.tensor,
    maps: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Smooth x again, keep how far it is from the state; maps (2, lanes) from a gradient of a chunk's end to its start.

    What the outputs of the chunk add to that gradient is summed in the order of time.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    times = load_row(times + row * 2, 2, inside)
    state = tl.load(starts + lane, mask=inside, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    target = scratch + row.to(tl.int64) * size * chunks + chunk
    end = tl.zeros((LANES,), tl.float64)
    slope = end + 1
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            state, step, keep = smooth(values[j], state, times[0], times[1])
            tl.store(target + (n + j) * chunks, step, mask=inside)
            slope *= keep
            end += grads[j] * slope
    maps += lane - 2 * chunk + chunks - 1
    tl.store(maps, slope, mask=inside)
    tl.store(maps + rows * chunks, end, mask=inside)


@triton.jit
def smooth_adjoint_kernel(
    grad_y: tl.tensor,
    times: tl.tensor,
    starts: tl.tensor,
    scratch: tl.tensor,
    grad_x: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Gradient of x, and of attack and release summed over each chunk (2, lanes)."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    times = load_row(times + row * 2, 2, inside)
    carry = tl.load(starts + lane - 2 * chunk + chunks - 1, mask=inside, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    source = scratch + row.to(tl.int64) * size * chunks + chunk
    attack = tl.zeros((LANES,), tl.float64)
    release = attack
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        steps = load_steps(source + n * chunks, chunks, count - n, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            adjoint = grads[j] + carry
            falling = steps[j] < 0
            coef = tl.where(falling, times[0], times[1])
            tl.store(grad_x + first + n + j, coef * adjoint, mask=n + j < count)
            attack += tl.where(falling, adjoint * steps[j], 0.0)
            release += tl.where(falling, 0.0, adjoint * steps[j])
            carry = (1 - coef) * adjoint
    tl.store(sums + lane, attack, mask=inside)
    tl.store(sums + rows * chunks + lane, release, mask=inside)


@triton.jit
def compressor_maps_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    coefs: tl.tensor,
    level_starts: tl.tensor,
    gain_starts: tl.tensor,
    steps: tl.tensor,
    per_dbs: tl.tensor,
    levels: tl.tensor,
    maps: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Run the compressor again; maps (5, lanes) from the gradients of gain and level at a chunk's end to the start's.

    Kept for the adjoint: `steps`, how far the static gain is from the gain before; `per_dbs`, the derivative of the
    static gain to its dB, negative where the expander gives it; and `levels`, the level before.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 7, 7, inside)
    level = tl.load(level_starts + lane, mask=inside, other=0.0)
    gain = tl.load(gain_starts + lane, mask=inside, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    target = row.to(tl.int64) * size * chunks + chunk
    gain_end = tl.zeros((LANES,), tl.float64)
    level_end, cross = gain_end, gain_end
    gain_slope = gain_end + 1
    level_slope = gain_slope
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            tl.store(levels + target + (n + j) * chunks, level, mask=inside)
            level = (1 - c[0]) * level + c[0] * power(values[j])
            g, compresses, _ = curve(level, c)
            static = static_gain(g)
            gain, step, keep = smooth(static, gain, c[5], c[6])
            per_db = tl.where(g < 0, static * NEPER_PER_DB, 0.0)
            tl.store(steps + target + (n + j) * chunks, step, mask=inside)
            tl.store(per_dbs + target + (n + j) * chunks, tl.where(compresses, per_db, -per_db), mask=inside)
            per_level = -tl.where(compresses, c[2], c[4]) * per_db * (0.5 / NEPER_PER_DB) / level
            gain_slope *= keep
            level_slope *= 1 - c[0]
            cross = keep * cross + level_slope * per_level * (1 - keep)
            gain_end += grads[j] * gain_slope
            level_end += grads[j] * cross
    maps += lane - 2 * chunk + chunks - 1
    lanes = rows * chunks
    tl.store(maps, gain_slope, mask=inside)
    tl.store(maps + lanes, cross, mask=inside)
    tl.store(maps + 2 * lanes, level_slope, mask=inside)
    tl.store(maps + 3 * lanes, gain_end, mask=inside)
    tl.store(maps + 4 * lanes, level_end, mask=inside)


@triton.jit
def compressor_adjoint_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    steps: tl.tensor,
    per_dbs: tl.tensor,
    levels: tl.tensor,
    grad_x: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Gradient of x, and of the seven coefficients summed over each chunk (7, lanes)."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = place(lane, rows, chunks, samples, size)
    inside = row < rows
    lanes = rows * chunks
    c = load_row(coefs + row * 7, 7, inside)
    starts += lane - 2 * chunk + chunks - 1
    gain_carry = tl.load(starts, mask=inside, other=0.0)
    level_carry = tl.load(starts + lanes, mask=inside, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    source = row.to(tl.int64) * size * chunks + chunk
    average = tl.zeros((LANES,), tl.float64)
    compressed, cmp_slope, expanded, exp_slope, attack, release = average, average, average, average, average, average
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        values = load_steps(x + first + n, 1, count - n, STEPS)
        step = load_steps(steps + source + n * chunks, chunks, count - n, STEPS)
        per_db = load_steps(per_dbs + source + n * chunks, chunks, count - n, STEPS)
        before = load_steps(levels + source + n * chunks, chunks, count - n, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            adjoint = grads[j] + gain_carry
            falling = step[j] < 0
            coef = tl.where(falling, c[5], c[6])
            attack += tl.where(falling, adjoint * step[j], 0.0)
            release += tl.where(falling, 0.0, adjoint * step[j])
            gain_carry = (1 - coef) * adjoint
            squared = power(values[j])
            level = (1 - c[0]) * before[j] + c[0] * squared
            db = tl.log2(level) * DB_PER_LOG2
            to_db = coef * adjoint * per_db[j]
            to_cmp, to_exp = tl.where(per_db[j] > 0, to_db, 0.0), tl.where(per_db[j] < 0, -to_db, 0.0)
            compressed += to_cmp
            cmp_slope += to_cmp * (c[1] - db)
            expanded += to_exp
            exp_slope += to_exp * (c[3] - db)
            to_level = level_carry - (c[2] * to_cmp + c[4] * to_exp) * (0.5 / NEPER_PER_DB) / level
            average += to_level * (squared - before[j])
            level_carry = (1 - c[0]) * to_level
            to_x = tl.where(is_heard(values[j]), 2 * c[0] * values[j] * to_level, 0.0)
            tl.store(grad_x + first + n + j, to_x, mask=n + j < count)
    tl.store(sums + lane, average, mask=inside)
    tl.store(sums + lanes + lane, c[2] * compressed, mask=inside)
    tl.store(sums + 2 * lanes + lane, cmp_slope, mask=inside)
    tl.store(sums + 3 * lanes + lane, c[4] * expanded, mask=inside)
    tl.store(sums + 4 * lanes + lane, exp_slope, mask=inside)
    tl.store(sums + 5 * lanes + lane, attack, mask=inside)
    tl.store(sums + 6 * lanes + lane, release, mask=inside)
