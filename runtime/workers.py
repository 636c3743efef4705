"""A function mapped over jobs by several processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import blocked_signals, ignore_signals

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_processes(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """The function's result for each job, in order, computed by `workers` single-threaded processes.

    With fewer than two workers or jobs it runs in this process. Ctrl-C raises KeyboardInterrupt in this process only,
    once the jobs in progress have ended. UsageError where a worker process was killed.
    """
    if workers < 2 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    # Not forked: a forked process lacks the threads of torch and numba that its parent had started.
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _begin) as pool:
        with blocked_signals():
            results = pool.map(function, jobs)
        try:
            yield from results
        except BrokenProcessPool:
            raise UsageError(
                "a worker process was killed, or ran out of memory; "
                "run the same command again to continue, with fewer --workers to use less memory"
            ) from None


def _begin() -> None:
    ignore_signals(but=(signal.SIGTERM,))
    torch.set_num_threads(1)
    plugins.load()
