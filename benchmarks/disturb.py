"""How `benchmarks.kill` kills and disturbs a job, and compares what it leaves with what an undisturbed one left."""

from reknob.runtime.program import one_line

import errno
import math
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NoReturn

import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks.measure import limit_memory
from reknob.estimation import trainer
from reknob.estimation.training_run import LAST
from reknob.fitting import fit
from reknob.formats import runs

PAUSE_S = 0.1  # between checkpoints of a fit, instead of 20, and of a training, instead of 30
REFERENCE, OUTPUT = "reference", "output.txt"
MOST_WRITES = 6  # that are let fail
MOST_IN_A_ROW = 12  # kills before a job may run to its end
LATEST = 0.7  # of the time of an undisturbed job: later moments are reached by those that go on
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
SIZES = (100, 3000)  # bytes that no file may exceed
MEMORY = (2, 30)  # MB more than a job begins with
MOMENTS = (0, 2)  # writes before which the inputs, or the results so far, are deleted
Disturb = Callable[[Path, Path], None]  # of the inputs and of the folder of a job, in whose process it is called


@dataclass(frozen=True)
class Job:
    """Something to kill.

    Args:
        prepare: makes the inputs in a folder, once.
        run: runs a program in a folder, anew or continuing; its exit status.
        result: what a whole job leaves, to be compared.
        check: raises where a file that is in place in a folder is not whole.
        tolerance: relative and absolute, of numbers; 0 compares bit by bit.
    """

    folder: Path
    prepare: Callable[[Path], None]
    run: Callable[[Path, Path], int]
    result: Callable[[Path], dict[str, object]]
    check: Callable[[Path], None]
    tolerance: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: str = ""
    kills: int = 0
    ends: int = 0
    faults: int = 0
    lost: list[str] = field(default_factory=list)
    repeated_s: float = 0.0  # the longest time from the last checkpoint to a kill; 0 where there is none


def kill_at_random(job: Job, kills: int, seed: int) -> Outcome:
    """Runs a job undisturbed, then kills it so many times; what was lost is listed."""
    draw, inputs = random.Random(seed), job.folder / "inputs"  # noqa: S311 - moments, nothing secret
    inputs.mkdir(parents=True)
    job.prepare(inputs)
    # Nothing runs in this process itself, whose threads would hold locks that a forked one waits for.
    seconds = _undisturbed(job, inputs)
    expected, outcome, number = job.result(job.folder / REFERENCE), Outcome(), 0
    while outcome.kills < kills:
        folder, number = job.folder / f"killed{number}", number + 1
        folder.mkdir()
        for _ in range(min(draw.randint(1, MOST_IN_A_ROW), kills - outcome.kills)):
            started = time.time()
            if not _killed(job, inputs, folder, draw.uniform(0, LATEST * seconds)):
                break
            states = (path for name in (runs.CHECKPOINT, f"*{LAST}") for path in folder.rglob(name))
            saved = max((path.stat().st_mtime for path in states), default=started)
            repeated = max(outcome.repeated_s, time.time() - max(started, saved))
            outcome = replace(outcome, kills=outcome.kills + 1, repeated_s=repeated)
            outcome.lost.extend(f"{folder.name}: {line}" for line in _complaints(job.check, folder))
        outcome.lost.extend(_to_the_end(job, inputs, folder, expected))
        outcome = replace(outcome, ends=outcome.ends + 1)
    return outcome


def faults(job: Job, outcome: Outcome) -> Outcome:
    """Disturbs a job in every way that `_disturbances` lists; adds to an outcome."""
    inputs, expected = job.folder / "inputs", job.result(job.folder / REFERENCE)
    lost, disturbances = list(outcome.lost), _disturbances(_writes(job, inputs))
    for name, disturb in disturbances.items():
        folder = job.folder / name
        folder.mkdir()
        status = _wait(_forked(job, inputs, folder, disturb))
        if not inputs.exists():
            _gone(inputs).rename(inputs)
        # A fault of the machine is one line and status 2; where only TensorBoard failed, the job itself succeeded.
        if status not in (0, 2):
            lost.append(f"{name}: ended with status {status}: {_output(folder)}")
        lost += [f"{name}: {line}" for line in _complaints(job.check, folder)]
        lost += _to_the_end(job, inputs, folder, expected)
    return replace(outcome, lost=lost, faults=len(disturbances))


