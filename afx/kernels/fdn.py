"""Frequency response of a feedback delay network, one small linear system per bin, with every gradient."""

import torch
from torch import Tensor

from afx.kernels.numba_cpu import fdn as numba_cpu
from afx.kernels.reference import fdn as reference


def fdn_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """Response of G feedback delay networks of M lines at the F = n // 2 + 1 bins of a real transform of n points.

    H(w) = c (diag(e^{i w m}) - U diag(g(w)))^-1 b,   w = 2 pi k / n

    feedback U (G, M, M), line_gain g (G, M, F), b (G, M, I), c (G, O, M), delays m (G, M) in samples, integer or
    float; a leading dimension of 1 serves all networks. Returns H (G, O, I, F), complex of the inputs' precision.
    All float inputs get gradients, float delays too. No pivoting: the loop must be contracting (U orthogonal, g < 1).
    Source: Jot and Chaigne, "Digital delay networks for designing artificial reverberators", AES 90 (1991).
    """
    feedback, line_gain, b, c, delays = _checked(feedback, line_gain, b, c, delays, n)
    if feedback.device.type != "cpu":
        return reference.fdn_response(feedback, line_gain, b, c, delays, n)
    return _Response.apply(feedback, line_gain, b, c, delays.double(), n)


def _checked(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> list[Tensor]:
    """The five tensors with one leading dimension and, apart from the delays, one float type."""
    lines, bins = feedback.shape[-1], n // 2 + 1
    shapes = {
        "feedback": (feedback, (lines, lines)),
        "line_gain": (line_gain, (lines, bins)),
        "b": (b, (lines, b.shape[-1])),
        "c": (c, (c.shape[-2], lines)),
        "delays": (delays, (lines,)),
    }
    groups = max(t.shape[0] for t, _ in shapes.values())
    for name, (tensor, shape) in shapes.items():
        if tensor.shape[0] not in (1, groups) or tuple(tensor.shape[1:]) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give {(groups, *shape)} or {(1, *shape)}")
    dtype = torch.promote_types(torch.result_type(feedback, line_gain), torch.result_type(b, c))
    expanded = [t.expand(groups, *shape) for t, shape in shapes.values()]
    return [t.to(dtype) for t in expanded[:4]] + expanded[4:]


class _Response(torch.autograd.Function):
    """The compiled response with its adjoint; nothing but the inputs is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx, feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int
    ) -> Tensor:
        inputs = [t.contiguous() for t in (feedback, line_gain, b, c, delays)]
        ctx.save_for_backward(*inputs)
        ctx.n = n
        return torch.from_numpy(numba_cpu.fdn_response_forward(*(t.numpy() for t in inputs), n))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        arrays = [t.numpy() for t in ctx.saved_tensors]
        grads = numba_cpu.fdn_response_backward(grad.contiguous().resolve_conj().numpy(), *arrays, ctx.n)
        return *(torch.from_numpy(g) for g in grads), None
