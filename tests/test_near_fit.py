"""A fit that begins near the best parameters: it returns to them where a step leads far away."""

from functools import cache

import torch
from test_fit import CHAIN, SR, ignore, never, new_fit, recorded, run_until

from reknob.afx.registry import build
from reknob.fitting.fit import Fit, run
from reknob.fitting.track import State, TrackState
from reknob.losses import VocalLoss


@cache
def found() -> dict[str, torch.Tensor]:
    """Raw parameters near the lowest loss of `recorded`."""
    return run_until(new_fit(lr=0.02, epochs=150, method="annealed"), 150).best.raws


def near_the_best(steps: int, **options: object) -> TrackState:
    """A track after large annealed steps that begin close to its lowest loss."""
    track = TrackState(build(CHAIN, SR), recorded(), epochs=steps, raws={k: raw + 0.01 for k, raw in found().items()})
    run(Fit(build(CHAIN, SR), [track], VocalLoss(SR), lr=0.1, method="annealed", **options), ignore, ignore, never)
    return track


def test_a_fit_that_begins_near_the_best_returns_there_and_goes_on_at_smaller_rates() -> None:
    lost, track = near_the_best(30), near_the_best(30, near=True)
    assert lost.best.loss == lost.losses[0]
    assert track.best.loss < 0.5 * track.losses[0]
    far = next(i for i, loss in enumerate(track.losses) if loss > 2 * min(track.losses[: i + 1]))
    assert track.losses[far + 1] == min(track.losses[: far + 1])
    assert 0 < track.state.pace < 0.5


def test_a_checkpoint_from_before_fits_returned_to_their_lowest_loss_is_resumed() -> None:
    track = near_the_best(10, near=True)
    saved = track.state_dict()
    saved["optimiser"] = {name: saved["optimiser"][name] for name in State._fields[:10]}
    resumed = TrackState(build(CHAIN, SR), recorded(), epochs=20)
    resumed.load_state_dict(saved)
    assert torch.equal(resumed.state.raws, track.state.raws) and resumed.state.pace == 1
