"""Products of spectra, bin by bin: what convolution of many signals with many responses comes down to."""

from torch import Tensor, from_numpy

from afx.kernels.numba_cpu import bins as backend
from afx.kernels.reference import bins as reference


def outputs(H: Tensor, X: Tensor) -> Tensor:
    """Y[b, o] = sum_i H[g, o, i] X[b, i] with g = b G // B: every group of B / G items has responses of its own.

    Args:
        H: complex spectra of responses (G, O, I, F), O outputs and I inputs; G divides B.
        X: spectra of signals (B, I, F) of the same type.

    Returns:
        Y: (B, O, F), without a gradient; `to_inputs` and `to_paths` are the adjoints.
    """
    if H.device.type != "cpu":
        return reference.outputs(H, X)
    return from_numpy(backend.outputs(H.contiguous().numpy(), X.contiguous().numpy()))


def to_inputs(H: Tensor, grad_Y: Tensor) -> Tensor:
    """grad_X[b, i] = sum_o conj(H[g, o, i]) grad_Y[b, o]: (G, O, I, F) and (B, O, F) to (B, I, F)."""
    if H.device.type != "cpu":
        return reference.to_inputs(H, grad_Y)
    return from_numpy(backend.to_inputs(H.contiguous().numpy(), grad_Y.contiguous().numpy()))


def to_paths(X: Tensor, grad_Y: Tensor, groups: int) -> Tensor:
    """grad_H[g, o, i] = sum_b conj(X[b, i]) grad_Y[b, o] over a group: (B, I, F), (B, O, F) to (groups, O, I, F)."""
    if X.device.type != "cpu":
        return reference.to_paths(X, grad_Y, groups)
    return from_numpy(backend.to_paths(X.contiguous().numpy(), grad_Y.contiguous().numpy(), groups))
