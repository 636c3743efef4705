"""Steps of few chunks: how they are drawn, what is chosen over all chunks at the end, how they are resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fit import CHAIN, SPATIAL, SR, StopAfter, equal, ignore, loud, never, raws_of, recorded

from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.batch import Budget, fit_all
from reknob.fitting.fit import Fit, run
from reknob.fitting.track import RECENT, TrackState
from reknob.losses import VocalLoss
from reknob.runtime.files import read_tensors, write_tensors


def fit_of(
    *chunks: Chunks, chain: dict = CHAIN, epochs: int = 4, seed: int = 0, few: int | None = 2, **options: object
) -> Fit:
    effect = build(chain, SR)
    tracks = [TrackState(effect, each, epochs=epochs, step_chunks=few, seed=seed) for each in chunks]
    return Fit(effect, tracks, VocalLoss(SR), **{"lr": 0.05} | options)


def ended(fit: Fit) -> TrackState:
    """The first track after all steps."""
    run(fit, ignore, ignore, never)
    return fit.tracks[0]


def loss_of_all(chunks: Chunks, raws: dict[str, torch.Tensor], chain: dict = CHAIN) -> float:
    """The loss of a step of all chunks."""
    track = TrackState(build(chain, SR), chunks, raws=raws, epochs=1)
    return ended(Fit(build(chain, SR), [track], VocalLoss(SR), lr=0.05)).losses[0]


def test_loud_chunks_with_pauses_are_drawn_most_and_all_are_drawn() -> None:
    t = torch.arange(SR) / SR
    tone, pauses = torch.sin(2 * torch.pi * 440 * t), (t % 0.5 < 0.25).float()
    wet = torch.stack([0.5 * tone, 0.5 * tone * pauses, 0.05 * tone * pauses, 0 * t + 1e-3])[:, None].expand(-1, 2, -1)
    weights = Chunks(wet[:, :1], wet, 0, (0, 1, 2, 3)).weights()
    steady, paused, soft, silent = weights.tolist()
    assert weights.sum().item() == pytest.approx(1) and paused > 2 * soft > 2 * steady > 0
    assert silent == pytest.approx(1 / 8, rel=1e-3), "half of the even share"
    same = Chunks(wet[:2, :1], wet[:1].expand(2, -1, -1), 0, (0, 1))
    assert same.weights().tolist() == [0.5, 0.5]


def test_a_step_draws_different_chunks_by_their_weights_and_all_where_there_are_no_more() -> None:
    chunks = recorded(4)
    chunks = replace(chunks, wet=chunks.wet * torch.tensor([1.0, 1.0, 1.0, 40.0])[:, None, None])
    track = TrackState(build(CHAIN, SR), chunks, step_chunks=2)
    draws = [track.draw(35).tolist() for _ in range(400)]
    assert all(len(set(draw)) == 2 for draw in draws) and {i for draw in draws for i in draw} == set(range(4))
    assert sum(3 in draw for draw in draws) > 1.3 * sum(0 in draw for draw in draws)
    assert track.count(35) == 2 and track.count(1) == 1
    every = TrackState(build(CHAIN, SR), chunks, step_chunks=4)
    assert every.drawn is None and every.draw(35).tolist() == [0, 1, 2, 3]


def test_as_many_chunks_as_there_are_give_the_fit_of_all() -> None:
    few, plain = (ended(fit_of(recorded(2), few=few)) for few in (2, None))
    assert few.losses == plain.losses and equal(few.best.raws, plain.best.raws) and few.chosen is None


@pytest.mark.parametrize(
    ("chain", "batch_size"), [(CHAIN, 35), (SPATIAL, 3)], ids=["one batch", "spatial, two batches"]
)
def test_the_end_chooses_the_lowest_loss_over_all_chunks(chain: dict, batch_size: int) -> None:
    chunks = recorded(4)
    chunks = replace(chunks, wet=chunks.wet * torch.linspace(0.5, 2, 4)[:, None, None])
    fit = fit_of(chunks, chain=chain, batch_size=batch_size)
    track = ended(fit)
    losses = [fit.loss_of(raws, torch.arange(4)) for raws in track.candidates()]
    assert track.best is track.chosen and track.best.loss == min(losses) and len(set(losses)) == 3
    if batch_size == 35:
        candidates = [loss_of_all(chunks, track.columns.split(raws), chain) for raws in track.candidates()]
        assert losses == pytest.approx(candidates, rel=1e-5)
        assert track.best.loss == pytest.approx(loss_of_all(chunks, track.best.raws, chain), rel=1e-5)


def test_the_average_is_of_all_steps_and_of_the_newest_most() -> None:
    track = TrackState(build(CHAIN, SR), recorded(3), step_chunks=1)
    rows = torch.randn(5, len(track.average), generator=torch.Generator().manual_seed(0))
    for row in rows:
        track.record(1.0, row)
    parts = torch.tensor([1.0, 4.0, 10.0, 20.0, 35.0])  # binomial coefficients, (k + η - 1 choose η) of step k
    torch.testing.assert_close(track.average, (parts[:, None] * rows).sum(0) / parts.sum())


def test_the_best_before_the_end_is_the_step_after_those_of_the_lowest_mean_loss() -> None:
    track = TrackState(build(CHAIN, SR), recorded(3), step_chunks=1)
    losses = [0.1, *[2.0] * RECENT, *[1.0] * RECENT, *[0.5, 3.0] * 5]
    for k, loss in enumerate(losses):
        track.record(loss, torch.full_like(track.average, k))
    lowest = 2 * RECENT + 1  # the first after which the mean has a loss of 0.5 among those of 1
    assert track.best.loss == pytest.approx(1 - 0.5 / RECENT)
    assert all((raw == lowest).all() for raw in track.best.raws.values())


@pytest.mark.parametrize("stop", [3, 5], ids=["interrupted", "extended"])
def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = fit_of(recorded(4), epochs=5)
    expected = ended(whole)
    first = fit_of(recorded(4), epochs=5 if stop == 3 else 3)
    run(first, ignore, ignore, StopAfter(stop))
    assert (first.tracks[0].chosen is None) == (stop == 3)
    write_tensors(tmp_path / "state.ckpt", first.tracks[0].state_dict())
    again = fit_of(recorded(4), epochs=5, seed=9)
    again.tracks[0].load_state_dict(read_tensors(tmp_path / "state.ckpt"))
    assert again.tracks[0].step_count < 5 and again.tracks[0].chosen is None
    second = Fit(again.chain, again.tracks, again.loss, lr=0.05)
    reached = ended(second)
    assert reached.losses == expected.losses and reached.best.loss == expected.best.loss
    assert equal(raws_of(second), raws_of(whole)) and equal(reached.best.raws, expected.best.raws)
    assert torch.equal(reached.average, expected.average) and equal(reached.lowest.raws, expected.lowest.raws)


def test_a_fit_that_was_killed_before_its_choice_makes_it_when_it_is_resumed(tmp_path: Path) -> None:
    whole = fit_of(recorded(4))
    expected = ended(whole)
    stopped = fit_of(recorded(4))
    for _ in range(4):
        stopped.step()
        stopped.read_reports(0)
    stopped.write_back()
    write_tensors(tmp_path / "state.ckpt", stopped.tracks[0].state_dict())
    (again,) = fit_of(recorded(4)).tracks
    again.load_state_dict(read_tensors(tmp_path / "state.ckpt"))
    assert again.has_ended and again.lacks_choice
    budget = Budget(torch.device("cpu"), 35, 1 << 40)
    ends = []
    ours = {"on_step": ignore, "on_pause": ignore, "on_fault": ignore, "stopped": never}

    def make(tracks: list[TrackState]) -> Fit:
        return Fit(whole.chain, tracks, whole.loss, lr=0.05)

    fit_all([again], make, budget, on_end=lambda track, why: ends.append(why), **ours)
    assert ends == [None] and again.chosen and again.best.loss == expected.best.loss
    assert equal(again.best.raws, expected.best.raws)


def test_tracks_of_few_chunks_fitted_together_reach_what_each_reaches_alone() -> None:
    songs = [replace(c, dry=c.dry.double(), wet=c.wet.double()) for c in (recorded(1), recorded(4), loud(recorded(3)))]
    together = fit_of(*songs, lr=0.01)
    ended(together)
    for track, chunks in zip(together.tracks, songs, strict=True):
        alone = ended(fit_of(chunks, lr=0.01))
        assert track.losses == pytest.approx(alone.losses, rel=1e-6)
        assert track.best.loss == pytest.approx(alone.best.loss, rel=1e-6)
    assert [track.chosen is None for track in together.tracks] == [True, False, False]


def test_what_is_not_finite_over_all_chunks_is_not_chosen() -> None:
    fit = fit_of(recorded(3))
    track = ended(fit)
    track.chosen, track.average = None, torch.full_like(track.average, torch.nan)
    fit.choose()
    assert track.best.loss < float("inf") and all(raw.isfinite().all() for raw in track.best.raws.values())
