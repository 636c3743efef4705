"""Several starts of one fit, of which the best continues."""

from collections.abc import Callable, Sequence

from torch import Tensor

from reknob.afx.effect import Effect
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState

STEPS = 12  # of the first round
CHUNKS = 2  # compared in a trial, so that its cost does not grow with the length of the recording


def best_start(
    chain: Effect,
    chunks: Chunks,
    starts: Sequence[dict[str, Tensor]],
    make: Callable[[Sequence[TrackState]], Fit],
) -> dict[str, Tensor]:
    """The raw parameters that the best of several starts reaches, by successive halving.

    All starts take some steps as one batch on the loudest chunks; the better half of them takes twice as many, and so
    on until one is left.

    Args:
        chunks: of the pair.
        starts: raw parameters by name.
        make: a fit of several tracks.

    Source: Karnin, Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013.
    """
    if len(starts) == 1:
        return starts[0]
    few = loudest(chunks, CHUNKS)
    reached, steps = list(starts), STEPS
    while len(reached) > 1:
        tracks = [TrackState(chain, few, epochs=steps, raws=raws) for raws in reached]
        fit = make(tracks)
        for _ in range(steps):
            fit.step()
        fit.write_back()
        tracks.sort(key=lambda track: track.best.loss)
        # A start whose loss is not finite has no best, and is the last.
        reached = [track.best.raws for track in tracks[: (len(tracks) + 1) // 2] if track.best.raws] or [starts[0]]
        steps *= 2
    return reached[0]


def loudest(chunks: Chunks, count: int) -> Chunks:
    """The `count` chunks of the highest power, or all where there are fewer."""
    power = chunks.wet[..., chunks.warm_up :].square().mean((1, 2))
    return chunks.select(power.topk(min(count, len(power))).indices)
