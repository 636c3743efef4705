"""Signals that request the end of a program: raised at once, deferred to the next step, or ignored in a worker."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Work was given up between two steps, because it was asked to end."""


Handler = Callable[[int, FrameType | None], object]
#: What `signal.signal` returned; None where the handler was not installed from Python.
Handlers = dict[signal.Signals, Handler | int | None]

#: Ctrl-C; kill, timeout and clusters; a closed terminal; a cluster's warning before the time limit (Slurm's --signal).
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Interrupt:
    """A flag that signals set and that a loop reads between steps; a second Ctrl-C raises KeyboardInterrupt.

    `signal` is the first signal received. The context may be entered several times: every exit restores the handlers
    that were installed at the matching entry.
    """

    def __init__(self) -> None:
        self.asked = False
        self.signal: signal.Signals | None = None
        self._before: list[Handlers] = []

    def __call__(self) -> bool:
        return self.asked

    def __enter__(self) -> "Interrupt":
        self._before.append(_install(self._request))
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            _restore(self._before.pop())

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self.signal = True, signal.Signals(number)


def raise_if(stopped: Callable[[], bool]) -> None:
    """Raises Interrupted where `stopped()`."""
    if stopped():
        raise Interrupted


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Every signal of SIGNALS raises KeyboardInterrupt with the signal's name, so that `finally` blocks clean up."""
    before = _install(_stop)
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Blocks SIGNALS except SIGTERM: processes started inside inherit that, in this one they arrive at the end.

    SIGTERM stays deliverable, as process pools end their workers with it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(*, but: tuple[signal.Signals, ...] = ()) -> None:
    """Ignores SIGNALS except `but` in a worker process.

    A terminal sends Ctrl-C to the whole process group, and the main process alone decides how to react.
    """
    for number in set(SIGNALS) - set(but):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _install(handler: Handler) -> Handlers:
    """Installs a handler for SIGNALS and returns the previous ones; an ignored SIGHUP (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python installs handlers from its main thread only
    before: Handlers = {}
    for number in SIGNALS:
        is_ignored = signal.getsignal(number) == signal.SIG_IGN
        if not (is_ignored and number == getattr(signal, "SIGHUP", None)):
            before[number] = signal.signal(number, handler)
    return before


def _restore(before: Handlers) -> None:
    for number, handler in before.items():
        # A handler that was not installed from Python cannot be restored from it.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
