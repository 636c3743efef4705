"""A task: the fit of one song, or of several of like length together, from plain data, on whatever machine runs it."""

from reknob.runtime.program import explain, reason

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch

from reknob.data.pair_files import PairFiles
from reknob.fitting import session
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Outcome, Session
from reknob.fitting.settings import FitSettings
from reknob.fleet.copies import LocalCopies
from reknob.fleet.songs import Song, State
from reknob.fleet.store import Store
from reknob.runtime import plugins
from reknob.runtime.interrupt import Interrupt

#: A task's file in this folder of the results says which songs it fits, and how far they are.
RUNNING = ".fleet/running"
BEAT_S = {True: 2.0, False: 30.0}  # how often that file is written on a disk, and in a remote store


@dataclass(frozen=True)
class Task:
    """Songs to be fitted by one worker.

    Args:
        songs: at least one.
        results: path or URL of the folder of all runs.
        settings: of the fits, with the whole chain; an interrupted run is always resumed.
        threads: of torch on a CPU; None leaves what the process has.
        together: how many of the songs are fitted in one batch.
    """

    songs: tuple[Song, ...]
    results: str
    settings: FitSettings
    threads: int | None = None
    together: int = 1

    @cached_property
    def key(self) -> str:
        """A name of letters and digits, the same for the same songs."""
        return sha256("\n".join(song.id for song in self.songs).encode()).hexdigest()[:24]


@dataclass
class Result:
    """What became of one song of a task."""

    id: str
    state: State
    reason: str = ""
    is_fault: bool = False  # of the project, not of the input or the machine
    steps: int = 0
    first_loss: float | None = None
    loss: float | None = None  # the lowest
    seconds: float = 0.0  # of the song, or of its group until it ended
    run: str = ""
    worker: str = ""
    was_done: bool = False  # by an earlier fit


def fit(task: Task, stopped: Callable[[], bool] | None = None) -> list[Result]:
    """Fits the songs of a task, and puts their runs into the results; never raises for what is wrong with a song.

    Recordings at URLs are fetched first, and with results at a URL the newest run of each song, so that it is resumed;
    checkpoints and finished runs are put back.

    Args:
        stopped: whether to stop after the step in progress, beside a signal (`runtime.interrupt`).
    """
    plugins.load()
    if task.threads:
        torch.set_num_threads(task.threads)
    with tempfile.TemporaryDirectory(prefix="reknob-") as scratch, Interrupt() as interrupt:
        return _Work(task, Path(scratch), lambda: interrupt() or bool(stopped and stopped())).fit()


class _Work(session.Observer):
    """A task while it is fitted; the observer of its session."""

    def __init__(self, task: Task, scratch: Path, stopped: Callable[[], bool]) -> None:
        self.task, self.stopped = task, stopped
        self.store, self.worker = Store(task.results), f"{socket.gethostname()}:{os.getpid()}"
        self.copies = LocalCopies(self.store, scratch)
        self.begun, self._ended = time.monotonic(), threading.Event()
        self.results = {song.id: Result(song.id, State.WAITING, worker=self.worker) for song in task.songs}
        self._songs = {(self.copies.log_dir / song.folder, song.name): song for song in task.songs}

    def fit(self) -> list[Result]:
        settings = replace(self.task.settings, resume=True, log_dir=self.task.results)
        # In a thread, as the first step may compile for minutes.
        beats = threading.Thread(target=self._beats, daemon=True)
        beats.start()
        try:
            for at in range(0, len(self.task.songs), self.task.together):
                if not self.stopped():
                    batch = self.task.songs[at : at + self.task.together]
                    pairs = [pair for song in batch if (pair := self._fetch(song))]
                    Session(settings, (self,)).fit(pairs, self.stopped)
        except Exception as error:  # of the settings, or of the store
            for result in self.results.values():
                if result.state in (State.WAITING, State.RUNNING):
                    self._fail(result, error)
        finally:
            self._ended.set()
            beats.join()
        return list(self.results.values())

    def _fetch(self, song: Song) -> tuple[Path, PairFiles] | None:
        """The folder for the runs of a song, and its pair on this machine; None if it could not be fetched."""
        try:
            return self.copies.log_dir / song.folder, self.copies.fetch(song)
        except Exception as error:
            self._fail(self.results[song.id], error)
            return None

    def _of(self, each: session.Song) -> tuple[Song, Result]:
        song = self._songs[each.log_dir, each.files.name]
        return song, self.results[song.id]

    def begin(self, song: session.Song) -> None:
        _, result = self._of(song)
        result.state, result.steps = State.RUNNING, song.open_run.track.step_count

    def step(self, song: session.Song, fit: Fit, terms: Terms) -> None:
        _, result = self._of(song)
        result.steps += 1
        result.loss = min(terms["loss"], float("inf") if result.loss is None else result.loss)

    def pause(self, song: session.Song) -> None:
        self.copies.put(self._of(song)[0], song.open_run.path)

    def end(self, song: session.Song) -> None:
        """Records what became of a song; if its run cannot be put into the results, it has failed."""
        mine, result = self._of(song)
        result.seconds = time.monotonic() - self.begun
        result.state, result.reason, result.is_fault = _STATES[song.outcome], song.reason, song.is_fault
        if song.outcome is Outcome.DONE_BEFORE:
            result.reason, result.was_done = "", True
        if song.run is None:
            return
        track, path = song.run.track, song.run.path
        result.steps, result.run = track.step_count, f"{self.store.url.rstrip('/')}/{mine.id}/{path.name}"
        if track.losses:
            result.first_loss = track.losses[0]
            result.loss = track.effects.loss_before if track.effects else track.best.loss
        try:
            self.copies.put(mine, path)
        except Exception as error:
            self._fail(result, error)

    def _fail(self, result: Result, error: Exception) -> None:
        line = explain(error)
        result.state, result.reason = State.FAILED, f"{result.id}: {reason(error)}"
        # Libraries of stores raise errors of their own kinds, which are no fault of the project.
        result.is_fault = line is None and self.store.is_local

    def _beats(self) -> None:
        """Writes from time to time which songs this worker fits, and how far they are; where it cannot, nothing."""
        name, is_over = f"{RUNNING}/{self.task.key}.json", False
        while not is_over:
            with suppress(Exception):
                self.store.write(name, self._beat())
            is_over = self._ended.wait(BEAT_S[self.store.is_local])
        with suppress(Exception):
            self.store.remove(name)

    def _beat(self) -> bytes:
        songs = [
            {"id": result.id, "state": result.state, "step": result.steps, "loss": result.loss}
            for result in self.results.values()
        ]
        return json.dumps({"worker": self.worker, "at": time.time(), "songs": songs}).encode()


_STATES = {
    Outcome.FITTED: State.FINISHED,
    Outcome.DONE_BEFORE: State.FINISHED,
    Outcome.FAILED: State.FAILED,
    Outcome.INTERRUPTED: State.INTERRUPTED,
    Outcome.NOT_BEGUN: State.WAITING,
}


def tasks_of(
    songs: Sequence[Song],
    results: str,
    settings: FitSettings,
    *,
    each: int = 1,
    together: int = 1,
    threads: int | None = None,
) -> list[Task]:
    """Tasks of `each` songs, at least those of one batch, neighbours by the size of their files, the longest first."""
    # A long task that begins last would keep one worker busy while the others are idle.
    ordered = sorted(songs, key=lambda song: (-song.size, song.id))
    each = max(each, together)
    groups = [tuple(ordered[at : at + each]) for at in range(0, len(ordered), each)]
    return [Task(group, results, settings, threads, together) for group in groups]
