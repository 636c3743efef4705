"""Fits of several pairs with the same settings: their run folders, their outcomes, and the observers of their steps."""

from reknob.runtime.program import explain, reason

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from reknob.data.audio import duration
from reknob.data.pair_files import PairFiles
from reknob.fitting.batch import fit_all
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.order import by_order
from reknob.fitting.recipe import Recipe
from reknob.fitting.run_folder import RunFolder, check_resumable, write_error
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output_folder
from reknob.runtime.interrupt import Interrupted
from reknob.runtime.locks import FolderLock
from reknob.runtime.output import counted

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """How the fit of a song ended."""

    FITTED = "fitted"
    DONE_BEFORE = "done before"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    NOT_BEGUN = "not begun"


@dataclass(eq=False)
class Song:
    """A pair of a session."""

    log_dir: Path
    files: PairFiles
    outcome: Outcome = Outcome.NOT_BEGUN
    reason: str = ""  # one line: the error, or the run that was done before
    is_fault: bool = False  # whether the error is a fault of the project, not of the input or the machine
    run: RunFolder | None = None  # between `begin` and `end`
    lock: FolderLock | None = None  # of its runs, while they may be written

    @property
    def open_run(self) -> RunFolder:
        """Its run folder, between `begin` and `end`."""
        assert self.run is not None
        return self.run

    def fail(self, reason: str, *, is_fault: bool = False) -> None:
        """Records a failure; only the first one counts."""
        if self.outcome is not Outcome.FAILED:
            self.outcome, self.reason, self.is_fault = Outcome.FAILED, reason, is_fault

    def unlock(self) -> None:
        """Lets other processes fit it."""
        if self.lock:
            self.lock.release()


class Observer(Protocol):
    """Receives the events of a session. If it raises, the error is logged and the fit continues; of that song it then
    receives only `end`. What a subclass does not define does nothing.

    `song.run` is the run folder, with pair and track; None at the end of a song whose fit never began.
    """

    def begin(self, song: Song) -> None:
        """A fit begins, or an earlier run is resumed."""

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """A step was taken; `terms` are the loss and its terms at the parameters that it started from."""

    def pause(self, song: Song) -> None:
        """From time to time: the track was updated and its checkpoint written."""

    def end(self, song: Song) -> None:
        """A song has its outcome, and its run folder, if any, is complete."""


