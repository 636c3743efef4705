"""Loudness ratios on a GPU, forwards and backwards; see afx.kernels.loudness for what they compute.

x (B, 2, T) are pairs of channels and mix (S, 2) the weights of left and right in S signals; target (R, P, T) has one
signal per row, and rows (B, S) is the row that each signal is compared with. Coefficients, shifts and mix are on the
host and compiled into the kernels as constants.

Each of P pairs of averages is computed by its own launches, in C chunks: the averages (2 B S, C) before each chunk by
chunks from zero and a scan (see lanes), then a pass over the chunks that writes ratios, or sums of deviations and the
maps of the adjoint averages. The backward pass scans these maps and adds the gradients of the powers of all signals,
(2, B, S, T) for short and long averages, from which the last pass computes grad_x (B, 2, T).
"""

from collections.abc import Iterator
from typing import Any

import triton
from torch import Tensor, empty, float64, stack

from reknob.afx.kernels.triton_gpu import lanes
from reknob.afx.kernels.triton_gpu import loudness_passes as passes
from reknob.afx.kernels.triton_gpu.lanes import chunk_size, scan

SAMPLES = 1024  # per program of the last pass

Checkpoints = list[tuple[Tensor, Tensor]]


def loudness_ratio_forward(x: Tensor, coefs: Tensor, shifts: Tensor, mix: Tensor) -> Tensor:
    """Ratios (B, S, P, T) of x (B, 2, T)."""
    ratio = empty((len(x), len(mix), len(coefs), x.shape[2]), dtype=x.dtype, device=x.device)
    for p, (programs, numbers, options) in enumerate(_launches(x, coefs, shifts, mix)):
        starts, _ = _averages(x, programs, numbers, options)
        passes.ratio_kernel[(programs,)](x, starts, ratio, p, len(coefs), *numbers, **options)
        ratio[:, :, p, x.shape[2] - numbers[-1] :] = 1
    return ratio


def loudness_deviation_forward(
    x: Tensor, target: Tensor, rows: Tensor, coefs: Tensor, shifts: Tensor, mix: Tensor
) -> tuple[Tensor, Checkpoints]:
    """Sums (B, S, P) over time of absolute log ratios, and checkpoints for the backward pass.

    A checkpoint, one per pair of averages, has the averages (2 B S, C) before each chunk and the maps (2, 2 B S, C) of
    their adjoints over each chunk.
    """
    sums, checkpoints = [], []
    for p, (programs, numbers, options) in enumerate(_launches(x, coefs, shifts, mix)):
        starts, maps = _averages(x, programs, numbers, options)
        parts = empty((len(x), len(mix), numbers[1]), dtype=starts.dtype, device=x.device)
        passes.deviation_kernel[(programs,)](x, target, rows, starts, maps, parts, p, len(coefs), *numbers, **options)
        sums.append(parts.sum(2))
        checkpoints.append((starts, maps))
    return stack(sums, 2), checkpoints


def loudness_deviation_backward(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    rows: Tensor,
    coefs: Tensor,
    shifts: Tensor,
    mix: Tensor,
    checkpoints: Checkpoints,
) -> Tensor:
    """Gradient to x of the sums weighted by grad (B, S, P)."""
    # Zeros, as the launches of all pairs of averages add to it.
    powers = x.new_zeros(2, len(x), len(mix), x.shape[2])  # gradients of the inputs of short and long averages
    for p, (programs, numbers, options) in enumerate(_launches(x, coefs, shifts, mix)):
        starts, maps = checkpoints[p]
        # An adjoint decays as its average: the maps keep their slopes, and deviation_kernel has replaced their ends.
        adjoints = scan(maps, maps.new_zeros(maps.shape[1]))
        size = numbers[3]
        most = lanes.programs_at_once(programs, 2 * size, x.element_size())
        scratch = empty(most * lanes.LANES * 2 * size, dtype=x.dtype, device=x.device)
        # In parts that share one scratch: launches run one after another on the GPU.
        for first in range(0, programs, most):
            passes.adjoint_kernel[(min(most, programs - first),)](
                grad, x, target, rows, starts, adjoints, scratch, powers, first, p, len(coefs), *numbers, **options
            )
    grad_x = empty(x.shape, dtype=x.dtype, device=x.device)
    signals = {"MIX": _flat(mix), "SIGNALS": len(mix)}
    grid = (triton.cdiv(x.shape[2], SAMPLES), len(x))
    passes.unmix_kernel[grid](x, powers, grad_x, len(x), x.shape[2], **signals, BLOCK=SAMPLES)
    return grad_x


def _launches(
    x: Tensor, coefs: Tensor, shifts: Tensor, mix: Tensor
) -> Iterator[tuple[int, tuple[int, ...], dict[str, Any]]]:
    """For each pair of averages: number of programs; (items, chunks, samples, chunk size, early, shift); constants."""
    items, _, samples = x.shape
    size = chunk_size(samples)
    for (short, long), shift in zip(coefs.tolist(), shifts.tolist(), strict=True):
        early = triton.cdiv(shift, size)
        chunks = early + triton.cdiv(samples - shift, size)
        programs = triton.cdiv(items * chunks * len(mix), lanes.LANES)
        options = {"SHORT": short, "LONG": long, "MIX": _flat(mix), "SIGNALS": len(mix), "LANES": lanes.LANES}
        yield programs, (items, chunks, samples, size, early * size, shift), options | {"num_warps": 1}


def _flat(mix: Tensor) -> tuple[float, ...]:
    return tuple(mix.flatten().tolist())


def _averages(x: Tensor, programs: int, numbers: tuple[int, ...], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Short and long averages (2 B S, C) of all signals before each chunk, and the maps (2, 2 B S, C) of the chunks."""
    rows, size = len(x) * options["SIGNALS"], numbers[3]
    maps = empty((2, 2 * rows, numbers[1]), dtype=float64, device=x.device)
    # The same for all chunks: an incomplete one is also run over `size` samples.
    maps[0, :rows] = (1 - options["SHORT"]) ** size
    maps[0, rows:] = (1 - options["LONG"]) ** size
    passes.averages_kernel[(programs,)](x, maps, *numbers, **options)
    return scan(maps, maps.new_zeros(2 * rows)), maps
