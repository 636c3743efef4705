"""The jobs that `benchmarks.kill` ends: what they run, what they leave, and how they are killed and disturbed."""

import errno
import math
import os
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from reknob.afx.effect import Knobs
from reknob.afx.registry import build
from reknob.data.audio import read_audio, write_audio
from reknob.estimation import epochs
from reknob.estimation.training_run import LAST
from reknob.fitting import fit
from reknob.formats import runs
from reknob.formats.presets import read_info
from reknob.formats.run_audio import run_audio
from reknob.runtime.files import read_array, read_json, read_tensors

# Not by an import statement: a program is here what is run, as from a command line.
FIT_PROGRAM, TRAIN, HARVEST, TRAIN_ON_STATISTICS = (
    import_module(name).main
    for name in ("main", "train_analysis_net", "scripts.get_params", "scripts.train_on_statistics")
)
SR = 16000
PAUSE_S = 0.1  # between checkpoints of a fit, instead of 20, and of a training, instead of 30
REFERENCE, OUTPUT = "reference", "output.txt"
MOST_WRITES = 6  # that are let fail
MOST_IN_A_ROW = 12  # kills before a job may run to its end
LATEST = 0.7  # of the time of an undisturbed job: later moments are reached by those that go on
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
SIZES = (100, 3000)  # bytes that no file may exceed


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
            states = (path for name in (runs.CHECKPOINT, LAST) for path in folder.rglob(name))
            saved = max((path.stat().st_mtime for path in states), default=started)
            repeated = max(outcome.repeated_s, time.time() - max(started, saved))
            outcome = replace(outcome, kills=outcome.kills + 1, repeated_s=repeated)
            outcome.lost.extend(f"{folder.name}: {line}" for line in _complaints(job.check, folder))
        outcome.lost.extend(_to_the_end(job, inputs, folder, expected))
        outcome = replace(outcome, ends=outcome.ends + 1)
    return outcome


def faults(job: Job, outcome: Outcome) -> Outcome:
    """Lets every write of a job fail in turn, and files stay small; adds to an outcome."""
    inputs, expected = job.folder / "inputs", job.result(job.folder / REFERENCE)
    lost, count = list(outcome.lost), 0
    disturbances = [(f"write{n}", _failing_write(n, ERRORS[n % len(ERRORS)])) for n in range(_writes(job, inputs))]
    disturbances += [(f"size{size}", _full_disk(size)) for size in SIZES]
    for name, disturb in disturbances:
        folder = job.folder / name
        folder.mkdir()
        status = _wait(_forked(job, inputs, folder, disturb))
        # A fault of the machine is one line and status 2; where only TensorBoard failed, the job itself succeeded.
        if status not in (0, 2):
            lost.append(f"{name}: ended with status {status}")
        lost += [f"{name}: {line}" for line in _complaints(job.check, folder)]
        lost += _to_the_end(job, inputs, folder, expected)
        count += 1
    return replace(outcome, lost=lost, faults=count)


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


def _forked(job: Job, inputs: Path, folder: Path, disturb: Callable[[], None] | None = None) -> int:
    """Runs a job in a new process, after `disturb` is called there; its id."""
    pid = os.fork()
    if pid == 0:
        _work(job, inputs, folder, disturb)
    return pid


