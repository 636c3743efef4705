"""The loop of every training: steps down the gradient of one loss after another, and the weights that validate best."""

import math
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import Interrupt


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


def train_best(
    network: nn.Module,
    steps: Iterable[Tensor],
    total: int,
    validate: Callable[[], float],
    *,
    every: int,
    interrupt: Interrupt,
) -> tuple[float, int]:
    """The lowest validation loss over `total` `steps`, as `descend` makes them, and the number of the step before it.

    The validation is computed every so many steps, at the end, and after the step at which `interrupt` asks to stop.
    `network` is left with the weights that gave the lowest. Raises UsageError where none was finite.
    """
    best, best_step, weights = math.inf, 0, {}
    with progress_bar(steps, "training", total, unit="step") as bar:
        for step, _ in enumerate(bar, start=1):
            if step % every and step < total and not interrupt.asked:
                continue
            loss = validate()
            bar.set_postfix(valid=f"{loss:.4f}")
            if loss < best:
                best, best_step = loss, step
                # Copied, as the optimiser changes the tensors of state_dict in place.
                weights = {name: value.clone() for name, value in network.state_dict().items()}
            if interrupt.asked:
                break
    if not weights:
        raise UsageError("the loss is not a number; give a lower --lr")
    network.load_state_dict(weights)
    return best, best_step
