"""Small matrices."""

import torch
from torch import Tensor

# Squarings of the result, and terms of the Taylor series.
SQUARINGS, ORDER = 10, 10


def exponential(S: Tensor) -> Tensor:
    """e^S of matrices (…, M, M) of a norm up to a few hundred, with a relative error of 1e-12, computed in float64.

    Scaling and squaring with fixed numbers of terms and squarings: torch.linalg.matrix_exp chooses them by the norm,
    which synchronises with the GPU. Source: Moler and Van Loan, Nineteen Dubious Ways to Compute the Exponential of a
    Matrix, method 3.
    """
    scaled = S.double() / 2**SQUARINGS
    identity = torch.eye(S.shape[-1], dtype=torch.float64, device=S.device)
    # Horner's scheme for Σ scaled^k / k!.
    power = identity
    for k in range(ORDER, 0, -1):
        power = identity + scaled @ power / k
    for _ in range(SQUARINGS):
        power = power @ power
    return power.to(S.dtype)
