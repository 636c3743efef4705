"""Gives the songs of a fleet to a back end, tries failed ones again, and keeps the summary."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from reknob.fleet.backends import Backend, Finished
from reknob.fleet.songs import Song, State, progress
from reknob.fleet.task import RUNNING, Result, Task
from reknob.fleet.watch import Row, Summary, Writer, read_beats

TICK_S = 0.5


class Driver:
    """One run of a fleet.

    Args:
        backend: fits the tasks; entered.
        writer: of the summary, into the results.
        summary: with a row for every song of the tasks.
        retries: how often a song that failed is tried again, alone.
        on_tick: called about twice a second with the summary.
        on_failure: called with the reason of a song that is not tried again.
    """

    def __init__(
        self,
        backend: Backend,
        writer: Writer,
        summary: Summary,
        *,
        retries: int,
        on_tick: Callable[[Summary], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self.backend, self.writer, self.summary, self.retries = backend, writer, summary, retries
        self._on_tick, self._on_failure = on_tick, on_failure
        self._queue: deque[Task] = deque()
        self._in_flight, self.has_fault = 0, False
        self._failures: Counter[str] = Counter()
        self._steps: dict[str, int] = {}  # of each song when it was last given to the back end

    def run(self, tasks: Sequence[Task], stopped: Callable[[], bool]) -> None:
        """Fits all tasks, or until `stopped()` those that have begun by then as far as they are."""
        self._queue.extend(tasks)
        self.writer.write(self.summary)
        try:
            while self._in_flight or (self._queue and not stopped()):
                if stopped():
                    self.backend.stop()
                elif self._queue and self._in_flight <= self.backend.window // 2:
                    self._submit()
                for finished in self.backend.finished(TICK_S):
                    self._in_flight -= 1
                    self._record(finished, stopped())
                self._tick()
        finally:
            for row in self.summary.rows.values():
                if row.state is State.RUNNING:  # where the loop was left by a second Ctrl-C
                    row.state = State.INTERRUPTED
            self.summary.is_running = False
            self.writer.write(self.summary)

    def _submit(self) -> None:
        count = min(self.backend.window - self._in_flight, len(self._queue))
        tasks = [self._queue.popleft() for _ in range(count)]
        for task in tasks:
            # What a worker that was killed said of itself.
            self.writer.store.remove(f"{RUNNING}/{task.key}.json")
            for song in task.songs:
                row = self.summary.rows[song.id]
                row.attempts += 1
                self._steps[song.id] = row.steps
        self.backend.submit(tasks)
        self._in_flight += count

    def _record(self, finished: Finished, stopping: bool) -> None:
        by_id = {result.id: result for result in finished.results}
        if finished.lost:
            by_id = self._kept(finished.task)
        for song in finished.task.songs:
            row = self.summary.rows[song.id]
            result = by_id.get(song.id)
            if result is None and finished.lost:
                result = Result(
                    song.id, State.FAILED, f"{song.id}: {finished.lost}", steps=row.steps, worker=row.worker
                )
            if result is None or (stopping and result.state is State.WAITING):
                row.attempts -= 1  # it never began
                continue
            row.record(result)
            self.summary.done_before += result.was_done
            self.has_fault |= result.is_fault
            if result.state is not State.FINISHED and not stopping:
                is_own = not finished.lost and result.state is not State.WAITING
                self._again(finished.task, song, row, is_own=is_own)

    def _kept(self, task: Task) -> dict[str, Result]:
        """The songs that a lost worker had finished, by their runs."""
        with suppress(Exception):  # where the store does not answer now, the next task finds out
            found = progress(self.writer.store, task.songs, task.settings)
            return {
                name: Result(
                    name,
                    each.state,
                    steps=each.steps,
                    first_loss=each.first_loss,
                    loss=each.loss,
                    worker=self.summary.rows[name].worker,
                    run=f"{self.writer.store.url.rstrip('/')}/{each.run}",
                )
                for name, each in found.items()
                if each.state is State.FINISHED and each.steps
            }
        return {}

    def _again(self, task: Task, song: Song, row: Row, *, is_own: bool) -> None:
        """Lines up a song that is not finished, alone, so that it cannot take others with it; or gives it up."""
        # One that a cluster interrupted, or whose worker was lost, goes on as long as it gets anywhere, and which song
        # of several ended a worker is unknown.
        is_stuck = is_own and row.state is State.FAILED or row.steps <= self._steps[song.id]
        self._failures[song.id] += is_stuck and (is_own or len(task.songs) == 1)
        if self._failures[song.id] <= self.retries:
            row.state = State.WAITING if row.state is State.FAILED else row.state
            self._queue.append(replace(task, songs=(song,)))
            return
        row.reason = row.reason or f"{song.id}: interrupted again and again without a step"
        row.state = State.FAILED
        self._on_failure(row.reason)

    def _tick(self) -> None:
        if self.writer.is_due():
            self.summary.take_beats(read_beats(self.writer.store))
            self.writer.write(self.summary)
        self._on_tick(self.summary)
