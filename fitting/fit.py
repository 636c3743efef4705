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
# Between checkpoints: with the longest steps, of some seconds, a killed fit repeats at most 30 s.
PAUSE_EVERY_S = 20
CANDIDATES = 3  # of `TrackState.candidates`
FORWARD = 0.33  # time of a step that rendering and comparing take, without the gradient
FAR, CALMER = 2.0, 1 / 3  # loss, relative to the lowest, from which a fit returns; factor on its rates after that


class Report(NamedTuple):
    """The results of a step for one track, computed at the parameters that the step started from."""

    loss: Tensor
    terms: Tensor  # (K,)
    finite: Tensor  # (P,), whether the gradients are
    scale: Tensor  # of the step that follows
    raws: Tensor  # (P,)


class Fit:
    """A fit of one chain to G tracks, each with its own parameters, optimiser, loss and best state.

    A step compares n = min(chunks, batch_size) chunks of every track, or its `step_chunks`, drawn without replacement,
    and moves the track's P raw parameters by one step of the optimiser. With B = G n chunks of T samples, W of them
    warm-up:

        raws (G, P) ── Knobs ──> values, each (G, *shape) ── for_items ──> (B, *shape)
        dry (B, 1, T) ── chain with the values, without the warm-up ──> wet (B, 2, T - W)
        wet and target (B, 2, T - W) ── loss.terms, shares (G, n) ──> terms (G, K) ── loss.weigh ──> losses (G,)
        losses + penalties ── autograd of their sum ──> gradients (G, P) ── optimiser ──> raws of the next step

    Each loss depends on its own track's parameters alone, so that the gradient of the sum holds that of every track. A
    track with fewer than n chunks is padded by copies of its first, whose share is 0. The result for a track is
    identical to fitting it alone, up to floating-point rounding.

    A loss or gradient that is not finite never changes a track's parameters: the step that led to it is undone and
    repeated at half its size, while the other tracks continue. This is decided on the device; no step waits for the
    host, which reads the results of a step (`Report`) one step later, by `read_reports`.

    Adam moves every parameter by about its rate, however steep the loss is, and near the best parameters that is too
    far. A track that is `near` them, and whose steps compare all its chunks, therefore returns to its lowest loss where
    a step has more than twice that loss, and goes on at a third of its rates.

    Args:
        chain: the effects, on the device of the fit.
        tracks: one for each pair; `write_back` updates them.
        loss: compares rendered and recorded chunks after their warm-up.
        lr: learning rate.
        batch_size: most chunks of a track in a step.
        method: a key of `fitting.optimiser.METHODS`.
        device: where the work is done.
        near: whether the tracks start near the right values (see `optimiser.Method.highest`).
        graphed: whether a step is recorded once as a CUDA graph and replayed.

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
        near: bool = False,
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
        self.rates = self.method.highest(chain, lr, near=near).to(self.device)
        moves = torch.stack([track.moves for track in tracks])
        if not moves.all():
            self.rates = moves.to(self.rates) * self.rates  # (G, P)
        self.epochs = torch.tensor([track.epochs for track in tracks]).to(self.rates)
        counts = torch.tensor([track.count(batch_size) for track in tracks])
        self.graphed, self._graph = graphed, None
        self.shares = (torch.arange(int(counts.max())) < counts[:, None]).float().to(self.device)
        # Constant, where every step takes all chunks.
        takes_all = all(track.count(batch_size) == len(track.chunks.dry) for track in tracks)
        self._all = self._indices() if takes_all else None
        self.returns = near and takes_all
        self._reports: deque[tuple[AsyncCopy, Tensor | None]] = deque()

    def values(self, raws: Tensor) -> Values:
        """Physical values of raw parameters: (P,) to (*shape), (G, P) to (G, *shape)."""
        return functional_call(self.knobs, self.columns.split(raws), ())

    def step(self) -> None:
        """Takes one step of every track; `read_reports` gives its results."""
        draws = [track.generator.get_state() for track in self.tracks]
        try:
            self._step()
        except BaseException:
            # A step that failed must not advance the random draws: it is repeated.
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
        """Takes one step: from the tensors of a `State` and, if chunks are drawn, their index, to the tensors of the
        new state, losses (G,), terms (G, K), and which gradients are finite (G, P).

        It reads and writes no attribute that changes, so that a CUDA graph can replay it.
        """
        state, index = State(*inputs[: len(State._fields)]), inputs[len(State._fields) :]
        losses, terms, gradient = self._evaluate(state.raws, *index)
        finite = gradient.isfinite()
        is_finite = losses.isfinite() & finite.all(1)
        current, last = (*state.current, gradient), (*state.before, state.gradient)
        *before, gradient = (
            torch.where(is_finite.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(current, last, strict=True)
        )
        before, scale = AdamState(*before), torch.where(is_finite, 1.0, state.scale / 2)
        lowest, lowest_raws, pace, is_far = self._lowest(state, losses, is_finite)
        rate = scale * pace * self.method.rate(before.steps / self.epochs)
        moved = self.method.move(before, gradient, rate.to(self.rates)[:, None] * self.rates)
        moved = AdamState(
            torch.where(is_far, lowest_raws, moved.raws),
            moved.mean.masked_fill(is_far, 0),
            moved.square.masked_fill(is_far, 0),
            moved.steps,
        )
        return *moved, *before, gradient, scale, lowest, lowest_raws, pace, losses, terms, finite

    def _lowest(self, state: State, losses: Tensor, is_finite: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lowest losses (G,) after a step of these, their raws (G, P), the paces (G,), and which tracks return to
        them (G, 1)."""
        if not self.returns:
            return state.lowest, state.lowest_raws, state.pace, torch.zeros_like(is_finite)[:, None]
        is_lower = is_finite & (losses < state.lowest)
        lowest = torch.where(is_lower, losses.to(state.lowest), state.lowest)
        raws = torch.where(is_lower[:, None], state.raws, state.lowest_raws)
        is_far = is_finite & (lowest > 0) & (losses > FAR * lowest)
        return lowest, raws, torch.where(is_far, CALMER * state.pace, state.pace), is_far[:, None]

    def read_reports(self, late: int = 0) -> list[list[Terms | None]]:
        """The terms of each track at each step since the last call, without the `late` newest steps.

        None stands for a step that is repeated, or that came after the end of a track.
        """
        results = []
        while len(self._reports) > late:
            report, index = self._reports.popleft()
            rows = zip(*report.wait(), strict=True)
            results.append([self._record(g, Report(*row), index) for g, row in enumerate(rows)])
        return results

    @property
    def unread(self) -> int:
        """The number of steps whose results were not read yet."""
        return len(self._reports)

    def write_back(self) -> None:
        """Copies the state of the fit into the tracks."""
        self.read_reports()
        state = [each.cpu() for each in self.state]
        for g, track in enumerate(self.tracks):
            track.state = State(*(each[g].clone() for each in state))

    @property
    def choice_steps(self) -> float:
        """The time that `choose` takes at the end, as a number of steps."""
        drawn = sum(len(track.chunks.dry) for track in self.tracks if track.drawn)
        return CANDIDATES * FORWARD * drawn / self.shares.numel()

    def choose(self) -> None:
        """Chooses the best of tracks that have ended and whose steps drew few chunks: of `TrackState.candidates`, the
        one with the lowest loss over all chunks."""
        first = 0
        for track in self.tracks:
            n = len(track.chunks.dry)
            if track.lacks_choice:
                index = torch.arange(first, first + n, device=self.device)
                losses = [self.loss_of(raws.to(self.device), index) for raws in track.candidates()]
                best = min(range(len(losses)), key=losses.__getitem__)
                if losses[best] < math.inf:
                    track.choose(track.candidates()[best], losses[best])
            first += n

    @torch.no_grad()
    def loss_of(self, raws: Tensor, index: Tensor) -> float:
        """The loss of the chunks `index` (N,) at raw parameters (P,), infinite where it is not finite.

        Of more than batch_size chunks it is the mean of batches. As many are rendered at once as take the memory of a
        step, which also stores what its gradient needs.
        """
        values, total = self.values(raws), 0.0
        for batch in index.split(self.batch_size):
            parts = [self._render(self.dry[some], values) for some in batch.split(2 * self.shares.numel())]
            total += self.difference(torch.cat(parts), batch) * len(batch) / len(index)
        loss = total + float(self.chain.penalty(values))
        return loss if math.isfinite(loss) else math.inf

    @torch.no_grad()
    def difference(self, wet: Tensor, index: Tensor) -> float:
        """The loss of wet chunks (N, 2, T - W) beside the recorded ones `index` (N,), without penalties."""
        return self.loss.weigh(self.loss.terms(wet, self.target.select(index), wet.new_ones(1, len(index)))).item()

    def _draw(self) -> Tensor | None:
        """Indices (G n,) of the step's chunks, each track padded to n with its first; None for all in order."""
        if self._all is None:
            return self._indices()
        return None if len(self._all) == len(self.dry) else self._all

    def _indices(self) -> Tensor:
        most, first, drawn = self.shares.shape[1], 0, []
        for track in self.tracks:
            chosen = track.draw(self.batch_size)
            drawn.append(torch.cat([chosen, chosen[:1].expand(most - len(chosen))]) + first)
            first += len(track.chunks.dry)
        return torch.cat(drawn).to(self.device, non_blocking=True)

    def _evaluate(self, raws: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (G,), their terms (G, K) and gradients (G, P) at raw parameters (G, P)."""
        dry, target = (self.dry, self.target) if index is None else (self.dry[index], self.target.select(index))
        raws = raws.detach().requires_grad_()
        # Values of one track need no repetition over its chunks.
        values = self.values(raws if len(raws) > 1 else raws[0])
        wet = self._render(dry, values)
        terms = self.loss.terms(wet, target, self.shares)
        losses = self.loss.weigh(terms).to(wet.dtype) + self.chain.penalty(values)
        gradient = torch.autograd.grad(losses.sum(), raws)[0]
        return losses.detach(), terms.detach(), gradient

    def _render(self, dry: Tensor, values: Values) -> Tensor:
        """Chunks (B, 1, T) through the chain, without the warm-up, (B, 2, T - W)."""
        return self.chain.render_after_warm_up(dry, self.warm_up, **self.chain.for_items(values, len(dry)))

    def _record(self, g: int, row: Report, index: Tensor | None) -> Terms | None:
        """Records a step of track g; its terms, None where it has to be repeated."""
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
        """Names what is not finite: the first output of an effect, else the loss, else gradients of the last effect
        with such ones."""
        chunks = slice(None) if index is None else index.view(len(self.tracks), -1)[g]
        effect = first_broken(self.chain, self.dry[chunks], self.values(row.raws.to(self.device)))
        if effect or not row.loss.isfinite():
            return effect or "the loss itself"
        bad = [name for name, finite in self.columns.split(row.finite).items() if not finite.all()]
        # Gradients are computed backwards, so that NaN in the last effect spreads to those before it.
        last = bad[-1].split(".")[0]
        return f"the gradient of {', '.join(n for n in bad if n.split('.')[0] == last)}"


def first_broken(chain: Effect, x: Tensor, values: Values) -> str:
    """Name and scalar values of the first effect in series whose output is not finite; "" if there is none."""
    if not isinstance(chain, Serial):
        return "" if chain(x, **values).isfinite().all() else type(chain).__name__
    for name, effect in chain.parts():
        inner = values[name]
        assert isinstance(inner, dict)
        x = effect(x, **inner)
        if not x.isfinite().all():
            scalars = {k: round(v.item(), 4) for k, v in inner.items() if isinstance(v, Tensor) and v.dim() == 0}
            return f"{name} ({', '.join(f'{k}={v}' for k, v in scalars.items())})"
    return ""


def run(
    fit: Fit,
    on_step: OnStep,
    on_pause: Callable[[Sequence[TrackState]], None],
    stopped: Callable[[], bool],
    steps: int | None = None,
) -> None:
    """Takes steps until a track ends, until `stopped()`, or for so many steps; then updates the tracks, and chooses the
    best of those that have ended.

    Args:
        on_step: called with the fit, the track and its terms after every step of a track.
        on_pause: called with the tracks, after they were updated, every `PAUSE_EVERY_S` seconds.
        stopped: called between steps.
        steps: how many steps at most; None for no limit.
    """
    # A GPU computes the next step while the host reads the results of the previous one.
    late = 1 if fit.device.type == "cuda" else 0
    paused = time.monotonic()

    def report(late: int) -> None:
        for results in fit.read_reports(late):
            for track, terms in zip(fit.tracks, results, strict=True):
                if terms:
                    on_step(fit, track, terms)

    try:
        while not any(track.has_ended for track in fit.tracks) and not stopped() and steps != 0:
            fit.step()
            last = any(track.step_count + fit.unread >= track.epochs for track in fit.tracks)
            report(0 if last else late)
            if time.monotonic() - paused > PAUSE_EVERY_S:
                report(0)
                fit.write_back()
                on_pause(fit.tracks)
                paused = time.monotonic()
            steps = steps and steps - 1
        report(0)
        fit.write_back()
        fit.choose()
    finally:
        fit.write_back()
