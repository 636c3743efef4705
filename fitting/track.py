"""One pair's share of a fit: its chunks, where its parameters stand, and what has been reached."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Values
from reknob.data.chunks import Chunks
from reknob.fitting.optimiser import AdamState
from reknob.runtime.errors import UsageError

# A step that breaks is tried again at half its size, this often.
RETRIES = 10


@dataclass
class Best:
    """The lowest loss so far, and the raw parameters that gave it."""

    loss: float = math.inf
    raws: dict[str, Tensor] = field(default_factory=dict)


class ParameterLayout:
    """The raw numbers of an effect's parameters side by side, in the order of `effect.walk()`."""

    def __init__(self, effect: Effect) -> None:
        self.shapes = {name: p.shape for name, p in effect.walk()}

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """(…, P) to (…, *shape) by name."""
        parts = rows.split([math.prod(shape) for shape in self.shapes.values()], -1)
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape((*rows.shape[:-1], *shape)) for (name, shape), part in pairs}

    def join(self, raws: dict[str, Tensor]) -> Tensor:
        """(*shape) by name to (P,)."""
        return torch.cat([raws[name].reshape(-1) for name in self.shapes])


class State(NamedTuple):
    """Where a descent stands, of one track or, with a leading dimension, of several.

    The last step can be taken again, smaller: from `before`, along `gradient`, so far as `scale` says.
    """

    raws: Tensor  # (P,)
    mean: Tensor  # (P,), Adam's of the gradients
    square: Tensor  # (P,), of their squares
    steps: Tensor  # (), taken so far
    raws_before: Tensor
    mean_before: Tensor
    square_before: Tensor
    steps_before: Tensor
    gradient: Tensor  # (P,)
    scale: Tensor  # ()

    @property
    def place(self) -> AdamState:
        return AdamState(*self[:4])

    @property
    def before(self) -> AdamState:
        return AdamState(*self[4:8])


class TrackState:
    """What a fit keeps of one pair.

    Args:
        chain: whose parameters are fitted.
        chunks: dry and wet.
        epochs: how many steps there will be.
        seed: of the defaults that are drawn and of the draws of chunks.
        raws: where to begin, by name; the defaults where not given.
    """

    def __init__(
        self,
        chain: Effect,
        chunks: Chunks,
        *,
        epochs: int = 2000,
        seed: int = 0,
        raws: dict[str, Tensor] | None = None,
    ) -> None:
        self.chunks, self.epochs, self.columns = chunks, epochs, ParameterLayout(chain)
        raws = raws or Knobs(chain, torch.Generator().manual_seed(seed)).state_dict()
        begin = self.columns.join(raws).to(chunks.dry.dtype)
        none = torch.zeros_like(begin)
        place = AdamState(begin, none, none, torch.zeros((), dtype=torch.float64))
        self.state = State(*place, *place, none, torch.ones((), dtype=torch.float64))
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []
        self.best = Best()
        self.raws = begin  # that gave the last loss
        self.undone: list[str] = []
        self.error: str | None = None

    @property
    def step_count(self) -> int:
        return len(self.losses)

    @property
    def has_ended(self) -> bool:
        """Whether it has its epochs, or cannot go on."""
        return self.error is not None or self.step_count >= self.epochs

    def count(self, most: int) -> int:
        """How many chunks of it a step takes."""
        return min(len(self.chunks.dry), most)

    def draw(self, most: int) -> Tensor:
        """Indices of a step's chunks: all, or so many, without replacement."""
        n = len(self.chunks.dry)
        return torch.randperm(n, generator=self.generator)[:most] if n > most else torch.arange(n)

    def best_values(self, chain: Effect) -> Values:
        """Physical values of the best so far, or of the beginning."""
        knobs = Knobs(chain).requires_grad_(False)
        knobs.load_state_dict(self.best.raws or self.columns.split(self.state.raws))
        return knobs()

    def record(self, loss: float, raws: Tensor) -> None:
        """Takes note of a step: its loss, and the raw numbers (P,) that gave it."""
        self.losses.append(loss)
        self.raws = raws
        if loss < self.best.loss:
            self.best = Best(loss, {name: raw.clone() for name, raw in self.columns.split(raws).items()})

    def record_broken(self, scale: float, culprit: str) -> None:
        """Takes note of a step with a loss or gradient that is not finite, whose next try is `scale` times as long."""
        step = self.step_count
        if self.losses and scale == 0.5:
            self.undone.append(f"step {step}: undone and halved, broken at {culprit}")
        if not self.losses or scale < 0.5**RETRIES:
            tried = f", even after a step {2**RETRIES} times smaller" if self.losses else ""
            self.error = (
                f"step {step}: not finite{tried}; it breaks at {culprit}. "
                f"Try a smaller optimiser.lr, or another default for that effect."
            )

    def state_dict(self) -> dict:
        """All that a later run needs to go on as if nothing had happened."""
        return {
            "global_step": self.step_count,
            "model": self.columns.split(self.state.raws),
            "optimiser": self.state._asdict(),
            "best_model": self.best.raws,
            "lowest_loss": self.best.loss,
            "losses": self.losses,
            "undone": self.undone,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict) -> None:
        restored = State(**state["optimiser"])
        if not torch.equal(self.columns.join(state["model"]), restored.raws):
            raise UsageError("the checkpoint's parameters are not those that its optimiser moved")
        self.state = restored
        self.best = Best(state["lowest_loss"], state["best_model"])
        self.losses, self.undone = list(state["losses"]), list(state["undone"])
        self.generator.set_state(state["generator"])
