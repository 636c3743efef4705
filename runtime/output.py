"""What a program shows: its result, as text or as JSON, apart from notes and progress (`--quiet`, `--json`)."""

import io
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TextIO

QUIET = "show no notes and no progress, only the result, warnings and errors"
JSON = "print the result as JSON, with nothing else on standard output"


class _Nowhere(io.TextIOBase):
    """A stream that discards what is written."""

    def write(self, text: str) -> int:
        return len(text)


@dataclass
class Output:
    """The output of one program while it runs.

    Notes are what the program prints to `sys.stdout`: with `quiet` they are discarded, with `as_json` they go to
    standard error. Only `result` and `write_json` reach `stdout`.
    """

    stdout: TextIO
    quiet: bool = False
    as_json: bool = False
    record: dict[str, object] = field(default_factory=dict)

    def write_json(self) -> None:
        """Writes the record, if JSON was asked for."""
        if self.as_json:
            self.stdout.write(f"{to_json(self.record)}\n")


_CURRENT: ContextVar[Output | None] = ContextVar("output", default=None)


@contextmanager
def opened() -> Iterator[Output]:
    """The output of a program; `sys.stdout` is restored at the end."""
    output, before = Output(sys.stdout), sys.stdout
    token = _CURRENT.set(output)
    try:
        yield output
    finally:
        _CURRENT.reset(token)
        sys.stdout = before


def choose(*, quiet: bool = False, as_json: bool = False) -> None:
    """Sets what the running program shows, as its arguments ask for; without a program it does nothing."""
    output = _CURRENT.get()
    if output is None or not (quiet or as_json):
        return
    output.quiet, output.as_json = output.quiet or quiet, output.as_json or as_json
    sys.stdout = _Nowhere() if output.quiet else sys.stderr
    if output.quiet:
        logging.getLogger().setLevel(logging.WARNING)


def is_quiet() -> bool:
    """Whether notes and progress are not to be shown."""
    output = _CURRENT.get()
    return output is not None and output.quiet


def result(text: str = "", /, **fields: object) -> None:
    """Shows a part of a program's result: the text, or with `--json` the fields, in one object at the program's end."""
    output = _CURRENT.get()
    if output is not None:
        output.record |= fields
    if text and not (output and output.as_json):
        write_above_bars(text, output.stdout if output else sys.stdout)


def counted(count: int, noun: str) -> str:
    """A number of things in words: 1 step, 2 steps."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration as it is said: in seconds, in minutes, or in hours and minutes."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def unlogged(name: str) -> Iterator[None]:
    """Disables a logger within the context, whose records are shown in another way."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def write_above_bars(text: str, stream: TextIO) -> None:
    """Writes lines to a stream, above the progress bars that are drawn."""
    text, tqdm = text.removesuffix("\n"), sys.modules.get("tqdm")
    if tqdm is not None:
        tqdm.tqdm.write(text, stream)
    else:
        stream.write(f"{text}\n")
    # So that nothing is lost if the program is killed.
    stream.flush()


def to_json(value: object) -> str:
    """JSON of dicts, lists, numbers, arrays and texts; anything else as its text, a number that is not finite as null.

    In ASCII, so that it is valid in whatever encoding the stream has.
    """
    return json.dumps(_plain(value), indent=1)


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):  # a tensor or an array
        value = value.tolist()  # pyright: ignore[reportAttributeAccessIssue] - it was just asked for
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int)) else str(value)
