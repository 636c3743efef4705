"""Passes of the loudness ratios: a lane per chunk of a signal; see triton_gpu.loudness for the data flow.

The S signals of an item and chunk are in neighbouring lanes, which read the same samples. Both averages of a ratio at
time n are computed in one loop: the short average reads x[n], the long one x[n + shift]. The first chunk begins at
n = -early, where early >= shift is a multiple of the chunk size: the long average then starts at or before x[0].
"""

import math

import triton
import triton.language as tl

from reknob.afx.kernels.triton_gpu.gain_passes import is_above_floor, power
from reknob.afx.kernels.triton_gpu.lanes import STEPS, load_steps

LOG_2 = tl.constexpr(math.log(2.0))


@triton.jit
def locate_signal(
    lane: tl.tensor, items: tl.tensor, chunks: tl.tensor, SIGNALS: tl.constexpr, MIX: tl.constexpr
) -> tl.tuple:
    """Item, chunk and row (item S + signal) of a lane, and the weights of left and right in its signal."""
    signal = lane % SIGNALS
    item = lane // (SIGNALS * chunks)
    # Chosen by comparisons: MIX is a tuple of compile-time constants, which a lane cannot index.
    left = tl.zeros(lane.shape, tl.float64)
    right = left
    for s in tl.static_range(SIGNALS):
        left = tl.where(signal == s, left + MIX[2 * s], left)
        right = tl.where(signal == s, right + MIX[2 * s + 1], right)
    return item, lane // SIGNALS % chunks, item * SIGNALS + signal, left, right


@triton.jit
def load_powers(
    x: tl.tensor, time: tl.tensor, left: tl.tensor, right: tl.tensor, samples: tl.tensor, inside: tl.tensor
) -> tl.tuple:
    """Load the next STEPS samples and compute the powers of each lane's signal; 0 before the first sample."""
    values = ()
    for j in tl.static_range(STEPS):
        there = inside & (time + j >= 0) & (time + j < samples)
        # Not loaded where the weight is 0: that channel may belong to another item, and 0 NaN is NaN.
        u = tl.load(x + time + j, mask=there & (left != 0), other=0.0).to(tl.float64)
        v = tl.load(x + samples + time + j, mask=there & (right != 0), other=0.0).to(tl.float64)
        # 0 before the first sample, not the floor: an average starts from zero at x[0].
        values = values + (tl.where(time + j < 0, 0.0, power(left * u + right * v)),)
    return values


@triton.jit
def average(state: tl.tensor, x: tl.tensor, COEF: tl.constexpr) -> tl.tensor:
    """One step of a one-pole average."""
    return state * (1 - COEF) + x * COEF


