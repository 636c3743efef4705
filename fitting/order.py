"""The order of a chain's effects: the compressor before or after the equaliser, by trial fits.

Equaliser bands commute with each other, and with delay and reverb; with a gain that depends on the level of its input
they do not, so that only this order can be found from recordings.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Protocol, TypeVar

from reknob.afx.chain import Serial, is_biquad
from reknob.afx.effect import Effect
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair
from reknob.fitting.recipe import Recipe
from reknob.fitting.track import Best
from reknob.fitting.trial import CHUNKS, Make, Raws, loudest, short_fit
from reknob.formats.runs import CONFIG, read_chain_file

log = logging.getLogger(__name__)

STEPS, REFINED = 60, 40  # of the fit of each order, and of each order from what each reached
LEAST = 1e-9  # loss


class HasFiles(Protocol):
    """A song."""

    files: PairFiles


SongT = TypeVar("SongT", bound=HasFiles)


def orders(config: dict, chain: Effect) -> list[dict]:
    """The configurations of a chain to compare, the given one first: with its first level-dependent effect that has
    equaliser bands beside it, before and after all bands beside it.

    Args:
        config: of the chain.
        chain: built from it.
    """
    if not isinstance(chain, Serial):
        return [config]
    parts = list(chain.parts())
    for place, (name, part) in enumerate(parts):
        before = [band for band, _ in takewhile(is_biquad, reversed(parts[:place]))][::-1]
        after = [band for band, _ in takewhile(is_biquad, parts[place + 1 :])]
        if part.level_dependent and before + after:
            names = [each for each, _ in parts]
            first, last = names[: place - len(before)], names[place + len(after) + 1 :]
            bands = before + after
            changed = [[*first, name, *bands, *last], [*first, *bands, name, *last]]
            return [config, *(_in_order(config, order) for order in changed if order != names)]
    return [config]


def _in_order(config: dict, names: Sequence[str]) -> dict:
    """A configuration with its effects in another order; what else it holds comes first."""
    others = {name: entry for name, entry in config.items() if name not in names}
    return others | {name: config[name] for name in names}


def ordered(recipe: Recipe, pair: Pair, stopped: Callable[[], bool] = lambda: False) -> Recipe:
    """The recipe with the order of effects that short fits to the loudest chunks of a pair come nearest with.

    Fits of some orders descend faster than those of others, whichever made the record. So every order is refined from
    the parameters that each order reached, and the one of the lowest geometric mean loss is taken. The same recipe
    where the settings give the order, where the chain has no other one that matters, or where it was stopped.
    """
    candidates = recipes(recipe)
    if len(candidates) == 1:
        return recipe
    track = recipe.track(pair)
    chunks, start = loudest(track.chunks, CHUNKS), track.columns.split(track.state.raws)

    def reach(each: Recipe, raws: Raws, steps: int, make: Make) -> Best:
        return short_fit(each.chain, chunks, raws, steps, make=make, stopped=stopped)

    reached = [reach(each, start, STEPS, partial(each.fit, method="annealed")) for each in candidates]
    sums = []
    for each in candidates:
        losses = [reach(each, best.raws, REFINED, each.refine).loss for best in reached]
        sums.append(sum(math.log(max(loss, LEAST)) for loss in losses))
        mean = math.exp(sums[-1] / len(losses))
        log.info("%s: loss %.3f in the order %s", pair.name, mean, names_of(each))
    # A loss that is not finite is the largest.
    return recipe if stopped() else candidates[min(range(len(sums)), key=sums.__getitem__)]


def recipes(recipe: Recipe) -> list[Recipe]:
    """The recipe, and those of the other orders of its effects if the settings say that they are tried."""
    if recipe.settings.order == "given":
        return [recipe]
    _, *others = orders(recipe.settings.chain, recipe.chain)
    return [recipe, *map(recipe.with_chain, others)]


def names_of(recipe: Recipe) -> str:
    """The names of a chain's effects in their order."""
    return ", ".join(name for name, _ in recipe.chain.parts())


def by_order(
    recipe: Recipe, songs: Iterable[SongT], resumed: Callable[[SongT], Path | None], stopped: Callable[[], bool]
) -> Iterator[tuple[Recipe, list[SongT]]]:
    """The songs in groups whose chains have the same order of effects, each with its recipe.

    Args:
        recipe: of the order given.
        songs: to be fitted.
        resumed: the run folder of a song that is resumed, whose order stays.
        stopped: asked between steps.
    """
    candidates = recipes(recipe)
    groups: dict[str, tuple[Recipe, list[SongT]]] = {names_of(each): (each, []) for each in candidates}
    for song in songs:
        chosen = recipe
        # A song that cannot be loaded is refused again, and with a message, where its fit begins.
        with contextlib.suppress(Exception):
            if len(candidates) > 1 and not stopped():
                run = resumed(song)
                chosen = _as_in(run, candidates) if run else ordered(recipe, recipe.load(song.files), stopped)
        groups[names_of(chosen)][1].append(song)
    yield from ((each, members) for each, members in groups.values() if members)


def _as_in(run: Path, candidates: Sequence[Recipe]) -> Recipe:
    """The recipe of the order that a run has; the first where it has none of them."""
    names = [name for name, entry in read_chain_file(run / CONFIG)[0].items() if isinstance(entry, dict)]
    return next((each for each in candidates if names == [name for name, _ in each.chain.parts()]), candidates[0])
