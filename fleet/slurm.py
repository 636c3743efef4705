"""Tasks as job arrays of Slurm, by submitit; the folder of the jobs lies on a disk that all nodes share."""

from reknob.runtime.program import reason

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from reknob.fleet.backends import Finished
from reknob.fleet.task import Task, fit
from reknob.runtime.errors import UsageError

#: Slurm's usual MaxArraySize is 1001.
ARRAY = 1000
ASK_S = 10.0  # how often Slurm is asked which jobs it still has
POLL_S = 0.2
#: Sent before the time limit and at preemption; a fit takes it as the wish to stop, so that its state is kept.
SIGNAL = "USR1"


class SlurmBackend:
    """Tasks of Slurm.

    Args:
        folder: for the files of the jobs, shared by all nodes.
        cpus: of a task, which are also its threads.
        gpus: of a task.
        options: of sbatch by name: partition, account, time in minutes, mem, …
        cluster: "slurm", or "local" for submitit's processes on this machine.

    Raises UsageError where submitit is not installed, where Slurm is not reached, and for an option it does not know.
    """

    # New tasks are given when half of these have ended: so many jobs never wait for the driver.
    window = 4 * ARRAY

    def __init__(
        self, folder: Path, cpus: int, gpus: int, options: dict[str, str] | None = None, cluster: str = "slurm"
    ) -> None:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # read where submitit is imported, and by its jobs
        try:
            submitit = import_module("submitit")
        except ImportError:
            raise UsageError("--on slurm: submitit is not installed: pip install 'submitit>=1.5'") from None
        self.name, self._is_slurm = cluster, cluster == "slurm"
        if self._is_slurm:
            _check_reached()
        self._executor = submitit.AutoExecutor(folder, cluster=cluster)
        named: dict[str, Any] = {f"slurm_{name}": _number(text) for name, text in (options or {}).items()}
        threads = [f"export NUMBA_NUM_THREADS={cpus} OMP_NUM_THREADS={cpus}"]
        try:
            self._executor.update_parameters(
                cpus_per_task=cpus, gpus_per_node=gpus or None, slurm_setup=threads, name="reknob", **named
            )
        except (NameError, TypeError, ValueError) as error:
            raise UsageError(f"--on slurm: {reason(error)}") from error
        self._jobs: dict[Any, Task] = {}
        self._asked, self._missing, self._is_stopping = time.monotonic(), set[str](), False

    def submit(self, tasks: Sequence[Task]) -> None:
        """Submits arrays; UsageError where Slurm refuses one."""
        try:
            for at in range(0, len(tasks), ARRAY):
                array = tasks[at : at + ARRAY]
                self._jobs |= dict(zip(self._executor.map_array(fit, array), array, strict=True))
        except Exception as error:  # submitit's own, with what sbatch printed
            raise UsageError(f"--on slurm: the jobs were refused ({reason(error)})") from error

    def finished(self, timeout: float) -> list[Finished]:
        until = time.monotonic() + timeout
        while self._jobs:
            lost = self._lost()
            ended = [job for job in self._jobs if job.job_id in lost or self._has_ended(job)]
            if ended or time.monotonic() > until:
                return [self._result(job, lost.get(job.job_id, "")) for job in ended]
            time.sleep(POLL_S)
        return []

    def _has_ended(self, job: Any) -> bool:
        return job.paths.result_pickle.exists() if self._is_slurm else job.done()

    def _result(self, job: Any, lost: str) -> Finished:
        task = self._jobs.pop(job)
        if self._is_stopping and (lost or not job.paths.result_pickle.exists()):
            return Finished(task, [])
        # Of a job that Slurm no longer has, the result may have come in the meantime.
        if lost and not job.paths.result_pickle.exists():
            return Finished(task, [], f"its job {job.job_id} ended without a result ({lost}); see {job.paths.stderr}")
        try:
            return Finished(task, job.result())
        except Exception as error:
            return Finished(task, [], f"its job {job.job_id} failed ({_last_line(error)}); see {job.paths.stderr}")

    def _lost(self) -> dict[str, str]:
        """The jobs that Slurm no longer has, twice in a row, with the reason; submitit asks sacct, which few set up."""
        if not self._is_slurm or time.monotonic() - self._asked < (1.0 if self._is_stopping else ASK_S):
            return {}
        self._asked = time.monotonic()
        listed = _run("squeue", "--me", "-h", "-r", "-o", "%i")
        if listed is None:  # Slurm does not answer: nothing is known
            return {}
        missing = {job.job_id for job in self._jobs} - set(listed.split())
        lost, self._missing = missing & self._missing, missing
        return {name: _why(name) for name in lost}

    def stop(self) -> None:
        """What waits is removed, and what runs gets the signal that ends a fit after its step; once."""
        if self._is_stopping:
            return
        self._is_stopping = True
        names = [job.job_id for job in self._jobs]
        if self._is_slurm and names:
            _run("scancel", "--state=PENDING", *names)
            _run("scancel", f"--signal={SIGNAL}", *names)
        for job in [] if self._is_slurm else self._jobs:
            with suppress(Exception):
                job.cancel(check=False)  # by SIGINT

    def __enter__(self) -> "SlurmBackend":
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            with suppress(Exception):
                job.cancel(check=False)


def _check_reached() -> None:
    if not shutil.which("sbatch"):
        raise UsageError("--on slurm: there is no sbatch here; run this where jobs are submitted from")
    if _run("sinfo", "-h") is None:
        raise UsageError("--on slurm: Slurm does not answer (sinfo fails); see that slurmctld runs")


def _run(*command: str) -> str | None:
    """What a command of Slurm prints; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: S603 - of this file only
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _why(name: str) -> str:
    """State, reason and exit code of a job that has ended, as far as Slurm still has them."""
    shown = _run("scontrol", "show", "job", "-o", name) or ""
    known = dict(part.split("=", 1) for part in shown.split() if "=" in part)
    found = [f"{key} {known[key]}" for key in ("JobState", "Reason", "ExitCode") if known.get(key, "None") != "None"]
    return ", ".join(found) or "Slurm has forgotten it"


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _last_line(error: Exception) -> str:
    """The end of a traceback that came as text."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
