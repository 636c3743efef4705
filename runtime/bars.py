"""Progress bars: one line of a terminal or a notebook; a line a minute in a log; none with --quiet."""

import io
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from reknob.runtime.output import is_quiet

LINE_EVERY_S = 60.0
# Size where a terminal does not tell its own: tqdm draws nothing into one of no rows, and a bar that is longer than a
# line breaks into lines that are not overwritten.
COLUMNS, ROWS = 80, 24
LINE = "{desc} {n_fmt}/{total_fmt} {unit}s in {elapsed}, {rate_fmt}{postfix}"


class _Log(io.TextIOBase):
    """A stream of lines in place of a bar that is drawn over and over: one in LINE_EVERY_S, none before."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._written = time.monotonic()

    def write(self, text: str) -> int:
        line, now = " ".join(text.split()), time.monotonic()
        if line and now - self._written >= LINE_EVERY_S:
            self._written = now
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        return len(text)


def is_drawn() -> bool:
    """Whether standard error can draw over a line: a terminal, or the output of a notebook's cell."""
    is_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
    return is_notebook or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def progress_bar(
    steps: Iterable[Any] | None = None,
    title: str | None = None,
    total: int | None = None,
    *,
    unit: str,
    initial: int = 0,
    drawing: str | None = None,
    delay: float = 0.0,
) -> tqdm:
    """A bar of tqdm on standard error, to iterate over or to update.

    Args:
        steps: what is iterated over.
        title: what is done.
        total: how many steps there are.
        unit: one step, in the singular.
        initial: steps done before.
        drawing: the format of a bar that is drawn (tqdm's `bar_format`).
        delay: s before it is drawn; what takes less time shows none.
    """
    drawn = is_drawn()
    is_sizeless = drawn and not _has_size()
    return tqdm(
        steps,
        title,
        total,
        unit=unit,
        initial=initial,
        disable=is_quiet(),
        file=sys.stderr if drawn else _Log(),
        bar_format=drawing if drawn else LINE,
        dynamic_ncols=drawn and not is_sizeless,
        ncols=COLUMNS if is_sizeless else None,
        nrows=ROWS if is_sizeless else None,
        delay=delay,
    )


def _has_size() -> bool:
    """Whether standard error is a terminal that tells its size."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # a notebook's output is no terminal
        return False
