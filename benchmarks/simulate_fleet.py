"""A fleet of many songs on many workers that fail, in simulated time: the real driver, a back end that only waits.

    python -m benchmarks.simulate_fleet [--songs 100000] [--workers 1000] [--json fleet.json]

A song takes a log-normal time around MEDIAN_S; a worker needs START_S before each task, and is lost after an
exponential time, with the task that it fits. What was kept by the last checkpoint is not repeated, and a lost worker is
back after BACK_S. One song in a hundred fails whenever it is tried. The driver is that of `scripts/fit_many.py`, its
summary written to a disk.
"""

from reknob.runtime.program import program

import heapq
import random
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.measure import parser, write_json
from reknob.fitting.settings import FitSettings
from reknob.fleet import watch
from reknob.fleet.backends import Finished
from reknob.fleet.driver import Driver
from reknob.fleet.songs import Song, State
from reknob.fleet.store import Store
from reknob.fleet.task import Result, Task, tasks_of
from reknob.runtime.arguments import positive_int

MEDIAN_S, SIGMA = 450.0, 0.5  # 400 steps of two chunks on four minutes (docs/fitting.md), and its spread
CHECKPOINT_S = 20.0
START_S, BACK_S = 10.0, 300.0
BAD = 0.01


@dataclass(frozen=True)
class Case:
    """What a fleet is like."""

    name: str
    window: int  # tasks that the back end is given at once
    per_task: int = 1
    hours: float = 24.0  # a worker's mean time until it is lost
    shuffled: bool = False  # instead of the longest first


@dataclass(frozen=True)
class Outcome:
    """What became of a fleet."""

    case: str
    finished: int
    failed: int
    bad: int  # songs that fail whenever they are tried
    unaccounted: int  # songs that are neither finished nor failed
    lost_workers: int
    hours: float  # simulated
    ideal_hours: float  # of the songs' own work, spread evenly
    used: float  # share of the workers' time that was spent on songs
    repeated: float  # share of the work that was done again
    driver_s: float  # CPU seconds of the driver for 1000 songs
    peak_mb: float


class Simulated:
    """A back end whose workers wait in simulated time.

    Args:
        case: the fleet.
        workers: how many there are.
        songs: seconds by song.
        bad: songs that fail.
        rows: of the summary, into which the steps of a song whose worker is lost are written, as a worker reports them.
    """

    def __init__(
        self, case: Case, workers: int, songs: dict[str, float], bad: set[str], rows: dict[str, watch.Row]
    ) -> None:
        self._rows = rows
        self.name, self.window, self._hours = "simulated", case.window, case.hours
        self._left, self._bad = dict(songs), bad
        self._draw, self._queue = random.Random(1), deque[Task]()  # noqa: S311 - nothing secret
        self._idle = [(0.0, worker) for worker in range(workers)]  # when each can begin
        self._events: list[tuple[float, int, int, Task, Finished]] = []
        self.now, self.worked, self.repeated, self.lost, self._number = 0.0, 0.0, 0.0, 0, 0

    def submit(self, tasks: Sequence[Task]) -> None:
        self._queue += tasks
        self._assign()

    def _assign(self) -> None:
        while self._queue and self._idle:
            free, worker = heapq.heappop(self._idle)
            begun = max(free, self.now) + START_S
            seconds, finished = self._work(self._queue.popleft())
            self._number += 1
            heapq.heappush(self._events, (begun + seconds, self._number, worker, finished.task, finished))

    def _work(self, task: Task) -> tuple[float, Finished]:
        """How long a worker is busy with a task, and how it ends."""
        until, spent, results = self._draw.expovariate(1 / (3600 * self._hours)), 0.0, []
        for song in task.songs:
            needed = self._left[song.id]
            if spent + needed > until:
                done = until - spent
                kept = done // CHECKPOINT_S * CHECKPOINT_S
                self._left[song.id] -= kept
                self._rows[song.id].steps += int(kept > 0)
                self.worked, self.repeated, self.lost = self.worked + done, self.repeated + done - kept, self.lost + 1
                # The songs that it had finished are known by their runs: `progress` reads them.
                return until, Finished(task, [], "its worker was lost")
            spent, self.worked = spent + needed, self.worked + needed
            results.append(self._result(song, needed))
            self._left[song.id] = 0.0 if song.id not in self._bad else needed
        return spent, Finished(task, results)

    def _result(self, song: Song, seconds: float) -> Result:
        if song.id in self._bad:
            return Result(song.id, State.FAILED, f"{song.id}: is a bad song", seconds=seconds, worker="host:1")
        return Result(song.id, State.FINISHED, "", False, 400, 4.0, 1.0, seconds, f"/logs/{song.id}/run_0", "host:1")

    def finished(self, timeout: float) -> list[Finished]:
        if not self._events:
            return []
        self.now, ended = self._events[0][0], []
        while self._events and self._events[0][0] <= self.now:
            _, _, worker, _, finished = heapq.heappop(self._events)
            heapq.heappush(self._idle, (self.now + BACK_S * bool(finished.lost), worker))
            ended.append(finished)
        self._assign()
        return ended

    def stop(self) -> None: ...

    def __enter__(self) -> "Simulated":
        return self

    def __exit__(self, *_: object) -> None: ...


