"""A recording through a chain while its values change: blocks on request, with a crossfade to new values."""

import functools
import threading
from concurrent.futures import Executor, Future

import torch
from torch import Tensor

from reknob.afx.effect import Effect, Values
from reknob.afx.registry import build
from reknob.afx.stream import Stream, render
from reknob.app.uploads import Upload
from reknob.data.audio import normalise_loudness, read_audio, resample
from reknob.formats.applied import realtime_form
from reknob.formats.preset_document import build_chain
from reknob.runtime.errors import UsageError

BLOCK = 4096  # samples: 93 ms at 44.1 kHz
#: Audio before the block that a new stream is run on, so that its echoes, reverb and detectors are those of a stream
#: that had the new values all along, except for what is older.
WARM_UP_S = 2.0
FADE_IN = 256  # samples, after a jump
MOST_VOICES = 4  # that stay in memory


def voice(upload: Upload, effect: Effect, lufs: float | None) -> Tensor:
    """A recording as a chain takes it, (1, T), or (2, T) for a chain of stereo: at its rate, and at a loudness."""
    dry = _mono(upload, effect.sr, lufs)
    return dry if _takes_mono(effect) else dry.expand(2, -1)


@functools.lru_cache(MOST_VOICES)
def _mono(upload: Upload, sr: int, lufs: float | None) -> Tensor:
    x, given = read_audio(upload.path)
    mono = x.mean(0, keepdim=True)
    mono = resample(mono, given, sr) if given != sr else mono
    return mono if lufs is None else normalise_loudness(mono, sr, lufs)


def _takes_mono(effect: Effect) -> bool:
    try:
        effect.channels(1)
    except UsageError:
        return False
    return True


def rendered(effect: Effect, values: Values, dry: Tensor) -> Tensor:
    """A whole recording (C, T) through a chain, (2, T)."""
    y = render(effect.eval(), values, dry)
    return y if len(y) == 2 else y.expand(2, -1)


def live_chain(config: dict | str, sr: int) -> Effect:
    """The chain with delay and reverb sample by sample, so that blocks are cheap and new values begin at once."""
    chain = build(realtime_form(config), sr) if isinstance(config, dict) else build_chain(config, sr)
    return chain.eval()


class Live:
    """An endless loop of a recording through a chain, block by block.

    New values need a new stream, which is warmed up in another thread, while blocks of the old one go on; then one
    block fades from the old to the new one. Of several values that come meanwhile only the newest are taken over.

    Args:
        chain: as of `live_chain`.
        dry: the recording, as of `voice`.
        values: at the beginning.
        executor: runs the warm-ups.
    """

    def __init__(self, chain: Effect, dry: Tensor, values: Values, executor: Executor) -> None:
        self.chain, self._dry, self._executor = chain, dry, executor
        self._lock = threading.Lock()
        self._stream, self._values, self._next = Stream(chain, values), values, None
        self._ready: Future[tuple[Stream, int]] | None = None
        self._fed = self._given = 0  # samples into the stream, and out of it
        self._fade_in = True
        self._asked = self._preparing = 0
        #: How many of the values that were set have been taken over, or replaced by newer ones that were.
        self.taken = 0

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self._dry.shape[-1] / self.chain.sr

    def set_values(self, values: Values) -> None:
        """Values from one of the next blocks on."""
        with self._lock:
            self._next = values
            self._asked += 1

    def jump(self, seconds: float) -> None:
        """Goes on at another place of the recording."""
        with self._lock:
            self._values, self._next, self._ready = self._next or self._values, None, None
            self.taken = self._asked
            self._stream = Stream(self.chain, self._values)
            self._fed = self._given = round(seconds * self.chain.sr) % self._dry.shape[-1]
            self._fade_in = True

    @torch.no_grad()
    def block(self) -> tuple[Tensor, float]:
        """The next samples: dry, left and right, (3, n), n at most BLOCK; and the place of the first one in s.

        UsageError for a chain that gives nothing before it has the whole recording.
        """
        with self._lock:
            start = self._given
            if self._next is not None and self._ready is None:
                self._values, self._next, self._preparing = self._next, None, self._asked
                self._ready = self._executor.submit(self._warmed_up, self._values, self._fed)
            y = self._stream.process(self._loop(self._fed, BLOCK))
            if self._ready is not None and self._ready.done() and y.shape[-1]:
                y = self._take_over(y, *self._ready.result())
            self._fed += BLOCK
            self._given += y.shape[-1]
            if not y.shape[-1] and self._fed - self._given > 2 * self.chain.sr:
                raise UsageError("this chain needs the whole recording: render it instead")
            if self._fade_in and y.shape[-1]:
                n = min(FADE_IN, y.shape[-1])
                y[:, :n] *= torch.linspace(0, 1, n)
                self._fade_in = False
            dry = self._loop(start, y.shape[-1])[:1]
            return torch.cat([dry, y.expand(2, -1)]), start % self._dry.shape[-1] / self.chain.sr

    def _warmed_up(self, values: Values, until: int) -> tuple[Stream, int]:
        """A stream of new values that has had the samples before `until`, and that number."""
        stream = Stream(self.chain, values)
        before = min(round(WARM_UP_S * self.chain.sr), until)
        if before:
            stream.process(self._loop(until - before, before))
        return stream, until

    def _take_over(self, y: Tensor, stream: Stream, until: int) -> Tensor:
        """Goes on with a new stream, after the samples that came during its warm-up; this block fades to it."""
        self._stream, self._ready, self.taken = stream, None, self._preparing
        new = stream.process(self._loop(until, self._fed + BLOCK - until))[:, -y.shape[-1] :]
        return y.lerp(new, torch.linspace(0, 1, y.shape[-1]))

    def _loop(self, start: int, count: int) -> Tensor:
        """Samples of the endless repetition of the recording."""
        return self._dry[:, torch.arange(start, start + count) % self._dry.shape[-1]]
