"""Adjoint passes of averages, of smoothing with attack and release, and of the compressor's gain: time runs backwards.

For x (R, T) in C chunks per row: a `..._maps_kernel` computes, for each chunk, the affine map from the gradients of its
end state to those of its start state, maps (2 or 5, R C), the last chunk of a row first; a scan over these gives the
gradients at the end of each chunk (`starts` of the adjoint); the `..._adjoint_kernel` runs the chunks backwards from
these, writes grad_x (R, T) and sums the gradients of the coefficients over each chunk, (count, R C). Between the two,
scratch holds a signal per quantity that the second needs, laid out (R, sample of a chunk, C).
"""

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.gain_passes import (
    DB_PER_LOG2,
    NEPER_PER_DB,
    curve,
    is_above_floor,
    power,
    smooth,
    static_gain,
)
from reknob.afx.kernels.triton_gpu.lanes import STEPS, load_row, load_steps, locate


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
    """Maps (5, lanes), last chunk of a row first, of the state (a, q) of `average_adjoint_kernel` over each chunk."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    coef = tl.load(coefs + row, mask=row < rows, other=0.0)
    source = grad_y + row.to(tl.int64) * samples + chunk * size
    adjoint = tl.zeros((LANES,), tl.float64)
    twice, cross = adjoint, adjoint
    slope = adjoint + 1
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        grads = load_steps(source + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            # q before a, as q[n] takes a[n+1], the value before this step.
            twice = (1 - coef) * twice + adjoint
            adjoint = (1 - coef) * adjoint + grads[STEPS - 1 - j]
            # The derivative of q at the chunk's start by a at its end follows the recursion of q itself.
            cross = (1 - coef) * cross + slope
            slope *= 1 - coef
    # Mirrored, as the scan over a row starts at its last chunk.
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

    With a[n] = (1-c) a[n+1] + grad_y[n] and q[n] = (1-c) q[n+1] + a[n+1], grad_x = c a. The gradient of c, the sum of
    a[n] (x[n] - y[n-1]), equals the sum of x (a - c q), which needs no y.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
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
            # y[n-1] sums c (1-c)^(n-1-k) x[k] over k < n. Exchanging the sums over n and k leaves c x[k] q[k].
            total += values[j] * (adjoint - coef * twice)
    tl.store(sums + lane, total, mask=row < rows)


@triton.jit
def smooth_maps_kernel(
    grad_y: tl.tensor,
    x: tl.tensor,
    coefs: tl.tensor,
    starts: tl.tensor,
    scratch: tl.tensor,
    maps: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    LANES: tl.constexpr,
) -> None:
    """Smooth x again and store x - state in scratch; maps (2, lanes) of the gradient from a chunk's end to its start.

    The contributions of the chunk's outputs are summed forward in time, each weighted by the decay of a state from the
    chunk's start to that output.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 2, 2, inside)
    state = tl.load(starts + lane, mask=inside, other=0.0)
    first = row.to(tl.int64) * samples + chunk * size
    target = scratch + row.to(tl.int64) * size * chunks + chunk
    end = tl.zeros((LANES,), tl.float64)
    slope = end + 1
    for n in range(0, size, STEPS):
        values = load_steps(x + first + n, 1, count - n, STEPS)
        grads = load_steps(grad_y + first + n, 1, count - n, STEPS)
        for j in tl.static_range(STEPS):
            state, step, keep = smooth(values[j], state, c[0], c[1])
            # Its sign gives the choice of attack or release again, and its value is the derivative by that coefficient.
            tl.store(target + (n + j) * chunks, step, mask=inside)
            # The decay first: an output is the state after its step, one decay from the state before.
            slope *= keep
            end += grads[j] * slope
    maps += lane - 2 * chunk + chunks - 1
    tl.store(maps, slope, mask=inside)
    tl.store(maps + rows * chunks, end, mask=inside)


