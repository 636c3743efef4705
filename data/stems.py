"""The first sound of an mp4 file (of MUSDB18's *.stem.mp4 the mixture), read in part through PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import UsageError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MP4_SUFFIXES = (".mp4", ".m4a")
PRE_ROLL = 4096  # samples: a frame of AAC needs the one before it, and holds 1024 or 2048


def stem_extent(path: Path) -> tuple[int, int]:
    """Sample rate in Hz and length in samples of the first sound; the padding that AAC decodes to does not count."""
    with _opened(path) as (_, stream):
        return stream.rate, round((stream.duration or 0) * stream.time_base * stream.rate)


def read_stem(path: Path, first: int, count: int) -> np.ndarray:
    """Samples `first` to `first + count` of the first sound, `(count, C)` float32; fewer where the file ends early.

    Equal to that slice of the whole, but for bands of which AAC codes the level alone: their noise, drawn anew from
    where decoding starts, is the same for the same `first` only.
    """
    with _opened(path) as (container, stream):
        origin, per_tick = stream.start_time or 0, stream.time_base * stream.rate
        if first:
            container.seek(origin + int(max(first - PRE_ROLL, 0) / per_tick), stream=stream)
        x, end = np.zeros((count, stream.channels), np.float32), 0
        for frame in container.decode(stream):
            at = round((frame.pts - origin) * per_tick) - first
            begin, end = max(at, 0), min(at + frame.samples, count)
            if begin < end:
                x[begin:end] = frame.to_ndarray()[:, begin - at : end - at].T
            if end == count:
                break
        return x if end > count - PRE_ROLL else x[: max(end, 0)]  # the last frame may be cut


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    """The file and its first sound; UsageError where it has none, is damaged or no AAC, or PyAV is not installed."""
    try:
        import av
    except ImportError:
        raise UsageError(f"{path} cannot be read: {path.suffix} files take PyAV; pip install av") from None
    try:
        with av.open(path) as container:
            sounds = container.streams.audio
            if not sounds or sounds[0].codec_context.name != "aac":
                raise UsageError(f"{path} cannot be read as audio (its sound is not AAC)")
            yield container, sounds[0]
    except av.FFmpegError as error:
        raise UsageError(f"{path} cannot be read as audio ({error.strerror})") from None
