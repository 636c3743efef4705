"""Memoryless waveshapers: clippers, power series, Chebyshev series."""

import torch
from torch import Tensor


def cubic_clip(u: Tensor) -> Tensor:
    """u - 4/27·u³ for |u| < 1.5, and ±1 beyond; value and slope are continuous."""
    u = u.clamp(-1.5, 1.5)
    return u - 4 / 27 * u**3


def clip(x: Tensor, hardness: Tensor) -> Tensor:
    """Linear crossfade from tanh (hardness 0) to the cubic clipper (1), and from there to the hard clipper (2).

    Source: BE-AFX, arXiv 2310.11781.
    """
    cubic = cubic_clip(x)
    softer = torch.lerp(x.tanh(), cubic, hardness.expand_as(x))
    harder = torch.lerp(cubic, x.clamp(-1, 1), (hardness - 1).expand_as(x))
    return torch.where(hardness < 1, softer, harder)


def power_series(x: Tensor, weights: Tensor) -> Tensor:
    """Σ w_k·x^k, k = 1 … K, of audio (B, C, T) and weights (K,) or (B, K)."""
    # Horner's scheme, from the highest power down.
    y = torch.zeros_like(x)
    for w in weights.reshape(-1, weights.shape[-1], 1, 1).flip(1).unbind(1):
        y = (y + w) * x
    return y


def chebyshev_series(x: Tensor, weights: Tensor) -> Tensor:
    """Σ w_k·T_k(x), k = 0 … K-1, of audio (B, C, T) and weights (K,) or (B, K), by Clenshaw's recurrence."""
    # Clenshaw: b_k = w_k + 2x·b_(k+1) - b_(k+2), from the highest k down; the sum is w_0 + x·b_1 - b_2.
    first, *others = weights.reshape(-1, weights.shape[-1], 1, 1).unbind(1)
    later = latest = torch.zeros_like(x)
    for w in reversed(others):
        latest, later = w + 2 * x * latest - later, latest
    return first + x * latest - later
