"""Tasks on an existing Ray cluster, with the code, chain files and weights of this project sent along."""

from reknob.runtime.program import reason

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from reknob.fleet.backends import Finished
from reknob.fleet.task import Task, fit
from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.files import SHIPPED

#: What the fits need nothing of, beside what .gitignore lists.
LEFT_OUT = ("/.git/", "/.venv*/", "/tests/", "/docs/", "/benchmarks/", "/build/", "/site/", "/logs*/", "__pycache__/")
#: Variables of this process that the workers get: plug-ins, and where compiled loops are kept on a node.
PASSED_ON = (plugins.VARIABLE, "NUMBA_CACHE_DIR")
REACH_S = 5.0


class RayBackend:
    """Tasks of a Ray cluster.

    Args:
        address: of the cluster: host:port, ray://host:port, or auto for the one that runs on this machine.
        cpus: of a task, which are also its threads.
        gpus: of a task; 0.25 lets four tasks share a GPU.

    Raises UsageError where Ray is not installed, and where no cluster answers.
    """

    def __init__(self, address: str, cpus: int, gpus: float) -> None:
        try:
            ray = self._ray = import_module("ray")
        except ImportError:
            raise UsageError("--on ray: Ray is not installed: pip install 'ray>=2.60'") from None
        _check_reached(address)
        names = {"OMP_NUM_THREADS": str(cpus), "NUMBA_NUM_THREADS": str(cpus)}
        names |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            ray.init(address, runtime_env=_code() | {"env_vars": names}, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of many kinds
            raise UsageError(f"--ray-address {address}: no cluster answers ({reason(error)})") from error
        total = ray.cluster_resources()
        fitting = [total.get("CPU", 0) / cpus, *([total.get("GPU", 0) / gpus] if gpus else [])]
        if min(fitting) < 1:
            ray.shutdown()
            raise UsageError(
                f"--ray-address {address}: the cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} "
                f"GPUs; a task asks for {cpus} and {gpus:g} (--threads, --gpus)"
            )
        self.name, self.window = f"ray at {address}", 2 * int(min(fitting))
        # The driver tries again itself, by the same rules for every back end.
        self._fit = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(fit)
        self._tasks: dict[object, Task] = {}

    def submit(self, tasks: Sequence[Task]) -> None:
        self._tasks |= {self._fit.remote(task): task for task in tasks}

    def finished(self, timeout: float) -> list[Finished]:
        if not self._tasks:
            return []
        tasks = list(self._tasks)
        done, _ = self._ray.wait(tasks, num_returns=1, timeout=timeout)
        if done:  # all that have ended by now, as a call takes as long as there are tasks
            done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [self._result(reference) for reference in done]

    def _result(self, reference: object) -> Finished:
        task = self._tasks.pop(reference)
        try:
            return Finished(task, self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return Finished(task, [])
        except Exception as error:
            kind = type(error).__name__
            return Finished(task, [], f"its Ray worker was lost ({kind}: {reason(error)})")

    def stop(self) -> None:
        """A task that runs gets a KeyboardInterrupt, or SIGINT, which it takes as the wish to stop."""
        for reference in self._tasks:
            with suppress(Exception):
                self._ray.cancel(reference, force=False)

    def __enter__(self) -> "RayBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()


def _code() -> dict[str, object]:
    """The runtime environment that brings this project to the workers, from a clone or from an installation."""
    if (SHIPPED / "reknob" / "__init__.py").exists():
        return {"working_dir": str(SHIPPED), "excludes": list(LEFT_OUT)}
    return {"py_modules": [str(Path(SHIPPED))]}


def _check_reached(address: str) -> None:
    """Refuses an address where nothing listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise UsageError(f"--ray-address {address}: give host:port, ray://host:port, or auto")
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"--ray-address {address}: no cluster answers ({reason(error)})") from None
