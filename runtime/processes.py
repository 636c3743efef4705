"""The processes of one training: which of them this is, and means over all of them, through which gradients pass."""

import os

import torch
import torch.distributed as dist
from torch import Tensor

#: Set by torchrun, by Lightning for the processes that it starts, and by Slurm's srun.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def rank() -> int:
    """The number of this process among those of a training, 0 for the first."""
    if connected() > 1:
        return dist.get_rank()
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)


def connected() -> int:
    """The number of processes that are connected with this one, itself included."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        # Every process's loss depends on the sum.
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of tensors of one shape, one of each process; `x` itself where there is one process."""
    return _Sum.apply(x) / connected() if connected() > 1 else x
