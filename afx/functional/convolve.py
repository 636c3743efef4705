"""Convolution by FFT of audio with impulse responses of any length."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from reknob.afx.kernels import spectral_product

from .fft import fast_length, forward, inverse

BLOCK = 2**12  # shortest FFT of the block-wise convolution, in samples


def convolve(x: Tensor, h: Tensor, skip: int = 0) -> Tensor:
    """Causal convolution y = h * x, truncated to the length of x; by overlap-add where x is much longer than h.

    Args:
        x: audio (B, I, T).
        h: responses (O, I, N), or (G, O, I, N) with one per group of B / G consecutive items.
        skip: number of samples to omit at the beginning of y.

    Returns:
        (B, O, T - skip).
    """
    T, N = x.shape[-1], h.shape[-1]
    h = h.reshape(-1, *h.shape[-3:])
    x = x.expand(max(len(x), len(h)), -1, -1)
    if T > max(4 * N, BLOCK):
        # A power of 2 of more than 8 N: consecutive blocks overlap by less than an eighth.
        n = max(1 << (8 * N).bit_length(), BLOCK)
        return Convolution.apply(x, h, n, n - N + 1, skip, T)
    # Later taps reach no sample of y.
    h = h[..., :T]
    # Samples beyond n wrap around to the beginning: n is just long enough that only the skipped ones are affected.
    n = fast_length(max(T, T + h.shape[-1] - 1 - skip))
    return Convolution.apply(x, h, n, n, skip, T)


def in_series(first: Tensor, second: Tensor, most: int | None = None) -> Tensor:
    """Impulse response of two effects in series: first (…, K, I, M), second (…, O, K, N), to (…, O, I, M + N - 1).

    With `most`, only its first `most` samples.
    """
    # numpy's function, as the first call of torch's takes a second to import sympy.
    lead = np.broadcast_shapes(first.shape[:-3], second.shape[:-3])
    first, second = (h.expand(*lead, *h.shape[-3:]).reshape(-1, *h.shape[-3:]) for h in (first, second))
    length = first.shape[-1] + second.shape[-1] - 1
    n = fast_length(length)
    # Every input of `first` becomes an item, the signals of which are the K channels that `second` convolves.
    y = Convolution.apply(first.transpose(1, 2).flatten(0, 1), second, n, n, 0, min(length, most or length))
    return y.unflatten(0, (*lead, -1)).transpose(-2, -3)


class _Context(FunctionCtx):
    """What the forward pass of `Convolution` stores for the backward pass."""

    saved_tensors: tuple[Tensor, Tensor]
    needs_input_grad: tuple[bool, ...]
    n: int
    hop: int
    start: int
    blocks: int
    samples: int
    taps: int


class Convolution(torch.autograd.Function):
    """Samples start … stop of x (B, I, T) convolved with h (G, O, I, N): (B, O, stop - start); G divides B.

    Overlap-add: blocks of `hop` samples of x are convolved circularly by FFTs of n points, and the results are added.
    With X the spectra of the blocks and H those of the responses, Y = H·X; the gradients are the correlations H*·dY for
    x and X*·dY for h, at the same cost. Only X and H are stored: torch's own graph would also keep every product.
    """

    @staticmethod
    def forward(ctx: _Context, x: Tensor, h: Tensor, n: int, hop: int, start: int, stop: int) -> Tensor:
        is_one_block = x.shape[-1] <= hop
        blocks = x.unsqueeze(-2) if is_one_block else F.pad(x, (0, -x.shape[-1] % hop)).unflatten(-1, (-1, hop))
        X, H = forward(_rows(blocks), n), forward(h, n)
        ctx.save_for_backward(X, H)
        ctx.n, ctx.hop, ctx.start, ctx.blocks = n, hop, start, blocks.shape[-2]
        ctx.samples, ctx.taps = x.shape[-1], h.shape[-1]
        y = _columns(inverse(spectral_product.outputs(H, X), n), blocks.shape[-2])
        # n - hop < hop: the tail of a block reaches into the next one only.
        y[..., 1:, : n - hop] += y[..., :-1, hop:]
        return y[..., :hop].flatten(-2)[..., start:stop]

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        X, H = ctx.saved_tensors
        length = (ctx.blocks - 1) * ctx.hop + ctx.n
        # The adjoint of overlap-add: each block gets the gradient of all n samples that it added to, overlaps included.
        grad = F.pad(grad, (ctx.start, length - ctx.start - grad.shape[-1]))
        G = forward(_rows(grad.unfold(-1, ctx.n, ctx.hop)), ctx.n)
        grad_x = grad_h = None
        if ctx.needs_input_grad[0]:
            blocks = _columns(inverse(spectral_product.to_inputs(H, G), ctx.n), ctx.blocks)
            grad_x = blocks[..., : ctx.hop].flatten(-2)[..., : ctx.samples]
        if ctx.needs_input_grad[1]:
            grad_h = inverse(spectral_product.to_paths(X, G, len(H)), ctx.n)[..., : ctx.taps]
        return grad_x, grad_h, None, None, None, None


def _rows(blocks: Tensor) -> Tensor:
    """(B, C, blocks, n) to (B · blocks, C, n)."""
    return blocks.transpose(1, 2).flatten(0, 1)


def _columns(rows: Tensor, blocks: int) -> Tensor:
    """(B · blocks, C, n) to (B, C, blocks, n)."""
    return rows.unflatten(0, (-1, blocks)).transpose(1, 2)


def advance(x: Tensor, samples: Tensor, before: int, after: int) -> Tensor:
    """A signal advanced by a fractional number of samples: y[n] = Σ_t sinc(t - samples)·x[n + t], t = -before … after.

    Beyond its ends the signal is continued by its first and last sample. `samples` is () or (B,); x is (B, C, T).
    Source: DiffVox, arXiv 2504.14735, the compressor's lookahead.
    """
    # From the latest t down, because a convolution applies its first tap to the newest sample.
    t = torch.arange(after, -before - 1, -1, dtype=torch.float64, device=x.device)
    taps = torch.sinc(t - samples.double().reshape(-1, 1, 1, 1)).to(x.dtype)
    padded = F.pad(x, (before, after), mode="replicate").flatten(0, 1).unsqueeze(1)
    return convolve(padded, taps)[..., before + after :].reshape(x.shape)
