"""Products of spectra as compiled passes over blocks of bins; interface in afx.kernels.spectral_product."""

import numpy as np
from numba import prange
from numpy import empty  # under a name of its own, so that tests can poison what is handed out

from reknob.afx.kernels.numba_cpu.cache import kernel

Array = np.ndarray

BLOCK = 1024  # bins whose sums stay in the nearest cache
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


def outputs(H: Array, X: Array) -> Array:
    """Y (B, O, F) of H (G, O, I, F) and X (B, I, F)."""
    Y = empty((X.shape[0], H.shape[1], X.shape[2]), X.dtype)
    _outputs(_parts(H), _parts(X), _parts(Y))
    return Y


def to_inputs(H: Array, grad_Y: Array) -> Array:
    """Gradient of X (B, I, F)."""
    grad_X = empty((grad_Y.shape[0], H.shape[2], H.shape[3]), H.dtype)
    _to_inputs(_parts(H), _parts(grad_Y), _parts(grad_X))
    return grad_X


def to_paths(X: Array, grad_Y: Array, groups: int) -> Array:
    """Gradient of H (groups, O, I, F)."""
    grad_H = empty((groups, grad_Y.shape[1], X.shape[1], X.shape[2]), X.dtype)
    _to_paths(_parts(X), _parts(grad_Y), _parts(grad_H))
    return grad_H


def _parts(spectra: Array) -> Array:
    """View spectra (…, F) as real numbers (…, 2F), the imaginary part after the real part of each bin."""
    return spectra.view(np.real(spectra).dtype)


@kernel(parallel=True, **OPTIONS)
def _outputs(H: Array, X: Array, Y: Array) -> None:
    per_group = X.shape[0] // H.shape[0]
    for job in prange(len(Y) * _blocks(Y)):
        # Neighbouring jobs share a block of bins, and within a group its responses, which stay in the cache.
        b, block = job % len(Y), job // len(Y)
        for o in range(Y.shape[1]):
            out = _bins(Y[b, o], block)
            out[:] = 0
            for i in range(X.shape[1]):
                _add_product(_bins(H[b // per_group, o, i], block), _bins(X[b, i], block), out)


@kernel(parallel=True, **OPTIONS)
def _to_inputs(H: Array, grad_Y: Array, grad_X: Array) -> None:
    per_group = grad_Y.shape[0] // H.shape[0]
    for job in prange(len(grad_X) * _blocks(grad_X)):
        b, block = job % len(grad_X), job // len(grad_X)
        for i in range(grad_X.shape[1]):
            out = _bins(grad_X[b, i], block)
            out[:] = 0
            for o in range(grad_Y.shape[1]):
                _add_conjugate_product(_bins(H[b // per_group, o, i], block), _bins(grad_Y[b, o], block), out)


@kernel(parallel=True, **OPTIONS)
def _to_paths(X: Array, grad_Y: Array, grad_H: Array) -> None:
    per_group = X.shape[0] // grad_H.shape[0]
    # Over blocks alone: no two threads add to one response, and each sum has a fixed order.
    for block in prange(_blocks(grad_H)):
        for g in range(grad_H.shape[0]):
            for o in range(grad_H.shape[1]):
                for i in range(grad_H.shape[2]):
                    out = _bins(grad_H[g, o, i], block)
                    out[:] = 0
                    for b in range(g * per_group, (g + 1) * per_group):
                        _add_conjugate_product(_bins(X[b, i], block), _bins(grad_Y[b, o], block), out)


@kernel(**OPTIONS)
def _blocks(parts: Array) -> int:
    return -(-parts.shape[-1] // (2 * BLOCK))


@kernel(**OPTIONS)
def _bins(row: Array, block: int) -> Array:
    """One block of the bins of a row."""
    return row[2 * BLOCK * block : 2 * BLOCK * (block + 1)]


@kernel(**OPTIONS)
def _add_product(a: Array, b: Array, out: Array) -> None:
    """out += a b"""
    for k in range(0, out.shape[0], 2):
        out[k] += a[k] * b[k] - a[k + 1] * b[k + 1]
        out[k + 1] += a[k] * b[k + 1] + a[k + 1] * b[k]


@kernel(**OPTIONS)
def _add_conjugate_product(a: Array, b: Array, out: Array) -> None:
    """out += conj(a) b"""
    for k in range(0, out.shape[0], 2):
        out[k] += a[k] * b[k] + a[k + 1] * b[k + 1]
        out[k + 1] += a[k] * b[k + 1] - a[k + 1] * b[k]
