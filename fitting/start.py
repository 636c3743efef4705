"""The start of a fit that is read from the recordings: every effect in turn, by what shows it best."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from reknob.afx.chain import Sends, Serial
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect
from reknob.afx.stereo import Placement
from reknob.data.chunks import Chunks
from reknob.data.pairs import Pair
from reknob.fitting.direct_sound import find_direct_sound
from reknob.fitting.initialise import raws_from, starts, to_raws
from reknob.fitting.restarts import Make, best_start, descend
from reknob.fitting.space import find_space, sends_input
from reknob.fitting.trial import CHUNKS, Losses, Raws, better_parts, loudest
from reknob.runtime.interrupt import raise_if

ADAPTING = 24  # steps before least squares
OTHERS = 2  # reverbs of presets in the final trial


def start_from_signals(
    chain: Effect,
    pair: Pair,
    chunks: Chunks,
    make: Make,
    losses: Callable[[Chunks], Losses],
    *,
    echoes: int,
    presets: Sequence[Raws] = (),
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
        presets: raw parameters of fits to other recordings, whose reverbs are tried too.
        seed: of random defaults.
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
    found = adapted | delays[0] | find_space(chain, few, adapted, delays, pause)
    candidates = [found, *other_reverbs(chain, adapted, presets, losses(one), pause)]
    better = better_parts(chain, losses(one), adapted, found)
    if any(better[name] is not raw for name, raw in found.items()):
        candidates.append(better)
    return best_start(chain, one, candidates, make, pause)


def other_reverbs(
    chain: Effect,
    raws: Raws,
    presets: Sequence[Raws],
    losses: Losses,
    pause: Callable[[], object] = lambda: None,
) -> list[Raws]:
    """`raws` with the reverb of each preset in place of its own, the few of the lowest loss, lowest first.

    Everything in the sends of the chain is taken from the preset but the delay and the direct sound's position.

    Args:
        chain: effects in series of which the last may be sends; for another one, none is returned.
        raws: of the whole chain, by name.
        presets: the same, of other fits.
        losses: of raw parameters.
        pause: called between presets; may raise.
    """
    parts = list(chain.parts())
    if not isinstance(chain, Serial) or not isinstance(parts[-1][1], Sends):
        return []
    last, sends = parts[-1]
    kept = [f"{last}.{name}." for name, part in sends.parts() if isinstance(part, (PingPongDelay, Placement))]
    names = [name for name in raws if name.startswith(f"{last}.") and not name.startswith(tuple(kept))]
    candidates = []
    for preset in presets:
        pause()
        trial = raws | {name: preset[name].float() for name in names if name in preset}
        loss = losses(trial)
        if math.isfinite(loss):
            candidates.append((loss, trial))
    return [trial for _, trial in sorted(candidates, key=lambda each: each[0])[:OTHERS]]
