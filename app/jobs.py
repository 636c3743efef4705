"""One queue of jobs, run one after another in a thread of its own."""

from reknob.runtime.program import explain, reason

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)

MOST_WAITING, MOST_KEPT = 8, 40


class State(StrEnum):
    """How far a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class Work(Protocol):
    """What a job does."""

    kind: str

    def run(self, stopped: Callable[[], bool]) -> None:
        """Does the work until it is done or `stopped()`, in the thread of the queue; UsageError for a mistake."""

    def record(self, since: int) -> dict[str, Any]:
        """What is known so far, of the steps those from `since` on; in any thread, at any time."""
        ...


class Job:
    """Some work with its state; `message` says why it failed."""

    def __init__(self, work: Work) -> None:
        self.key, self.work = secrets.token_hex(8), work
        self.state, self.message = State.WAITING, ""
        self._stop = threading.Event()

    def stop(self) -> None:
        """Asks the work to end at its next step, as Ctrl-C does in a terminal; a job that waits never begins."""
        self._stop.set()

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (State.WAITING, State.RUNNING)

    def run(self) -> None:
        """Does the work, and records how it ended."""
        if self._stop.is_set():
            self.state = State.STOPPED
            return
        self.state = State.RUNNING
        try:
            self.work.run(self._stop.is_set)
        except Exception as error:
            self.message = explain(error) or f"internal error: {reason(error)}"
            if not isinstance(error, UsageError):
                log.warning("%s failed", self.work.kind, exc_info=error)
            self.state = State.FAILED
        else:
            self.state = State.STOPPED if self._stop.is_set() else State.DONE

    def record(self, since: int = 0) -> dict[str, Any]:
        """The job as the browser gets it."""
        own = {"key": self.key, "kind": self.work.kind, "state": self.state, "message": self.message}
        return own | {"stopping": self._stop.is_set() and self.is_open} | self.work.record(since)


class JobQueue:
    """Jobs in the order in which they came; the newest MOST_KEPT are remembered.

    One at a time: two fits at once would take the memory of both, and each the time of the other.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._changed, self._has_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Job:
        """Adds work at the end of the queue; UsageError where MOST_WAITING wait already."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise UsageError(f"{MOST_WAITING} jobs are waiting already: stop one, or wait")
            job = Job(work)
            self._jobs[job.key] = job
            self._waiting.append(job)
            closed = [key for key, one in self._jobs.items() if not one.is_open]
            for key in closed[: max(0, len(self._jobs) - MOST_KEPT)]:
                del self._jobs[key]
            self._changed.notify()
        return job

    def get(self, key: str) -> Job:
        """The job of a key; UsageError for another key."""
        if key not in self._jobs:
            raise UsageError("there is no such job here; has reknob app been restarted?")
        return self._jobs[key]

    def all(self) -> list[Job]:
        """The jobs that are remembered, the oldest first."""
        return list(self._jobs.values())

    def ahead(self, job: Job) -> int:
        """How many jobs end before a waiting one begins."""
        with self._changed:
            before = list(self._waiting).index(job) if job in self._waiting else 0
        return before + any(one.state is State.RUNNING for one in self.all()) if job.state is State.WAITING else 0

    def close(self, seconds: float = 60.0) -> None:
        """Stops every job, and waits for the one that runs."""
        with self._changed:
            self._has_closed = True
            self._changed.notify()
        for job in self.all():
            job.stop()
        self._thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._has_closed)
                if self._has_closed:
                    return
                job = self._waiting.popleft()
            job.run()
