"""Response of a feedback delay network on a GPU: complex elimination, one bin a lane, and its adjoint.

With M lines, I inputs and O outputs, a program computes SPAN blocks of BLOCK bins of one of G networks. Each lane keeps
the bordered matrix [A, -b] (M, M + I), A = diag(e^{i w m}) - U diag(gain), of its bin in registers, as a tuple of rows
of (real, imaginary) pairs; loops over rows and columns are unrolled. Elimination and substitution give X = A^-1 b
(M, I), and H = c X (O, I) is stored. The backward pass eliminates again, which takes less time than reading stored
factors, and solves the adjoint system W = A^-T c^T conj(grad_H) (M, I); W and X give all gradients. That of the gains
is stored per bin; the others are summed over a block in the arguments' precision, (G, blocks, M (M + I + O + 1)), and
over blocks by the host in float64.

Pointers are advanced from block to block: a pointer that is computed in a loop from its index makes Triton's compiler
analyse everything that depends on it, which takes minutes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, empty  # empty under its own name, so that a test can poison what is handed out

from .spectral_product import conjugate, multiply, multiply_add

BLOCK = 128  # bins at a time, one per thread of a program
SPAN = 2  # blocks per program
TWO_PI = tl.constexpr(6.283185307179586)


def fdn_response_forward(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """Return H (G, O, I, F) in the complex type of `feedback`; arguments as in afx.kernels.fdn, delays in float64."""
    groups, lines, F = line_gain.shape
    inputs, outputs = b.shape[2], c.shape[1]
    H = empty((groups, outputs, inputs, F, 2), dtype=feedback.dtype, device=feedback.device)
    grid = triton.cdiv(F, SPAN * BLOCK), groups
    _forward[grid](feedback, line_gain, b, c, delays, H, n, F, lines, inputs, outputs, BLOCK, SPAN)
    return torch.view_as_complex(H)


def fdn_response_backward(
    grad_H: Tensor, feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int
) -> tuple[Tensor, ...]:
    """Return the gradients of feedback, line_gain, b, c and delays, of the arguments' shapes."""
    groups, lines, F = line_gain.shape
    inputs, outputs = b.shape[2], c.shape[1]
    grid = triton.cdiv(F, SPAN * BLOCK), groups
    widths = [t[0].numel() for t in (feedback, b, c, delays)]
    sums = empty((groups, SPAN * grid[0], sum(widths)), dtype=torch.float64, device=feedback.device)
    grad_gain = empty(line_gain.shape, dtype=line_gain.dtype, device=line_gain.device)
    tensors = torch.view_as_real(grad_H), feedback, line_gain, b, c, delays, sums, grad_gain
    _backward[grid](*tensors, n, F, lines, inputs, outputs, BLOCK, SPAN)
    *parts, grad_delays = sums.sum(1).split(widths, dim=1)
    grad_feedback, grad_b, grad_c = (p.to(t.dtype).view_as(t) for p, t in zip(parts, (feedback, b, c), strict=True))
    return grad_feedback, grad_gain, grad_b, grad_c, grad_delays


@triton.jit
def _forward(
    feedback: tl.tensor,
    line_gain: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    delays: tl.tensor,
    H: tl.tensor,
    n: int,
    F: int,
    LINES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
) -> None:
    g = tl.program_id(1).to(tl.int64)
    bins = tl.program_id(0) * (SPAN * BLOCK) + tl.arange(0, BLOCK)
    # g is in int64: offsets into the responses of all networks may exceed 2^31.
    feedback += g * LINES * LINES
    b += g * LINES * INPUTS
    c += g * OUTPUTS * LINES
    gain_at = _pointers(line_gain + g * LINES * F, bins, F, LINES)
    H_at = _pointers(H + 2 * g * OUTPUTS * INPUTS * F, _pairs(bins), 2 * F, OUTPUTS * INPUTS)
    for _ in range(SPAN):
        mask = bins < F
        gains = _gains(gain_at, mask, LINES)
        phasors = _phasors(delays + g * LINES, bins, n, LINES, line_gain.dtype.element_ty)
        rows = _eliminated(feedback, b, gains, phasors, LINES, INPUTS)
        for q in tl.static_range(INPUTS):
            x = _solution(rows, q, LINES)
            for o in tl.static_range(OUTPUTS):
                y = _mixed(c + o * LINES, 1, x, 1.0, LINES)
                tl.store(H_at[o * INPUTS + q], tl.join(y[0], y[1]), mask=mask[:, None])
        bins += BLOCK
        gain_at = _moved(gain_at, BLOCK, LINES)
        H_at = _moved(H_at, 2 * BLOCK, OUTPUTS * INPUTS)


