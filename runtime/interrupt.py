"""Signals that ask a program to end: at once, between two steps of its work, or not this process."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handlers = dict[signal.Signals, object]

#: Ctrl-C; what kill, timeout and clusters send; a terminal that is closed; the warning of a cluster (Slurm's --signal).
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


class Interrupt:
    """A request to stop as a question that a loop asks between steps; Ctrl-C after it stops at once.

    `signal` is the first one that came. May be entered several times: the handlers of others that were set in between
    are put back one by one.
    """

    def __init__(self) -> None:
        self.asked = False
        self.signal: signal.Signals | None = None
        self._before: list[Handlers] = []

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> "Interrupt":
        self._before.append(_handle(self._ask))
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            _put_back(self._before.pop())

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.signal = True, signal.Signals(number)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Every signal of SIGNALS raises KeyboardInterrupt with its name, so that nothing is left half written."""
    before = _handle(_stop)
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C and the like; here it waits until the end.

    SIGTERM alone reaches them, as it is what ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_the_program(*, but: tuple[signal.Signals, ...] = ()) -> None:
    """In a worker process: signals reach every process of a group, and the program decides what becomes of them."""
    for number in set(SIGNALS) - set(but):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _handle(handler: Callable[[int, FrameType | None], None]) -> Handlers:
    """Sets a handler, and returns those before; only Python's main thread can. nohup's ignored SIGHUP stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: Handlers = {}
    for number in SIGNALS:
        is_ignored = signal.getsignal(number) == signal.SIG_IGN
        if not (is_ignored and number == getattr(signal, "SIGHUP", None)):
            before[number] = signal.signal(number, handler)
    return before


def _put_back(before: Handlers) -> None:
    for number, handler in before.items():
        # None: it was set by no Python code, and Python cannot set it again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
