"""Layers that work on the batch of all processes, so that a training does not depend on how many there are."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from reknob.runtime.processes import connected, mean_over_processes, rank


class _Shared(_BatchNorm):
    """Normalises by mean and variance over the batches of all processes, which have the same size.

    torch's own SyncBatchNorm runs on GPUs only.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or connected() == 1:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.autocast(input.device.type, enabled=False):
            x = input.float()
            dims = [0, *range(2, x.dim())]
            shape = [1, -1, *[1] * (x.dim() - 2)]
            mean = mean_over_processes(x.mean(dims))
            centred = x - mean.view(shape)
            var = mean_over_processes(centred.square().mean(dims))
            n = connected() * x.numel() / x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * (n / (n - 1)), self.momentum)
            y = centred * torch.rsqrt(var + self.eps).view(shape)
            return (y * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


class _Shared1d(_Shared, nn.BatchNorm1d): ...


class _Shared2d(_Shared, nn.BatchNorm2d): ...


class _SharedDropout(nn.Dropout):
    """Draws for the batch of all processes and takes the rows of this one, where all have seeded torch alike."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or connected() == 1:
            return super().forward(input)
        whole = input.new_ones(connected() * len(input), *input.shape[1:])
        return input * functional.dropout(whole, self.p)[rank() :: connected()]


def share_batches(module: nn.Module) -> None:
    """Lets batch normalisations and dropout of a module work on the batches of all processes; weights and names stay.

    Each process has every n-th item of a batch (`data.excerpts.EpochSampler`).
    """
    kinds = {nn.BatchNorm1d: _Shared1d, nn.BatchNorm2d: _Shared2d, nn.Dropout: _SharedDropout}
    for part in module.modules():
        if type(part) in kinds:
            part.__class__ = kinds[type(part)]
