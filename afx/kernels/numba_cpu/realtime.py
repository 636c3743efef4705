"""Echoes and reverberation sample by sample as compiled loops, parallel over rows; see afx.kernels.realtime.

A delay line is a circular buffer in float64, written in place: sample n is stored at index n modulo its length.
"""

import numpy as np
from numba import prange
from numpy import empty  # under its own name, so that a test can poison what the wrappers hand out

from reknob.afx.kernels.numba_cpu.cache import kernel

Array = np.ndarray

BLOCK = 256  # samples of the network computed at once, fewer where a line is shorter
TINY = 1e-30  # smaller values are set to 0: decays would end in denormal numbers, whose arithmetic is slow
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


def realtime_delay(x: Array, delay: Array, coefs: Array, lines: Array, filters: Array, position: int) -> Array:
    """Return the odd and the even echoes (R, 2, T); coefs (R, 6) = feedback b0 b1 b2 a1 a2."""
    y = empty((len(x), 2, x.shape[1]), x.dtype)
    _delay_rows(x, delay, coefs, lines, filters, position, y)
    return y


def realtime_fdn(
    x: Array, feedback: Array, b: Array, c: Array, decay_fir: Array, reads: Array, lines: Array, position: int
) -> Array:
    """Return the output (R, O, T); `reads` (R, M) are the samples between writing to a line and reading from it."""
    y = empty((len(x), c.shape[1], x.shape[2]), x.dtype)
    _fdn_rows(x, feedback, b, c, decay_fir, reads, lines, position, y)
    return y


@kernel(parallel=True, nogil=True, **OPTIONS)
def _delay_rows(x: Array, delay: Array, coefs: Array, lines: Array, filters: Array, position: int, y: Array) -> None:
    for r in prange(len(x)):
        _delay_row(x[r], delay[r], coefs[r], lines[r], filters[r], position, y[r])


@kernel(parallel=True, nogil=True, **OPTIONS)
def _fdn_rows(
    x: Array,
    feedback: Array,
    b: Array,
    c: Array,
    decay_fir: Array,
    reads: Array,
    lines: Array,
    position: int,
    y: Array,
) -> None:
    for r in prange(len(x)):
        _fdn_row(x[r], feedback[r], b[r], c[r], decay_fir[r], reads[r], lines[r], position, y[r])


@kernel(**OPTIONS)
def _delay_row(x: Array, delay: int, coefs: Array, lines: Array, filters: Array, position: int, y: Array) -> None:
    feedback, b0, b1, b2, a1, a2 = coefs
    p1, p2, q1, q2 = filters[0, 0], filters[0, 1], filters[1, 0], filters[1, 1]
    length = lines.shape[1]
    write, read = position % length, (position - delay) % length
    for n in range(len(x)):
        # Read before written: with the longest delay, both are the same index.
        odd, even = lines[0, read], lines[1, read]
        y[0, n], y[1, n] = odd, even
        v = b0 * odd + p1
        p1, p2 = _flush(b1 * odd - a1 * v + p2), b2 * odd - a2 * v
        w = b0 * even + q1
        q1, q2 = _flush(b1 * even - a1 * w + q2), b2 * even - a2 * w
        lines[0, write] = _flush(x[n] + feedback * w)
        lines[1, write] = _flush(feedback * v)
        # A comparison: a remainder per sample would be an integer division.
        write = write + 1 if write + 1 < length else 0
        read = read + 1 if read + 1 < length else 0
    filters[0, 0], filters[0, 1], filters[1, 0], filters[1, 1] = p1, p2, q1, q2


@kernel(**OPTIONS)
def _fdn_row(
    x: Array,
    feedback: Array,
    b: Array,
    c: Array,
    decay_fir: Array,
    reads: Array,
    lines: Array,
    position: int,
    y: Array,
) -> None:
    """Run one network of M lines in blocks no longer than its shortest line, so that no block reads what it writes.

    Per block: recent (M, taps - 1 + block) is read from the lines and filtered to decayed (M, block); the outputs are
    c times the newest part of recent, and feedback times decayed plus b times the input is written to the lines.
    """
    order, taps = decay_fir.shape
    block = min(BLOCK, reads.min())
    recent, decayed, total = np.empty((order, taps - 1 + block)), np.empty((order, block)), np.empty(block)
    for start in range(0, x.shape[1], block):
        count = min(block, x.shape[1] - start)
        for i in range(order):
            _read(lines[i], position + start - reads[i] - taps + 1, recent[i, : taps - 1 + count])
            _fir(recent[i], decay_fir[i], decayed[i, :count])
        for o in range(c.shape[0]):
            total[:] = 0
            # From index taps - 1 on, `recent` is the line itself; before, it is the history of the decay filter.
            _add_weighted(c[o], recent[:, taps - 1 :], total[:count])
            for n in range(count):
                y[o, start + n] = total[n]
        # Only now, since each line is written with what was read from all of them.
        for i in range(order):
            total[:] = 0
            _add_weighted(feedback[i], decayed, total[:count])
            _add_weighted(b[i], x[:, start:], total[:count])
            _write(lines[i], position + start, total[:count])


@kernel(**OPTIONS)
def _add_weighted(weights: Array, signals: Array, total: Array) -> None:
    """total[n] += sum_i weights[i] signals[i, n]"""
    for i in range(len(weights)):
        for n in range(len(total)):
            total[n] += weights[i] * signals[i, n]


@kernel(**OPTIONS)
def _fir(x: Array, taps: Array, y: Array) -> None:
    """y[n] = sum_k taps[k] x[n + len(taps) - 1 - k], four taps per pass, as each pass reads and writes all of y."""
    left = len(taps)
    y[:] = 0
    while left >= 4:
        v = x[left - 4 :]
        h0, h1, h2, h3 = taps[-left], taps[-left + 1], taps[-left + 2], taps[-left + 3]
        for n in range(len(y)):
            y[n] += h3 * v[n] + h2 * v[n + 1] + h1 * v[n + 2] + h0 * v[n + 3]
        left -= 4
    while left:
        v = x[left - 1 :]
        for n in range(len(y)):
            y[n] += taps[-left] * v[n]
        left -= 1


@kernel(**OPTIONS)
def _read(line: Array, first: int, out: Array) -> None:
    """Copy samples first, first + 1, ... of a circular line to `out`."""
    at = first % len(line)
    for n in range(len(out)):
        out[n] = line[at]
        at = at + 1 if at + 1 < len(line) else 0


@kernel(**OPTIONS)
def _write(line: Array, first: int, values: Array) -> None:
    """Store values as samples first, first + 1, ... of a circular line."""
    at = first % len(line)
    for n in range(len(values)):
        line[at] = _flush(values[n])
        at = at + 1 if at + 1 < len(line) else 0


@kernel(**OPTIONS)
def _flush(value: float) -> float:
    return value if abs(value) > TINY else 0.0
