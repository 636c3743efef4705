"""Small matrices."""

import torch
from torch import Tensor

SQUARINGS, ORDER = 10, 10


def exponential(S: Tensor) -> Tensor:
    """e^S of matrices (…, M, M) whose norm is at most a few hundred, to 1e-12, computed in float64.

    Scaling and squaring with a fixed number of each: torch.linalg.matrix_exp chooses by the norm, for which the host
    has to wait. Source: Moler and Van Loan, Nineteen Dubious Ways to Compute the Exponential of a Matrix, method 3.
    """
    scaled = S.double() / 2**SQUARINGS
    identity = torch.eye(S.shape[-1], dtype=torch.float64, device=S.device)
    power = identity
    for k in range(ORDER, 0, -1):
        power = identity + scaled @ power / k
    for _ in range(SQUARINGS):
        power = power @ power
    return power.to(S.dtype)
