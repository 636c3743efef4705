"""Work spread over processes."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch

Job = TypeVar("Job")
Made = TypeVar("Made")


def spread(make: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterator[Made]:
    """What `make` makes of each job, in order: here, or by `workers` processes of one thread where those are several.

    Ctrl-C is raised here alone, when the jobs that had begun are done.
    """
    if workers < 2 or len(jobs) < 2:
        yield from map(make, jobs)
        return
    # Not forked: the threads of torch and numba do not survive that.
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _begin) as pool:
        yield from pool.map(make, jobs)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
