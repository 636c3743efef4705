"""Tracks fitted together: what each reaches is what it reaches alone."""

import math
from dataclasses import replace

import pytest
import torch
from measures import relative_rms
from test_fit import CHAIN, SPATIAL, SR, loud, new_fit, raws_of, recorded, run_until, step

from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss


def songs() -> list[Chunks]:
    """Three pairs of one, three and two chunks in float64, the first louder, the last the other way round."""
    one, three, two = (replace(c, dry=c.dry.double(), wet=c.wet.double()) for c in map(recorded, (1, 3, 2)))
    return [loud(one), three, replace(two, wet=two.wet.flip(1))]


def fit_of(chain: dict, *chunks: Chunks, **options: object) -> Fit:
    """A fit in float64 from a place where no gradient is 0: Adam makes a step of the rounding error of a 0."""
    effect, random = build(chain, SR), torch.Generator().manual_seed(3)
    raws = {
        name: (p.initial_raw(random) + 0.3 * torch.randn((*p.shape, 1), generator=random)[..., 0]).double()
        for name, p in effect.walk()
    }
    tracks = [TrackState(effect, each, raws=raws) for each in chunks]
    return Fit(effect, tracks, VocalLoss(SR), lr=0.05, **options)


@pytest.mark.parametrize(("chain", "batch_size"), [(CHAIN, 35), (SPATIAL, 2)], ids=["all", "spatial, some"])
def test_tracks_fitted_together_reach_what_each_reaches_alone(chain: dict, batch_size: int) -> None:
    together = fit_of(chain, *songs(), batch_size=batch_size)
    run_until(together, 4)
    for g, chunks in enumerate(songs()):
        alone = fit_of(chain, chunks, batch_size=batch_size)
        assert together.tracks[g].losses == pytest.approx(run_until(alone, 4).losses, rel=1e-6)
        for name, raw in raws_of(alone).items():
            torch.testing.assert_close(raws_of(together, g)[name], raw, rtol=1e-5, atol=1e-6, msg=name)


def test_in_float32_losses_and_gradients_together_are_those_of_each_alone_within_rounding() -> None:
    single = [replace(c, dry=c.dry.float(), wet=c.wet.float()) for c in songs()]
    together = new_fit(SPATIAL, *single)
    together.step()
    for g, (chunks, told) in enumerate(zip(single, together.read_reports()[0], strict=True)):
        alone = new_fit(SPATIAL, chunks)
        assert told["loss"] == pytest.approx(step(alone)["loss"], rel=1e-6)
        # As far apart as two roundings of the same: the spectral distance has signs of differences in it.
        assert relative_rms(together.state.gradient[g], alone.state.gradient[0]) < 1e-3


def test_a_track_that_breaks_leaves_the_others_as_they_are_alone() -> None:
    ill, well, other = songs()
    ill.dry[0, 0, 100] = math.inf
    fit = fit_of(SPATIAL, ill, well, other)
    run_until(fit, 3)
    assert "it breaks at peak" in fit.tracks[0].error and fit.tracks[0].losses == []
    assert fit.tracks[1].error is None and fit.tracks[1].step_count == 1
    healthy = Fit(fit.chain, fit.tracks[1:], fit.loss, lr=0.05)
    run_until(healthy, 3)
    for g, chunks in enumerate((well, other)):
        assert healthy.tracks[g].losses == pytest.approx(run_until(fit_of(SPATIAL, chunks), 3).losses, rel=1e-6)
