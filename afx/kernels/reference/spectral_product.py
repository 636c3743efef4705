"""Products of spectra in plain torch; see afx.kernels.spectral_product for what they compute."""

import torch
from torch import Tensor


def outputs(H: Tensor, X: Tensor) -> Tensor:
    """Y (B, O, F) of H (G, O, I, F) and X (B, I, F)."""
    X = X.unflatten(0, (len(H), -1))
    return torch.einsum("goif,gbif->gbof", H, X).flatten(0, 1)


def to_inputs(H: Tensor, grad_Y: Tensor) -> Tensor:
    """Gradient of X (B, I, F)."""
    grad_Y = grad_Y.unflatten(0, (len(H), -1))
    return torch.einsum("goif,gbof->gbif", H.conj(), grad_Y).flatten(0, 1)


def to_paths(X: Tensor, grad_Y: Tensor, groups: int) -> Tensor:
    """Gradient of H (groups, O, I, F)."""
    X, grad_Y = (t.unflatten(0, (groups, -1)) for t in (X, grad_Y))
    return torch.einsum("gbif,gbof->goif", X.conj(), grad_Y)
