"""Functions on a GPU as CUDA graphs: one launch instead of thousands."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3


class Graph:
    """A function of tensors on a GPU, recorded once and replayed by every call.

    Args:
        function: computes tensors from tensors, of the same shapes at every call, and never waits for the device.
        inputs: a first set of tensors; the function runs with them `WARM_UPS` times before it is recorded.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        # Kernels are compiled and FFT plans created in these runs: neither can be recorded.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The function's outputs for other inputs of the same shapes."""
        for recorded, given in zip(self.inputs, inputs, strict=True):
            recorded.copy_(given)
        self.graph.replay()
        return [tensor.clone() for tensor in self.outputs]