def _wait(pid: int) -> int:
    """The exit status of a process, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _work(job: Job, inputs: Path, folder: Path, disturb: Callable[[], None] | None) -> NoReturn:
    status = 70
    try:
        handle = os.open(folder / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        fit.PAUSE_EVERY_S = epochs.PAUSE_S = PAUSE_S
        epochs.WRITING = math.inf
        # Drawing them is most of a small job's work; they go into the file of TensorBoard, as the losses do.
        SummaryWriter.add_figure = lambda *_, **__: None
        if disturb:
            disturb()
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


def _failing_write(n: int, number: int) -> Callable[[], None]:
    """Lets the n-th file that is put in place raise an error instead."""

    def disturb() -> None:
        replace_, calls = os.replace, iter(range(n))

        def failing(source: str, target: str) -> None:
            if next(calls, None) is None and not getattr(failing, "done", False):
                failing.done = True
                raise OSError(number, os.strerror(number), str(source))
            replace_(source, target)

        os.replace = failing

    return disturb


def _full_disk(size: int) -> Callable[[], None]:
    def disturb() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return disturb


def _writes(job: Job, inputs: Path) -> int:
    """The number of files that an undisturbed job puts in place; at most MOST_WRITES."""
    folder = job.folder / "counted"
    folder.mkdir()

    def disturb() -> None:
        replace_ = os.replace

        def counting(source: str, target: str) -> None:
            with (folder / "count").open("a") as file:
                file.write(".")
            replace_(source, target)

        os.replace = counting

    _wait(_forked(job, inputs, folder, disturb))
    return min((folder / "count").stat().st_size, MOST_WRITES)


def _output(folder: Path) -> str:
    return (folder / OUTPUT).read_text(errors="replace")[-300:]


def _take(seed: int, seconds: float = 2.0) -> torch.Tensor:
    """Noise (1, T) that comes and goes."""
    t = torch.arange(round(seconds * SR)) / SR
    phrases = (torch.sin(2 * torch.pi * 1.5 * t) > 0).float() + 0.001
    return 0.1 * torch.randn(1, len(t), generator=torch.Generator().manual_seed(seed)) * phrases


FIT = [
    *(f"sr={SR}", "model=null", "chain.peak.effect=peak", "chain.peak.freq.range=[33,7000]"),
    "chain.comp.effect=compressor_expander",
    "loss.name=esr",
    *("chain.pan.effect=panning", "chunk_duration=0.5", "chunk_overlap=0.1", "epochs=20", "device=cpu", "resume=true"),
]


VOCAL = ("loss.name=vocal", "chunk_duration=1.2", "epochs=8")


def _pairs(count: int, seconds: float = 2.0) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for seed in range(count):
            x = _take(seed, seconds)
            write_audio(folder / f"song{seed}_dry.wav", x, SR)
            write_audio(folder / f"song{seed}_wet.wav", 0.8 * x.clamp(-0.15, 0.15).expand(2, -1), SR)

    return prepare


def _fit(*more: str) -> Callable[[Path, Path], int]:
    def run(inputs: Path, folder: Path) -> int:
        return FIT_PROGRAM([f"data_dir={inputs}", f"log_dir={folder / 'logs'}", *FIT, *more])

    return run


def _fit_result(folder: Path) -> dict[str, object]:
    result: dict[str, object] = {}
    for song in sorted(folder.glob("logs/*")):
        # A run that was killed before its first checkpoint holds nothing; the next one takes another number.
        run, name = runs.numbered(song)[-1], song.name
        result |= {f"{name}/{key}": value for key, value in read_tensors(run / runs.VALUES).items()}
        meta = read_json(run / runs.META)
        result |= {f"{name}/{key}": meta[key] for key in ("undone", "terminated_by", "alignment_shift")}
        result[f"{name}/losses"] = torch.tensor(meta["losses"], dtype=torch.float64)
        result |= {f"{name}/{kind}": read_audio(path)[0] for kind, path in run_audio(run).items()}
        result[f"{name}/left"] = sorted(path.name for path in run.iterdir() if path.name.startswith("."))
    return result


def _check_fit(folder: Path) -> None:
    for run in folder.glob("logs/*/run_*"):
        for name, read in ((runs.META, read_json), (runs.CONFIG, _read_yaml), (runs.CHECKPOINT, read_tensors)):
            if (run / name).exists():
                read(run / name)
        for name, read in ((runs.VALUES, read_tensors), ("preset.json", read_json)):
            if (run / name).exists():
                read(run / name)
        for path in run_audio(run).values():
            read_audio(path)


def _read_yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text())


TRAINING = "--encoder=percentiles --seconds=1 --batch_size=2 --valid_items=2 --test_items=2 --workers=0 --loss=params"


def _train(inputs: Path, folder: Path) -> int:
    argv = [*TRAINING.split(), "--data=folder", f"--data_dir={inputs}", f"--log_dir={folder / 'logs'}", "--device=cpu"]
    begun = ["--resume"] * bool(list(folder.glob(f"logs/*/{LAST}")))
    return TRAIN([*argv, "--epochs=3", "--epoch_items=12", *begun])


def _recordings(folder: Path) -> None:
    for seed in range(4):
        write_audio(folder / f"take{seed}.wav", _take(seed, 2.5), SR)


def _training_result(folder: Path) -> dict[str, object]:
    (run,) = folder.glob("logs/*")
    estimator = read_tensors(run / "estimator.pt")
    record = {"valid_loss": estimator["record"]["valid_loss"], "scores": read_json(run / "metrics.json")}
    return {**estimator["weights"], **record}


def _check_training(folder: Path) -> None:
    for path in folder.glob("logs/*/*"):
        if path.suffix in (".ckpt", ".pt") and not path.name.startswith("."):
            read_tensors(path)


STATISTICS = "--seconds=1 --steps=30 --batch_size=4 --windows=1 --test_items=0 --workers=0 --chain=peq"


def _statistics(inputs: Path, folder: Path) -> int:
    argv = [*STATISTICS.split(), "--data=folder", f"--data_dir={inputs}", f"--log_dir={folder / 'logs'}"]
    if (folder / "a.pt").exists():
        return 0
    return TRAIN_ON_STATISTICS([*argv, f"--out={folder / 'a.pt'}"])


def _statistics_result(folder: Path) -> dict[str, object]:
    return dict(read_tensors(folder / "a.pt")["weights"])


def _check_statistics(folder: Path) -> None:
    for path in folder.rglob("*.pt"):
        if not path.name.startswith("."):
            read_tensors(path)


def _runs_to_harvest(folder: Path) -> None:
    """Run folders of a small chain, as a fit leaves them."""
    chain = {"peak": {"effect": "peak"}}
    for number in range(60):
        run = runs.new_run(folder, f"song{number:03d}")
        paths = {"input_path": f"/dry{number}.wav", "target_path": f"/wet{number}.wav", "alignment_shift": 0}
        runs.begin(run, {"sr": 44100, "chain": chain}, **paths)
        raws = {name: raw + 0.01 * number for name, raw in Knobs(build(chain, 44100)).state_dict().items()}
        runs.save_checkpoint(run, {"best_model": raws})
        runs.finish(run, raws, {"losses": [2.0, 1.5, 1.4, 1.3], "terminated_by": None})


def _harvest(inputs: Path, folder: Path) -> int:
    return HARVEST([str(inputs), str(folder / "set"), "2020-01-01", "--overwrite"])


def _harvest_result(folder: Path) -> dict[str, object]:
    return {path.name: path.read_bytes() for path in (folder / "set").iterdir()}


def _check_harvest(folder: Path) -> None:
    if (folder / "set").exists():
        rows = read_array(folder / "set" / "raw_params.npy")
        if len(rows) != 60 or len(read_info(folder / "set")["dry_files"]) != 60:
            raise ValueError(f"the set has {len(rows)} rows")


# Songs of a batch are saved one after another: between two of them a kill leaves one a step behind, and it goes on in
# another batch, with other rounding. The tolerance is a step of the 16 bits of the recordings.
ROUNDING = 2**-15
JOBS: dict[str, Callable[[Path], Job]] = {
    "fit": lambda folder: Job(folder, _pairs(1), _fit(), _fit_result, _check_fit),
    "batch": lambda folder: Job(folder, _pairs(3), _fit(*VOCAL), _fit_result, _check_fit, ROUNDING),
    "few chunks": lambda folder: Job(folder, _pairs(1), _fit("step_chunks=2"), _fit_result, _check_fit),
    "training": lambda folder: Job(folder, _recordings, _train, _training_result, _check_training),
    "statistics": lambda folder: Job(folder, _recordings, _statistics, _statistics_result, _check_statistics),
    "harvest": lambda folder: Job(folder, _runs_to_harvest, _harvest, _harvest_result, _check_harvest),
}
