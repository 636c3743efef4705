"""Products of spectra per bin: convolution of multichannel signals with matrices of responses, in frequency."""

from torch import Tensor

from reknob.afx.kernels.backends import backend

run = backend("spectral_product")


def outputs(H: Tensor, X: Tensor) -> Tensor:
    """Y[b, o] = sum_i H[g, o, i] X[b, i] with g = b G // B: each group of B / G items has its own responses.

    Args:
        H: complex spectra of responses (G, O, I, F), O outputs and I inputs; G divides B.
        X: spectra of signals (B, I, F) of the same type.

    Returns:
        Y: (B, O, F), without a gradient; `to_inputs` and `to_paths` are the adjoints.
    """
    return run("outputs", H, X)


def to_inputs(H: Tensor, grad_Y: Tensor) -> Tensor:
    """grad_X[b, i] = sum_o conj(H[g, o, i]) grad_Y[b, o]: (G, O, I, F) and (B, O, F) to (B, I, F)."""
    return run("to_inputs", H, grad_Y)


def to_paths(X: Tensor, grad_Y: Tensor, groups: int) -> Tensor:
    """grad_H[g, o, i] = sum_b conj(X[b, i]) grad_Y[b, o] over a group: (B, I, F), (B, O, F) to (groups, O, I, F)."""
    return run("to_paths", X, grad_Y, groups)