def _undisturbed(job: Job, inputs: Path) -> float:
    folder, started = job.folder / REFERENCE, time.monotonic()
    folder.mkdir()
    status = _wait(_forked(job, inputs, folder))
    if status:
        raise RuntimeError(f"{folder}: the undisturbed job ended with status {status}: {_output(folder)}")
    return time.monotonic() - started


def _to_the_end(job: Job, inputs: Path, folder: Path, expected: dict[str, object]) -> list[str]:
    """Runs a job that was disturbed to its end, and lists what differs from the undisturbed one."""
    status = _wait(_forked(job, inputs, folder))
    if status:
        return [f"{folder.name}: the last run ended with status {status}: {_output(folder)}"]
    try:
        result = job.result(folder)
    except Exception as error:
        return [f"{folder.name}: {type(error).__name__}: {error}"]
    names = sorted(expected.keys() | result.keys())
    differing = (n for n in names if not _same(expected.get(n), result.get(n), job.tolerance))
    return [f"{folder.name}: {name} differs" for name in differing]


def _same(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)
    return type(one) is type(other) and one == other


def _complaints(check: Callable[[Path], None], folder: Path) -> Iterator[str]:
    try:
        check(folder)
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _forked(job: Job, inputs: Path, folder: Path, disturb: Disturb | None = None) -> int:
    """Runs a job in a new process, after `disturb` is called there; its id."""
    pid = os.fork()
    if pid == 0:
        _work(job, inputs, folder, disturb)
    return pid


def _wait(pid: int) -> int:
    """The exit status of a process, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(job: Job, inputs: Path, folder: Path, disturb: Disturb | None) -> NoReturn:
    status = 70
    try:
        handle = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        fit.PAUSE_EVERY_S = trainer.PAUSE_S = PAUSE_S
        trainer.WRITING = math.inf
        # Drawing them is most of a small job's work; they go into the file of TensorBoard, as the losses do.
        SummaryWriter.add_figure = lambda *_, **__: None
        if disturb:
            disturb(inputs, folder)
        status = job.run(inputs, folder)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _killed(job: Job, inputs: Path, folder: Path, seconds: float) -> bool:
    """Whether a job was still running after so many seconds, and was killed."""
    pid = _forked(job, inputs, folder)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return _wait(pid) == -signal.SIGKILL


def _disturbances(writes: int) -> dict[str, Disturb]:
    """By name what a job's process does to itself, before it runs and while it writes its first files."""
    return {
        **{f"write{n}": partial(_failing_write, n) for n in range(writes)},
        **{f"size{size}": partial(_full_disk, size) for size in SIZES},
        **{f"memory{mb}": lambda *_, mb=mb: limit_memory(mb << 20) for mb in MEMORY},
        **{f"inputs{n}": partial(_without_inputs, n) for n in MOMENTS},
        **{f"results{n}": partial(_without_results, n) for n in MOMENTS},
    }


def _failing_write(n: int, *_: Path) -> None:
    def act(number: int, source: str) -> None:
        if number == n:
            error = ERRORS[n % len(ERRORS)]
            raise OSError(error, os.strerror(error), source)

    _at_writes(act)


def _full_disk(size: int, *_: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _without_inputs(n: int, inputs: Path, _: Path) -> None:
    _at_writes(lambda number, _: inputs.rename(_gone(inputs)) if number == n else None)


def _gone(inputs: Path) -> Path:
    """Where inputs that are deleted are kept."""
    return inputs.with_name("gone")


def _without_results(n: int, _: Path, folder: Path) -> None:
    def act(number: int, _: str) -> None:
        for path in folder.iterdir() if number == n else ():
            if path.is_dir():
                shutil.rmtree(path)

    _at_writes(act)


def _at_writes(act: Callable[[int, str], object]) -> None:
    """Calls act(n, name) when this process is about to put the n-th file of this name in place."""
    replace_, numbers = os.replace, count()

    def disturbed(source: str, target: str) -> None:
        act(next(numbers), str(source))
        replace_(source, target)

    os.replace = disturbed


def _writes(job: Job, inputs: Path) -> int:
    """The number of files that an undisturbed job puts in place; at most MOST_WRITES."""
    folder = job.folder / "counted"
    folder.mkdir()
    counted = folder / "count"
    _wait(_forked(job, inputs, folder, lambda *_: _at_writes(lambda n, _: counted.write_text(str(n + 1)))))
    return min(int(counted.read_text()), MOST_WRITES)


def _output(folder: Path) -> str:
    return one_line((folder / OUTPUT).read_text(errors="replace")[-300:])
