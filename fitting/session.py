"""Fits of several pairs with the same settings: who follows them, and what becomes of each."""

from reknob.runtime.program import explain, one_line

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
from reknob.fitting.recipe import Recipe
from reknob.fitting.run_folder import RunFolder, check_resumable, write_error
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a song."""

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
    reason: str = ""  # one line: why it failed, or where it was done before
    is_fault: bool = False  # whether it failed by a fault of the project, not by what the user gave or the machine has
    run: RunFolder | None = None  # from its begin to its end

    def fail(self, reason: str, *, is_fault: bool = False) -> None:
        """Takes note of a failure; the first one counts."""
        if self.outcome is not Outcome.FAILED:
            self.outcome, self.reason, self.is_fault = Outcome.FAILED, reason, is_fault


class Observer(Protocol):
    """What follows a session. An error of it is logged and ends no fit: it then hears no more of that song but its end.

    `song.run` is the run folder, with pair and track, in all but the end of a song that was never begun.
    """

    def begin(self, song: Song) -> None:
        """A fit begins, or goes on where an earlier run stopped."""

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """A step was taken; `terms` are those before it."""

    def pause(self, song: Song) -> None:
        """Now and then: the track is up to date and its checkpoint written."""

    def end(self, song: Song) -> None:
        """A song has ended as its outcome says, its run folder being written; or was done before, or failed early."""


class Session:
    """Fits of several pairs.

    The run folders are kept here: a song whose files cannot be written has failed. Everything else that wants to know
    of a fit is an observer.

    Args:
        settings: see `Recipe`; UsageError where they do not fit together.
        observers: what follows the fits, in the order in which they are told.
    """

    def __init__(self, settings: FitSettings, observers: Sequence[Observer] = ()) -> None:
        self.recipe, self.observers = Recipe(settings), observers
        self.songs: list[Song] = []
        self._of: dict[TrackState, Song] = {}
        self._silent: set[tuple[Observer, Song]] = set()

    def fit(self, pairs: Sequence[tuple[Path, PairFiles]], stopped: Callable[[], bool]) -> list[Song]:
        """Fits all pairs; their runs go to the folders before them. No failure of one ends another."""
        # Tracks of one length lie together, so that they share steps.
        self.songs = [Song(*pair) for pair in sorted(pairs, key=lambda pair: _length(pair[1]))]
        fit_all(
            self._tracks(stopped),
            self.recipe.fit,
            self.recipe.budget(),
            on_step=self._on_step,
            on_pause=self._on_pause,
            on_fault=self._on_fault,
            on_end=self._on_end,
            stopped=stopped,
        )
        return self.songs

    def _tracks(self, stopped: Callable[[], bool]) -> Iterator[TrackState]:
        """The songs that are to be fitted, loaded one by one."""
        for song in self.songs:
            if stopped():
                return
            try:
                self._open(song)
            except Exception as error:
                self._failed(song, error, song.log_dir / song.files.name)
            if song.run is None:
                self._tell("end", song)
                continue
            self._of[song.run.track] = song
            self._tell("begin", song)
            yield song.run.track

    def _open(self, song: Song) -> None:
        """Loads a song into its run folder, new or as an interrupted run left it, unless a run has its epochs."""
        recipe, files = self.recipe, song.files
        newest = runs.newest_run(song.log_dir, files.name, files.wet_path) if recipe.resumes else None
        if newest and runs.has_ended(newest, recipe.epochs):
            song.outcome = Outcome.DONE_BEFORE
            song.reason = f"{files.name}: has {runs.step_count(newest)} epochs in {newest}; resume=false begins anew"
            return
        if newest:
            check_resumable(newest, recipe)
        pair = recipe.load(files)
        song.run = RunFolder.open(song.log_dir, newest, pair, recipe.track(pair), recipe)
        song.outcome = Outcome.INTERRUPTED  # until it ends

    def _on_step(self, fit: Fit, track: TrackState, terms: Terms) -> None:
        self._tell("step", self._of[track], fit, terms)

    def _on_pause(self, tracks: Sequence[TrackState]) -> None:
        for track in tracks:
            song = self._of[track]
            try:
                song.run.save()
            except Exception as error:
                track.error = self._failed(song, error, song.run.path)
            else:
                self._tell("pause", song)

    def _on_fault(self, track: TrackState, error: Exception) -> str:
        """Why a track ends whose step raised."""
        song = self._of[track]
        return self._failed(song, error, song.run.path, f"step {track.step_count}: ")

    def _on_end(self, track: TrackState, why: str | None) -> None:
        song = self._of.pop(track)
        if track.error:
            song.fail(f"{song.files.name}: {track.error}")
        try:
            song.run.close("error" if track.error else why)
        except Exception as error:
            state = why or "fitted"
            self._failed(song, error, song.run.path, f"{state}, but {song.run.path} is not whole: ")
        if song.outcome is not Outcome.FAILED and not why:
            song.outcome = Outcome.FITTED
        self._tell("end", song)
        self._silent -= {(observer, song) for observer in self.observers}
        song.run = None  # and with it the recordings

    def _failed(self, song: Song, error: Exception, folder: Path, place: str = "") -> str:
        """Takes note of a song's first error, which ends it, with its traceback in the folder; the reason."""
        log.debug("%s", song.files.name, exc_info=error)
        if song.outcome is Outcome.FAILED:
            return song.reason
        line = explain(error)
        reason = place + (line or f"internal error: {one_line(f'{type(error).__name__}: {error}')}")
        if isinstance(error, UsageError):
            song.fail(f"{song.files.name}: {reason}" if place else reason)
            return reason
        kept = write_error(folder, error)
        reason += f"; the traceback is in {kept}" if kept else ""
        song.fail(f"{song.files.name}: {reason}", is_fault=line is None)
        return reason

    def _tell(self, event: str, song: Song, *details: object) -> None:
        """Calls a method of all observers; one that raises is told no more of this song but its end."""
        for observer in self.observers:
            silent = (observer, song) in self._silent
            if silent and event != "end":
                continue
            try:
                getattr(observer, event)(song, *details)
            except Exception as error:
                self._silent.add((observer, song))
                if not silent:
                    reason = explain(error) or one_line(f"{type(error).__name__}: {error}")
                    name = type(observer).__name__
                    log.warning("%s: %s fails and is left out, the fit goes on: %s", song.files.name, name, reason)


def _length(files: PairFiles) -> float:
    """Length of a pair in s; 0 where its file does not tell it, which loading it then says."""
    with contextlib.suppress(Exception):
        return duration(files.wet_path)
    return 0.0
