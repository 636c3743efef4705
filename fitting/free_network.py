"""A feedback matrix that may be any matrix, as the rotation that gives the same network.

While the matrix is free, a network can be read from its impulse response one unknown after the other: until a sound
has passed two lines the response holds each line alone, from which the gains of the outputs follow; then each pair of
lines, in which the matrix is linear. A descent that begins with a random rotation ends at a wrong one in most cases.
"""

import torch
from torch import Tensor

FARTHEST = 3.0  # logarithm of the unit of a line, at most


def balanced(feedback: Tensor) -> tuple[Tensor, Tensor, float]:
    """The rotation U (M, M), units of the lines s (M,) and factor k for which k·diag(s)⁻¹ U diag(s) is near a matrix.

    From R = diag(s)⁻¹ U diag(s) follows R⁻¹ = diag(s)⁻¹ Uᵀ diag(s), so that R_ij / (R⁻¹)_ji = (s_j / s_i)². The units
    are the least squares of these equations in logarithms, each by its share U_ij².

    Args:
        feedback: the matrix (M, M) that the lines feed back through; the first index is the line that is fed.
    """
    R = feedback.double()
    inverse = torch.linalg.pinv(R).T
    shares = (R * inverse).clamp(min=0).fill_diagonal_(0)
    ratios = torch.where(shares > 0, R / torch.where(shares > 0, inverse, 1.0), 1.0).log() / 2
    # Normal equations of Σ share (log s_j - log s_i - ratio)².
    both = shares + shares.T
    pull = (shares * ratios).sum(0) - (shares * ratios).sum(1)
    units = (torch.linalg.pinv(both.sum(0).diag() - both) @ pull).clamp(-FARTHEST, FARTHEST).exp()
    left, strength, right = torch.linalg.svd(units[:, None] * R / units)
    signs = torch.ones_like(strength)
    signs[-1] = torch.linalg.det(left @ right).sign()
    return left @ signs.diag() @ right, units, float(strength.clamp(min=1e-6).log().mean().exp())
