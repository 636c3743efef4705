"""The device that tensors are computed on, and copies from it to the host."""

from importlib.util import find_spec

import torch
from torch import Tensor

from reknob.runtime.errors import UsageError


class AsyncCopy:
    """Non-blocking copies of tensors of one device to the host; on the CPU the tensors themselves."""

    def __init__(self, *tensors: Tensor) -> None:
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        # Until the event is reached, the host memory of the copies is undefined.
        self._done = torch.cuda.Event() if tensors[0].is_cuda else None
        if self._done:
            self._done.record()

    def wait(self) -> list[Tensor]:
        """The copies; blocks until they are complete."""
        if self._done:
            self._done.synchronize()
        return self._copies


def pick_device(name: str) -> torch.device:
    """The torch device of a name: "auto" (a GPU if there is one, else the CPU), "cpu" or "cuda".

    UsageError for another name, for "cuda" without a GPU, and for a GPU without the package triton.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device={name}: allowed are auto, cpu, cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("device=cuda: torch finds no GPU here; use device=auto or device=cpu")
    if not find_spec("triton"):
        raise UsageError("a GPU needs the package triton, which is not installed: install it, or use device=cpu")
    return torch.device("cuda")
