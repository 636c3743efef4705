"""How every program ends: its exit status, its one line on stderr, and what nothing on the way can break."""

from reknob.runtime.program import explain, one_line, program

import errno
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from reknob.runtime import startup
from reknob.runtime.arguments import Parser, file_path, integer, level, real
from reknob.runtime.errors import UsageError

ROOT = Path(__file__).parents[1]


def run(work: Callable[[list[str]], int | None], *argv: str) -> int:
    """The exit status of a program that does some work."""

    @program
    def main(argv: list[str]) -> int:
        return work(argv) or 0

    return main(argv)


def failing(error: BaseException) -> Callable[[list[str]], int]:
    def work(argv: list[str]) -> int:
        raise error

    return work


# As llvmlite raises it, for any reason.
NOT_LOADED = OSError("Could not find/load shared object file 'libx.so'")
NOT_LOADED.__context__ = OSError("/y/libx.so: failed to map segment from shared object")
REFUSED = [
    (UsageError("sr=0:\n must be above 0"), "sr=0: must be above 0"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/a.wav"), "/x/a.wav: No space left on device"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", Path("a")), "a: No such file or directory"),
    (MemoryError(), "out of memory: the work does not fit"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory: DefaultCPUAllocator"),
    (ImportError("libx.so: failed to map segment from shared object"), "not enough memory to load a library (libx.so)"),
    (NOT_LOADED, "not enough memory to load a library (/y/libx.so)"),
]


@pytest.mark.parametrize(("error", "line"), REFUSED, ids=[type(error).__name__ for error, _ in REFUSED])
def test_what_a_user_or_the_machine_got_wrong_is_one_line_and_status_2(
    error: Exception, line: str, capsys: pytest.CaptureFixture
) -> None:
    assert run(failing(error)) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"test_program.py: {line}") and told.count("\n") == 1


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(failing(KeyError("gain \udcff"))) == 1
    told = capsys.readouterr().err
    (kept,) = tmp_path.glob("reknob-*.log")
    assert told.count("\n") == 1 and "internal error: KeyError" in told and str(kept) in told
    assert "Traceback" in kept.read_text() and "in work" in kept.read_text()


def test_a_fault_is_told_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert run(failing(KeyError("gain"))) == 1
    assert "--debug shows the traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_and_is_no_argument_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    given: list[str] = []
    assert run(lambda argv: given.extend(argv), "a", "--debug", "b") == 0 and given == ["a", "b"]
    assert run(failing(KeyError("gain")), "--debug") == 1
    told = capsys.readouterr().err
    assert "Traceback" in told and told.endswith("internal error: KeyError: 'gain'\n")


def test_help_ends_with_0_and_wrong_arguments_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work(argv: list[str]) -> None:
        p = Parser("What it does …")
        p.add_argument("--count", type=integer(1, 9))
        p.parse_args(argv)

    assert run(work, "--help") == 0
    text = capsys.readouterr().out
    assert "What it does …" in text and "--debug" in text
    assert run(work, "--count=0") == 2
    said = "test_program.py: argument --count: 0: give a whole number from 1 to 9; --help lists the arguments\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_ends_with_130_and_cleans_up(name: str, capsys: pytest.CaptureFixture) -> None:
    number, ends = getattr(signal, name), []
    before = signal.getsignal(number)

    def work(argv: list[str]) -> None:
        try:
            os.kill(os.getpid(), number)
            pytest.fail("went on")
        finally:
            ends.append(name)

    assert run(work) == 130 and ends == [name]
    told = {"SIGINT": "stopped"}.get(name, f"stopped by {name}")
    assert capsys.readouterr().err == f"test_program.py: {told}\n"
    assert signal.getsignal(number) == before


