"""The state of the fit of one pair: its chunks, parameters and optimiser, losses and best parameters."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Values, values_at
from reknob.data.chunks import Chunks
from reknob.fitting.optimiser import AdamState
from reknob.formats.effects import EffectsRecord
from reknob.runtime.errors import UsageError

# How often a step whose result is not finite is repeated, each time at half its size.
RETRIES = 10
# Exponent η of `TrackState.average`, in which step t weighs about t^η.
NEWEST = 3
# Steps whose mean loss is compared, where each step has the loss of other chunks.
RECENT = 20


@dataclass
class Best:
    """The lowest loss, and the raw parameters that gave it."""

    loss: float = math.inf
    raws: dict[str, Tensor] = field(default_factory=dict)


class ParameterLayout:
    """The P raw parameters of an effect as one vector, in the order of `effect.walk()`."""

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
    """Parameters and optimiser of one track or, with a leading dimension, of several, before and after the last step.

    With these the last step can be repeated at a smaller size: from `before`, along `gradient`, times `scale`. A fit
    that begins near the best parameters also returns to those of its lowest loss, see `Fit`.
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
    lowest: Tensor  # (), loss
    lowest_raws: Tensor  # (P,), that gave it
    pace: Tensor  # (), a factor on the rates

    @property
    def current(self) -> AdamState:
        """After the last step."""
        return AdamState(*self[:4])

    @property
    def before(self) -> AdamState:
        """Before the last step."""
        return AdamState(*self[4:8])


