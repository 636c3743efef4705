"""The start of a fit that is read from the recordings: every effect in turn, by what shows it best."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect
from reknob.afx.reverb import FDN
from reknob.afx.stereo import Placement
from reknob.data.chunks import Chunks
from reknob.data.pairs import Pair
from reknob.fitting.direct_sound import find_direct_sound
from reknob.fitting.initialise import raws_from, starts, to_raws
from reknob.fitting.restarts import Make, best_start, descend
from reknob.fitting.sends import sends_at_end, sends_input
from reknob.fitting.space import find_space
from reknob.fitting.trial import CHUNKS, Losses, Raws, better_parts, loudest
from reknob.runtime.interrupt import raise_if

ADAPTING = 24  # steps before least squares
OTHERS = 2  # reverbs of presets in the final trial
TIMES_S, GAINS = (0.4, 0.8, 1.6, 3.2), (0.1, 0.2, 0.4, 0.8)  # of a plain reverb


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
    compare = losses(one)
    space = find_space(chain, few, adapted, delays, pause) or plain_reverb(chain, adapted, compare, pause)
    found = adapted | delays[0] | space
    candidates = [found, *other_reverbs(chain, adapted, presets, compare, pause)]
    better = better_parts(chain, compare, adapted, found)
    if any(better[name] is not raw for name, raw in found.items()):
        candidates.append(better)
    return best_start(chain, one, candidates, make, pause)


def plain_reverb(
    chain: Effect, raws: Raws, losses: Losses, pause: Callable[[], object] = lambda: None
) -> Raws:
    """Raw decay and outputs of the reverb in the sends at the end of a chain, of the lowest loss among few.

    The reverberation time is the same at all frequencies; the outputs are those of `raws` times a gain. A descent
    shapes the decay, but takes long to lengthen it.

    Args:
        chain: for one that does not end in sends with a feedback delay network, nothing is returned.
        raws: of the whole chain, by name.
        losses: of raw parameters.
        pause: called between trials; may raise.
    """
    end = sends_at_end(chain)
    reverbs = [(f"{end.name}.{name}", part) for name, part in end.sends.parts() if isinstance(part, FDN)] if end else []
    if not reverbs:
        return {}
    params, trials = dict(chain.walk()), []
    for seconds, gain in product(TIMES_S, GAINS):
        pause()
        trial = {}
        for name, reverb in reverbs:
            decay = params[f"{name}.gamma"]
            gains = reverb.decay_gains(torch.full(decay.shape[:1], seconds, dtype=torch.float64))
            trial[f"{name}.gamma"] = decay.mapping.raw(decay.mapping.inside(gains)).float()
            trial[f"{name}.c"] = gain * raws[f"{name}.c"]
        trials.append((losses(raws | trial), trial))
    return min(trials, key=lambda each: each[0])[1]


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
    end = sends_at_end(chain)
    if end is None:
        return []
    kept = [f"{end.name}.{name}." for name, part in end.sends.parts() if isinstance(part, (PingPongDelay, Placement))]
    names = [name for name in raws if name.startswith(f"{end.name}.") and not name.startswith(tuple(kept))]
    candidates = []
    for preset in presets:
        pause()
        trial = raws | {name: preset[name].float() for name in names if name in preset}
        loss = losses(trial)
        if math.isfinite(loss):
            candidates.append((loss, trial))
    return [trial for _, trial in sorted(candidates, key=lambda each: each[0])[:OTHERS]]
