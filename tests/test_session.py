"""A session: what observers are told, that no song's failure ends another, and that the counts add up."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from takes import SR, mixed, take

import main
from reknob.data.audio import write_audio
from reknob.data.pair_files import PairFiles, find_songs
from reknob.fitting import fit, recipe, run_folder
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.run_folder import RunFolder
from reknob.fitting.session import Outcome, Session, Song
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.report.board import TensorBoardWriter
from reknob.report.progress import Progress, summary
from reknob.runtime.files import read_json, read_tensors
from reknob.runtime.settings import read_yaml

TINY = ["model=null", "chain.peak.effect=peak", "chain.pan.effect=panning", "chunk_duration=1.2", "chunk_overlap=0.1"]
QUICK = [*TINY, "epochs=2", "align=false", "check_pair=false", "device=cpu"]
EVENTS = ["begin", "step", "step", "end"]


class Recorder:
    """An observer that notes what it is told, and raises where it is to."""

    def __init__(self, raises_at: str = "") -> None:
        self.raises_at = raises_at
        self.told: dict[str, list[str]] = {}
        self.ended: dict[str, Outcome] = {}

    def _note(self, event: str, song: Song) -> None:
        self.told.setdefault(song.files.name, []).append(event)
        if event == self.raises_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def begin(self, song: Song) -> None:
        self._note("begin", song)

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        assert terms["loss"] > 0 and song.run.track in fit.tracks
        self._note("step", song)

    def pause(self, song: Song) -> None:
        assert read_tensors(song.run.path / "checkpoint.ckpt")["global_step"] == song.run.track.step_count
        self._note("pause", song)

    def end(self, song: Song) -> None:
        self.ended[song.files.name] = song.outcome
        self._note("end", song)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Three pairs a, b and c, of 1.4 s each, and how to fit them in a moment."""
    for name in "abc":
        write_audio(tmp_path / "pairs" / f"{name}_dry.wav", take(1.4), SR)
        write_audio(tmp_path / "pairs" / f"{name}_wet.wav", mixed(take(1.4)), SR)
    return [f"data_dir={tmp_path / 'pairs'}", f"log_dir={tmp_path / 'logs'}", *QUICK]


def never() -> bool:
    return False


def session_of(arguments: list[str], *observers: object, stopped: Callable[[], bool] = never) -> dict[str, Song]:
    """The songs of a session, by name, after it."""
    settings = main.read_settings(arguments)
    paths = settings.dataset, settings.data_dir, settings.dry, settings.wet
    found, _, _ = find_songs(Path(settings.log_dir), *paths)
    pairs = [(log_dir, files) for log_dir, group in found.items() for files in group]
    return {song.files.name: song for song in Session(settings, observers).fit(pairs, stopped)}


def outcomes(songs: dict[str, Song]) -> dict[str, str]:
    return {name: str(song.outcome) for name, song in sorted(songs.items())}


def break_b(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: BaseException) -> None:
    """Lets a function raise where an argument of it names or is pair b."""
    function = getattr(owner, name)

    def breaking(*arguments: object, **options: object) -> object:
        if any("b_wet" in str(a) or "/b/" in str(getattr(a, "path", a)) for a in arguments):
            raise error
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, breaking)


def test_observers_are_told_of_begin_steps_and_end_of_every_song(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "PAUSE_EVERY_S", 1e9)
    recorder = Recorder()
    songs = session_of(arguments, recorder)
    told = {name: [event for event in events if event != "pause"] for name, events in recorder.told.items()}
    assert told == {name: EVENTS for name in "abc"}
    assert recorder.ended == {name: Outcome.FITTED for name in "abc"}
    assert all(song.run is None for song in songs.values()), "what has ended holds no recording"


