"""How far two tensors are from each other."""

import numpy as np
from torch import Tensor

Array = np.ndarray | Tensor | float


def rms(a: Array) -> float:
    """Root mean square over all elements."""
    return float(np.sqrt(np.mean(np.square(as_array(a)))))


def relative_rms(a: Array, b: Array) -> float:
    """rms(a - b) / rms(b): the error of `a` beside a truth `b` of the same number of elements; 0 where both are 0."""
    a, b = as_array(a).reshape(-1), as_array(b).reshape(-1)
    assert a.shape == b.shape, (a.shape, b.shape)
    error = rms(a - b)
    return error / rms(b) if error else 0.0


def as_array(a: Array) -> np.ndarray:
    return (a.detach().cpu().double().numpy() if isinstance(a, Tensor) else np.asarray(a)).astype(np.float64)
