"""Which back end runs a kernel: the one of its tensors' device."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Device type to back end, a package beside this file whose modules have the same names and functions.
BACKENDS = {"cpu": "numba_cpu", "cuda": "triton_gpu"}


def backend(family: str) -> Callable[..., Any]:
    """`run(name, *arguments)`, which runs a function of a family of kernels where its first argument lies.

    Arguments are tensors on one device, contiguous or not, and whatever else the function takes; what it returns holds
    tensors too. The compiled loops of the CPU take and return arrays, which share their tensors' memory.
    """

    def run(name: str, first: Tensor, *others: Any) -> Any:
        package = BACKENDS[first.device.type]
        function = getattr(import_module(f"afx.kernels.{package}.{family}"), name)
        arguments = [a.detach().resolve_conj().contiguous() if isinstance(a, Tensor) else a for a in (first, *others)]
        if package != "numba_cpu":
            # A kernel starts on the current GPU, wherever its tensors lie.
            with torch.cuda.device_of(first):
                return function(*arguments)
        return _tensors(function(*(a.numpy() if isinstance(a, Tensor) else a for a in arguments)))

    return run


def _tensors(result: Any) -> Any:
    """The arrays of a result as tensors."""
    if isinstance(result, tuple):
        return tuple(map(_tensors, result))
    return torch.from_numpy(result) if isinstance(result, np.ndarray) else result