@triton.jit
def averages_kernel(
    x: tl.tensor,
    maps: tl.tensor,
    items: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    early: tl.tensor,
    shift: tl.tensor,
    SHORT: tl.constexpr,
    LONG: tl.constexpr,
    MIX: tl.constexpr,
    SIGNALS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Averages at the end of every chunk, from zero at its start."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    item, chunk, row, left, right = locate_signal(lane, items, chunks, SIGNALS, MIX)
    inside = item < items
    x += item.to(tl.int64) * 2 * samples
    first = chunk * size - early
    short = tl.zeros((LANES,), tl.float64)
    long = short
    for n in range(0, size, STEPS):
        current = load_powers(x, first + n, left, right, samples, inside)
        ahead = load_powers(x, first + n + shift, left, right, samples, inside)
        for j in tl.static_range(STEPS):
            short = average(short, current[j], SHORT)
            long = average(long, ahead[j], LONG)
    rows = items * SIGNALS
    # The slopes (2 B S, C) come first, which the host has filled in.
    tl.store(maps + (2 * rows + row) * chunks + chunk, short, mask=inside)
    tl.store(maps + (3 * rows + row) * chunks + chunk, long, mask=inside)


@triton.jit
def ratio_kernel(
    x: tl.tensor,
    starts: tl.tensor,
    ratio: tl.tensor,
    pair: tl.tensor,
    pairs: tl.tensor,
    items: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    early: tl.tensor,
    shift: tl.tensor,
    SHORT: tl.constexpr,
    LONG: tl.constexpr,
    MIX: tl.constexpr,
    SIGNALS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Write the ratios of one pair of averages at 0 <= n < samples - shift, where both exist."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    item, chunk, row, left, right = locate_signal(lane, items, chunks, SIGNALS, MIX)
    inside = item < items
    x += item.to(tl.int64) * 2 * samples
    ratio += (row.to(tl.int64) * pairs + pair) * samples
    first = chunk * size - early
    short = tl.load(starts + row * chunks + chunk, mask=inside, other=0.0)
    long = tl.load(starts + (items * SIGNALS + row) * chunks + chunk, mask=inside, other=0.0)
    for n in range(0, size, STEPS):
        current = load_powers(x, first + n, left, right, samples, inside)
        ahead = load_powers(x, first + n + shift, left, right, samples, inside)
        for j in tl.static_range(STEPS):
            short = average(short, current[j], SHORT)
            long = average(long, ahead[j], LONG)
            time = first + n + j
            tl.store(ratio + time, short / long, mask=inside & (time >= 0) & (time < samples - shift))


@triton.jit
def compare(short: tl.tensor, long: tl.tensor, target: tl.tensor, valid: tl.tensor) -> tl.tuple:
    """The larger and the smaller of ratio and target, and the gradients of |log ratio - log target| to both averages.

    The ratio is rounded to the dtype of the target, so that the deviation of a signal from itself is exactly 0.
    """
    ratio = (short / long).to(target.dtype).to(tl.float64)
    other = target.to(tl.float64)
    above = ratio > other
    sign = tl.where(above, 1.0, tl.where(ratio < other, -1.0, 0.0)).to(tl.float64)
    # One division for both gradients: 1 / short = long / (short long).
    sign = sign / (short * long)
    return (
        tl.where(valid, tl.where(above, ratio, other), 1.0),
        tl.where(valid, tl.where(above, other, ratio), 1.0),
        tl.where(valid, sign * long, 0.0),
        tl.where(valid, -sign * short, 0.0),
    )


@triton.jit
def load_targets(target: tl.tensor, time: tl.tensor, valid_until: tl.tensor, inside: tl.tensor) -> tl.tuple:
    """Load the targets of the next STEPS ratios of every lane, in their own dtype, and whether each is valid."""
    targets = ()
    valid = ()
    for j in tl.static_range(STEPS):
        valid = valid + (inside & (time + j >= 0) & (time + j < valid_until),)
        targets = targets + (tl.load(target + time + j, mask=valid[j], other=1.0),)
    return targets, valid


@triton.jit
def deviation_kernel(
    x: tl.tensor,
    target: tl.tensor,
    rows: tl.tensor,
    starts: tl.tensor,
    maps: tl.tensor,
    parts: tl.tensor,
    pair: tl.tensor,
    pairs: tl.tensor,
    items: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    early: tl.tensor,
    shift: tl.tensor,
    SHORT: tl.constexpr,
    LONG: tl.constexpr,
    MIX: tl.constexpr,
    SIGNALS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Sum the absolute log ratios of each chunk; replace the ends in the maps by those of the adjoint averages.

    The adjoint averages at a chunk's start are summed forward in time, each gradient weighted by the decay of the
    average from the chunk's start to its sample.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    item, chunk, row, left, right = locate_signal(lane, items, chunks, SIGNALS, MIX)
    inside = item < items
    x += item.to(tl.int64) * 2 * samples
    target_row = tl.load(rows + row, mask=inside, other=0)
    target += (target_row * pairs + pair) * samples
    first = chunk * size - early
    short = tl.load(starts + row * chunks + chunk, mask=inside, other=0.0)
    long = tl.load(starts + (items * SIGNALS + row) * chunks + chunk, mask=inside, other=0.0)
    total = tl.zeros((LANES,), tl.float64)
    short_adjoint, long_adjoint = total, total
    short_weight = total + 1
    long_weight = short_weight
    for n in range(0, size, STEPS):
        current = load_powers(x, first + n, left, right, samples, inside)
        ahead = load_powers(x, first + n + shift, left, right, samples, inside)
        targets, valid = load_targets(target, first + n, samples - shift, inside)
        above = tl.full((LANES,), 1.0, tl.float64)
        below = above
        for j in tl.static_range(STEPS):
            short = average(short, current[j], SHORT)
            long = average(long, ahead[j], LONG)
            larger, smaller, to_short, to_long = compare(short, long, targets[j], valid[j])
            above *= larger
            below *= smaller
            if j % 4 == 3:  # one logarithm per product of 4 ratios, which cannot overflow
                total += tl.log2(above / below)
                above = tl.full((LANES,), 1.0, tl.float64)
                below = above
            # Before the sums: the state before the chunk has decayed once by its first average.
            short_weight *= 1 - SHORT
            long_weight *= 1 - LONG
            short_adjoint += short_weight * to_short
            long_adjoint += long_weight * to_long
    tl.store(parts + row * chunks + chunk, total * LOG_2, mask=inside)
    signals = items * SIGNALS
    # Mirrored, as the adjoint's scan over a row starts at its last chunk.
    tl.store(maps + (2 * signals + row) * chunks + chunks - 1 - chunk, short_adjoint, mask=inside)
    tl.store(maps + (3 * signals + row) * chunks + chunks - 1 - chunk, long_adjoint, mask=inside)


@triton.jit
def adjoint_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    target: tl.tensor,
    rows: tl.tensor,
    starts: tl.tensor,
    adjoints: tl.tensor,
    scratch: tl.tensor,
    powers: tl.tensor,
    first_program: tl.tensor,
    pair: tl.tensor,
    pairs: tl.tensor,
    items: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    size: tl.tensor,
    early: tl.tensor,
    shift: tl.tensor,
    SHORT: tl.constexpr,
    LONG: tl.constexpr,
    MIX: tl.constexpr,
    SIGNALS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:
    """Run the chunks forwards, storing the gradients of the averages in `scratch`; then run the adjoints backwards.

    These add the gradients of the powers that each average reads. Scratch is laid out (program, sample, 2, lane).
    """
    offset = tl.arange(0, LANES)
    lane = (first_program + tl.program_id(0)) * LANES + offset
    item, chunk, row, left, right = locate_signal(lane, items, chunks, SIGNALS, MIX)
    inside = item < items
    x += item.to(tl.int64) * 2 * samples
    target_row = tl.load(rows + row, mask=inside, other=0)
    target += (target_row * pairs + pair) * samples
    scratch += tl.program_id(0).to(tl.int64) * 2 * size * LANES + offset
    first = chunk * size - early
    short = tl.load(starts + row * chunks + chunk, mask=inside, other=0.0)
    long = tl.load(starts + (items * SIGNALS + row) * chunks + chunk, mask=inside, other=0.0)
    for n in range(0, size, STEPS):
        current = load_powers(x, first + n, left, right, samples, inside)
        ahead = load_powers(x, first + n + shift, left, right, samples, inside)
        targets, valid = load_targets(target, first + n, samples - shift, inside)
        for j in tl.static_range(STEPS):
            short = average(short, current[j], SHORT)
            long = average(long, ahead[j], LONG)
            _, _, to_short, to_long = compare(short, long, targets[j], valid[j])
            tl.store(scratch + (n + j) * 2 * LANES, to_short)
            tl.store(scratch + (n + j) * 2 * LANES + LANES, to_long)
    # The threads of a program are not ordered otherwise: all gradients are stored before any is loaded.
    tl.debug_barrier()
    weight = tl.load(grad + row * pairs + pair, mask=inside, other=0.0)
    signals = items * SIGNALS
    adjoints += row * chunks + chunks - 1 - chunk
    short_carry = tl.load(adjoints, mask=inside, other=0.0)
    long_carry = tl.load(adjoints + signals * chunks, mask=inside, other=0.0)
    short_powers = powers + row.to(tl.int64) * samples
    # The long average of time n reads x[n + shift].
    long_powers = powers + (signals + row).to(tl.int64) * samples + shift
    for done in range(0, size, STEPS):
        n = size - STEPS - done
        to_short = load_steps(scratch + n * 2 * LANES, 2 * LANES, STEPS, STEPS)
        to_long = load_steps(scratch + n * 2 * LANES + LANES, 2 * LANES, STEPS, STEPS)
        for j in tl.static_range(STEPS - 1, -1, -1):
            time = first + n + j
            short_carry += to_short[j]
            long_carry += to_long[j]
            # The weight of the sum enters here, as the adjoints are linear; their states stay free of it.
            add(short_powers + time, short_carry * weight * SHORT, inside & (time >= 0) & (time < samples))
            add(long_powers + time, long_carry * weight * LONG, inside & (time + shift >= 0) & (time < samples - shift))
            short_carry *= 1 - SHORT
            long_carry *= 1 - LONG


@triton.jit
def add(pointers: tl.tensor, values: tl.tensor, mask: tl.tensor) -> None:
    """Add values in place; no other lane may have the same pointer."""
    tl.store(pointers, tl.load(pointers, mask=mask, other=0.0).to(tl.float64) + values, mask=mask)


@triton.jit
def unmix_kernel(
    x: tl.tensor,
    powers: tl.tensor,
    grad_x: tl.tensor,
    items: tl.tensor,
    samples: tl.tensor,
    MIX: tl.constexpr,
    SIGNALS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gradients of both channels of an item from those of the powers of its signals; 0 below the floor."""
    time = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    item = tl.program_id(1).to(tl.int64)
    inside = time < samples
    x += item * 2 * samples + time
    grad_x += item * 2 * samples + time
    powers += item * SIGNALS * samples + time
    left = tl.load(x, mask=inside, other=0.0).to(tl.float64)
    right = tl.load(x + samples, mask=inside, other=0.0).to(tl.float64)
    to_left = tl.zeros((BLOCK,), tl.float64)
    to_right = to_left
    for s in tl.static_range(SIGNALS):
        grad = tl.load(powers + s * samples, mask=inside, other=0.0).to(tl.float64)
        grad += tl.load(powers + (items * SIGNALS + s) * samples, mask=inside, other=0.0).to(tl.float64)
        signal = tl.zeros((BLOCK,), tl.float64)
        if MIX[2 * s] != 0:  # an unused channel may belong to another item and be NaN
            signal += left * MIX[2 * s]
        if MIX[2 * s + 1] != 0:
            signal += right * MIX[2 * s + 1]
        slope = tl.where(is_above_floor(signal), signal * 2 * grad, 0.0)
        # Not multiplied by 0: the gradient of a signal without this channel may be NaN.
        if MIX[2 * s] != 0:
            to_left += slope * MIX[2 * s]
        if MIX[2 * s + 1] != 0:
            to_right += slope * MIX[2 * s + 1]
    tl.store(grad_x, to_left, mask=inside)
    tl.store(grad_x + samples, to_right, mask=inside)
