"""Many tracks: packed into the memory there is, halved where it runs out, each with an end of its own."""

from collections.abc import Sequence

import pytest
import torch
from test_fit import CHAIN, SR, recorded

from reknob.afx.registry import build
from reknob.fitting import batch
from reknob.fitting.batch import Budget, fit_all
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss

CPU = torch.device("cpu")


class Log:
    """Fits tracks on a stage where only so many chunks of a step find room, and notes what happens."""

    def __init__(
        self,
        tracks: Sequence[TrackState],
        room: int | None = None,
        stop_after: int | None = None,
        batch_size: int = 35,
    ) -> None:
        self.tracks, self.room, self.stop_after, self.batch_size = tracks, room, stop_after, batch_size
        self.sizes: list[int] = []
        self.ended: dict[TrackState, str | None] = {}
        self.saved: set[TrackState] = set()
        self.faults: list[tuple[TrackState, type[Exception]]] = []
        self.steps = 0

    def make(self, tracks: Sequence[TrackState]) -> Fit:
        self.sizes.append(len(tracks))
        fit = Fit(build(CHAIN, SR), tracks, VocalLoss(SR), lr=0.05, batch_size=self.batch_size)
        evaluate = fit._evaluate

        def crowded(*standing: torch.Tensor) -> tuple:
            if self.room and fit.shares.numel() > self.room:
                raise torch.OutOfMemoryError("no room")
            return evaluate(*standing)

        fit._evaluate = crowded
        return fit

    def on_step(self, fit: Fit, track: TrackState, terms: Terms) -> None:
        self.steps += 1

    def on_fault(self, track: TrackState, error: Exception) -> str:
        self.faults.append((track, type(error)))
        return f"broken: {error}"

    def run(self, budget: Budget) -> None:
        fit_all(
            iter(self.tracks),
            self.make,
            budget,
            on_step=self.on_step,
            on_pause=self.saved.update,
            on_fault=self.on_fault,
            on_end=self.ended.__setitem__,
            stopped=lambda: self.stop_after is not None and self.steps >= self.stop_after,
        )


