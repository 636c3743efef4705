"""Many tracks in turn, as many of them in one fit as the memory holds."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

import torch

from reknob.fitting.fit import Fit, OnStep, run
from reknob.fitting.track import TrackState
from reknob.runtime.memory import PeakMemory, free_bytes

OnFault = Callable[[TrackState, Exception], str]

# The share of the free memory that steps may take: the rest is for what other programs will ask for.
SHARE = {"cuda": 0.85, "cpu": 0.5}
# The most chunks of a batch, as a multiple of those that count: tracks with fewer chunks are filled up with others.
PADDING = 1.25
# The least that a chunk takes in a step, as a multiple of its audio; measured with many: 12 times for a panning alone,
# 20 times for the full chain.
LEAST = 8


class Budget:
    """How many chunks go into one step, from what the steps so far took of the memory.

    Args:
        device: whose memory it is.
        batch_size: most chunks of a track in a step.
        limit_bytes: what steps may take; a share of what is free where not given.
        shared: whether tracks may share a step at all.
    """

    def __init__(
        self, device: torch.device, batch_size: int, limit_bytes: int | None = None, *, shared: bool = True
    ) -> None:
        self.device, self.batch_size, self.shared = device, batch_size, shared
        self.limit = limit_bytes or int(SHARE[device.type] * free_bytes(device))
        self.taken = self.largest = 0  # the most bytes, and the most chunks, of a step so far
        self.chunks, self.most = 0, sys.maxsize  # by the measure, and since memory ran out

    @property
    def is_measured(self) -> bool:
        return self.chunks > 0

    def note(self, tracks: Sequence[TrackState], taken: int) -> None:
        """Takes note of a step of these tracks that took so many bytes."""
        self.taken, self.largest = max(self.taken, taken), max(self.largest, self._size(tracks))
        # A measure can miss what was allocated before; no step takes less than this.
        least = LEAST * max(track.chunks.bytes_each for track in tracks)
        self.chunks = max(int(self.limit / max(self.taken / self.largest, least)), 1)

    def ran_out(self, tracks: Sequence[TrackState]) -> None:
        """Takes note that a step of these tracks was too large."""
        self.most = max(self._size(tracks) // 2, 1)

    def holds(self, tracks: Sequence[TrackState]) -> bool:
        """Whether these tracks go into one step, and are alike enough in size to share one; one always does."""
        if len(tracks) == 1:
            return True
        wanted = sum(track.count(self.batch_size) for track in tracks)
        filled = self._step(tracks) <= PADDING * wanted
        return self.shared and filled and self._size(tracks) <= min(self.chunks, self.most)

    def _step(self, tracks: Sequence[TrackState]) -> int:
        """Chunks of a step, those included that fill up."""
        return len(tracks) * max(track.count(self.batch_size) for track in tracks)

    def _size(self, tracks: Sequence[TrackState]) -> int:
        """Chunks of a step, and those that wait for another."""
        waiting = sum(len(track.chunks.dry) - track.count(self.batch_size) for track in tracks)
        return self._step(tracks) + waiting


class Queue:
    """Tracks that wait, made when they are looked at."""

    def __init__(self, tracks: Iterable[TrackState]) -> None:
        self._source, self._ready = iter(tracks), deque()

    def next(self) -> TrackState | None:
        """The next one, which stays; None where there is no more."""
        if not self._ready:
            self._ready.extend([track] if (track := next(self._source, None)) else [])
        return self._ready[0] if self._ready else None

    def take(self) -> TrackState:
        return self._ready.popleft()

    def begun(self) -> list[TrackState]:
        """Those that wait and have been made."""
        return list(self._ready)

    def put_back(self, tracks: Iterable[TrackState]) -> None:
        self._ready.extendleft(reversed(list(tracks)))


class Attempt(Enum):
    """What came of a fit of some tracks."""

    WENT_ON = auto()  # to the end of one of them, or as far as it was to go
    OUT_OF_MEMORY = auto()
    BROKEN = auto()  # by one of several, or by all together


def fit_all(
    tracks: Iterable[TrackState],
    make: Callable[[Sequence[TrackState]], Fit],
    budget: Budget,
    *,
    on_step: OnStep,
    on_pause: Callable[[Sequence[TrackState]], None],
    on_fault: OnFault,
    on_end: Callable[[TrackState, str | None], None],
    stopped: Callable[[], bool],
) -> None:
    """Fits all tracks, as many at once as the budget allows; where memory runs out, half as many go on.

    Where a step of several raises, each takes it alone: those that raise again end, and the others go on.

    Args:
        tracks: may be a generator that loads them; one is looked at ahead.
        make: a fit of some of them.
        on_step, on_pause, stopped: as in `fitting.fit.run`; they do not raise.
        on_fault: once for a track whose step raises, with the exception; why the track ends.
        on_end: once for every track that was begun, with "interrupted", what went wrong, or None.
    """
    queue, active = Queue(tracks), []

    def attempt(some: Sequence[TrackState], steps: int | None = None) -> Attempt:
        return _attempt(some, make, budget, on_fault, (on_step, on_pause, stopped, steps))

    try:
        while not stopped():
            while (following := queue.next()) and budget.holds([*active, following]):
                active.append(queue.take())
            if not active:
                return
            if not any(track.has_ended for track in active):
                # One step of the first track tells what the others will take.
                measure = following is not None and not budget.is_measured
                came = attempt(active, 1 if measure else None)
                if came is Attempt.BROKEN and len(active) > 1:
                    for track in active:
                        attempt([track], 1)
                if came is not Attempt.WENT_ON and not any(track.error for track in active):
                    # Too many for the memory, or together for a reason of their own.
                    budget.ran_out(active)
                    half = len(active) // 2
                    queue.put_back(active[half:])
                    active = active[:half]
            on_pause([*active, *queue.begun()])
            ended, active = [t for t in active if t.has_ended], [t for t in active if not t.has_ended]
            for track in ended:
                on_end(track, track.error)
    except BaseException:
        on_pause([*active, *queue.begun()])
        raise
    for track in [*active, *queue.begun()]:
        on_end(track, "interrupted")


def _attempt(
    tracks: Sequence[TrackState],
    make: Callable[[Sequence[TrackState]], Fit],
    budget: Budget,
    on_fault: OnFault,
    watching: tuple,
) -> Attempt:
    """Runs a fit of some tracks until one ends; they are then as far as they came, and one alone that broke has ended.

    `watching` are the last arguments of `fitting.fit.run`.
    """
    try:
        with PeakMemory(budget.device) as peak:
            run(make(tracks), *watching)
        budget.note(tracks, peak.bytes)
        return Attempt.WENT_ON
    except Exception as error:
        came = Attempt.OUT_OF_MEMORY if _is_out_of_memory(error) else Attempt.BROKEN
        if len(tracks) == 1:
            out = "out of memory with this track alone; lower batch_size or chunk_duration"
            tracks[0].error = out if came is Attempt.OUT_OF_MEMORY else on_fault(tracks[0], error)
    # What the exception held is free by now, and goes back to the device.
    torch.cuda.empty_cache()
    return came


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is of that kind or says so: libraries on a GPU have no exception of their own for it."""
    said = f"{error} {error.__context__}".lower()
    told = any(words in said for words in ("out of memory", "can't allocate memory", "alloc_failed"))
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))
