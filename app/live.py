"""A recording through a chain while its values change: blocks on request, with a crossfade to new values."""

import functools
import threading
import time
from collections.abc import Callable

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
#: New values are taken over at most every so many times the seconds that the last time took.
PATIENCE = 2.0
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

    Args:
        chain: as of `live_chain`.
        dry: the recording, as of `voice`.
        values: at the beginning.
        clock: in s.
    """

    def __init__(
        self, chain: Effect, dry: Tensor, values: Values, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.chain, self._dry, self._clock = chain, dry, clock
        self._lock = threading.Lock()
        self._stream, self._values, self._next = Stream(chain, values), values, None
        self._fed = self._given = 0  # samples into the stream, and out of it
        self._wait = 0.0  # seconds of audio until values may be taken over
        self._fade_in = True

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self._dry.shape[-1] / self.chain.sr

    def set_values(self, values: Values) -> None:
        """Values from one of the next blocks on."""
        with self._lock:
            self._next = values

    def jump(self, seconds: float) -> None:
        """Goes on at another place of the recording."""
        with self._lock:
            self._values, self._next = self._next or self._values, None
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
            y = self._stream.process(self._loop(self._fed, BLOCK))
            if self._next is not None and self._wait <= 0 and y.shape[-1]:
                y = self._take_over(y)
            self._fed += BLOCK
            if not y.shape[-1] and self._fed - start > 2 * self.chain.sr:
                raise UsageError("this chain needs the whole recording: render it instead")
            self._given += y.shape[-1]
            self._wait -= y.shape[-1] / self.chain.sr
            if self._fade_in and y.shape[-1]:
                n = min(FADE_IN, y.shape[-1])
                y[:, :n] *= torch.linspace(0, 1, n)
                self._fade_in = False
            dry = self._loop(start, y.shape[-1])[:1]
            return torch.cat([dry, y.expand(2, -1)]), start % self._dry.shape[-1] / self.chain.sr

    def _take_over(self, y: Tensor) -> Tensor:
        """Goes on with the new values in a stream of their own; this block fades from the old ones to them."""
        began = self._clock()
        assert self._next is not None
        self._values, self._next = self._next, None
        self._stream = Stream(self.chain, self._values)
        before = min(round(WARM_UP_S * self.chain.sr), self._fed)
        if before:
            self._stream.process(self._loop(self._fed - before, before))
        new = self._stream.process(self._loop(self._fed, BLOCK))[:, -y.shape[-1] :]
        self._wait = PATIENCE * (self._clock() - began)
        return y.lerp(new, torch.linspace(0, 1, y.shape[-1]))

    def _loop(self, start: int, count: int) -> Tensor:
        """Samples of the endless repetition of the recording."""
        return self._dry[:, torch.arange(start, start + count) % self._dry.shape[-1]]