def tracks_of(*counts: int, epochs: int = 3) -> list[TrackState]:
    chain = build(CHAIN, SR)
    return [TrackState(chain, recorded(count), epochs=epochs, seed=seed) for seed, count in enumerate(counts)]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that are recorded for the steps: 100 for each chunk."""
    taken = []
    record = Budget.record

    def recording(budget: Budget, tracks: Sequence[TrackState], measured: int) -> None:
        assert measured >= 0
        taken.append(100 * budget._size(tracks))
        record(budget, tracks, taken[-1])

    monkeypatch.setattr(batch, "LEAST", 0)
    monkeypatch.setattr(Budget, "record", recording)
    return taken


def losses_alone(track: TrackState, **options: object) -> list[float]:
    alone = TrackState(build(CHAIN, SR), track.chunks, epochs=track.epochs, seed=track.generator.initial_seed())
    Log([alone]).run(Budget(CPU, 35))
    return alone.losses


def test_the_first_step_is_measured_and_the_rest_packed_into_what_is_allowed(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, 1, 1))
    log.run(Budget(CPU, 35, limit_bytes=300))
    # The one that was measured is a step ahead, and ends first.
    assert log.sizes == [1, 3, 3, 2, 1]
    assert list(log.ended.values()) == [None] * 5 and max(memory) == 300
    for track in log.tracks:
        assert track.losses == pytest.approx(losses_alone(track), rel=1e-5)


def test_a_single_track_is_not_measured_first() -> None:
    log = Log(tracks_of(2))
    log.run(Budget(CPU, 35))
    assert log.sizes == [1] and log.steps == 3


def test_tracks_of_very_different_lengths_do_not_share_a_step(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 4, 4))
    log.run(Budget(CPU, 35, limit_bytes=10_000))
    assert log.sizes == [1, 2, 1, 2], "filling the short ones up would cost more than it saves"


def test_what_finds_no_room_is_halved_and_goes_on_from_where_it_was(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, 1, 1, 1), room=2)
    log.run(Budget(CPU, 35, limit_bytes=100_000))
    assert log.sizes[:3] == [1, 6, 3] and max(log.sizes[3:]) == 1, "the largest that is known to fit"
    assert list(log.ended.values()) == [None] * 6
    assert all(track.step_count == 3 for track in log.tracks)
    for track in log.tracks:
        assert track.losses == pytest.approx(losses_alone(track), rel=1e-5)


def test_a_track_that_finds_no_room_alone_fails_and_the_others_go_on(memory: list[int]) -> None:
    log = Log(tracks_of(4, 1, 1), room=2)
    log.run(Budget(CPU, 35, limit_bytes=100_000))
    large, *small = log.tracks
    assert log.ended[large] == "out of memory with this track alone; lower batch_size or chunk_duration"
    assert [log.ended[track] for track in small] == [None, None]


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(batch, "run", broken)
    log = Log(tracks_of(1))
    log.run(Budget(CPU, 35))
    assert list(log.ended.values()) == ["broken: shapes do not match"] and log.faults == [(log.tracks[0], RuntimeError)]


@pytest.mark.parametrize("at", [0, 1], ids=["first step", "later step"])
def test_a_track_whose_step_raises_ends_alone_and_the_others_reach_what_they_reach_alone(
    memory: list[int], at: int
) -> None:
    log = Log(tracks_of(1, 1, 1, 1))
    culprit = log.tracks[2]
    make = log.make

    def breaking(tracks: Sequence[TrackState]) -> Fit:
        fit = make(tracks)
        take = fit._step

        def step() -> None:
            if culprit in tracks and culprit.step_count + fit.unread >= at:
                raise RuntimeError("no such filter")
            take()

        fit._step = step
        return fit

    log.make = breaking
    log.run(Budget(CPU, 35, limit_bytes=100_000))
    assert log.faults == [(culprit, RuntimeError)] and log.ended[culprit] == "broken: no such filter"
    others = [track for track in log.tracks if track is not culprit]
    assert [log.ended[track] for track in others] == [None] * 3 and culprit.step_count == at
    for track in others:
        assert track.losses == pytest.approx(losses_alone(track), rel=1e-5)


def test_tracks_that_break_only_together_go_on_apart(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, 1))
    make = log.make

    def breaking(tracks: Sequence[TrackState]) -> Fit:
        if len(tracks) > 2:
            raise ValueError("too many rows")
        return make(tracks)

    log.make = breaking
    log.run(Budget(CPU, 35, limit_bytes=100_000))
    assert log.faults == [] and list(log.ended.values()) == [None] * 4 and max(log.sizes) == 2


def test_what_is_stopped_tells_so_of_every_track_that_was_begun(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, 1, 1), stop_after=4)
    log.run(Budget(CPU, 35, limit_bytes=300))
    begun = [track for track in log.tracks if track in log.ended]
    assert set(log.ended.values()) == {"interrupted"}
    assert [track.step_count for track in begun] == [2, 1, 1, 0], "the last was looked at ahead"


def test_tracks_put_back_for_want_of_room_are_told_of_too(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, 1, epochs=9), room=2, stop_after=3)
    log.run(Budget(CPU, 35, limit_bytes=100_000))
    assert set(log.ended) == set(log.tracks) == log.saved


def test_what_breaks_the_program_finds_every_track_saved_where_it_stood(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1, 1, epochs=9))

    def second_ctrl_c(fit: Fit, track: TrackState, terms: Terms) -> None:
        log.steps += 1
        if log.steps == 5:
            raise KeyboardInterrupt

    log.on_step = second_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        log.run(Budget(CPU, 35, limit_bytes=100_000))
    assert log.saved == set(log.tracks)
    assert all(track.state.steps.item() == track.step_count > 0 for track in log.tracks)


def test_a_step_that_found_no_room_has_drawn_nothing(memory: list[int]) -> None:
    log = Log(tracks_of(3, 3), room=1, batch_size=1)
    log.run(Budget(CPU, 1, limit_bytes=100_000))
    assert list(log.ended.values()) == [None] * 2 and 2 in log.sizes
    for track in log.tracks:
        alone = TrackState(build(CHAIN, SR), track.chunks, epochs=3, seed=track.generator.initial_seed())
        Log([alone], batch_size=1).run(Budget(CPU, 1))
        assert track.losses == pytest.approx(alone.losses, rel=1e-5)


def test_tracks_that_must_not_share_a_step_do_not(memory: list[int]) -> None:
    log = Log(tracks_of(1, 1))
    log.run(Budget(CPU, 35, limit_bytes=100_000, shared=False))
    assert max(log.sizes) == 1 and list(log.ended.values()) == [None] * 2


def test_the_budget_is_a_share_of_what_is_free() -> None:
    assert 0 < Budget(CPU, 35).limit < 2**45


def test_a_chunk_never_counts_for_less_than_a_multiple_of_its_audio() -> None:
    (track,) = tracks_of(2)
    budget, least = Budget(CPU, 35, limit_bytes=10**9), batch.LEAST * 3 * 4 * round(1.3 * SR)
    budget.record([track], 0)
    assert budget.chunks == 10**9 // least
    budget.record([track], 20 * least)
    assert budget.chunks == 10**9 // (10 * least)


def test_an_earlier_peak_of_the_process_does_not_count_for_nothing() -> None:
    torch.ones(2**27)  # half a GB, freed
    log = Log(tracks_of(1, 1))
    budget = Budget(CPU, 35, limit_bytes=10**9)
    log.run(budget)
    assert budget.peak > 3 * 4 * round(1.3 * SR), "more than the audio alone"
    assert budget.chunks < 1000
