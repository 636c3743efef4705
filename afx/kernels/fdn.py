"""Frequency response of a feedback delay network: one small linear system per bin, with gradients of all inputs."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reknob.afx.kernels.autograd import Context
from reknob.afx.kernels.backends import backend

run = backend("fdn")


def fdn_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """Sample the response of G networks of M delay lines at the F = n // 2 + 1 bins of a real transform.

        H(w) = c (diag(e^{i w m}) - U diag(g(w)))^-1 b,   w = 2 pi k / n,   k = 0 ... F - 1

    Solved without pivoting, which is stable where the loop contracts: U orthogonal and every gain below 1.

    Args:
        feedback: U (G or 1, M, M) float32 or float64.
        line_gain: g (G or 1, M, F), the real gain of each line per pass.
        b: (G or 1, M, I), from the inputs to the lines.
        c: (G or 1, O, M), from the lines to the outputs.
        delays: m (G or 1, M) samples, integer or float; float delays get a gradient.
        n: points of the transform.

    Returns:
        H: (G, O, I, F) complex, in the precision of the float arguments.

    Raises:
        ValueError: a shape or dtype other than the above.

    Source: Jot and Chaigne, Digital Delay Networks for Designing Artificial Reverberators, AES 90 (1991).
    """
    feedback, line_gain, b, c, delays = _checked(feedback, line_gain, b, c, delays, n)
    # Delays in float64 whatever the precision of the rest: w m is many turns, of which only the fraction counts.
    return FdnResponse.apply(feedback, line_gain, b, c, delays.double(), n)


def _checked(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> list[Tensor]:
    """Expand all tensors to one leading dimension and convert all but the delays to one float type."""
    lines = feedback.shape[-1]
    named = {
        "feedback": (feedback, (lines, lines)),
        "line_gain": (line_gain, (lines, n // 2 + 1)),
        "b": (b, (lines, b.shape[-1])),
        "c": (c, (*c.shape[1:2], lines)),
        "delays": (delays, (lines,)),
    }
    groups = max(len(t) for t, _ in named.values())
    for name, (tensor, shape) in named.items():
        if len(tensor) not in (1, groups) or tuple(tensor.shape[1:]) != shape:
            allowed = ", ".join(map(str, shape))
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; give ({groups} or 1, {allowed})")
    dtype = torch.promote_types(torch.result_type(feedback, line_gain), torch.result_type(b, c))
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"feedback, line_gain, b and c make {dtype}; give float32 or float64")
    # Expanded outside the function, so that autograd sums the gradients of what several networks share.
    expanded = [t.expand(groups, *t.shape[1:]) for t, _ in named.values()]
    return [t.to(dtype) for t in expanded[:4]] + [expanded[4].to(feedback.device)]


class _FdnContext(Context):
    n: int


class FdnResponse(torch.autograd.Function):
    """The response and its gradients by a back end; only the inputs are stored for the backward pass."""

    @staticmethod
    def forward(
        ctx: _FdnContext, feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int
    ) -> Tensor:
        inputs = [t.contiguous() for t in (feedback, line_gain, b, c, delays)]
        # Neither the factors nor the solutions of the systems: eliminating again takes less time than storing them.
        ctx.save_for_backward(*inputs)
        ctx.n = n
        return run("fdn_response_forward", *inputs, n)

    @staticmethod
    @once_differentiable
    def backward(ctx: _FdnContext, grad_H: Tensor) -> tuple[Tensor | None, ...]:
        # The result is outside autograd's graph: without once_differentiable, a second derivative would miss terms
        # silently.
        return *run("fdn_response_backward", grad_H, *ctx.saved_tensors, ctx.n), None
