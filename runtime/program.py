"""How every program runs: its exit status, its messages, and the signals that end it. To be imported first."""

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
from typing import TextIO

from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import stopping_at_once

Main = Callable[[list[str]], int]

FAULT = 1
BROKEN_PIPE = 128 + 13  # as a program that SIGPIPE ended
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def program(main: Main) -> Callable[[Sequence[str] | None], int]:
    """A program's `main(argv)` that never raises and returns an exit status.

    0: done. 2: a user's mistake, or what the machine refused (a full disk, no memory), as one line on stderr.
    1: a fault of the project; the traceback goes to a file that the line names, with `--debug` to the screen.
    130: Ctrl-C, or another signal that asks to end. 141: whoever read the output has gone.
    `--plugin MODULE` is imported before `main` is called (`runtime.plugins`).
    Without an argument `main` takes the command line's. What the libraries log goes to stderr, a line each.
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
    """One line on a user's mistake or on what the machine refused; None for a fault of the project."""
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
        place = error.filename2 or error.filename
        where = f"{os.fsdecode(place)}: " if isinstance(place, (str, bytes, os.PathLike)) else ""
        return one_line(f"{where}{error.strerror}")
    return one_line(text) if isinstance(error, OSError) and text != str(error) else None


def reason(error: BaseException) -> str:
    """One line on any error, for a program that goes on without what failed."""
    return explain(error) or one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """A text as one line of at most 1000 characters, printable whatever it holds."""
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
    except (OSError, ValueError):  # ValueError: it is closed
        _drop(sys.stderr)


class _Messages(logging.Handler):
    """Prints what is logged to whatever stderr is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        print_error(self.format(record))


@contextmanager
def _messages() -> Iterator[None]:
    """Shows what is logged, unless whoever called the program has handlers of their own."""
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
    """The message of an error; one that torch's DataLoader handed on from a worker is the end of a traceback's text."""
    if not (text.startswith("Caught ") and "Original Traceback" in text):
        return text
    last = max(number for number, line in enumerate(text.splitlines()) if line.startswith("  "))
    return " ".join(text.splitlines()[last + 1 :]).partition(": ")[2]


def _report(name: str, error: BaseException, *, debug: bool) -> int:
    """Tells of an error, and returns the exit status."""
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
    print_error(f"{name}: internal error: {reason(error)}{'' if debug else _kept(error)}")
    return FAULT


def _kept(error: BaseException) -> str:
    """Where the traceback of a fault is."""
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
    """Lets the standard streams print any text, escaped where their encoding lacks it; closed ones drop it."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(getattr(sys, stream), "reconfigure"):
            getattr(sys, stream).reconfigure(errors="backslashreplace")


def _flushed(name: str, status: int) -> int:
    """The exit status of a program whose output has reached its reader, or another."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        _drop(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return BROKEN_PIPE
        if status == 0:
            print_error(f"{name}: standard output: {getattr(error, 'strerror', None) or error}")
            return MISTAKE
    return status


def _drop(stream: TextIO) -> None:
    """Sends what is left in a stream nowhere, so that the interpreter's own last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # a stream of a test or a notebook has no descriptor
        pass
    finally:
        os.close(nowhere)
