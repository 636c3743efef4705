"""The step of every training: down the gradient of one loss after another."""

import math
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def descend(
    losses: Iterable[Tensor],
    optimiser: Optimizer,
    schedule: LRScheduler | None = None,
    *,
    backward: Callable[[Tensor], object] = Tensor.backward,
    most: float = math.inf,
) -> Iterator[Tensor]:
    """Makes a step by each loss, a scalar, and yields it afterwards.

    Args:
        losses: computed one by one, each with the weights that the step before left.
        optimiser, schedule: of the weights, and of its learning rate, if that changes with every step.
        backward: computes the gradients of a loss.
        most: the norm of all gradients together above which they are scaled down to it.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for loss in losses:
        optimiser.zero_grad()
        backward(loss)
        if most < math.inf:
            nn.utils.clip_grad_norm_(weights, most)
        optimiser.step()
        if schedule:
            schedule.step()
        yield loss.detach()