@triton.jit
def _backward(
    grad_H: tl.tensor,
    feedback: tl.tensor,
    line_gain: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    delays: tl.tensor,
    sums: tl.tensor,
    grad_gain: tl.tensor,
    n: int,
    F: int,
    LINES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
) -> None:
    g = tl.program_id(1).to(tl.int64)
    bins = tl.program_id(0) * (SPAN * BLOCK) + tl.arange(0, BLOCK)
    feedback += g * LINES * LINES
    b += g * LINES * INPUTS
    c += g * OUTPUTS * LINES
    sums += (g * tl.num_programs(0) + tl.program_id(0)) * (SPAN * LINES * (LINES + INPUTS + OUTPUTS + 1))
    gain_at = _pointers(line_gain + g * LINES * F, bins, F, LINES)
    grad_gain_at = _pointers(grad_gain + g * LINES * F, bins, F, LINES)
    grad_H_at = _pointers(grad_H + 2 * g * OUTPUTS * INPUTS * F, _pairs(bins), 2 * F, OUTPUTS * INPUTS)
    for _ in range(SPAN):
        mask = bins < F
        gains = _gains(gain_at, mask, LINES)
        phasors = _phasors(delays + g * LINES, bins, n, LINES, line_gain.dtype.element_ty)
        rows = _eliminated(feedback, b, gains, phasors, LINES, INPUTS)
        seeds = ()
        xs = ()
        adjoints = ()
        for q in tl.static_range(INPUTS):
            column = ()
            for o in tl.static_range(OUTPUTS):
                pairs = tl.load(grad_H_at[o * INPUTS + q], mask=mask[:, None], other=0.0)
                # Conjugated here, once: all gradients are then real parts of plain products.
                column = column + (conjugate(tl.split(pairs)),)
            seeds = seeds + (column,)
            xs = xs + (_solution(rows, q, LINES),)
            adjoints = adjoints + (_adjoint(rows, column, c, LINES, OUTPUTS),)
        omega = (bins.to(tl.float64) * TWO_PI / n).to(line_gain.dtype.element_ty)
        to_gains = _sum_up(sums, feedback, gains, phasors, omega, seeds, xs, adjoints, LINES, INPUTS, OUTPUTS)
        for i in tl.static_range(LINES):
            tl.store(grad_gain_at[i], to_gains[i], mask=mask)
        bins += BLOCK
        sums += LINES * (LINES + INPUTS + OUTPUTS + 1)
        gain_at = _moved(gain_at, BLOCK, LINES)
        grad_gain_at = _moved(grad_gain_at, BLOCK, LINES)
        grad_H_at = _moved(grad_H_at, 2 * BLOCK, OUTPUTS * INPUTS)


@triton.jit
def _sum_up(
    sums: tl.tensor,
    feedback: tl.tensor,
    gains: tl.tuple,
    phasors: tl.tuple,
    omega: tl.tensor,
    seeds: tl.tuple,
    xs: tl.tuple,
    adjoints: tl.tuple,
    LINES: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
) -> tl.tuple:
    """Store the sums over a block of the gradients of feedback, b, c and delays; return those of the line gains.

    With X = A^-1 b (xs), W = A^-T c^T conj(grad_H) (adjoints), conj(grad_H) (seeds) and P_ij = sum_q W_iq X_jq, the
    gradients are, at the frequency w:

        U_ij: gain_j Re P_ij     b_iq: Re W_iq                      c_oi: Re sum_q conj(grad_H_oq) X_iq
        gain_j: sum_i U_ij Re P_ij                                  m_i: Re(-i w e^{i w m_i} P_ii)
    """
    sum_b = sums + LINES * LINES
    sum_c = sum_b + LINES * INPUTS
    sum_delays = sum_c + OUTPUTS * LINES
    to_gains = ()
    for j in tl.static_range(LINES):
        for q in tl.static_range(INPUTS):
            tl.store(sum_b + j * INPUTS + q, tl.sum(adjoints[q][j][0], 0).to(tl.float64))
        for o in tl.static_range(OUTPUTS):
            tl.store(sum_c + o * LINES + j, tl.sum(_product(seeds, xs, o, j, INPUTS)[0], 0).to(tl.float64))
        to_gain = tl.zeros_like(omega)
        for i in tl.static_range(LINES):
            product = _product(adjoints, xs, i, j, INPUTS)
            to_gain += tl.load(feedback + i * LINES + j) * product[0]
            tl.store(sums + i * LINES + j, tl.sum(gains[j] * product[0], 0).to(tl.float64))
            if i == j:
                # Re(-i w z) = w Im z: only the imaginary part is summed.
                tl.store(sum_delays + i, tl.sum(omega * multiply(product, phasors[i])[1], 0).to(tl.float64))
        to_gains = to_gains + (to_gain,)
    return to_gains


