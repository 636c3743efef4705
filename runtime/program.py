"""The runner of every program: exit status, messages, signals. Imported first, as it prepares further imports."""

from reknob.runtime.startup import INTERRUPTED, MISTAKE, why_not_loaded

import functools
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import stopping_at_once

Main = Callable[[list[str]], int]


class Program(Protocol):
    """A wrapped `main`: its exit status, of the given arguments or of the command line's."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


FAULT = 1
BROKEN_PIPE = 128 + 13  # as a program that SIGPIPE ended
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def program(main: Main) -> Program:
    """Wraps a program's `main(argv)` so that it returns an exit status and never raises.

    0: success. 2: a user's mistake, or a failure of the machine (a full disk, no memory), as one line on stderr.
    1: a fault of the project; the traceback goes to a file that the line names, with `--debug` to stderr.
    130: Ctrl-C, or another signal of `runtime.interrupt.SIGNALS`. 141: the reader of the output closed its pipe.
    `--plugin MODULE` is imported before `main` is called (`runtime.plugins`).
    Without an argument `main` gets the command line's. Log records go to stderr, one line each.
    """
    name = Path(main.__code__.co_filename).name

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        given = sys.argv[1:] if argv is None else argv
        arguments = [argument for argument in given if argument != "--debug"]
        _make_writable()
        try:
            rest, names = plugins.split_arguments(arguments)
            with stopping_at_once(), _messages(), plugins.loaded(names):
                status = main(rest)
        except SystemExit as end:  # argparse, after --help
            status = end.code if isinstance(end.code, int) else MISTAKE if end.code else 0
        except (Exception, KeyboardInterrupt) as error:
            status = _report(name, error, debug=len(arguments) < len(given))
        return _flushed(name, status)

    return guarded


def explain(error: BaseException) -> str | None:
    """One line on a user's mistake or a failure of the machine; None for a fault of the project."""
    text = _of_worker(str(error))
    if isinstance(error, UsageError):
        return one_line(text)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text.lower() for words in NO_MEMORY)
    ):
        return f"out of memory: {one_line(text) or 'the work does not fit'}"
    if line := why_not_loaded(error):
        return line
    if isinstance(error, OSError) and error.strerror:
        # Of a rename the second name is the one that was to be written.
        file = error.filename2 or error.filename
        prefix = f"{os.fsdecode(file)}: " if isinstance(file, (str, bytes, os.PathLike)) else ""
        return one_line(f"{prefix}{error.strerror}")
    # An OSError of a DataLoader's worker is raised here with its text only.
    return one_line(text) if isinstance(error, OSError) and text != str(error) else None


def reason(error: BaseException) -> str:
    """One line on any error, for a program that continues without the item that failed."""
    return explain(error) or one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """A text as one line of at most about 1000 characters, the middle cut out, unprintable characters escaped."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= 1000 else f"{line[:500]} … {line[-400:]}"


def print_error(line: str) -> None:
    """Prints a line to stderr, above progress bars; an error of stderr itself is ignored."""
    tqdm = sys.modules.get("tqdm")
    try:
        if tqdm is not None:
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: the stream is closed
        _discard(sys.stderr)


class _Messages(logging.Handler):
    """Prints log records to the current `sys.stderr`, which tests and notebooks replace."""

    def emit(self, record: logging.LogRecord) -> None:
        print_error(self.format(record))


@contextmanager
def _messages() -> Iterator[None]:
    """Prints log records of level INFO and above, unless the caller of the program has installed handlers."""
    root, handler = logging.getLogger(), _Messages()
    level = root.level
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _of_worker(text: str) -> str:
    """The message of an error; of one re-raised from a DataLoader's worker the end of the traceback in its text."""
    if not (text.startswith("Caught ") and "Original Traceback" in text):
        return text
    last = max(number for number, line in enumerate(text.splitlines()) if line.startswith("  "))
    return " ".join(text.splitlines()[last + 1 :]).partition(": ")[2]


def _report(name: str, error: BaseException, *, debug: bool) -> int:
    """Prints an error, and returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        print_error(f"{name}: stopped" + (f" by {error}" if str(error) and str(error) != "SIGINT" else ""))
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if line := explain(error):
        print_error(f"{name}: {line}")
        return MISTAKE
    if debug:
        traceback.print_exception(error)
    print_error(f"{name}: internal error: {reason(error)}{'' if debug else _save_traceback(error)}")
    return FAULT


def _save_traceback(error: BaseException) -> str:
    """Writes the traceback of a fault to a temporary file; the end of the message, which names it."""
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="reknob-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return "; --debug shows the traceback"
    return f"; the traceback is in {file.name}, please report it"


def _make_writable() -> None:
    """Makes the standard streams accept any text: escaped where their encoding lacks it, discarded if closed."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # the parent process closed the descriptor
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")


def _flushed(name: str, status: int) -> int:
    """The exit status after standard output is flushed: `status`, or that of a write error."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        if status == 0:
            print_error(f"{name}: standard output: {getattr(error, 'strerror', None) or error}")
            return MISTAKE
    return status


def _discard(stream: TextIO) -> None:
    """Redirects a stream to the null device, so that the interpreter's flush at exit does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):  # a stream of a test or a notebook has no descriptor
        pass
    finally:
        os.close(null)
