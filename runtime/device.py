"""Where the work is done, and how the host hears of it."""

from importlib.util import find_spec

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError


class AsyncCopy:
    """Copies of tensors for the host, which come while their device works on."""

    def __init__(self, *tensors: Tensor):
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._arrived = torch.cuda.Event() if tensors[0].is_cuda else None
        if self._arrived:
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The copies, as soon as they are there."""
        if self._arrived:
            self._arrived.synchronize()
        return self._copies


def pick_device(name: str) -> torch.device:
    """The device of "auto" (a GPU where there is one), "cpu" or "cuda"; UsageError for another or an absent one."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device={name}: allowed are auto, cpu, cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("device=cuda: torch finds no GPU here; use device=auto or device=cpu")
    if not find_spec("triton"):
        raise UsageError("a GPU needs the package triton, which is not installed: install it, or use device=cpu")
    return torch.device("cuda")