@triton.jit
def _pairs(bins: tl.tensor) -> tl.tensor:
    """Offsets of the real and imaginary part of each bin, (BLOCK, 2)."""
    return 2 * bins[:, None] + tl.arange(0, 2)[None, :]


@triton.jit
def _pointers(base: tl.tensor, index: tl.tensor, stride: int, COUNT: tl.constexpr) -> tl.tuple:
    """Pointers to `index` in COUNT rows, `stride` apart."""
    at = ()
    for k in tl.static_range(COUNT):
        at = at + (base + k * stride + index,)
    return at


@triton.jit
def _moved(at: tl.tuple, by: tl.constexpr, COUNT: tl.constexpr) -> tl.tuple:
    """The pointers advanced `by` elements."""
    moved = ()
    for k in tl.static_range(COUNT):
        moved = moved + (at[k] + by,)
    return moved


@triton.jit
def _gains(at: tl.tuple, mask: tl.tensor, LINES: tl.constexpr) -> tl.tuple:
    """Gain of each line; 0 beyond the last bin."""
    # A gain of 0 beyond the last bin leaves A = diag(e^{i w m}), which is invertible: unused lanes stay finite.
    gains = ()
    for i in tl.static_range(LINES):
        gains = gains + (tl.load(at[i], mask=mask, other=0.0),)
    return gains


@triton.jit
def _phasors(delays: tl.tensor, bins: tl.tensor, n: tl.tensor, LINES: tl.constexpr, DTYPE: tl.constexpr) -> tl.tuple:
    """e^{i 2 pi k m / n} of each line; whole turns of k m / n are removed in float64, so that no digits are lost."""
    inverse = 1.0 / n.to(tl.float64)
    phasors = ()
    for i in tl.static_range(LINES):
        cycles = bins.to(tl.float64) * tl.load(delays + i)
        # For whole delays, k m and the turns times n are exact: nothing is rounded before whole turns are gone.
        turns = (cycles - tl.floor(cycles * inverse) * n) * inverse
        phasors = phasors + (_phasor(turns, DTYPE),)
    return phasors


@triton.jit
def _phasor(turns: tl.tensor, DTYPE: tl.constexpr) -> tl.tuple:
    """e^{i 2 pi turns} of 0 to 1 turns, by the Taylor series around the nearest quarter turn: tl.sin is slower."""
    quarter = tl.floor(4.0 * turns + 0.5)
    angle = ((turns - 0.25 * quarter) * TWO_PI).to(DTYPE)
    square = angle * angle
    cos = tl.full(square.shape, 1.0, DTYPE)
    sin = cos
    # Within an eighth of a turn, |angle| <= pi / 4, the terms left out are below float64's rounding.
    for k in tl.static_range(8, 0, -1):
        cos = 1.0 - cos * square * (1.0 / (2 * k * (2 * k - 1)))
        sin = 1.0 - sin * square * (1.0 / (2 * k * (2 * k + 1)))
    sin = sin * angle
    # Of the quarters 0 to 4: 4 is a full turn, and like 0 changes nothing.
    odd = (quarter == 1.0) | (quarter == 3.0)
    re = tl.where(odd, sin, cos)
    im = tl.where(odd, cos, sin)
    re = tl.where((quarter == 1.0) | (quarter == 2.0), -re, re)
    return re, tl.where((quarter == 2.0) | (quarter == 3.0), -im, im)