class Full(io.StringIO):
    """A stream that nothing can be written to any more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 141), (errno.ENOSPC, 2)])
def test_output_that_nobody_takes_is_no_traceback(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(number))
    assert run(lambda argv: None) == status
    assert ("standard output: No space left" in capsys.readouterr().err) == (status == 2)


def test_a_broken_pipe_ends_a_program_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == 141
    assert capsys.readouterr().err == ""


def test_a_stderr_that_is_gone_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full(errno.EPIPE))
    assert run(failing(UsageError("no"))) == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_text_can_be_printed_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    assert run(lambda argv: sys.stdout.write("音 … \udcff\n") and 0) == 0
    shown = raw.getvalue().decode(encoding)
    assert shown == ("音 … \\udcff\n" if encoding == "utf-8" else shown) and "\\udcff" in shown


def test_streams_that_are_closed_drop_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(lambda argv: sys.stdout.write("heard by nobody") and 0) == 0
    assert run(failing(UsageError("no"))) == 2


def test_what_libraries_log_is_shown_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    for _ in range(2):
        run(lambda argv: logging.getLogger("data").info("resampled"))
    assert capsys.readouterr().err == "resampled\n" * 2 and root.handlers == []


def test_a_line_is_one_printable_line() -> None:
    assert one_line("a\n b\x1b[2J\0") == "a b\\x1b[2J\\x00"
    assert len(one_line("long " * 1000)) < 1000


class Refusing(Dataset):
    """Recordings that cannot be read, for one reason or another."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("a.wav: holds NaN\n samples"), "a.wav: holds NaN samples"),
        (OSError(errno.EIO, "Input/output error", "a.wav"), "[Errno 5] Input/output error: 'a.wav'"),
        (KeyError("a"), None),
    ],
)
def test_what_a_data_loaders_worker_raises_is_told_as_if_raised_here(error: Exception, line: str | None) -> None:
    loader = DataLoader(Refusing(error), num_workers=1)
    with pytest.raises(type(error)) as raised:
        next(iter(loader))
    assert explain(raised.value) == line


def test_a_missing_requirement_is_told_with_the_remedy() -> None:
    line = startup.why_not_loaded(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    assert line.startswith(f"torch is not installed in this Python ({sys.executable}): run ")
    assert ". .venv/bin/activate`" in line and line.endswith("pip install .")
    line = startup.why_not_loaded(ModuleNotFoundError("No module named 'auraloss'", name="auraloss"))
    assert line.endswith("pip install -r requirements-dev.txt")
    assert startup.why_not_loaded(ModuleNotFoundError("No module named 'afx.x'", name="afx.x")) is None


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("import no_such_library", 2, "-c: no_such_library is not installed in this Python"),
        ("raise KeyboardInterrupt", 130, ""),
        ("try:\n    raise KeyboardInterrupt\nexcept BaseException:\n    raise ImportError('numpy')", 130, ""),
        ("import os; assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE', os.environ", 0, ""),
    ],
)
def test_what_goes_wrong_before_main_ends_in_a_line(line: str, status: int, said: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ended = subprocess.run(
        [sys.executable, "-S", "-c", f"from reknob.runtime.program import program\n{line}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == status
    assert ended.stderr.startswith(said) and ended.stderr.count("\n") == bool(said)


def test_values_of_arguments_are_checked_where_they_are_read() -> None:
    p = Parser()
    p.add_argument("--path", type=file_path)
    p.add_argument("--share", type=real(0, 1))
    p.add_argument("--loudness", type=level)
    assert p.parse_args(["--path=~/a"]).path == Path.home() / "a"
    assert p.parse_args(["--loudness=off"]).loudness is None
    wrong = {
        "--path=~nosuchuser/a": "there is no such home folder",
        "--path=a\0b": "no path that a file can have",
        f"--path={'a' * 5000}": "no path that a file can have",
        "--share=nan": "give a number from 0 to 1",
        "--share=2": "give a number from 0 to 1",
        "--loudness=inf": "LUFS, or off",
        "--shre=1": "unknown option --shre; did you mean --share",
        "--xyzzy": "unknown option --xyzzy; --help lists the arguments",
        "share=1": "share=1: write it as --share=1",
    }
    for argument, message in wrong.items():
        with pytest.raises(UsageError, match=message):
            p.parse_args([argument])
