"""The response of a feedback delay network in plain torch: one linear system per bin."""

import math

import torch
from torch import Tensor


def fdn_response(feedback: Tensor, line_gain: Tensor, b: Tensor, c: Tensor, delays: Tensor, n: int) -> Tensor:
    """Solve one system per bin; see afx.kernels.fdn.fdn_response. All leading dimensions are G."""
    bins = torch.arange(n // 2 + 1, device=delays.device, dtype=torch.float64)
    # Whole turns are removed in float64: w m grows to thousands of turns, of which float32 would keep few digits.
    turns = (delays.double()[:, None, :] * bins[:, None] / n).remainder(1.0)
    phasor = torch.polar(torch.ones_like(turns), 2.0 * math.pi * turns).to(feedback.dtype.to_complex())
    loop = feedback[:, None] * line_gain.transpose(1, 2)[:, :, None, :]
    lines = torch.linalg.solve(torch.diag_embed(phasor) - loop, b[:, None].to(phasor.dtype))
    return (c[:, None].to(phasor.dtype) @ lines).permute(0, 2, 3, 1)
