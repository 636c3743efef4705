"""Fits of many tracks, as many of them together as fit into memory."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto

import torch

from reknob.fitting.fit import Fit, OnStep, run
from reknob.fitting.track import TrackState
from reknob.runtime.memory import PeakMemory, free_bytes

OnFault = Callable[[TrackState, Exception], str]

# The fraction of the free memory that steps may use; the rest is left to other programs.
SHARE = {"cuda": 0.85, "cpu": 0.5}
# The largest batch, as a multiple of its chunks without padding: tracks with fewer chunks are padded.
PADDING = 1.25
# The least memory of a chunk in a step, as a multiple of its audio. Measured: 12 times for a panning alone, 20 times
# for the full chain.
LEAST = 8


class Budget:
    """The number of chunks that fit into one step, from the memory that the steps so far used.

    Args:
        device: of the memory.
        batch_size: most chunks of a track in a step.
        limit_bytes: memory for steps; a fraction of the free memory where not given.
        shared: whether a step may hold several tracks.
    """

    def __init__(
        self, device: torch.device, batch_size: int, limit_bytes: int | None = None, *, shared: bool = True
    ) -> None:
        self.device, self.batch_size, self.shared = device, batch_size, shared
        self.limit = limit_bytes or int(SHARE[device.type] * free_bytes(device))
        self.peak = self.largest = 0  # the most bytes, and the most chunks, of a step so far
        self.chunks, self.most = 0, sys.maxsize  # that fit by measurement, and after memory ran out

    @property
    def is_measured(self) -> bool:
        return self.chunks > 0

    def record(self, tracks: Sequence[TrackState], used: int) -> None:
        """Records the bytes that a step of these tracks used."""
        self.peak, self.largest = max(self.peak, used), max(self.largest, self._size(tracks))
        # The measurement misses memory that was allocated earlier; no step uses less than this.
        least = LEAST * max(track.chunks.bytes_each for track in tracks)
        self.chunks = max(int(self.limit / max(self.peak / self.largest, least)), 1)

    def ran_out(self, tracks: Sequence[TrackState]) -> None:
        """Records that a step of these tracks ran out of memory."""
        self.most = max(self._size(tracks) // 2, 1)

    def holds(self, tracks: Sequence[TrackState]) -> bool:
        """Whether these tracks fit into one step with little padding; a single track always does."""
        if len(tracks) == 1:
            return True
        wanted = sum(track.count(self.batch_size) for track in tracks)
        is_dense = self._step(tracks) <= PADDING * wanted
        return self.shared and is_dense and self._size(tracks) <= min(self.chunks, self.most)

    def _step(self, tracks: Sequence[TrackState]) -> int:
        """Chunks of a step, padding included."""
        return len(tracks) * max(track.count(self.batch_size) for track in tracks)

    def _size(self, tracks: Sequence[TrackState]) -> int:
        """Chunks in memory: those of a step, padding included, and those of the tracks that it does not draw."""
        waiting = sum(len(track.chunks.dry) - track.count(self.batch_size) for track in tracks)
        return self._step(tracks) + waiting


class Queue:
    """Tracks that are not fitted yet; each is created when it is first needed."""

    def __init__(self, tracks: Iterable[TrackState]) -> None:
        self._source, self._ready = iter(tracks), deque()

    def peek(self) -> TrackState | None:
        """The next track, which stays in the queue; None at the end."""
        if not self._ready:
            self._ready.extend([track] if (track := next(self._source, None)) else [])
        return self._ready[0] if self._ready else None

    def take(self) -> TrackState:
        """Removes the next track."""
        return self._ready.popleft()

    def created(self) -> list[TrackState]:
        """The tracks in the queue that exist already."""
        return list(self._ready)

    def put_back(self, tracks: Iterable[TrackState]) -> None:
        """Adds tracks at the front."""
        self._ready.extendleft(reversed(list(tracks)))


class Attempt(Enum):
    """How a fit of some tracks ended."""

    COMPLETED = auto()  # one of the tracks ended, or all requested steps were taken
    OUT_OF_MEMORY = auto()
    FAILED = auto()  # an exception, of one track or of all


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
    """Fits all tracks, as many together as the budget allows.

    If memory still runs out, the batch is halved and the fit continues. If a step of several tracks raises, it is
    repeated for each of them alone: those that raise again end, and the others continue.

    Args:
        tracks: may be a generator that loads them; one is loaded ahead.
        make: creates a fit of some of them.
        on_step, on_pause, stopped: as in `fitting.fit.run`; they do not raise.
        on_fault: called once for a track whose step raises, with the exception; returns the reason that is recorded.
        on_end: called once for every track that was created, with "interrupted", its error, or None.
    """
    queue, active = Queue(tracks), []

    def attempt(some: Sequence[TrackState], steps: int | None = None) -> Attempt:
        return _attempt(some, lambda: run(make(some), on_step, on_pause, stopped, steps), budget, on_fault)

    try:
        while not stopped():
            while (following := queue.peek()) and budget.holds([*active, following]):
                active.append(queue.take())
            if not active:
                return
            if not any(track.has_ended for track in active):
                # One step of the first track measures the memory that the others need.
                measure = following is not None and not budget.is_measured
                if not _advance(active, attempt, 1 if measure else None):
                    budget.ran_out(active)
                    half = len(active) // 2
                    queue.put_back(active[half:])
                    active = active[:half]
            on_pause([*active, *queue.created()])
            ended, active = [t for t in active if t.has_ended], [t for t in active if not t.has_ended]
            for track in ended:
                _end(track, attempt, on_end)
    except BaseException:
        on_pause([*active, *queue.created()])
        raise
    for track in [*active, *queue.created()]:
        on_end(track, "interrupted")


def _end(track: TrackState, attempt: Callable[..., Attempt], on_end: Callable[[TrackState, str | None], None]) -> None:
    """Ends a track; a fit that was killed between its last step and its choice of the best makes that first."""
    if track.lacks_choice:
        attempt([track])
    on_end(track, track.error)


def _advance(active: Sequence[TrackState], attempt: Callable[..., Attempt], steps: int | None) -> bool:
    """Fits tracks together until one ends, or each alone by one step if that fails.

    False if they fail together but none of them alone: memory ran out, or only their combination raises.
    """
    outcome = attempt(active, steps)
    if outcome is Attempt.FAILED and len(active) > 1:
        for track in active:
            attempt([track], 1)
    return outcome is Attempt.COMPLETED or any(track.error for track in active)


def _attempt(tracks: Sequence[TrackState], fit: Callable[[], None], budget: Budget, on_fault: OnFault) -> Attempt:
    """Calls `fit`, which fits some tracks until one ends, and updates them; a single track that failed has ended."""
    try:
        with PeakMemory(budget.device) as peak:
            fit()
        budget.record(tracks, peak.bytes)
        return Attempt.COMPLETED
    except Exception as error:
        outcome = Attempt.OUT_OF_MEMORY if _is_out_of_memory(error) else Attempt.FAILED
        if len(tracks) == 1:
            out = "out of memory with this track alone; lower batch_size or chunk_duration"
            tracks[0].error = out if outcome is Attempt.OUT_OF_MEMORY else on_fault(tracks[0], error)
    # The exception, which kept tensors of the step alive, is gone: return their memory to the device.
    torch.cuda.empty_cache()
    return outcome


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is of memory, by its type or its text: libraries on a GPU have no type of their own for it."""
    text = f"{error} {error.__context__}".lower()
    by_text = any(words in text for words in ("out of memory", "can't allocate memory", "alloc_failed"))
    return by_text or isinstance(error, (torch.OutOfMemoryError, MemoryError))
