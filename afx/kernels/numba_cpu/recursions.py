"""Recursive filters on plain arrays, forwards and backwards; see afx.kernels.recursions for what they compute."""

import math
from collections.abc import Callable

import numpy as np

from reknob.afx.kernels.numba_cpu import recursion_loops as loops
from reknob.afx.kernels.numba_cpu.recursion_loops import BLOCK, Array

Loop = Callable[[Array, Array, Array, Array, Array], None]


def biquad_cascade_forward(x: Array, coefs: Array, state: Array) -> tuple[Array, Array]:
    """Run the cascade; return the output and the states at the start of each block."""
    return _forward(loops.cascade_forward, x, coefs, state)


def biquad_cascade_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, want_coefs: bool
) -> tuple[Array, Array]:
    """Run the adjoint cascade; return the gradients of x (empty unless wanted) and of the coefficients."""
    grad_x, grad_coefs = _gradients(x, coefs, want_x)
    loops.cascade_backward(grad_y, x, coefs, checkpoints, want_x, want_coefs, grad_x, grad_coefs)
    return grad_x, grad_coefs


def one_pole_forward(x: Array, coefs: Array, state: Array) -> tuple[Array, Array]:
    """Run the average; return the output and the states at the start of each block."""
    return _forward(loops.one_pole_forward, x, coefs, state)


def one_pole_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, want_coefs: bool
) -> tuple[Array, Array]:
    """Run the adjoint average; return the gradients of x (empty unless wanted) and of the coefficient."""
    grad_x, grad_coefs = _gradients(x, coefs, want_x)
    loops.one_pole_backward(grad_y, x, coefs, checkpoints, want_x, want_coefs, grad_x, grad_coefs)
    return grad_x, grad_coefs


def ballistics_forward(x: Array, coefs: Array, state: Array) -> tuple[Array, Array]:
    """Run the smoothing; return the output and the states at the start of each block."""
    return _forward(loops.ballistics_forward, x, coefs, state)


def ballistics_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, want_coefs: bool
) -> tuple[Array, Array]:
    """Run the adjoint smoothing; return the gradients of x (empty unless wanted) and of the coefficients."""
    grad_x, grad_coefs = _gradients(x, coefs, want_x)
    loops.ballistics_backward(grad_y, x, coefs, checkpoints, want_x, grad_x, grad_coefs)
    return grad_x, grad_coefs


def compressor_gain_forward(x: Array, coefs: Array, state: Array) -> tuple[Array, Array]:
    """Run level, curve and smoothing; return the gain and the states at the start of each block."""
    return _forward(loops.compressor_forward, x, coefs, state)


def compressor_gain_backward(
    grad_y: Array, x: Array, coefs: Array, checkpoints: Array, want_x: bool, want_coefs: bool
) -> tuple[Array, Array]:
    """Run the adjoint of smoothing, curve and level; return the gradients of x (empty unless wanted) and of coefs."""
    grad_x, grad_coefs = _gradients(x, coefs, want_x)
    loops.compressor_backward(grad_y, x, coefs, checkpoints, want_x, grad_x, grad_coefs)
    return grad_x, grad_coefs


def _forward(loop: Loop, x: Array, coefs: Array, state: Array) -> tuple[Array, Array]:
    """Allocate output (R, T) and checkpoints (R, blocks, D) and run a loop into them, with state (R, D)."""
    # A view, so that the caller's state advances; -1 would fail where there are no rows.
    states = state.reshape(len(state), math.prod(state.shape[1:]))
    # A state per block, not per sample: the backward pass runs a block again from its checkpoint.
    y, checkpoints = np.empty(x.shape, x.dtype), np.empty((len(x), -(-x.shape[1] // BLOCK), states.shape[1]))
    loop(x, coefs, states, y, checkpoints)
    return y, checkpoints


def _gradients(x: Array, coefs: Array, want_x: bool) -> tuple[Array, Array]:
    """Allocate the gradients of x, (0, 0) unless wanted, and of coefs."""
    # An empty array stands for none: None would be another type, for which the loop is compiled a second time.
    return np.empty(x.shape if want_x else (0, 0), x.dtype), np.empty(coefs.shape)
