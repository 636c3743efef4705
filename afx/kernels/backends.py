"""Selects the back end of a kernel by the device of its tensors."""

import os
from collections.abc import Callable
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Device type to back end: a package beside this file. All have modules and functions of the same names.
BACKENDS = {"cpu": "numba_cpu", "cuda": "triton_gpu"}

# Compiled loops run one at a time: each uses all cores, and numba's workqueue, the threading layer that survives a
# fork, ends the process when two threads enter it.
_cpu = RLock()


def _new_lock() -> None:
    """Replace the lock in a forked process, where the thread that may hold the old one does not exist."""
    global _cpu
    _cpu = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def backend(family: str) -> Callable[..., Any]:
    """Return `run(name, *arguments)`, which calls a function of a family of kernels on the first argument's device.

    Arguments are tensors on that device, contiguous or not, and other values; results are tensors or tuples of them.
    The compiled loops of the CPU take and return arrays that share their tensors' memory; calls from several threads
    are serialised there.
    """

    def run(name: str, first: Tensor, *others: Any) -> Any:
        package = BACKENDS[first.device.type]
        # resolve_conj, as a conjugated view shares its memory with the numbers that it conjugates.
        arguments = [a.detach().resolve_conj().contiguous() if isinstance(a, Tensor) else a for a in (first, *others)]
        if package != "numba_cpu":
            # Triton launches on the current GPU, which need not be that of the tensors.
            with torch.cuda.device_of(first):
                return _function(package, family, name)(*arguments)
        arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
        with _cpu:
            return _tensors(_function(package, family, name)(*arrays))

    return run


def compiled() -> bool:
    """Whether the loops of gradients are on disk from an earlier fit, so that they need not be compiled for the CPU.

    Those of a render are compiled sooner, and do not say it.
    """
    folder = import_module("reknob.afx.kernels.numba_cpu.cache").folder()
    return folder is not None and any(folder.glob("*backward*.nbc"))


def _function(package: str, family: str, name: str) -> Callable[..., Any]:
    return getattr(import_module(f"reknob.afx.kernels.{package}.{family}"), name)


def _tensors(result: Any) -> Any:
    """Convert the arrays of a result to tensors."""
    if isinstance(result, tuple):
        return tuple(map(_tensors, result))
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else result
