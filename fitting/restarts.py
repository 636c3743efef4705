"""Several starts of one fit, of which the best continues."""

from collections.abc import Callable, Sequence

from reknob.afx.effect import Effect
from reknob.data.chunks import Chunks
from reknob.fitting.track import TrackState
from reknob.fitting.trial import Make, Raws

STEPS = 12  # of the first round


def descend(
    chain: Effect,
    chunks: Chunks,
    starts: Sequence[Raws],
    make: Make,
    steps: int,
    pause: Callable[[], object] = lambda: None,
) -> list[Raws]:
    """The raw parameters that several starts reach in some steps as one batch, that of the lowest loss first.

    A start whose loss is never finite is left out; if all are, the first is returned.

    Args:
        starts: raw parameters by name.
        make: a fit of several tracks.
        pause: called between steps; may raise.
    """
    tracks = [TrackState(chain, chunks, epochs=steps, raws=raws) for raws in starts]
    fit = make(tracks)
    for _ in range(steps):
        pause()
        fit.step()
    fit.write_back()
    tracks.sort(key=lambda track: track.best.loss)
    return [track.best.raws for track in tracks if track.best.raws] or [starts[0]]


def best_start(
    chain: Effect,
    chunks: Chunks,
    starts: Sequence[Raws],
    make: Make,
    pause: Callable[[], object] = lambda: None,
) -> Raws:
    """The raw parameters that the best of several starts reaches, by successive halving.

    All starts take some steps as one batch; the better half of them takes twice as many, and so on until one is left.

    Args:
        chunks: of the pair, a few.
        starts: raw parameters by name.
        make: a fit of several tracks.
        pause: called between steps; may raise.

    Source: Karnin, Koren and Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013.
    """
    reached, steps = list(starts), STEPS
    while len(reached) > 1:
        reached = descend(chain, chunks, reached, make, steps, pause)[: (len(reached) + 1) // 2]
        steps *= 2
    return reached[0]
