"""The start of a fit that is read from the recordings: every effect in turn, by what shows it best."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from reknob.afx.effect import Effect
from reknob.data.chunks import Chunks
from reknob.data.pairs import Pair
from reknob.fitting.direct_sound import find_direct_sound
from reknob.fitting.initialise import raws_from, starts, to_raws
from reknob.fitting.restarts import Make, best_start, descend
from reknob.fitting.space import find_space, sends_input
from reknob.fitting.trial import CHUNKS, Losses, Raws, better_parts, loudest
from reknob.runtime.interrupt import raise_if

ADAPTING = 24  # steps before least squares


def start_from_signals(
    chain: Effect,
    pair: Pair,
    chunks: Chunks,
    make: Make,
    losses: Callable[[Chunks], Losses],
    *,
    echoes: int,
    seed: int,
    stopped: Callable[[], bool],
) -> Raws:
    """Raw parameters to begin the fit of a pair with.

    What comes before the sends is found first, as echo and reverb are read from its output: by some steps of a descent,
    then by least squares, of which each effect keeps what lowers the loss. Then delay and reverb follow from the
    response between that output and wet.

    Args:
        chain: on the CPU, as the recordings are.
        pair: the recordings.
        chunks: of it.
        make: an annealed fit of some tracks.
        losses: the loss of raw parameters on some chunks.
        echoes: most echo times that are tried.
        seed: of random defaults and networks.
        stopped: asked between steps; Interrupted is raised where it says so.
    """
    few = loudest(chunks, CHUNKS)
    one = loudest(few, 1)
    pause = partial(raise_if, stopped)

    def read(x: Tensor) -> list[Raws]:
        """The delay for each echo that a response from x (1, T) to wet shows."""
        return [to_raws(chain, values) for values in starts(chain, x, pair.wet, echoes)]

    adapted = raws_from(chain, {}, seed) | read(pair.dry)[0]
    adapted = descend(chain, one, [adapted], make, ADAPTING, pause)[0]
    adapted = better_parts(chain, losses(one), adapted, find_direct_sound(chain, one, adapted, pause))
    delays = read(sends_input(chain, adapted, pair.dry[None])[0])
    space = find_space(chain, few, adapted, delays, seed, pause)
    found = [adapted | space] if space else [adapted | delay for delay in delays]
    return best_start(chain, one, [*found, adapted], make, pause)
