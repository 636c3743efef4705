"""Fitting an effect chain to a dry/wet pair by gradient descent on its knobs."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from afx.chain import Serial
from afx.effect import Effect, Knobs, Values
from data.crops import Chunks
from engine.optimiser import METHODS
from losses import VocalLoss

# A step that breaks is tried again at half its size, this often.
RETRIES = 10


class FitError(RuntimeError):
    """A fit that cannot go on; its message says where it broke and what to do."""


@dataclass
class Best:
    """The lowest loss so far, and the raw parameters that gave it."""

    loss: float = math.inf
    raws: dict[str, Tensor] = field(default_factory=dict)


class Fit:
    """A fit in progress: knobs, optimiser and what has been reached so far.

    Each step compares min(n, batch_size) chunks, drawn without replacement where there are more, and moves the knobs
    by one step of the optimiser. A loss or gradient that is not finite never reaches them: the step that led to it is
    taken back and tried again at half its size.

    Args:
        chain: the effects, on the device of the fit.
        knobs: their raw parameters, which the fit changes.
        loss: compares rendered and recorded chunks after their warm-up.
        chunks: dry and wet.
        lr: learning rate.
        batch_size: most chunks of a step.
        seed: of the draws of chunks.
        epochs: how many steps there will be.
        method: a key of `engine.optimiser.METHODS`.

    Source: DiffVox, arXiv 2504.14735, section 4.
    """

    def __init__(
        self,
        chain: Effect,
        knobs: Knobs,
        loss: VocalLoss,
        chunks: Chunks,
        *,
        lr: float,
        batch_size: int,
        seed: int,
        epochs: int = 2000,
        method: str = "adam",
    ):
        self.chain, self.knobs, self.loss = chain.train(), knobs, loss
        device = next(knobs.parameters()).device
        self.dry, self.warm_up = chunks.dry.to(device), chunks.warm_up
        self.target = loss.prepare(chunks.wet[..., chunks.warm_up :].to(device))
        self.batch_size = batch_size
        self.method, self.epochs = METHODS[method], epochs
        self.optimiser = self.method.optimiser(chain, knobs, lr)
        self._highest_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []
        self.best = Best()
        self.undone: list[str] = []
        self._before: tuple | None = None
        self._scale = 1.0

    @property
    def step_count(self) -> int:
        return len(self.losses)

    @torch.no_grad()
    def values(self) -> Values:
        """Physical values as the knobs stand."""
        return self.knobs()

    def take_best(self) -> Values:
        """Sets the knobs to the best so far, if there is one, and gives their values."""
        if self.best.raws:
            self.knobs.load_state_dict(self.best.raws)
        return self.values()

    def step(self) -> dict[str, float]:
        """One step; the loss before it and its terms.

        Raises FitError, naming effect and parameter, when loss or gradient is not finite however small the step.
        """
        index = self._draw()
        terms = self._evaluate(index)
        for _ in range(RETRIES if self._before else 0):
            if self._finite(terms):
                break
            self._retry(index, terms)
            terms = self._evaluate(index)
        if not self._finite(terms):
            tried = f", even after a step {2**RETRIES} times smaller" if self._before else ""
            raise FitError(
                f"step {self.step_count}: not finite{tried}; it breaks at {self._culprit(index, terms)}. "
                f"Try a smaller optimiser.lr, or another default for that effect."
            )
        if terms["loss"] < self.best.loss:
            self.best = Best(terms["loss"], {k: v.detach().clone() for k, v in self.knobs.state_dict().items()})
        self.losses.append(terms["loss"])
        self._before = copy.deepcopy((self.knobs.state_dict(), self.optimiser.state_dict(), self._gradients()))
        self._scale = 1.0
        self._move()
        return terms

    def _draw(self) -> Tensor | None:
        """Indices of the step's chunks; None for all."""
        n = self.dry.shape[0]
        return torch.randperm(n, generator=self.generator)[: self.batch_size] if n > self.batch_size else None

    def _evaluate(self, index: Tensor | None) -> dict[str, float]:
        """Loss, its terms, and fresh gradients."""
        self.optimiser.zero_grad()
        dry, target = (self.dry, self.target) if index is None else (self.dry[index], self.target.select(index))
        values = self.knobs()
        total, terms = self.loss(self.chain.rest(dry, self.warm_up, **values), target)
        total = total + self.chain.penalty(values)
        total.backward()
        return {"loss": total.item(), **{name: term.item() for name, term in terms.items()}}

    def _finite(self, terms: dict[str, float]) -> bool:
        gradients = (p.grad for p in self.knobs.parameters() if p.grad is not None)
        return math.isfinite(terms["loss"]) and all(bool(grad.isfinite().all()) for grad in gradients)

    def _gradients(self) -> list[Tensor | None]:
        return [None if p.grad is None else p.grad.clone() for p in self.knobs.parameters()]

    def _retry(self, index: Tensor | None, terms: dict[str, float]) -> None:
        """Takes the last step again, half as far, from where it began."""
        self._scale /= 2
        if self._scale == 0.5:
            self.undone.append(f"step {self.step_count}: undone and halved, broken at {self._culprit(index, terms)}")
        raws, optimiser, gradients = self._before
        self.knobs.load_state_dict(raws)
        self.optimiser.load_state_dict(copy.deepcopy(optimiser))
        for p, grad in zip(self.knobs.parameters(), gradients, strict=True):
            p.grad = grad
        self._move()

    def _move(self) -> None:
        """Moves the knobs by the step that follows the last evaluation, or by a smaller one."""
        rate = self._scale * self.method.rate((self.step_count - 1) / self.epochs)
        for group, highest in zip(self.optimiser.param_groups, self._highest_rates, strict=True):
            group["lr"] = highest * rate
        self.optimiser.step()

    def _culprit(self, index: Tensor | None, terms: dict[str, float]) -> str:
        """Where the numbers break: an effect's output, the loss, or the gradients of the last effect that has such."""
        dry = self.dry if index is None else self.dry[index]
        with torch.no_grad():
            effect = first_broken(self.chain, dry, self.knobs())
        if effect or not math.isfinite(terms["loss"]):
            return effect or "the loss itself"
        bad = [n for n, p in self.knobs.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        # Gradients run backwards, so that those of the effects before it follow.
        last = bad[-1].split(".")[0]
        return f"the gradient of {', '.join(n for n in bad if n.split('.')[0] == last)}"

    def state_dict(self) -> dict:
        """All that a later run needs to go on as if nothing had happened."""
        return {
            "global_step": self.step_count,
            "optimiser": self.optimiser.state_dict(),
            "model": self.knobs.state_dict(),
            "best_model": self.best.raws,
            "lowest_loss": self.best.loss,
            "losses": self.losses,
            "undone": self.undone,
            "generator": self.generator.get_state(),
            "before": self._before,
        }

    def load_state_dict(self, state: dict) -> None:
        self.knobs.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = Best(state["lowest_loss"], state["best_model"])
        self.losses, self.undone = list(state["losses"]), list(state["undone"])
        self.generator.set_state(state["generator"])
        self._before = state["before"]


def first_broken(chain: Effect, x: Tensor, values: Values) -> str:
    """Name and values of the first effect in series that makes a finite signal infinite or NaN; "" if none does."""
    if not isinstance(chain, Serial):
        return "" if chain(x, **values).isfinite().all() else type(chain).__name__
    for name, effect in chain.parts():
        x = effect(x, **values[name])
        if not x.isfinite().all():
            scalars = {k: round(v.item(), 4) for k, v in values[name].items() if isinstance(v, Tensor) and v.dim() == 0}
            return f"{name} ({', '.join(f'{k}={v}' for k, v in scalars.items())})"
    return ""


def run(fit: Fit, *, on_step: Callable[[dict[str, float]], None], stopped: Callable[[], bool]) -> str | None:
    """Steps until the epochs are done; why it ended early, or None.

    `on_step` sees every step's terms; `stopped` is asked between steps.
    """
    while fit.step_count < fit.epochs:
        if stopped():
            return "interrupted"
        on_step(fit.step())
    return None
