"""Many tracks in turn, as many of them in one fit as the memory holds."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch

from fitting.fit import Fit, OnStep, run
from fitting.track import Track
from runtime.memory import free_bytes, peak_bytes

# The share of the free memory that steps may take: the rest is for what other programs will ask for.
SHARE = {"cuda": 0.85, "cpu": 0.5}
# The most chunks of a batch, as a multiple of those that count: tracks with fewer chunks are filled up with others.
PADDING = 1.25


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
    ):
        self.device, self.batch_size, self.shared = device, batch_size, shared
        self.limit = limit_bytes or int(SHARE[device.type] * free_bytes(device))
        self.before, self.largest = peak_bytes(device), 0
        self.chunks, self.most = 0, sys.maxsize  # by the measure, and since memory ran out

    @property
    def is_measured(self) -> bool:
        return self.chunks > 0

    def note(self, tracks: Sequence[Track]) -> None:
        """Takes note of a step of these tracks."""
        self.largest = max(self.largest, self._size(tracks))
        each = max(peak_bytes(self.device) - self.before, 1) / self.largest
        self.chunks = max(int(self.limit / each), 1)

    def ran_out(self, tracks: Sequence[Track]) -> None:
        """Takes note that a step of these tracks was too large."""
        self.most = max(self._size(tracks) // 2, 1)

    def holds(self, tracks: Sequence[Track]) -> bool:
        """Whether these tracks go into one step, and are alike enough in size to share one; one always does."""
        if len(tracks) == 1:
            return True
        wanted = sum(track.count(self.batch_size) for track in tracks)
        filled = self._step(tracks) <= PADDING * wanted
        return self.shared and filled and self._size(tracks) <= min(self.chunks, self.most)

    def _step(self, tracks: Sequence[Track]) -> int:
        """Chunks of a step, those included that fill up."""
        return len(tracks) * max(track.count(self.batch_size) for track in tracks)

    def _size(self, tracks: Sequence[Track]) -> int:
        """Chunks of a step, and those that wait for another."""
        waiting = sum(len(track.chunks.dry) - track.count(self.batch_size) for track in tracks)
        return self._step(tracks) + waiting


class Queue:
    """Tracks that wait, made when they are looked at."""

    def __init__(self, tracks: Iterable[Track]):
        self._source, self._ready = iter(tracks), deque()

    def next(self) -> Track | None:
        """The next one, which stays; None where there is no more."""
        if not self._ready:
            self._ready.extend([track] if (track := next(self._source, None)) else [])
        return self._ready[0] if self._ready else None

    def take(self) -> Track:
        return self._ready.popleft()

    def begun(self) -> list[Track]:
        """Those that wait and have been made."""
        return list(self._ready)

    def put_back(self, tracks: Iterable[Track]) -> None:
        self._ready.extendleft(reversed(list(tracks)))


def fit_all(
    tracks: Iterable[Track],
    make: Callable[[Sequence[Track]], Fit],
    budget: Budget,
    *,
    on_step: OnStep,
    on_pause: Callable[[Sequence[Track]], None],
    on_end: Callable[[Track, str | None], None],
    stopped: Callable[[], bool],
) -> None:
    """Fits all tracks, as many at once as the budget allows; where memory runs out, half as many go on.

    Args:
        tracks: may be a generator that loads them; one is looked at ahead.
        make: a fit of some of them.
        on_step, on_pause, stopped: as in `fitting.fit.run`.
        on_end: once for every track that was begun, with "interrupted", what went wrong, or None.
    """
    queue, active = Queue(tracks), []
    try:
        while not stopped():
            while (following := queue.next()) and budget.holds([*active, following]):
                active.append(queue.take())
            if not active:
                return
            if not any(track.has_ended for track in active):
                # One step of the first track tells what the others will take.
                measure = following is not None and not budget.is_measured
                if _goes_on(active, make, on_step, on_pause, stopped, 1 if measure else None):
                    budget.note(active)
                elif len(active) > 1:
                    budget.ran_out(active)
                    half = len(active) // 2
                    queue.put_back(active[half:])
                    active = active[:half]
                else:
                    active[0].error = "out of memory with this track alone; lower batch_size or chunk_duration"
            on_pause([*active, *queue.begun()])
            ended, active = [t for t in active if t.has_ended], [t for t in active if not t.has_ended]
            for track in ended:
                on_end(track, track.error)
    except BaseException:
        on_pause([*active, *queue.begun()])
        raise
    for track in [*active, *queue.begun()]:
        on_end(track, "interrupted")


def _goes_on(tracks: Sequence[Track], make: Callable[[Sequence[Track]], Fit], *watching: object) -> bool:
    """Runs a fit of some tracks until one ends; False where memory ran out, the tracks being as far as they came."""
    try:
        run(make(tracks), *watching)
        return True
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
    # What the exception held is free by now, and goes back to the device.
    torch.cuda.empty_cache()
    return False


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it is of that kind or says so: libraries on a GPU have no exception of their own for it."""
    said = f"{error} {error.__context__}".lower()
    told = any(words in said for words in ("out of memory", "can't allocate memory", "alloc_failed"))
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))
