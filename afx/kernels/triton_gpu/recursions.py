"""Recursive filters on a GPU, forwards and backwards; see afx.kernels.recursions for what they compute."""

import triton
from torch import Tensor, empty

from reknob.afx.kernels.triton_gpu import cascade_passes as cascade
from reknob.afx.kernels.triton_gpu import gain_adjoints as adjoints
from reknob.afx.kernels.triton_gpu import gain_passes as gains
from reknob.afx.kernels.triton_gpu import lanes
from reknob.afx.kernels.triton_gpu.lanes import chunk_size, scan, scan_pair

Shape = tuple[int, int, int, int]  # rows, chunks of a row, samples of a row, samples of a chunk


def biquad_cascade_forward(x: Tensor, coefs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run the cascade; return the output and the states (R, C, 2K) at the start of each chunk."""
    if not x.numel():
        return x.clone(), state
    starts = _cascade_starts(x, coefs, state, adjoint=False)
    y, shape = _like(x), _shape(x)
    # One warp, as its 32 threads are the LANES of a program.
    cascade.forward_kernel[_grid(shape)](
        x, coefs, starts, state, y, *shape, K=coefs.shape[1], LANES=lanes.LANES, num_warps=1
    )
    return y, starts


def biquad_cascade_backward(
    grad_y: Tensor, x: Tensor, coefs: Tensor, starts: Tensor, want_x: bool, want_coefs: bool
) -> tuple[Tensor, Tensor]:
    """Run the adjoint cascade; return the gradients of x and of the coefficients (unspecified unless wanted)."""
    if not x.numel():
        return x.clone(), coefs.new_zeros(coefs.shape)
    shape, K = _shape(x), coefs.shape[1]
    adjoint = _cascade_starts(grad_y, coefs, coefs.new_zeros(len(x), K, 2), adjoint=True)
    grad_x, sums = _like(x), _sums(5 * K, shape, coefs)
    programs = _grid(shape)[0]
    numbers = K * shape[3] if want_coefs else 0  # outputs of all sections over a chunk
    most = lanes.programs_at_once(programs, numbers, x.element_size())
    scratch = empty(most * lanes.LANES * numbers, dtype=x.dtype, device=x.device)
    # In parts that share one scratch: launches run one after another on the GPU.
    for first in range(0, programs, most):
        cascade.gradient_kernel[(min(most, programs - first),)](
            grad_y,
            x,
            coefs,
            starts,
            adjoint,
            scratch,
            grad_x,
            sums,
            first,
            *shape,
            K=K,
            COEFS=want_coefs,
            LANES=lanes.LANES,
            num_warps=1,
        )
    # Sums per chunk and then over chunks, not atomic additions, whose order differs from run to run.
    return grad_x, sums.sum(2).T.reshape(coefs.shape)


def one_pole_forward(x: Tensor, coefs: Tensor, state: Tensor) -> tuple[Tensor, None]:
    """Run the average; return the output and None, as the backward pass needs nothing else."""
    if not x.numel():
        return x.clone(), None
    y, shape = _like(x), _shape(x)
    starts = _average_starts(x, coefs, state, power=False)
    gains.average_kernel[_grid(shape)](x, coefs, starts, state, y, *shape, LANES=lanes.LANES, num_warps=1)
    return y, None


def one_pole_backward(
    grad_y: Tensor, x: Tensor, coefs: Tensor, saved: None, want_x: bool, want_coefs: bool
) -> tuple[Tensor, Tensor]:
    """Run the adjoint average; return the gradients of x and of the coefficient."""
    if not x.numel():
        return x.clone(), coefs.new_zeros(coefs.shape)
    shape = _shape(x)
    # Five numbers per chunk, as the adjoint has two states; see average_adjoint_kernel.
    maps, grad_x, sums = _sums(5, shape, coefs), _like(x), _sums(1, shape, coefs)
    options = {"LANES": lanes.LANES, "num_warps": 1}
    adjoints.average_adjoint_maps_kernel[_grid(shape)](grad_y, coefs, maps, *shape, **options)
    adjoints.average_adjoint_kernel[_grid(shape)](grad_y, x, coefs, scan_pair(maps), grad_x, sums, *shape, **options)
    return grad_x, sums.sum(2).T.contiguous()


def ballistics_forward(x: Tensor, coefs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run the smoothing; return the output and the states (R, C) at the start of each chunk."""
    if not x.numel():
        return x.clone(), state
    shape = _shape(x)
    laid_out = _scratch(1, shape, x)
    gains.interleave_kernel[_grid(shape)](x, laid_out, *shape, LANES=lanes.LANES, num_warps=1)
    return _smooth(laid_out, coefs, state, x)


def ballistics_backward(
    grad_y: Tensor, x: Tensor, coefs: Tensor, starts: Tensor, want_x: bool, want_coefs: bool
) -> tuple[Tensor, Tensor]:
    """Run the adjoint smoothing; return the gradients of x and of the coefficients."""
    if not x.numel():
        return x.clone(), coefs.new_zeros(coefs.shape)
    shape = _shape(x)
    maps, grad_x, sums, scratch = _sums(2, shape, coefs), _like(x), _sums(2, shape, coefs), _scratch(1, shape, x)
    options = {"LANES": lanes.LANES, "num_warps": 1}
    adjoints.smooth_maps_kernel[_grid(shape)](grad_y, x, coefs, starts, scratch, maps, *shape, **options)
    adjoint = scan(maps, coefs.new_zeros(len(x)))
    adjoints.smooth_adjoint_kernel[_grid(shape)](grad_y, coefs, adjoint, scratch, grad_x, sums, *shape, **options)
    return grad_x, sums.sum(2).T.contiguous()


def compressor_gain_forward(x: Tensor, coefs: Tensor, state: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run level, curve and smoothing; return the gain and the levels and gains (R, C) at the start of each chunk."""
    if not x.numel():
        return x.clone(), (state, state)
    shape = _shape(x)
    levels = _average_starts(x, coefs, state[:, 0], power=True)
    static = _scratch(1, shape, coefs)  # float64, as rounding would change the choice of attack or release
    gains.static_kernel[_grid(shape)](x, coefs, levels, state, static, *shape, LANES=lanes.LANES, num_warps=1)
    y, starts = _smooth(static, coefs[:, 5:], state[:, 1], x)
    return y, (levels, starts)


def compressor_gain_backward(
    grad_y: Tensor, x: Tensor, coefs: Tensor, starts: tuple[Tensor, Tensor], want_x: bool, want_coefs: bool
) -> tuple[Tensor, Tensor]:
    """Run the adjoint of smoothing, curve and level; return the gradients of x and of the coefficients."""
    if not x.numel():
        return x.clone(), coefs.new_zeros(coefs.shape)
    shape = _shape(x)
    maps, grad_x, sums, scratch = _sums(5, shape, coefs), _like(x), _sums(7, shape, coefs), _scratch(3, shape, x)
    options = {"LANES": lanes.LANES, "num_warps": 1}
    adjoints.compressor_maps_kernel[_grid(shape)](grad_y, x, coefs, *starts, *scratch, maps, *shape, **options)
    adjoints.compressor_adjoint_kernel[_grid(shape)](
        grad_y, x, coefs, scan_pair(maps), *scratch, grad_x, sums, *shape, **options
    )
    return grad_x, sums.sum(2).T.contiguous()


def _cascade_starts(x: Tensor, coefs: Tensor, initial: Tensor, adjoint: bool) -> Tensor:
    """States (R, C, 2K) before each chunk; for the adjoint cascade, after each chunk and the last chunk first."""
    rows, chunks, *_ = shape = _shape(x)
    K, size = coefs.shape[1], 2 * coefs.shape[1]
    # Beside the chunks, 2K lanes per row give the matrix of a chunk, the same for all chunks of the row.
    count = rows * (chunks + size)
    ends = empty((count, size), dtype=coefs.dtype, device=x.device)
    grid = (triton.cdiv(count, lanes.LANES),)
    cascade.ends_kernel[grid](x, coefs, ends, *shape, K=K, ADJOINT=adjoint, LANES=lanes.LANES, num_warps=1)
    starts = empty((rows, chunks, size), dtype=coefs.dtype, device=x.device)
    block = triton.next_power_of_2(size)
    cascade.scan_kernel[(rows,)](ends, initial, starts, rows, chunks, D=size, BLOCK=block, num_warps=1)
    return starts


def _average_starts(x: Tensor, coefs: Tensor, initial: Tensor, power: bool) -> Tensor:
    """Averages (R, C) of x, or of its power, before each chunk, by the first coefficient of each row."""
    shape = _shape(x)
    maps = _sums(2, shape, coefs)
    gains.average_ends_kernel[_grid(shape)](
        x, coefs, coefs.stride(0), maps, *shape, POWER=power, LANES=lanes.LANES, num_warps=1
    )
    return scan(maps, initial)


def _smooth(laid_out: Tensor, coefs: Tensor, state: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth a signal laid out (R, sample of a chunk, C); return y (R, T) and the states (R, C) before each chunk."""
    shape = rows, chunks, _, size = _shape(like)
    y, starts = _like(like), empty((rows, chunks), dtype=coefs.dtype, device=like.device)
    block = triton.next_power_of_2(chunks)
    # One program per row, a thread per chunk: each sweep needs the states of the whole row.
    gains.settle_kernel[(rows,)](
        laid_out,
        coefs,
        coefs.stride(0),
        state,
        state.stride(0),
        starts,
        chunks,
        size,
        BLOCK=block,
        num_warps=max(1, block // 32),
    )
    gains.smooth_kernel[_grid(shape)](
        laid_out, coefs, coefs.stride(0), starts, state, state.stride(0), y, *shape, LANES=lanes.LANES, num_warps=1
    )
    return y, starts


def _shape(x: Tensor) -> Shape:
    """How x (R, T) is cut into chunks."""
    rows, samples = x.shape
    size = chunk_size(samples)
    return rows, triton.cdiv(samples, size), samples, size


def _grid(shape: Shape) -> tuple[int]:
    return (triton.cdiv(shape[0] * shape[1], lanes.LANES),)


def _like(x: Tensor) -> Tensor:
    """An uninitialised tensor with the shape, dtype and device of x."""
    return empty(x.shape, dtype=x.dtype, device=x.device)


def _sums(count: int, shape: Shape, coefs: Tensor) -> Tensor:
    """Uninitialised (count, R, C) for `count` float64 numbers per chunk."""
    return empty((count, *shape[:2]), dtype=coefs.dtype, device=coefs.device)


def _scratch(count: int, shape: Shape, like: Tensor) -> Tensor:
    """Uninitialised (count, R, samples of a chunk, C) for `count` signals between two passes."""
    rows, chunks, _, size = shape
    return empty((count, rows, size, chunks), dtype=like.dtype, device=like.device)