@pytest.mark.parametrize("event", ["begin", "step", "pause", "end"])
def test_an_observer_that_raises_ends_no_fit_and_is_told_once(
    arguments: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    monkeypatch.setattr(fit, "PAUSE_EVERY_S", 0)
    broken, other = Recorder(event), Recorder()
    with caplog.at_level(logging.WARNING):
        songs = session_of(arguments, broken, other)
    assert set(outcomes(songs).values()) == {"fitted"}
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 3
    assert "b: Recorder fails and is left out, the fit goes on: No space left on device" in warnings
    for events in broken.told.values():
        assert events[-1] == "end" and events.count(event) == 1
    assert all(events.count("step") == 2 for events in other.told.values())


ERRORS = [RuntimeError("no kernel"), OSError(errno.EIO, "Input/output error"), MemoryError(), KeyError("x")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pair_that_cannot_be_loaded_fails_with_its_log_and_the_others_are_fitted(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    break_b(monkeypatch, recipe, "load_pair", error)
    # What the machine refuses is told as a mistake is; the rest is the project's fault.
    assert main.main(arguments) == (2 if isinstance(error, (OSError, MemoryError)) else 1)
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("main.py: ")]
    kept = tmp_path / "logs" / "b" / "error.log"
    assert line.startswith("main.py: b: ") and line.endswith(f"; the traceback is in {kept}")
    assert type(error).__name__ in kept.read_text() and "load_pair" in kept.read_text()
    assert f"failed: {line.removeprefix('main.py: ')}" in out, "told when it happens, too"
    assert out.endswith("2 fitted, 0 done before, 1 failed\n")
    assert read_json(tmp_path / "logs" / "c" / "run_0" / "meta.json")["terminated_by"] is None


def test_a_step_that_raises_ends_its_own_song_alone(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[TrackState] = []
    track, draw = recipe.Recipe.track, TrackState.draw

    def begun(self: recipe.Recipe, pair: object, **options: bool) -> TrackState:
        made = track(self, pair, **options)
        chosen.extend([made] if pair.name == "b" else [])
        return made

    def drawn(self: TrackState, most: int) -> torch.Tensor:
        if self in chosen:
            raise RuntimeError("no such chunk")
        return draw(self, most)

    monkeypatch.setattr(recipe.Recipe, "track", begun)
    monkeypatch.setattr(TrackState, "draw", drawn)
    break_b(monkeypatch, runs, "finish", RuntimeError("a later failure does not hide the first"))
    songs = session_of(arguments)
    assert outcomes(songs) == {"a": "fitted", "b": "failed", "c": "fitted"}
    kept = tmp_path / "logs" / "b" / "run_0" / "error.log"
    reason = f"b: step 0: internal error: RuntimeError: no such chunk; the traceback is in {kept}"
    assert songs["b"].reason == reason and songs["b"].is_fault
    assert "RuntimeError: no such chunk" in kept.read_text()


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced by a file"])
def test_a_run_folder_that_vanishes_fails_its_song_alone(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    monkeypatch.setattr(fit, "PAUSE_EVERY_S", 0)
    lost = tmp_path / "logs" / "b"

    class Vandal(Recorder):
        def step(self, song: Song, *rest: object) -> None:
            if song.files.name == "b" and lost.is_dir():
                shutil.rmtree(lost)
                if replaced:
                    lost.touch()

    songs = session_of(arguments, Vandal())
    assert outcomes(songs) == {"a": "fitted", "b": "failed", "c": "fitted"}
    assert songs["b"].reason.startswith(f"b: {lost}/run_0/") and not songs["b"].is_fault
    assert ("Not a directory" if replaced else "No such file or directory") in songs["b"].reason


def test_a_last_write_without_space_is_told_with_its_file_and_what_was_whole_stays(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "logs" / "b" / "run_0" / "dry.flac"))
    with monkeypatch.context() as patch:
        break_b(patch, run_folder, "write_run_audio", full)
        songs = session_of(arguments)
    assert outcomes(songs) == {"a": "fitted", "b": "failed", "c": "fitted"}
    run = tmp_path / "logs" / "b" / "run_0"
    assert songs["b"].reason.startswith(f"b: fitted, but {run} is not whole: {run}/dry.flac: No space left on device")
    assert len(runs.load_checkpoint(run)["losses"]) == 2 and not runs.has_ended(run, 2)
    again = session_of([*arguments, "resume=true"])
    assert outcomes(again) == {"a": "done before", "b": "fitted", "c": "done before"}
    assert (run / "fitted.flac").exists() and runs.has_ended(run, 2)


def test_a_full_disk_at_any_write_names_the_file(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    songs = session_of(arguments)
    assert set(outcomes(songs).values()) == {"failed"}
    # The lock of the song's runs is the first file that is written.
    assert f"{tmp_path / 'logs' / 'a'}: " in songs["a"].reason and "No space left on device" in songs["a"].reason


def test_what_became_of_all_songs_adds_up(arguments: list[str], tmp_path: Path) -> None:
    write_audio(tmp_path / "pairs" / "lonely_dry.wav", take(1.4), SR)
    write_audio(tmp_path / "pairs" / "d_dry.wav", 0 * take(1.4), SR)
    write_audio(tmp_path / "pairs" / "d_wet.wav", mixed(take(1.4)), SR)
    asked = [*arguments, "batch_size=1", "loss.mldr_rows=rolled", "resume=true"]

    class Stop(Recorder):
        steps = 0

        def step(self, *_: object) -> None:
            self.steps += 1

    stop = Stop()
    songs = session_of(asked, stop, stopped=lambda: stop.steps >= 3)
    # One after the other; the third was loaded ahead.
    assert outcomes(songs) == {"a": "fitted", "b": "interrupted", "c": "interrupted", "d": "not begun"}
    line = summary(songs.values(), failed=1, skipped=2)
    assert sum(int(cell.split()[0]) for cell in line.split(", ")) == len(songs) + 3
    songs = session_of(asked)
    assert summary(songs.values(), skipped=1) == "2 fitted, 1 done before, 1 failed, 1 skipped"


def test_the_total_of_the_progress_bar_is_that_of_all_songs_from_the_start() -> None:
    progress = Progress(10, 100)
    track = SimpleNamespace(epochs=100, step_count=30, chunks=SimpleNamespace(dry=torch.zeros(2, 1, SR)), losses=[2.0])
    pair = SimpleNamespace(name="a", sr=SR)
    run = SimpleNamespace(track=track, pair=pair, device=torch.device("cpu"), path="run_0", values={})
    song = SimpleNamespace(files=SimpleNamespace(name="a"), run=run, outcome=Outcome.FAILED, reason="broken")
    song.open_run = run
    early = SimpleNamespace(files=SimpleNamespace(name="b"), run=None, outcome=Outcome.DONE_BEFORE, reason="done")
    with progress:
        progress.end(early)
        progress.begin(song)
        assert progress._bar.total == 900 and progress._bar.n == 30
        progress.end(song)
        assert progress._bar.total == 830, "what a failed song lacks is expected no more"
        progress.end(early)
        assert progress._bar.total == 730
        song.outcome, track.losses = Outcome.INTERRUPTED, []
        progress.end(song)
        assert progress._bar.total == 730, "what was interrupted goes on another time"


def stopped_after(arguments: list[str], steps: int) -> dict[str, Song]:
    """A session stopped after so many steps."""
    taken = []

    class Counter(Recorder):
        def step(self, *_: object) -> None:
            taken.append(1)

    return session_of(arguments, Counter(), stopped=lambda: len(taken) >= steps)


@pytest.fixture
def one(arguments: list[str], tmp_path: Path) -> list[str]:
    """The arguments of pair a alone."""
    pairs = tmp_path / "pairs"
    return [f"dry={pairs / 'a_dry.wav'}", f"wet={pairs / 'a_wet.wav'}", *arguments[1:]]


def test_an_annealed_run_that_has_ended_is_not_extended(one: list[str], tmp_path: Path) -> None:
    annealed = [*one, "optimiser.method=annealed", "resume=true"]
    session_of(annealed)
    run = tmp_path / "logs" / "a_wet" / "run_0"
    (song,) = session_of([*annealed, "epochs=4"]).values()
    assert song.outcome is Outcome.FAILED and not song.is_fault
    assert song.reason == (
        f"{run}: its annealed schedule ended at 2 epochs and cannot be extended; begin anew with resume=false epochs=4"
    )
    assert len(read_json(run / "meta.json")["losses"]) == 2
    (song,) = session_of([*annealed, "epochs=1"]).values()
    assert song.reason == f"a_wet: has 2 epochs in {run}; resume=false begins anew"


def test_an_interrupted_annealed_run_keeps_its_schedule(one: list[str], tmp_path: Path) -> None:
    annealed = [*one, "optimiser.method=annealed", "epochs=4"]
    stopped_after(annealed, 2)
    for epochs in (3, 5):
        (song,) = session_of([*annealed, "resume=true", f"epochs={epochs}"]).values()
        assert song.reason.endswith(
            f"is annealed over 4 epochs; resume with epochs=4, or begin anew with resume=false epochs={epochs}"
        )
    (song,) = session_of([*annealed, "resume=true"]).values()
    assert song.outcome is Outcome.FITTED
    session_of(annealed)
    resumed, whole = (read_json(tmp_path / "logs" / "a_wet" / f"run_{n}" / "meta.json") for n in (0, 1))
    assert len(whole["losses"]) == 4 and resumed["losses"] == whole["losses"]


def test_a_run_of_adam_goes_on_to_more_epochs_bit_for_bit_and_says_so(one: list[str], tmp_path: Path) -> None:
    session_of(one)
    session_of([*one, "epochs=4", "resume=true"])
    session_of([*one, "epochs=4"])
    logs = tmp_path / "logs" / "a_wet"
    extended, whole = (read_tensors(logs / f"run_{n}" / "checkpoint.ckpt") for n in (0, 1))
    assert len(whole["losses"]) == 4 and extended["losses"] == whole["losses"]
    assert all(torch.equal(extended["model"][name], raw) for name, raw in whole["model"].items())
    assert read_yaml(logs / "run_0" / "config.yaml")["epochs"] == 4


def test_tensorboards_thread_never_ends_a_run(
    one: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    with caplog.at_level(logging.WARNING):
        assert main.main(one) == 0
    told = [record.message for record in caplog.records if "TensorBoard" in record.message]
    assert told == ["a_wet: TensorBoardWriter fails and is left out, the fit goes on: No space left on device"]
    assert "Exception in thread" not in capsys.readouterr().err
    assert read_json(tmp_path / "logs" / "a_wet" / "run_0" / "meta.json")["terminated_by"] is None


def test_sound_too_quiet_or_short_for_a_loudness_is_shown_as_it_is(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pair = SimpleNamespace(dry=take(1.4), wet=mixed(take(0.2)), sr=SR)
    track, fitted = SimpleNamespace(step_count=0), 1e-6 * mixed(take(1.4))
    sounds = {"dry": pair.dry, "wet": pair.wet, "fitted": fitted}
    run = SimpleNamespace(path=tmp_path, pair=pair, track=track, fitted=fitted, sounds=sounds, certainty={})
    with TensorBoardWriter() as board:
        board.end(Song(tmp_path, PairFiles(tmp_path, tmp_path, "quiet"), run=run))
    assert accumulator.EventAccumulator(str(tmp_path)).Reload().Tags()["audio"] == ["dry", "wet", "fitted"]


def test_a_run_folder_is_closed_with_its_record_last(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for owner, name in ((runs, "save_checkpoint"), (run_folder, "write_run_audio"), (runs, "finish")):
        function = getattr(owner, name)

        def noting(*rest: object, name: str = name, function: Callable = function) -> object:
            order.append(name)
            return function(*rest)

        monkeypatch.setattr(owner, name, noting)
    recorded = []
    close = RunFolder.close

    def closing(self: RunFolder, *rest: object) -> None:
        order.clear()
        close(self, *rest)
        recorded.append([*order])

    monkeypatch.setattr(RunFolder, "close", closing)
    session_of(arguments)
    assert recorded == [["save_checkpoint", "write_run_audio", "finish"]] * 3