class TrackState:
    """Everything that a fit stores of one pair.

    The loss of a step compares all chunks, or up to a most that are drawn evenly, and the step of the lowest loss is
    the best. With `step_chunks` it compares few of them, drawn by their weights (`Chunks.weights`), and losses of
    different chunks do not show which parameters are better. The best is then the last of the `RECENT` steps of the
    lowest mean loss, until `Fit.choose` compares the `candidates` over all chunks at the end.

    Args:
        chain: the effects whose parameters are fitted.
        chunks: dry and wet.
        epochs: number of steps.
        step_chunks: chunks of a step, drawn by their weights; None for all, up to a most drawn evenly.
        seed: of the random defaults and of the draws of chunks.
        raws: initial raw parameters by name; the defaults where not given.
        held: names of parameters that no step moves.
    """

    def __init__(
        self,
        chain: Effect,
        chunks: Chunks,
        *,
        epochs: int = 2000,
        step_chunks: int | None = None,
        seed: int = 0,
        raws: dict[str, Tensor] | None = None,
        held: Collection[str] = (),
    ) -> None:
        self.chunks, self.epochs, self.columns = chunks, epochs, ParameterLayout(chain)
        # (P,), a factor on the rates
        self.moves = self.columns.join({n: torch.full(p.shape, float(n not in held)) for n, p in chain.walk()})
        raws = raws or Knobs(chain, torch.Generator().manual_seed(seed)).state_dict()
        initial = self.columns.join(raws).to(chunks.dry.dtype)
        none = torch.zeros_like(initial)
        adam = AdamState(initial, none, none, torch.zeros((), dtype=torch.float64))
        one = torch.ones((), dtype=torch.float64)
        self.state = State(*adam, *adam, none, one, torch.tensor(math.inf), initial, torch.ones(()))
        self.generator = torch.Generator().manual_seed(seed)
        self.losses: list[float] = []
        n = len(chunks.dry)
        # How many chunks a step draws by their weights; None where it takes all, or draws evenly.
        self.drawn = step_chunks if step_chunks and step_chunks < n else None
        self.weights = chunks.weights() if self.drawn else None
        self.lowest = Best()
        self.chosen: Best | None = None  # by the loss over all chunks, or after effects were removed
        self.average = initial  # (P,), of the steps, the newest ones most
        self.raws = initial  # (P,), that the last loss was computed with
        self.undone: list[str] = []
        self.error: str | None = None
        self.effects: EffectsRecord | None = None  # which were removed

    @property
    def step_count(self) -> int:
        return len(self.losses)

    @property
    def has_ended(self) -> bool:
        """Whether all its steps were taken, or an error ended it."""
        return self.error is not None or self.step_count >= self.epochs

    @property
    def lacks_choice(self) -> bool:
        """Whether it has ended and the best of its `candidates` is still to be chosen."""
        return self.drawn is not None and self.has_ended and self.error is None and self.chosen is None

    @property
    def best(self) -> Best:
        """The best so far; infinite and without parameters before the first step."""
        return self.chosen or self.lowest

    def count(self, most: int) -> int:
        """The number of its chunks in a step."""
        return min(self.drawn or len(self.chunks.dry), most)

    def draw(self, most: int) -> Tensor:
        """Indices of the chunks of a step: all, or `most` drawn without replacement, by weights with `step_chunks`."""
        n, count = len(self.chunks.dry), self.count(most)
        if self.weights is not None:
            return torch.multinomial(self.weights, count, generator=self.generator)
        return torch.randperm(n, generator=self.generator)[:count] if n > count else torch.arange(n)

    def best_values(self, chain: Effect) -> Values:
        """Values of the step of lowest loss, or the initial ones before the first step."""
        return values_at(chain, self.best.raws or self.columns.split(self.state.raws))

    def record(self, loss: float, raws: Tensor) -> None:
        """Records the loss of a step, and the raw parameters (P,) that it was computed with."""
        self.losses.append(loss)
        self.raws, self.chosen = raws, None
        if self.drawn:
            # Shamir and Zhang, Stochastic Gradient Descent for Non-smooth Optimization, ICML 2013, section 4.
            self.average = self.average.lerp(raws, (NEWEST + 1) / (self.step_count + NEWEST))
            loss = math.fsum(self.losses[-RECENT:]) / min(RECENT, self.step_count)
        # The first means are of too few losses to be kept.
        if loss < self.lowest.loss or (self.drawn and self.step_count <= RECENT):
            self.lowest = self._best(loss, raws)

    def candidates(self) -> list[Tensor]:
        """Raw parameters (P,), one of which is the best: after the last step, their average, the lowest recent mean."""
        return [self.state.raws, self.average, self.columns.join(self.lowest.raws)]

    def choose(self, raws: Tensor, loss: float) -> None:
        """Makes raw parameters (P,) the best, by their `loss` over all chunks."""
        self.chosen = self._best(loss, raws)

    def _best(self, loss: float, raws: Tensor) -> Best:
        return Best(loss, {name: raw.clone() for name, raw in self.columns.split(raws).items()})

    def record_broken(self, scale: float, culprit: str) -> None:
        """Records a step with a loss or gradient that is not finite; it is repeated at `scale` times its full size."""
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
        """Everything that a later run needs to continue bit for bit."""
        # What is chosen at the end is not what the steps of a resumed fit go on from.
        drawn = {"drawn": {"average": self.average, **vars(self.lowest)}} if self.drawn else {}
        return {
            "global_step": self.step_count,
            "model": self.columns.split(self.state.raws),
            "optimiser": self.state._asdict(),
            "best_model": self.best.raws,
            "lowest_loss": self.best.loss,
            "losses": self.losses,
            "undone": self.undone,
            "generator": self.generator.get_state(),
            **drawn,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restores a state; UsageError if the parameters and the state of the optimiser disagree."""
        restored = self.state._replace(**state["optimiser"])  # older checkpoints lack some
        if not torch.equal(self.columns.join(state["model"]), restored.raws):
            raise UsageError("the checkpoint's parameters are not those that its optimiser moved")
        self.state = restored
        self.lowest, self.chosen = Best(state["lowest_loss"], state["best_model"]), None
        if self.drawn:
            self.average = state["drawn"]["average"]
            self.lowest = Best(state["drawn"]["loss"], state["drawn"]["raws"])
        self.losses, self.undone = list(state["losses"]), list(state["undone"])
        self.generator.set_state(state["generator"])
