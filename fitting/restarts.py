"""Several starts of one fit, of which the best continues."""

from collections.abc import Callable, Sequence

from torch import Tensor

from reknob.afx.effect import Effect
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState

STEPS = 12  # of the first round
CHUNKS = 2  # compared in a trial, so that its cost does not grow with the length of the recording

Make = Callable[[Sequence[TrackState]], Fit]


def descend(
    chain: Effect, chunks: Chunks, starts: Sequence[dict[str, Tensor]], make: Make, steps: int
) -> list[dict[str, Tensor]]:
    """The raw parameters that several starts reach in some steps as one batch, that of the lowest loss first.

    A start whose loss is never finite is left out; if all are, the first is returned.

    Args:
        starts: raw parameters by name.
        make: a fit of several tracks.
    """
    tracks = [TrackState(chain, chunks, epochs=steps, raws=raws) for raws in starts]
    fit = make(tracks)
    for _ in range(steps):
        fit.step()
    fit.write_back()
    tracks.sort(key=lambda track: track.best.loss)
    return [track.best.raws for track in tracks if track.best.raws] or [starts[0]]


def best_start(chain: Effect, chunks: Chunks, starts: Sequence[dict[str, Tensor]], make: Make) -> dict[str, Tensor]:
    """The raw parameters that the best of several starts reaches, by successive halving.

    All starts take some steps as one batch; the better half of them takes twice as many, and so on until one is left.

    Args:
        chunks: of the pair, a few.
        starts: raw parameters by name.
        make: a fit of several tracks.

    Source: Karnin, Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013.
    """
    reached, steps = list(starts), STEPS
    while len(reached) > 1:
        reached = descend(chain, chunks, reached, make, steps)[: (len(reached) + 1) // 2]
        steps *= 2
    return reached[0]


def loudest(chunks: Chunks, count: int) -> Chunks:
    """The `count` chunks of the highest power, or all where there are fewer."""
    power = chunks.wet[..., chunks.warm_up :].square().mean((1, 2))
    return chunks.select(power.topk(min(count, len(power))).indices)