class Session:
    """Fits of several pairs.

    It writes the run folders itself: a song whose files cannot be written has failed. Progress bars and the like are
    observers.

    Args:
        settings: see `Recipe`; UsageError where they do not fit together.
        observers: receive the events, in this order.
    """

    def __init__(self, settings: FitSettings, observers: Sequence[Observer] = ()) -> None:
        self.recipe, self.observers = Recipe(settings), observers
        self.songs: list[Song] = []
        self._of: dict[TrackState, Song] = {}
        self._silent: set[tuple[Observer, Song]] = set()
        self._stopped: Callable[[], bool] = lambda: False

    def fit(self, pairs: Sequence[tuple[Path, PairFiles]], stopped: Callable[[], bool]) -> list[Song]:
        """Fits pairs, each given with the folder for its runs, until `stopped()`. A failure of one ends no other.

        Returns the songs with their outcomes, sorted by length.
        """
        # Tracks of similar length are neighbours, so that they share steps with little padding.
        self.songs = [Song(*pair) for pair in sorted(pairs, key=lambda pair: _length(pair[1]))]
        self._stopped = stopped
        # Tracks of one fit share a chain, and with it the order of its effects.
        for recipe, songs in by_order(self.recipe, self.songs, self._resumed, stopped):
            self.recipe = recipe
            fit_all(
                self._tracks(songs),
                recipe.fit,
                recipe.budget(),
                on_step=self._on_step,
                on_pause=self._on_pause,
                on_fault=self._on_fault,
                on_end=self._on_end,
                stopped=stopped,
            )
        return self.songs

    def _tracks(self, songs: Sequence[Song]) -> Iterator[TrackState]:
        """The songs to fit, loaded one by one."""
        for song in songs:
            if self._stopped():
                return
            try:
                self._open(song)
            except Interrupted:
                log.info("%s: stopped before its fit began", song.files.name)
            except Exception as error:
                self._failed(song, error, song.log_dir / song.files.name)
            if song.run is None:
                song.unlock()
                runs.remove_if_empty(song.log_dir, song.files.name)
                self._notify("end", song)
                continue
            self._of[song.run.track] = song
            self._notify("begin", song)
            yield song.run.track

    def _open(self, song: Song) -> None:
        """Loads a song into a run folder, new or of the run to resume, unless a run has all its epochs."""
        recipe, files = self.recipe, song.files
        if self._done_before(song):
            return
        # Before the recordings are read, which takes a while.
        check_output_folder(song.log_dir, f"log_dir={song.log_dir}")
        pair = recipe.load(files)
        song.lock = runs.lock_song(song.log_dir, files.name, files.wet_path)
        # Once more, as another process may have fitted it meanwhile.
        if self._done_before(song):
            return
        newest = self._resumed(song)
        track = recipe.track(pair, resumed=newest is not None, stopped=self._stopped)
        song.run = RunFolder.open(song.log_dir, newest, pair, track, recipe)
        song.outcome = Outcome.INTERRUPTED  # until it ends

    def _done_before(self, song: Song) -> bool:
        """Whether an earlier run has all epochs; UsageError where it cannot be resumed with these settings."""
        newest = self._resumed(song)
        if newest and runs.has_ended(newest, self.recipe.epochs) and not self.recipe.lacks_pruning(newest):
            steps, name = runs.step_count(newest), song.files.name
            song.outcome = Outcome.DONE_BEFORE
            song.reason = f"{name}: has {counted(steps, 'epoch')} in {newest}; resume=false begins anew"
            return True
        if newest:
            check_resumable(newest, self.recipe)
        return False

    def _resumed(self, song: Song) -> Path | None:
        """The run of a song that is resumed, if any."""
        return runs.newest_run(song.log_dir, song.files.name, song.files.wet_path) if self.recipe.resumes else None

    def _on_step(self, fit: Fit, track: TrackState, terms: Terms) -> None:
        self._notify("step", self._of[track], fit, terms)

    def _on_pause(self, tracks: Sequence[TrackState]) -> None:
        for track in tracks:
            song = self._of[track]
            try:
                song.open_run.save()
            except Exception as error:
                track.error = self._failed(song, error, song.open_run.path)
            else:
                self._notify("pause", song)

    def _on_fault(self, track: TrackState, error: Exception) -> str:
        """Records the error of a step; the reason for the record."""
        song = self._of[track]
        return self._failed(song, error, song.open_run.path, f"step {track.step_count}: ")

    def _on_end(self, track: TrackState, why: str | None) -> None:
        song = self._of.pop(track)
        if track.error:
            song.fail(f"{song.files.name}: {track.error}")
        try:
            song.open_run.close("error" if track.error else why, self._stopped)
        except Exception as error:
            state = why or "fitted"
            self._failed(song, error, song.open_run.path, f"{state}, but {song.open_run.path} is not whole: ")
        if song.outcome is not Outcome.FAILED and not why:
            song.outcome = Outcome.FITTED
        song.unlock()
        self._notify("end", song)
        self._silent -= {(observer, song) for observer in self.observers}
        song.run = None  # and with it the recordings

    def _failed(self, song: Song, error: Exception, folder: Path, place: str = "") -> str:
        """Records the first error of a song, which ends it, and its traceback in the folder; the reason in one line."""
        log.debug("%s", song.files.name, exc_info=error)
        if song.outcome is Outcome.FAILED:
            return song.reason
        line = explain(error)
        why = place + (line or f"internal error: {reason(error)}")
        if isinstance(error, UsageError):
            song.fail(f"{song.files.name}: {why}" if place else why)
            return why
        log_file = write_error(folder, error)
        why += f"; the traceback is in {log_file}" if log_file else ""
        song.fail(f"{song.files.name}: {why}", is_fault=line is None)
        return why

    def _notify(self, event: str, song: Song, *details: object) -> None:
        """Calls a method of all observers; one that raises gets no more events of this song but its end."""
        for observer in self.observers:
            silent = (observer, song) in self._silent
            if silent and event != "end":
                continue
            try:
                getattr(observer, event)(song, *details)
            except Exception as error:
                self._silent.add((observer, song))
                if not silent:
                    name, why = type(observer).__name__, reason(error)
                    log.warning("%s: %s fails and is left out, the fit goes on: %s", song.files.name, name, why)


def _length(files: PairFiles) -> float:
    """Length of a pair in s; 0 where its file cannot be read, which loading it will report."""
    with contextlib.suppress(Exception):
        return duration(files.wet_path)
    return 0.0
