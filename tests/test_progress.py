"""The time that a fit will take, told once after its first steps."""

from types import SimpleNamespace

import pytest
import torch

from reknob.report import progress
from reknob.report.progress import Pace, Progress, estimate


class StandIn(SimpleNamespace):
    """A fit, which can be referred to weakly."""


def fit_of(*steps: int, epochs: int = 400, choice_steps: float = 0.0) -> StandIn:
    chunks = SimpleNamespace(dry=torch.zeros(2, 1, 8))
    tracks = [SimpleNamespace(step_count=step, epochs=epochs, chunks=chunks) for step in steps]
    return StandIn(tracks=tracks, choice_steps=choice_steps)


def test_the_first_step_is_left_out_and_the_time_is_told_once_after_some_steps_and_seconds() -> None:
    pace = Pace(fit_of(0))
    ends = [60.0, 60.5, 61.0, 61.5, 62.0, 62.5, 63.0, 63.5]
    told = [pace.step(now) for now in ends]
    assert told == [None] * 6 + [0.5, None], "3 s of steps are the seventh's end"
    slow = Pace(fit_of(0))
    assert [slow.step(now) for now in (60.0, 70.0, 80.0, 90.0)] == [None, None, None, 10.0]


@pytest.mark.parametrize(
    ("fit", "each", "songs", "expected"),
    [
        (fit_of(4), 0.61, 0, "about 4 min for 396 more steps (0.61 s each)"),
        (fit_of(4, choice_steps=200), 0.61, 0, "about 6 min for 396 more steps (0.61 s each)"),
        (fit_of(300), 0.25, 1, "about 25 s for 100 more steps (0.25 s each); then 1 more song"),
        (
            fit_of(4, 4, 9),
            25.0,
            9,
            "about 2 h 43 min for 391 more steps of 3 songs together (25 s each); then 9 more songs",
        ),
    ],
)
def test_the_time_is_that_of_the_songs_that_are_fitted_together(
    fit: StandIn, each: float, songs: int, expected: str
) -> None:
    assert estimate(fit, each, songs) == expected


def test_a_session_tells_the_time_of_every_fit_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 2.0 * next(clock)))
    monkeypatch.setattr(progress.kernels, "compiled", lambda: True)
    with Progress(3, 400) as bar:
        for fit in (fit_of(0, 0), fit_of(0)):
            songs = [
                SimpleNamespace(open_run=run, run=run)
                for track in fit.tracks
                for run in [
                    SimpleNamespace(
                        track=track, pair=SimpleNamespace(name="a", sr=8), device=torch.device("cpu"), path="run_0"
                    )
                ]
            ]
            for song in songs:
                bar.begin(song)
            for _ in range(8):
                for song in songs:
                    song.run.track.step_count += 1
                    bar.step(song, fit, {"loss": 1.0})
            bar._ended += len(songs)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("about")]
    assert lines == [
        "about 13 min for 396 more steps of 2 songs together (2 s each); then 1 more song",
        "about 13 min for 396 more steps (2 s each)",
    ]