@triton.jit
def _eliminated(
    feedback: tl.tensor, b: tl.tensor, gains: tl.tuple, phasors: tl.tuple, LINES: tl.constexpr, INPUTS: tl.constexpr
) -> tl.tuple:
    """The rows of A = L U and, beside them, -L^-1 b: -L left of the diagonal, on it the negative inverse pivots."""
    # Row by row, as a tuple cannot be changed: a row is complete before the next one begins. Negative inverse pivots
    # and -b turn all updates into multiply_add, whose products and sums are fused.
    zero = tl.zeros_like(gains[0])
    rows = ()
    for i in tl.static_range(LINES):
        row = ()
        for j in tl.static_range(LINES):
            fed = -tl.load(feedback + i * LINES + j) * gains[j]
            if i == j:
                row = row + ((fed + phasors[i][0], phasors[i][1]),)
            else:
                row = row + ((fed, zero),)
        for q in tl.static_range(INPUTS):
            row = row + ((zero - tl.load(b + i * INPUTS + q), zero),)
        for k in tl.static_range(i):
            factor = multiply(row[k], rows[k][k])
            reduced = row[:k] + (factor,)
            for j in tl.static_range(k + 1, LINES + INPUTS):
                reduced = reduced + (multiply_add(factor, rows[k][j], row[j]),)
            row = reduced
        scale = -1.0 / tl.fma(row[i][0], row[i][0], row[i][1] * row[i][1])
        inverse = row[i][0] * scale, -row[i][1] * scale
        rows = rows + (row[:i] + (inverse,) + row[i + 1 :],)
    return rows


@triton.jit
def _solution(rows: tl.tuple, q: tl.constexpr, LINES: tl.constexpr) -> tl.tuple:
    """Column q of A^-1 b."""
    x = ()
    for i in tl.static_range(LINES - 1, -1, -1):
        value = rows[i][LINES + q]
        for j in tl.static_range(i + 1, LINES):
            # x begins at row i + 1, which is the last one that was put before it.
            value = multiply_add(rows[i][j], x[j - i - 1], value)
        x = (multiply(value, rows[i][i]),) + x
    return x


@triton.jit
def _adjoint(rows: tl.tuple, seeds: tl.tuple, c: tl.tensor, LINES: tl.constexpr, OUTPUTS: tl.constexpr) -> tl.tuple:
    """A^-T c^T seeds, which is L^-T U^-T of that."""
    # U^T is lower triangular, hence from the first row down; L^T below has a diagonal of 1 and needs no scaling.
    reduced = ()
    for i in tl.static_range(LINES):
        value = _mixed(c + i, LINES, seeds, -1.0, OUTPUTS)
        for k in tl.static_range(i):
            value = multiply_add(rows[k][i], reduced[k], value)
        reduced = reduced + (multiply(value, rows[i][i]),)
    w = ()
    for i in tl.static_range(LINES - 1, -1, -1):
        value = reduced[i]
        for j in tl.static_range(i + 1, LINES):
            value = multiply_add(rows[j][i], w[j - i - 1], value)
        w = (value,) + w
    return w


@triton.jit
def _mixed(weights: tl.tensor, STRIDE: tl.constexpr, values: tl.tuple, sign: float, COUNT: tl.constexpr) -> tl.tuple:
    """sign sum_k weights[k STRIDE] values[k]"""
    weight = sign * tl.load(weights)
    re = weight * values[0][0]
    im = weight * values[0][1]
    for k in tl.static_range(1, COUNT):
        weight = tl.broadcast_to(sign * tl.load(weights + k * STRIDE), re.shape)
        re = tl.fma(weight, values[k][0], re)
        im = tl.fma(weight, values[k][1], im)
    return re, im


@triton.jit
def _product(a: tl.tuple, b: tl.tuple, i: tl.constexpr, j: tl.constexpr, INPUTS: tl.constexpr) -> tl.tuple:
    """sum_q a[q][i] b[q][j]"""
    product = multiply(a[0][i], b[0][j])
    for q in tl.static_range(1, INPUTS):
        product = multiply_add(a[q][i], b[q][j], product)
    return product
