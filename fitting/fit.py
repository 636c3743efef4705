"""Fitting an effect chain to dry/wet pairs by gradient descent on its raw parameters, several pairs at once."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from reknob.afx.chain import Serial
from reknob.afx.effect import Effect, Knobs, Values
from reknob.fitting.graph import Graph
from reknob.fitting.optimiser import METHODS, AdamState
from reknob.fitting.track import State, TrackState
from reknob.losses import FitLoss
from reknob.runtime.device import AsyncCopy

Terms = dict[str, float]
OnStep = Callable[["Fit", TrackState, Terms], None]
PAUSE_EVERY_S = 30


class Report(NamedTuple):
    """What a step tells the host of a track, the numbers being those before it moved."""

    loss: Tensor
    terms: Tensor  # (number of terms,)
    finite: Tensor  # (P,), whether the gradients are
    scale: Tensor  # of the step that follows
    raws: Tensor  # (P,)


class Fit:
    """A fit of one chain to several tracks, each with parameters, optimiser, loss and best state of its own.

    Each step compares min(n, batch_size) chunks of every track, drawn without replacement where there are more, and
    moves its parameters by one step of the optimiser; the chunks of all tracks go through the chain together. A loss or
    gradient that is not finite never reaches a track's parameters: the step that led to it is taken back and tried
    again at half its size, while the other tracks go on. What a track reaches does not depend on those beside it.

    Nothing in a step waits for the device: what it says of itself is read one step later (`read_reports`).

    Args:
        chain: the effects, on the device of the fit.
        tracks: one for each pair; `write_back` brings them up to date.
        loss: compares rendered and recorded chunks after their warm-up.
        lr: learning rate.
        batch_size: most chunks of a track in a step.
        method: a key of `fitting.optimiser.METHODS`.
        device: where the work is done.
        graphed: whether a step is recorded once and replayed, on a GPU.

    Source: DiffVox, arXiv 2504.14735, section 4.
    """

    def __init__(
        self,
        chain: Effect,
        tracks: Sequence[TrackState],
        loss: FitLoss,
        *,
        lr: float,
        batch_size: int = 35,
        method: str = "adam",
        device: torch.device | str = "cpu",
        graphed: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.chain, self.tracks, self.loss = chain.train(), list(tracks), loss.to(self.device)
        self.batch_size, self.method = batch_size, METHODS[method]
        self.knobs, self.columns = Knobs(chain).to(self.device), tracks[0].columns
        self.warm_up = tracks[0].chunks.warm_up
        self.dry = torch.cat([track.chunks.dry for track in tracks]).to(self.device)
        wet = torch.cat([track.chunks.wet[..., self.warm_up :] for track in tracks])
        self.target = self.loss.prepare(wet.to(self.device))
        rows = zip(*(track.state for track in tracks), strict=True)
        self.state = State(*(torch.stack(each).to(self.device) for each in rows))
        self.rates = self.method.highest(chain, lr).to(self.device)
        self.epochs = torch.tensor([track.epochs for track in tracks]).to(self.rates)
        counts = torch.tensor([track.count(batch_size) for track in tracks])
        self.graphed, self._graph = graphed, None
        self.shares = (torch.arange(int(counts.max())) < counts[:, None]).float().to(self.device)
        # Where every step takes all chunks, always the same.
        self._all = self._indices() if max(len(track.chunks.dry) for track in tracks) <= batch_size else None
        self._reports: deque[tuple[AsyncCopy, Tensor | None]] = deque()

    def values(self, raws: Tensor) -> Values:
        """Physical values of raw numbers: (P,) to (*shape), (G, P) to (G, *shape)."""
        return functional_call(self.knobs, self.columns.split(raws), ())

    def step(self) -> None:
        """One step of every track; `read_reports` tells what came of it."""
        draws = [track.generator.get_state() for track in self.tracks]
        try:
            self._step()
        except BaseException:
            # A step that was not taken has drawn nothing.
            for track, state in zip(self.tracks, draws, strict=True):
                track.generator.set_state(state)
            raise

    def _step(self) -> None:
        index = self._draw()
        inputs = *self.state, *([] if index is None else [index])
        if self.graphed and self._graph is None:
            self._graph = Graph(self._step_function, *inputs)
        *state, losses, terms, finite = (self._graph or self._step_function)(*inputs)
        raws, self.state = self.state.raws, State(*state)
        self._reports.append((AsyncCopy(losses, terms, finite, self.state.scale, raws), index))

    def _step_function(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """State after a step, losses, their terms, and which gradients are finite: of a state, and an index or none."""
        state, index = State(*inputs[: len(State._fields)]), inputs[len(State._fields) :]
        losses, terms, gradient = self._evaluate(state.raws, *index)
        finite = gradient.isfinite()
        fine = losses.isfinite() & finite.all(1)
        reached, last = (*state.place, gradient), (*state.before, state.gradient)
        *before, gradient = (
            torch.where(fine.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(reached, last, strict=True)
        )
        before, scale = AdamState(*before), torch.where(fine, 1.0, state.scale / 2)
        rate = scale * self.method.rate(before.steps / self.epochs)
        place = self.method.move(before, gradient, rate.to(self.rates)[:, None] * self.rates)
        return *place, *before, gradient, scale, losses, terms, finite

    def read_reports(self, late: int = 0) -> list[list[Terms | None]]:
        """What the steps since the last call came to, but for the `late` newest: the terms of each track.

        None stands for a step that is to be taken again, or that a track no longer needed.
        """
        told = []
        while len(self._reports) > late:
            report, index = self._reports.popleft()
            rows = zip(*report.wait(), strict=True)
            told.append([self._record(g, Report(*row), index) for g, row in enumerate(rows)])
        return told

    @property
    def unread(self) -> int:
        """Steps of which `read_reports` has not told yet."""
        return len(self._reports)

    def write_back(self) -> None:
        """Writes where they stand into the tracks."""
        self.read_reports()
        state = [each.cpu() for each in self.state]
        for g, track in enumerate(self.tracks):
            track.state = State(*(each[g].clone() for each in state))

    def _draw(self) -> Tensor | None:
        """The step's chunks (G n,), each track's filled up to n with its first; None for all as they lie."""
        if self._all is None:
            return self._indices()
        return None if len(self._all) == len(self.dry) else self._all

    def _indices(self) -> Tensor:
        most, first, drawn = self.shares.shape[1], 0, []
        for track in self.tracks:
            own = track.draw(self.batch_size)
            drawn.append(torch.cat([own, own[:1].expand(most - len(own))]) + first)
            first += len(track.chunks.dry)
        return torch.cat(drawn).to(self.device, non_blocking=True)

    def _evaluate(self, raws: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (G,), their terms (G, number of terms) and gradients (G, P)."""
        dry, target = (self.dry, self.target) if index is None else (self.dry[index], self.target.select(index))
        raws = raws.detach().requires_grad_()
        # Values without a group are cheaper.
        values = self.values(raws if len(raws) > 1 else raws[0])
        wet = self.chain.render_after_warm_up(dry, self.warm_up, **self.chain.for_items(values, len(dry)))
        terms = self.loss.terms(wet, target, self.shares)
        losses = self.loss.weigh(terms).to(wet.dtype) + self.chain.penalty(values)
        gradient = torch.autograd.grad(losses.sum(), raws)[0]
        return losses.detach(), terms.detach(), gradient

    def _record(self, g: int, row: Report, index: Tensor | None) -> Terms | None:
        """Takes note of a step of one track."""
        track = self.tracks[g]
        if track.has_ended:
            return None
        loss = row.loss.item()
        if math.isfinite(loss) and row.finite.all():
            track.record(loss, row.raws)
            return {"loss": loss, **dict(zip(self.loss.term_names, row.terms.tolist(), strict=True))}
        track.record_broken(row.scale.item(), self._first_non_finite(g, row, index))
        return None

    @torch.no_grad()
    def _first_non_finite(self, g: int, row: Report, index: Tensor | None) -> str:
        """Where the numbers break: an effect's output, the loss, or the gradients of the last effect that has such."""
        own = slice(None) if index is None else index.view(len(self.tracks), -1)[g]
        effect = first_broken(self.chain, self.dry[own], self.values(row.raws.to(self.device)))
        if effect or not row.loss.isfinite():
            return effect or "the loss itself"
        bad = [name for name, finite in self.columns.split(row.finite).items() if not finite.all()]
        # Gradients run backwards, so that those of the effects before it follow.
        last = bad[-1].split(".")[0]
        return f"the gradient of {', '.join(n for n in bad if n.split('.')[0] == last)}"


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


def run(
    fit: Fit,
    on_step: OnStep,
    on_pause: Callable[[Sequence[TrackState]], None],
    stopped: Callable[[], bool],
    steps: int | None = None,
) -> None:
    """Steps until a track has its epochs or cannot go on, until `stopped`, or so many steps; the tracks are then up to
    date.

    `on_step` sees every step's terms; `on_pause` now and then the tracks, up to date; `stopped` is asked between steps.
    """
    # A GPU works on the next step while the host reads what the one before came to.
    late = 1 if fit.device.type == "cuda" else 0
    paused = time.monotonic()

    def tell(late: int) -> None:
        for told in fit.read_reports(late):
            for track, terms in zip(fit.tracks, told, strict=True):
                if terms:
                    on_step(fit, track, terms)

    try:
        while not any(track.has_ended for track in fit.tracks) and not stopped() and steps != 0:
            fit.step()
            last = any(track.step_count + fit.unread >= track.epochs for track in fit.tracks)
            tell(0 if last else late)
            if time.monotonic() - paused > PAUSE_EVERY_S:
                tell(0)
                fit.write_back()
                on_pause(fit.tracks)
                paused = time.monotonic()
            steps = steps and steps - 1
        tell(0)
    finally:
        fit.write_back()
