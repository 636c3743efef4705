"""What runs tasks: one interface for worker processes, a Ray cluster and Slurm."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from reknob.fleet.task import Result, Task


class Finished(NamedTuple):
    """A task that ended: its results, or why there are none, as the worker was lost; neither if it never began."""

    task: Task
    results: list[Result]
    lost: str = ""


class Backend(Protocol):
    """Runs tasks; a context, at whose end nothing of it runs any more.

    Attributes:
        name: as it is shown.
        window: how many tasks it is given at once; it is given more when half of them have ended.
    """

    name: str
    window: int

    def submit(self, tasks: Sequence[Task]) -> None:
        """Begins tasks, or lines them up."""

    def finished(self, timeout: float) -> list[Finished]:
        """The tasks that ended since the last call; waits for at most `timeout` s for one."""
        ...

    def stop(self) -> None:
        """Asks what runs to stop after the step in progress; those that have not begun never do."""

    def __enter__(self) -> "Backend": ...

    def __exit__(self, *_: object) -> None: ...
