"""Products of spectra on a GPU, and the complex numbers of every kernel; interface in afx.kernels.spectral_product.

Spectra are read as (real, imaginary) pairs. A program keeps the responses (O, I) of BLOCK bins of one group in
registers and processes `part` signals of that group, so that each number is read from memory once. For gradients of
responses, each program sums over its signals to (G, parts, O, I, F), and the host sums over the parts.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, empty  # empty under its own name, so that a test can poison what is handed out

BLOCK = 256  # bins per program
PROGRAMS = 2048  # enough to fill a GPU: with few bins, a group's signals are divided to reach this number
REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def outputs(H: Tensor, X: Tensor) -> Tensor:
    """Y (B, O, F) of H (G, O, I, F) and X (B, I, F)."""
    return _applied(H, X, H.shape[1], H.shape[2], False)


def to_inputs(H: Tensor, grad_Y: Tensor) -> Tensor:
    """Gradient of X (B, I, F)."""
    return _applied(H, grad_Y, H.shape[2], H.shape[1], True)


def to_paths(X: Tensor, grad_Y: Tensor, groups: int) -> Tensor:
    """Gradient of H (groups, O, I, F)."""
    signals, inputs, F = X.shape
    outputs, per_group = grad_Y.shape[1], signals // groups
    count, part = _division(F, groups, per_group)
    sums = empty((groups, count, outputs, inputs, F, 2), dtype=REAL[X.dtype], device=X.device)
    grid = triton.cdiv(F, BLOCK), count, groups
    pairs = torch.view_as_real(X), torch.view_as_real(grad_Y), sums
    _correlate[grid](*pairs, F, per_group, outputs, inputs, part, BLOCK)
    # Over parts on the host, not by atomic additions, whose order differs from run to run.
    return torch.view_as_complex(sums[:, 0] if count == 1 else sums.sum(1))


def _applied(H: Tensor, X: Tensor, outputs: int, inputs: int, adjoint: bool) -> Tensor:
    """The product of the matrices H, or of their conjugate transposes, and the vectors X."""
    groups, (signals, _, F) = len(H), X.shape
    per_group = signals // groups
    Y = empty((signals, outputs, F, 2), dtype=REAL[X.dtype], device=X.device)
    count, part = _division(F, groups, per_group)
    grid = triton.cdiv(F, BLOCK), count, groups
    pairs = torch.view_as_real(H), torch.view_as_real(X), Y
    _apply[grid](*pairs, F, per_group, outputs, inputs, adjoint, part, BLOCK)
    return torch.view_as_complex(Y)


def _division(bins: int, groups: int, per_group: int) -> tuple[int, int]:
    """Number of parts that the `per_group` signals of a group are divided into, and signals per part, a power of 2."""
    wanted = triton.cdiv(PROGRAMS, triton.cdiv(bins, BLOCK) * groups)
    # A power of 2, as the kernel is compiled for every value.
    part = triton.next_power_of_2(triton.cdiv(per_group, wanted))
    return triton.cdiv(per_group, part), part


@triton.jit
def load_complex(pointer: tl.tensor, index: tl.tensor, mask: tl.tensor) -> tl.tuple:
    """Load the complex numbers at `index` as real and imaginary parts; 0 outside the mask."""
    both = 2 * index[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(pointer + both, mask=mask[:, None], other=0.0))


@triton.jit
def store_complex(pointer: tl.tensor, index: tl.tensor, value: tl.tuple, mask: tl.tensor) -> None:
    """Store complex numbers at `index`."""
    both = 2 * index[:, None] + tl.arange(0, 2)[None, :]
    tl.store(pointer + both, tl.join(value[0], value[1]), mask=mask[:, None])


@triton.jit
def conjugate(a: tl.tuple) -> tl.tuple:
    return a[0], -a[1]


@triton.jit
def multiply(a: tl.tuple, b: tl.tuple) -> tl.tuple:
    return tl.fma(-a[1], b[1], a[0] * b[0]), tl.fma(a[1], b[0], a[0] * b[1])


@triton.jit
def multiply_add(a: tl.tuple, b: tl.tuple, c: tl.tuple) -> tl.tuple:
    """a b + c"""
    re = tl.fma(-a[1], b[1], tl.fma(a[0], b[0], c[0]))
    return re, tl.fma(a[1], b[0], tl.fma(a[0], b[1], c[1]))


@triton.jit
def _apply(
    H: tl.tensor,
    X: tl.tensor,
    Y: tl.tensor,
    F: int,
    per_group: int,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    ADJOINT: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    bins = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = bins < F
    group = tl.program_id(2).to(tl.int64)
    matrix = ()
    for o in tl.static_range(OUTPUTS):
        for i in tl.static_range(INPUTS):
            if ADJOINT:
                entry = load_complex(H + 2 * ((group * INPUTS + i) * OUTPUTS + o) * F, bins, inside)
                matrix = matrix + (conjugate(entry),)
            else:
                matrix = matrix + (load_complex(H + 2 * ((group * OUTPUTS + o) * INPUTS + i) * F, bins, inside),)
    for k in range(PART):
        row = tl.program_id(1) * PART + k
        signal = group * per_group + row
        mask = inside & (row < per_group)
        # Loaded once for all outputs.
        x = ()
        for i in tl.static_range(INPUTS):
            x = x + (load_complex(X + 2 * (signal * INPUTS + i) * F, bins, mask),)
        for o in tl.static_range(OUTPUTS):
            y = multiply(matrix[o * INPUTS], x[0])  # pyright: ignore[reportGeneralTypeIssues]  # x is not empty
            for i in tl.static_range(1, INPUTS):
                y = multiply_add(matrix[o * INPUTS + i], x[i], y)
            store_complex(Y + 2 * (signal * OUTPUTS + o) * F, bins, y, mask)


@triton.jit
def _correlate(
    X: tl.tensor,
    grad_Y: tl.tensor,
    sums: tl.tensor,
    F: int,
    per_group: int,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    bins = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = bins < F
    group = tl.program_id(2).to(tl.int64)
    zero = tl.zeros((BLOCK,), sums.dtype.element_ty)
    paths = ((zero, zero),) * (OUTPUTS * INPUTS)
    for k in range(PART):
        row = tl.program_id(1) * PART + k
        signal = group * per_group + row
        mask = inside & (row < per_group)
        x = ()
        for i in tl.static_range(INPUTS):
            x = x + (conjugate(load_complex(X + 2 * (signal * INPUTS + i) * F, bins, mask)),)
        added = ()
        for o in tl.static_range(OUTPUTS):
            y = load_complex(grad_Y + 2 * (signal * OUTPUTS + o) * F, bins, mask)
            for i in tl.static_range(INPUTS):
                added = added + (multiply_add(x[i], y, paths[o * INPUTS + i]),)
        # Tuples cannot be changed: the sums are replaced, and stay in registers until all signals are added.
        paths = added
    out = sums + 2 * (group * tl.num_programs(1) + tl.program_id(1)) * OUTPUTS * INPUTS * F
    for k in tl.static_range(OUTPUTS * INPUTS):
        store_complex(out + 2 * k * F, bins, paths[k], inside)
