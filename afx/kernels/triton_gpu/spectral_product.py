"""Products of spectra on a GPU, and the complex numbers of every kernel; interface in afx.kernels.spectral_product.

Spectra are read as pairs of a real and an imaginary part. A program holds the responses of BLOCK bins of a group in
registers while it walks over signals of that group, so that each number crosses the memory bus once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor, empty  # empty under its own name, so that a test can poison what is handed out

BLOCK = 256  # bins of a program
PROGRAMS = 2048  # that fill a GPU: a group's signals are divided among so many, where there are few bins
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
    outputs, share = grad_Y.shape[1], signals // groups
    count, part = _division(F, groups, share)
    sums = empty((groups, count, outputs, inputs, F, 2), dtype=REAL[X.dtype], device=X.device)
    grid = triton.cdiv(F, BLOCK), count, groups
    pairs = torch.view_as_real(X), torch.view_as_real(grad_Y), sums
    _correlate[grid](*pairs, F, share, outputs, inputs, part, BLOCK)
    return torch.view_as_complex(sums[:, 0] if count == 1 else sums.sum(1))


def _applied(H: Tensor, X: Tensor, outputs: int, inputs: int, adjoint: bool) -> Tensor:
    """The product of the matrices H, or of their conjugate transposes, and the vectors X."""
    groups, (signals, _, F) = len(H), X.shape
    share = signals // groups
    Y = empty((signals, outputs, F, 2), dtype=REAL[X.dtype], device=X.device)
    count, part = _division(F, groups, share)
    grid = triton.cdiv(F, BLOCK), count, groups
    pairs = torch.view_as_real(H), torch.view_as_real(X), Y
    _apply[grid](*pairs, F, share, outputs, inputs, adjoint, part, BLOCK)
    return torch.view_as_complex(Y)


def _division(bins: int, groups: int, share: int) -> tuple[int, int]:
    """Into how many parts the `share` signals of a group are divided, and how many, a power of 2, a part holds."""
    wanted = triton.cdiv(PROGRAMS, triton.cdiv(bins, BLOCK) * groups)
    part = triton.next_power_of_2(triton.cdiv(share, wanted))
    return triton.cdiv(share, part), part


@triton.jit
def load_complex(pointer: tl.tensor, index: tl.tensor, mask: tl.tensor) -> tl.tuple:
    """Read the pairs at `index`; zero outside the mask."""
    both = 2 * index[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(pointer + both, mask=mask[:, None], other=0.0))


@triton.jit
def store_complex(pointer: tl.tensor, index: tl.tensor, value: tl.tuple, mask: tl.tensor) -> None:
    """Write pairs to `index`."""
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
    share: int,
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
        signal = group * share + row
        mask = inside & (row < share)
        x = ()
        for i in tl.static_range(INPUTS):
            x = x + (load_complex(X + 2 * (signal * INPUTS + i) * F, bins, mask),)
        for o in tl.static_range(OUTPUTS):
            y = multiply(matrix[o * INPUTS], x[0])
            for i in tl.static_range(1, INPUTS):
                y = multiply_add(matrix[o * INPUTS + i], x[i], y)
            store_complex(Y + 2 * (signal * OUTPUTS + o) * F, bins, y, mask)


@triton.jit
def _correlate(
    X: tl.tensor,
    grad_Y: tl.tensor,
    sums: tl.tensor,
    F: int,
    share: int,
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
        signal = group * share + row
        mask = inside & (row < share)
        x = ()
        for i in tl.static_range(INPUTS):
            x = x + (conjugate(load_complex(X + 2 * (signal * INPUTS + i) * F, bins, mask)),)
        added = ()
        for o in tl.static_range(OUTPUTS):
            y = load_complex(grad_Y + 2 * (signal * OUTPUTS + o) * F, bins, mask)
            for i in tl.static_range(INPUTS):
                added = added + (multiply_add(x[i], y, paths[o * INPUTS + i]),)
        paths = added
    out = sums + 2 * (group * tl.num_programs(1) + tl.program_id(1)) * OUTPUTS * INPUTS * F
    for k in tl.static_range(OUTPUTS * INPUTS):
        store_complex(out + 2 * k * F, bins, paths[k], inside)
