"""Tasks in worker processes of this machine, or one after another in this process."""

from reknob.runtime.program import reason

import os
import signal
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection

from reknob.fleet.backends import Finished
from reknob.fleet.task import Result, Task, fit
from reknob.runtime.interrupt import ignore_signals

#: Read by numba and OpenMP when they are loaded.
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


class InProcess:
    """Tasks one after another in a thread of this process, with all that it has, a GPU or `memory://` say."""

    name, window = "local, in this process", 2

    def __init__(self) -> None:
        self._pool, self._stopped = ThreadPoolExecutor(1), False
        self._futures: dict[Future, Task] = {}

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._futures[self._pool.submit(fit, task, lambda: self._stopped)] = task

    def finished(self, timeout: float) -> list[Finished]:
        done = wait(self._futures, timeout, FIRST_COMPLETED).done
        return [_finished(future, self._futures.pop(future)) for future in done]

    def stop(self) -> None:
        self._stopped = True
        for future in self._futures:
            future.cancel()

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)


def _finished(future: Future, task: Task) -> Finished:
    if future.cancelled():
        return Finished(task, [])
    error = future.exception()
    return Finished(task, [], reason(error)) if error else Finished(task, future.result())


class Workers:
    """Tasks in `count` processes, each with `threads` threads. The end of a process costs its own task only."""

    def __init__(self, count: int, threads: int) -> None:
        self.name, self.window = f"local, {count} workers", 2 * count
        self._count, self._threads = count, threads
        self._waiting: deque[Task] = deque()
        self._dropped: list[Task] = []  # that had not begun when the fleet was stopped
        self._workers: list[_Worker] = []

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)
        self._assign()

    def _assign(self) -> None:
        while self._waiting:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) == self._count:
                    return
                idle = _Worker(self._threads)
                self._workers.append(idle)
            if not idle.give(self._waiting[0]):  # it died while it was idle
                self._workers.remove(idle)
                continue
            self._waiting.popleft()

    def finished(self, timeout: float) -> list[Finished]:
        busy = {worker.connection: worker for worker in self._workers if worker.task}
        found = [Finished(task, []) for task in self._dropped]
        self._dropped.clear()
        for ready in connection.wait(list(busy), 0 if found else timeout) if busy else []:
            worker = busy[ready]  # type: ignore[index] - the connections that were given
            task, worker.task = worker.task, None
            assert task is not None
            try:
                found.append(Finished(task, *worker.connection.recv()))
            except (EOFError, OSError):
                self._workers.remove(worker)
                found.append(Finished(task, [], worker.how_it_ended()))
        self._assign()
        return found

    def stop(self) -> None:
        self._dropped.extend(self._waiting)
        self._waiting.clear()
        for worker in self._workers:
            worker.ask_to_stop()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()


class _Worker:
    """A process that fits one task at a time."""

    def __init__(self, threads: int) -> None:
        context = get_context("spawn")  # a forked one would lack the threads that torch and numba have started here
        self.connection, theirs = context.Pipe()
        self.task: Task | None = None
        self.process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, str(threads)))
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        theirs.close()  # so that the end of the process ends the connection

    def give(self, task: Task) -> bool:
        """Hands it a task; False if it is no longer there."""
        try:
            self.connection.send(task)
        except OSError:
            return False
        self.task = task
        return True

    def ask_to_stop(self) -> None:
        if self.process.pid:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)

    def how_it_ended(self) -> str:
        """Why its task has no result."""
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            memory = "; by lack of memory, perhaps" if name == "SIGKILL" else ""
            return f"its worker (process {self.process.pid}) was ended by {name}{memory}"
        return f"its worker (process {self.process.pid}) ended with status {code}"

    def end(self) -> None:
        """Ends the process, idle or not."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(tasks: Connection, parent: int) -> None:
    """Fits what is sent, until the other side closes the connection; stops a fit when the parent is gone."""
    ignore_signals()
    with suppress(EOFError, OSError):
        while True:
            task = tasks.recv()
            try:
                answer: tuple[list[Result], str] = fit(task, lambda: os.getppid() != parent), ""
            except BaseException as error:  # also a second Ctrl-C
                answer = [], reason(error)
            tasks.send(answer)