@triton.jit
def smooth_adjoint_kernel(
    grad_y: tl.tensor,
    coefs: tl.tensor,
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
    row, chunk, count = locate(lane, rows, chunks, samples, size)
    inside = row < rows
    c = load_row(coefs + row * 2, 2, inside)
    # Beyond the row's end gradients load as 0 and this is 0, so that no sum changes.
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
            coef = tl.where(falling, c[0], c[1])
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
    """Run the compressor again; maps (5, lanes) of the gradients of gain and level from a chunk's end to its start.

    Stored for the adjoint: `steps`, static gain minus the previous gain; `per_dbs`, the derivative of the static gain
    by its value in dB, negated where the expander determines it; `levels`, the previous level.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, chunk, count = locate(lane, rows, chunks, samples, size)
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
            # The level before the sample: the derivative by `avg` needs it, and one step gives the level itself again.
            tl.store(levels + target + (n + j) * chunks, level, mask=inside)
            level = (1 - c[0]) * level + c[0] * power(values[j])
            g, compresses, _ = curve(level, c)
            static = static_gain(g)
            gain, step, keep = smooth(static, gain, c[5], c[6])
            per_db = tl.where(g < 0, static * NEPER_PER_DB, 0.0)
            tl.store(steps + target + (n + j) * chunks, step, mask=inside)
            tl.store(per_dbs + target + (n + j) * chunks, tl.where(compresses, per_db, -per_db), mask=inside)
            # The level in dB has the derivative 10 / (ln 10 level), and NEPER_PER_DB is ln(10) / 20.
            per_level = -tl.where(compresses, c[2], c[4]) * per_db * (0.5 / NEPER_PER_DB) / level
            gain_slope *= keep
            level_slope *= 1 - c[0]
            # By the level at the chunk's start, through the static gain of this sample, whose weight is 1 - keep.
            cross = keep * cross + level_slope * per_level * (1 - keep)
            gain_end += grads[j] * gain_slope
            level_end += grads[j] * cross
    maps += lane - 2 * chunk + chunks - 1
    lanes = rows * chunks
    # In the order of scan_pair: the gradient of the level takes part of that of the gain, never the reverse.
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
    row, chunk, count = locate(lane, rows, chunks, samples, size)
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
            # A sample's steps in reverse: ballistics, static curve, average, square.
            adjoint = grads[j] + gain_carry
            falling = step[j] < 0
            coef = tl.where(falling, c[5], c[6])
            attack += tl.where(falling, adjoint * step[j], 0.0)
            release += tl.where(falling, 0.0, adjoint * step[j])
            gain_carry = (1 - coef) * adjoint
            squared = power(values[j])
            # Computed again, instead of storing two more signals. Beyond the row's end, the floor of the power keeps
            # the logarithm finite, and all gradients are 0.
            level = (1 - c[0]) * before[j] + c[0] * squared
            db = tl.log2(level) * DB_PER_LOG2
            to_db = coef * adjoint * per_db[j]
            # The sign of per_db is no part of the derivative: it says which curve determines the gain.
            to_cmp, to_exp = tl.where(per_db[j] > 0, to_db, 0.0), tl.where(per_db[j] < 0, -to_db, 0.0)
            compressed += to_cmp
            cmp_slope += to_cmp * (c[1] - db)
            expanded += to_exp
            exp_slope += to_exp * (c[3] - db)
            to_level = level_carry - (c[2] * to_cmp + c[4] * to_exp) * (0.5 / NEPER_PER_DB) / level
            average += to_level * (squared - before[j])
            level_carry = (1 - c[0]) * to_level
            to_x = tl.where(is_above_floor(values[j]), 2 * c[0] * values[j] * to_level, 0.0)
            tl.store(grad_x + first + n + j, to_x, mask=n + j < count)
    tl.store(sums + lane, average, mask=inside)
    # A slope is the derivative of its curve by its threshold, a factor that all samples share.
    tl.store(sums + lanes + lane, c[2] * compressed, mask=inside)
    tl.store(sums + 2 * lanes + lane, cmp_slope, mask=inside)
    tl.store(sums + 3 * lanes + lane, c[4] * expanded, mask=inside)
    tl.store(sums + 4 * lanes + lane, exp_slope, mask=inside)
    tl.store(sums + 5 * lanes + lane, attack, mask=inside)
    tl.store(sums + 6 * lanes + lane, release, mask=inside)
