"""Audio in containers and codecs that libsndfile does not know (m4a, mp4, mkv, wma, ...), decoded through PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reknob.runtime.errors import UsageError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

#: What is looked for in folders, beside what libsndfile decodes.
CONTAINER_SUFFIXES = (
    *(".m4a", ".mp4", ".m4b", ".mov", ".3gp", ".aac", ".mka", ".mkv", ".webm", ".wma"),
    *(".ac3", ".eac3", ".amr", ".ape", ".dsf", ".tak", ".tta", ".wv"),
)
#: FFmpeg's names of formats that hold sound themselves; others are lists of addresses of further files.
SELF_CONTAINED = (
    "mov,matroska,asf,aac,ac3,eac3,amr,ape,dsf,iff,tak,tta,wv,flac,mp3,ogg,wav,w64,aiff,au,caf,avi,flv,mpeg,mpegts,dts"
)
PRE_ROLL = 4096  # samples: a frame of AAC needs the one before it, and holds 1024 or 2048
GAP_PIECE = 65536  # samples of silence at a time, where a file leaves some out


class ContainerAudio:
    """The first sound of a file (of MUSDB18's *.stem.mp4 the mixture), in whole or in part.

    mp4 and its kin give every frame an exact time: they are read in part from where that part begins, and the padding
    that AAC decodes to does not count. All others are decoded from the beginning, and their samples counted.

    Args:
        path: a regular file.

    Raises UsageError, also while it is read, where the file holds no sound or is damaged; ImportError without PyAV.
    """

    format = "container"

    def __init__(self, path: Path):
        self.path = path
        with _opened(path) as (container, stream):
            self.sr, self.channels = stream.rate, stream.channels
            self._exact = container.format.name.startswith("mov,") and stream.duration is not None
            self._announced = round(stream.duration * stream.time_base * stream.rate) if self._exact else None

    def length(self) -> int:
        """Number of samples; where no exact time tells it, the whole is decoded."""
        return self._announced if self._exact else sum(piece.shape[1] for _, piece in self._pieces(0))

    def seconds(self) -> float:
        """Length in s as the file announces it, without decoding; 0 where it does not."""
        with _opened(self.path) as (container, _):
            return max((container.duration or 0) / 1e6, 0.0)

    def read(self, first: int, count: int) -> np.ndarray:
        """Samples `first` to `first + count`, `(count, C)` float32; fewer where the file ends early.

        Equal to that slice of the whole, but for bands of which AAC codes the level alone: their noise, drawn anew from
        where decoding starts, is the same for the same `first` only.
        """
        x, end = np.zeros((count, self.channels), np.float32), 0
        for at, piece in self._pieces(first):
            begin, end = max(at - first, 0), min(at - first + piece.shape[1], count)
            if begin < end:
                x[begin:end] = piece[:, begin - at + first : end - at + first].T
            if end == count:
                break
        # The last frame of an mp4 may be cut.
        return x if self._exact and end > count - PRE_ROLL else x[: max(end, 0)]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The whole in blocks `(n, C)` float32 of at most `size` samples."""
        for at, piece in self._pieces(0):
            piece = piece if self._announced is None else piece[:, : max(self._announced - at, 0)]
            for start in range(0, piece.shape[1], size):
                yield piece[:, start : start + size].T

    def _pieces(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Samples `(C, n)` in a row, each with its place, from `first` or earlier on; what is left out is silent."""
        with _opened(self.path) as (container, stream):
            origin, per_tick = stream.start_time or 0, stream.time_base * stream.rate
            if self._exact and first:
                container.seek(origin + int(max(first - PRE_ROLL, 0) / per_tick), stream=stream)
            end = None if self._exact and first else 0
            for frame in container.decode(stream):
                x = self._samples(frame)
                timed = self._exact and frame.pts is not None
                at = round((frame.pts - origin) * per_tick) if timed else end or 0
                end = at if end is None else end
                while end < at:
                    silent = min(at - end, GAP_PIECE)
                    yield end, np.zeros((self.channels, silent), np.float32)
                    end += silent
                x = x[:, end - at :]  # a frame that begins before the last one ended
                if x.shape[1]:
                    yield end, x
                    end += x.shape[1]

    def _samples(self, frame: "AudioFrame") -> np.ndarray:
        """A frame as `(C, n)` float32, full scale 1."""
        if frame.sample_rate != self.sr or frame.layout.nb_channels != self.channels:
            raise UsageError(f"{self.path} changes its sample rate or its channels on the way: export it again")
        x = frame.to_ndarray()
        if not frame.format.is_planar:
            x = x.reshape(-1, self.channels).T
        if x.dtype == np.uint8:
            return (x.astype(np.float32) - 128) / 128
        if np.issubdtype(x.dtype, np.integer):
            return (x / -float(np.iinfo(x.dtype).min)).astype(np.float32)
        return x.astype(np.float32, copy=False)


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    """The file and its first sound; UsageError where it has none or is damaged, ImportError without PyAV."""
    import av

    try:
        options = {"format_whitelist": SELF_CONTAINED, "protocol_whitelist": "file"}
        with av.open(str(path), container_options=options, metadata_errors="replace") as container:
            sounds = container.streams.audio
            if not sounds:
                raise UsageError(f"{path} cannot be read as audio (it holds no sound)")
            known = sounds[0].codec_context is not None and sounds[0].rate and sounds[0].channels
            if not known or not sounds[0].time_base:
                raise UsageError(f"{path} cannot be read as audio (its sound is of no known coding)")
            yield container, sounds[0]
    except av.FFmpegError as error:
        raise UsageError(f"{path} cannot be read as audio ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} cannot be read as audio (it is damaged)") from None
