"""Work spread over processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import kept_from_children, leave_to_the_program

Job = TypeVar("Job")
Made = TypeVar("Made")


def map_processes(make: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterator[Made]:
    """What `make` makes of each job, in order: here, or by `workers` processes of one thread where those are several.

    Ctrl-C is raised here alone, when the jobs that had begun are done. UsageError where a process was killed.
    """
    if workers < 2 or len(jobs) < 2:
        yield from map(make, jobs)
        return
    # Not forked: the threads of torch and numba do not survive that.
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _begin) as pool:
        with kept_from_children():
            made = pool.map(make, jobs)
        try:
            yield from made
        except BrokenProcessPool:
            raise UsageError(
                "a worker process was killed, or ran out of memory; the same command goes on, fewer --workers take less"
            ) from None


def _begin() -> None:
    leave_to_the_program(but=(signal.SIGTERM,))
    torch.set_num_threads(1)
    plugins.load()
