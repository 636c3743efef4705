"""Which effects of a fitted chain the recordings need: what each is worth, and the fit without those they do not need.

A fit hardly leaves an effect that the record was made without at rest: it does some of another's work. So an effect is
removed where the loss hardly rises without it, or where it hardly does so once the others have been fitted further.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.param import Bounded, Param
from reknob.afx.stereo import Placement
from reknob.fitting.track import Best, TrackState
from reknob.fitting.trial import CHUNKS, Losses, Make, Raws, loudest, short_fit
from reknob.formats.effects import EffectsRecord
from reknob.losses import FitLoss

log = logging.getLogger(__name__)

# The default tolerance, as a share of the loss, and at least what a level error of so many dB costs. Fits of one pair
# by two optimisers ended 0.2 to 2 % apart.
TOLERANCE, TOLERANCE_DB = 0.005, 0.015
# An effect that costs more than so many tolerances stays without a trial; and one that at half of its trial does.
NEAR, HALFWAY = 40, 8
STEPS = 40  # of a trial
FINAL = 10  # The last fit takes a tenth of the steps of the first.
# The least distance of a position from the ends of its range, whose raw parameters are infinite.
END = 1e-5


@dataclass(frozen=True)
class Switch:
    """An effect, or a part of one, that can be off."""

    name: str  # "sends.delay", "comp.expander"
    off: Raws = field(repr=False)
    held: frozenset[str] = field(repr=False)  # the parameters that are not fitted while it is off


def switches(chain: Effect) -> list[Switch]:
    """What can be off in a chain, in its order; a position, which every sound has, is none of these."""
    found = []
    for prefix, effect in chain.leaves():
        if isinstance(effect, Placement):
            continue
        declared, parts = dict(effect.walk()), effect.switches()
        is_whole = list(parts) == [""] and len(list(effect.leaves())) == 1
        for part, values in parts.items():
            off = {prefix + name: off_raw(declared[name], value) for name, value in values.items()}
            held = [prefix + name for name in declared] if is_whole else off
            found.append(Switch((prefix + part).removesuffix("."), off, frozenset(held)))
    return found


def off_raw(p: Param, value: float | tuple[float, ...]) -> Tensor:
    """The raw parameter (*shape) of a value; finite at an end of its range, by a value 1e-5 of the range inside."""
    wanted = torch.tensor(value, dtype=torch.float64).expand(p.shape)
    mapping = p.mapping
    raw = torch.logit(mapping.to_unit(wanted), END) if isinstance(mapping, Bounded) else mapping.raw(wanted)
    return raw.float().clone()


def prune(
    chain: Effect,
    track: TrackState,
    loss: FitLoss,
    make: Make,
    *,
    device: torch.device,
    tolerance: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Best, EffectsRecord] | None:
    """The best parameters of a fit without the effects that it does not need; None where it was stopped.

    Backward elimination on the loudest chunks, the effect that costs least first. One that costs more than the
    tolerance, but not much more, is left out on trial while some steps move the others. Of the lowest loss so far, all
    removals together raise it by at most the tolerance. Then the others are fitted to all chunks; the parameters of
    removed effects are held at their off values.

    Args:
        chain: the effects, on the device.
        track: a fit that has ended.
        loss: what it minimised.
        make: a fit of some tracks that refines their parameters.
        device: where the work is done.
        tolerance: in units of the loss; by default half a percent of it, and at least what 0.015 dB of level cost.
        stopped: asked between trials and between steps.
    """
    few, parts = loudest(track.chunks, CHUNKS), switches(chain)
    losses, refine = Losses(chain, few, loss, device), partial(short_fit, chain, make=make, stopped=stopped)
    raws = refine(few, track.best.raws, STEPS).raws
    if tolerance is None:
        tolerance = max(TOLERANCE * losses(raws), losses.of_level(TOLERANCE_DB))

    def without(part: Switch, raws: Raws, held: frozenset[str], most: float) -> Raws:
        """The parameters without an effect, refined on trial where that may bring the loss down to `most`."""
        trial = raws | part.off
        if not most < losses(trial) <= most + NEAR * tolerance:
            return trial
        return refine(few, trial, STEPS, held | part.held, most + HALFWAY * tolerance).raws

    raws, removed = _eliminate(parts, raws, losses, without, tolerance, stopped)
    best = track.best
    if removed:
        held = frozenset().union(*(part.held for part in parts if part.name in removed))
        best = refine(track.chunks, raws, max(track.epochs // FINAL, 1), held)
    if stopped():
        return None
    reached = losses(best.raws)
    costs = {part.name: losses(best.raws | part.off) - reached for part in parts if part.name not in removed}
    return best, EffectsRecord(costs, removed, track.best.loss, best.loss, tolerance)


def _eliminate(
    parts: Sequence[Switch],
    raws: Raws,
    losses: Losses,
    without: Callable[[Switch, Raws, frozenset[str], float], Raws],
    tolerance: float,
    stopped: Callable[[], bool],
) -> tuple[Raws, dict[str, float]]:
    """Raw parameters without the effects that are not needed, and by how much removing each raised the loss."""
    untried, held, removed = list(parts), frozenset(), {}
    base = losses(raws)
    costs = {part.name: losses(raws | part.off) for part in untried}
    while untried and not stopped():
        tried = min(untried, key=lambda part: costs[part.name])
        untried.remove(tried)
        trial = without(tried, raws, held, base + tolerance)
        reached = losses(trial)
        log.debug("%s: loss %.4f, %.4f without it", tried.name, base, reached)
        if reached <= base + tolerance:
            removed[tried.name] = reached - base
            raws, base, held = trial, min(base, reached), held | tried.held
            costs = {part.name: losses(raws | part.off) for part in untried}
    return raws, removed
