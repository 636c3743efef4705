"""What parameters are compared on before a whole fit: the loss of a pair's loudest chunks, and short fits to them."""

import math
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import Best, TrackState
from reknob.losses import FitLoss

CHUNKS = 2  # so that the cost of a comparison does not grow with the length of the recording

Raws = dict[str, Tensor]
Make = Callable[[Sequence[TrackState]], Fit]


def loudest(chunks: Chunks, count: int) -> Chunks:
    """The `count` chunks of the highest power, or all where there are fewer."""
    power = chunks.wet[..., chunks.warm_up :].square().mean((1, 2))
    return chunks.select(power.topk(min(count, len(power))).indices)


class Losses:
    """The loss of raw parameters on some chunks, as a fit computes it.

    Args:
        chain: the effects, on the device.
        chunks: dry and wet.
        loss: compares rendered and recorded chunks after their warm-up.
        device: where the work is done.
    """

    def __init__(self, chain: Effect, chunks: Chunks, loss: FitLoss, device: torch.device) -> None:
        count = len(chunks.dry)
        self.fit = Fit(chain, [TrackState(chain, chunks)], loss, lr=1.0, batch_size=count, device=device)
        self.wet, self.index = chunks.wet[..., chunks.warm_up :].to(device), torch.arange(count, device=device)

    def __call__(self, raws: Raws) -> float:
        return self.fit.loss_of(self.fit.columns.join(raws).to(self.wet), self.index)

    def of_level(self, db: float) -> float:
        """The loss of the recording itself, `db` louder."""
        return self.fit.difference(self.wet * 10 ** (db / 20), self.index)


def better_parts(chain: Effect, losses: Losses, before: Raws, found: Raws) -> Raws:
    """`before` with those of the parameters `found` in place, by effect, that lower the loss.

    All of them are in place first. Each effect in turn then goes back to its parameters before where the loss is lower
    with them.

    Args:
        chain: the effects.
        losses: of raw parameters.
        before: raw parameters of the whole chain, by name.
        found: others for some effects.
    """
    raws = before | found
    lowest = losses(raws)
    changed = [name for name, raw in found.items() if raw is not before[name]]
    for prefix, _ in chain.leaves():
        back = {name: before[name] for name in changed if name.startswith(prefix)}
        if back and (reached := losses(raws | back)) < lowest:
            raws, lowest = raws | back, reached
    return raws if lowest < losses(before) else before


def short_fit(
    chain: Effect,
    chunks: Chunks,
    raws: Raws,
    steps: int,
    held: Collection[str] = (),
    most: float = math.inf,
    *,
    make: Make,
    stopped: Callable[[], bool],
) -> Best:
    """The lowest loss in some steps from raw parameters; infinite, with these parameters, where none is finite.

    Args:
        chain: the effects.
        chunks: that are compared.
        raws: by name.
        steps: how many.
        held: names of parameters that no step moves.
        most: half the steps are taken where the lowest loss is above this then.
        make: a fit of some tracks.
        stopped: asked between steps.
    """
    track = TrackState(chain, chunks, epochs=steps, raws=raws, held=held)
    fit = make([track])
    for step in range(steps):
        if stopped():
            break
        fit.step()
        if 2 * step == steps and most < math.inf:
            fit.read_reports()
            if track.best.loss > most:
                break
    fit.write_back()
    return track.best if track.best.raws else Best(math.inf, raws)