class NothingKept(Driver):
    """The driver; of a lost worker's task no song is read from the store, which holds none."""

    def _kept(self, task: Task) -> dict[str, Result]:
        left = self.backend._left  # type: ignore[attr-defined] - of `Simulated`
        done = [song.id for song in task.songs if left[song.id] == 0]
        return {name: Result(name, State.FINISHED, "", False, 400, 4.0, 1.0) for name in done}


def simulate(case: Case, count: int, workers: int) -> Outcome:
    """One fleet."""
    draw = random.Random(0)  # noqa: S311 - nothing secret
    songs = [Song("", f"song{i:06d}", "dry.wav", "wet.wav") for i in range(count)]
    seconds = {song.id: MEDIAN_S * draw.lognormvariate(0, SIGMA) for song in songs}
    bad = {song.id for song in songs if draw.random() < BAD}
    sized = songs if case.shuffled else [replace(song, size=int(seconds[song.id])) for song in songs]
    tasks = tasks_of(sized, "/logs", FitSettings(), each=case.per_task)
    summary = watch.Summary("simulated", {song.id: watch.Row(song.id) for song in sized})
    backend = Simulated(case, workers, seconds, bad, summary.rows)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        writer = watch.Writer(Store(folder), "")
        driver = NothingKept(backend, writer, summary, retries=1, on_tick=lambda _: None, on_failure=lambda _: None)
        driver.run(tasks, lambda: False)
    counts, ideal = summary.counts(), sum(seconds.values()) / workers / 3600
    finished, failed = counts[State.FINISHED], counts[State.FAILED]
    return Outcome(
        case.name,
        finished,
        failed,
        len(bad),
        count - finished - failed,
        backend.lost,
        backend.now / 3600,
        ideal,
        backend.worked / workers / backend.now,
        backend.repeated / backend.worked,
        (time.process_time() - begun) / count * 1000,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def cases(workers: int) -> list[Case]:
    """A fleet as it is usual, and one change each."""
    usual = Case("usual", 4 * workers)
    return [
        usual,
        replace(usual, name="a window of as many tasks as workers", window=workers),
        replace(usual, name="songs not ordered by length", shuffled=True),
        replace(usual, name="ten songs a task", per_task=10),
        replace(usual, name="a worker is lost every hour", hours=1.0),
        replace(usual, name="the same, ten songs a task", hours=1.0, per_task=10),
    ]


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status, 1 where a song is neither finished nor failed."""
    p = parser(__doc__)
    p.add_argument("--songs", type=positive_int, default=100_000, help="default %(default)s")
    p.add_argument("--workers", type=positive_int, default=1000, help="default %(default)s")
    args = p.parse_args(argv)
    outcomes = []
    print("| fleet | finished | failed (bad) | lost workers | h | ideal h | used | repeated | driver s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in cases(args.workers):
        o = simulate(case, args.songs, args.workers)
        outcomes.append(o)
        shares = f"{100 * o.used:.1f} % | {100 * o.repeated:.2f} %"
        counts = f"{o.finished} | {o.failed} ({o.bad}) | {o.lost_workers} | {o.hours:.1f} | {o.ideal_hours:.1f}"
        print(f"| {o.case} | {counts} | {shares} | {o.driver_s:.2f} |", flush=True)
    write_json(args.json, {"outcomes": outcomes})
    return 1 if any(outcome.unaccounted for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
