"""What strangers' files may be instead of files, and what programs may take to say so."""

import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Change = Callable[[Path], None]
SECONDS, BYTES = 20, 100e6
DEEP = "[" * 100_000
NUMBER, NULL, TEXT, TREE, LIST = 5, None, "text", {"a": 1}, [[1], [2]]


@contextmanager
def bounded() -> Iterator[None]:
    """Ends a block that waits, and fails one that takes much memory."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def enormous(path: Path) -> None:
    os.truncate(path, 1 << 40)
