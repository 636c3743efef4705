"""How every program runs: its exit status, its error messages, and output that nothing breaks."""

import functools
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from runtime.errors import UsageError

Main = Callable[[list[str]], int]

FAULT, MISTAKE = 1, 2
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13  # as a program that SIGPIPE ended


def program(main: Main) -> Callable[[Sequence[str] | None], int]:
    """A program's `main(argv)` that never raises and returns an exit status.

    0: done. 2: a user's mistake, or what the machine refused (a full disk, no memory), as one line on stderr.
    1: a fault of the project; the traceback goes to a file that the line names, with `--debug` to the screen.
    130: Ctrl-C. 141: whoever read the output has gone. Without an argument `main` takes the command line's.
    """
    name = Path(main.__code__.co_filename).name

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        arguments = [a for a in (sys.argv[1:] if argv is None else argv) if a != "--debug"]
        debug = len(arguments) < len(sys.argv[1:] if argv is None else argv)
        accept_any_text(sys.stdout, sys.stderr)
        try:
            status = main(arguments)
            sys.stdout.flush()
            return status
        except SystemExit as leave:  # argparse, after --help and after its own message
            return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else MISTAKE
        except KeyboardInterrupt:
            tell(f"{name}: stopped")
            return INTERRUPTED
        except BrokenPipeError:
            _drop(sys.stdout)
            return BROKEN_PIPE
        except Exception as error:
            if debug:
                traceback.print_exc()
            line = explain(error)
            tell(f"{name}: {line}" if line else f"{name}: {_report_fault(error, debug)}")
            return MISTAKE if line else FAULT

    return guarded


def explain(error: BaseException) -> str | None:
    """One line on a user's mistake or on what the machine refused; None for a fault of the project."""
    if isinstance(error, UsageError):
        return one_line(str(error))
    if isinstance(error, MemoryError):
        return f"out of memory: {one_line(str(error)) or 'the work does not fit'}"
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename
        return one_line(f"{os.fsdecode(place)}: {error.strerror}" if place is not None else error.strerror)
    return None


def one_line(text: str) -> str:
    """A text as one line of at most 1000 characters, printable whatever it holds."""
    line = " ".join(text.split())
    return line if len(line) <= 1000 else f"{line[:500]} … {line[-400:]}"


def tell(line: str) -> None:
    """Prints a line to stderr; what cannot be printed is dropped, as there is nobody to tell."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def accept_any_text(*streams: TextIO) -> None:
    """Lets streams print any text: what their encoding lacks appears escaped."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """Sends what is left in a stream nowhere, so that the interpreter's own last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):  # a stream of a test or a notebook has no descriptor
        pass
    finally:
        os.close(nowhere)


def _report_fault(error: Exception, debug: bool) -> str:
    """What to tell of a fault of the project."""
    summary = one_line(f"{type(error).__name__}: {error}")
    if debug:
        return f"internal error: {summary}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="reknob-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"internal error: {summary}; --debug shows the traceback"
    return f"internal error: {summary}; the traceback is in {file.name}, please report it"
