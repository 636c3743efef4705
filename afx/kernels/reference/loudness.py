"""Loudness ratios and their deviations from a target in plain torch: the definition, vectorised."""

import torch
import torch.nn.functional as F
from torch import Tensor

POWER_FLOOR = 1e-8  # keeps the logarithm and its gradient finite in silence
BLOCK = 256  # samples averaged by one matrix product


def loudness_ratio(x: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False) -> Tensor:
    """Ratios (B, S, P, T) of (B, C, T); see afx.kernels.loudness.loudness_ratio."""
    if mid_side:
        left, right = x.unbind(1)
        x = torch.stack([left, right, (left + right) * 0.5**0.5, (left - right) * 0.5**0.5], 1)
    power = x.double().square().clamp(min=POWER_FLOOR)
    ratios = []
    for (short, long), shift in zip(coefs.tolist(), shifts.tolist(), strict=True):
        kept = x.shape[-1] - shift
        ratio = one_pole(power, short)[..., :kept] / one_pole(power, long)[..., shift:]
        # 1 where the long average does not exist, in signal and target alike: its logarithm adds nothing.
        ratios.append(F.pad(ratio, (0, shift), value=1.0))
    return torch.stack(ratios, 2).to(x.dtype)


def loudness_deviation(
    x: Tensor, target: Tensor, index: Tensor, coefs: Tensor, shifts: Tensor, mid_side: bool = False
) -> Tensor:
    """Deviations (B, S, P) of (B, C, T) from a target; see afx.kernels.loudness.loudness_deviation."""
    return (loudness_ratio(x, coefs, shifts, mid_side).log() - target[index].log()).abs().sum(3, dtype=torch.float64)


def one_pole(x: Tensor, coef: float) -> Tensor:
    """Average (..., T) by y[n] = (1 - c) y[n-1] + c x[n], y[-1] = 0, as products with triangular matrices.

    Each block is averaged from zero; a recursion over the blocks' last values gives the state that each starts from.
    """
    samples = x.shape[-1]
    blocks = F.pad(x, (0, -samples % BLOCK)).unflatten(-1, (-1, BLOCK))
    within = blocks @ _decay(BLOCK, 1 - coef, x).T * coef
    starts = within[..., :-1, -1] @ _decay(blocks.shape[-2] - 1, (1 - coef) ** BLOCK, x).T
    carried = F.pad(starts, (1, 0))[..., None] * (1 - coef) ** torch.arange(1, BLOCK + 1).to(x)
    return (within + carried).flatten(-2)[..., :samples]


def _decay(size: int, pole: float, like: Tensor) -> Tensor:
    """Lower triangular (size, size) matrix of pole^(i - j)."""
    steps = torch.arange(size, device=like.device)
    lag = steps[:, None] - steps
    return torch.where(lag >= 0, pole ** lag.clamp(min=0).to(like), 0.0)
