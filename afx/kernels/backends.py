"""Which back end runs a kernel: the one of its tensors' device."""

import os
from collections.abc import Callable
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Device type to back end, a package beside this file whose modules have the same names and functions.
BACKENDS = {"cpu": "numba_cpu", "cuda": "triton_gpu"}

# Compiled loops run one at a time: each takes all cores, and numba's own threads, of the layer that survives a fork,
# end the process when two calls meet in them.
_cpu = RLock()


def _new_lock() -> None:
    """A forked process gets a free lock: the thread that held the old one was left behind."""
    global _cpu
    _cpu = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def backend(family: str) -> Callable[..., Any]:
    """`run(name, *arguments)`, which runs a function of a family of kernels where its first argument lies.

    Arguments are tensors on one device, contiguous or not, and whatever else the function takes; what it returns holds
    tensors too. The compiled loops of the CPU take and return arrays, which share their tensors' memory; calls from
    several threads wait for each other there.
    """

    def run(name: str, first: Tensor, *others: Any) -> Any:
        package = BACKENDS[first.device.type]
        arguments = [a.detach().resolve_conj().contiguous() if isinstance(a, Tensor) else a for a in (first, *others)]
        if package != "numba_cpu":
            # A kernel starts on the current GPU, wherever its tensors lie.
            with torch.cuda.device_of(first):
                return _function(package, family, name)(*arguments)
        arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
        with _cpu:
            return _tensors(_function(package, family, name)(*arrays))

    return run


def compiled() -> bool:
    """Whether loops of the CPU lie on disk from an earlier run, so that nobody waits for a compiler."""
    folder = import_module("reknob.afx.kernels.numba_cpu.cache").folder()
    return folder is not None and any(folder.glob("*.nbc"))


def _function(package: str, family: str, name: str) -> Callable[..., Any]:
    return getattr(import_module(f"reknob.afx.kernels.{package}.{family}"), name)


def _tensors(result: Any) -> Any:
    """The arrays of a result as tensors."""
    if isinstance(result, tuple):
        return tuple(map(_tensors, result))
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else result
