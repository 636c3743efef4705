"""Audio in containers and codecs that libsndfile does not support (m4a, mp4, mkv, wma, ...), decoded by PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reknob.runtime.errors import UsageError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

#: File name extensions of audio that is searched for in folders, in addition to those that libsndfile decodes.
CONTAINER_SUFFIXES = (
    *(".m4a", ".mp4", ".m4b", ".mov", ".3gp", ".aac", ".mka", ".mkv", ".webm", ".wma"),
    *(".ac3", ".eac3", ".amr", ".ape", ".dsf", ".tak", ".tta", ".wv"),
)
#: FFmpeg's names of formats that contain the audio itself; others are playlists with addresses of further files.
SELF_CONTAINED = (
    "mov,matroska,asf,aac,ac3,eac3,amr,ape,dsf,iff,tak,tta,wv,flac,mp3,ogg,wav,w64,aiff,au,caf,avi,flv,mpeg,mpegts,dts"
)
PRE_ROLL = 4096  # samples; a frame of AAC has 1024 or 2048 and needs the one before it
GAP_PIECE = 65536  # samples of silence at a time, where a file has a gap


class ContainerAudio:
    """The first audio stream of a file (of MUSDB18's *.stem.mp4 the mixture), read in whole or in part.

    mp4 and related formats give every frame an exact time: a part of them is decoded from where it begins, and the
    padding that an AAC encoder adds is left out. All others are decoded from the beginning, and their samples counted.

    Args:
        path: a regular file.

    Raises UsageError, also while it is read, where the file has no audio or is damaged; ImportError without PyAV.
    """

    format = "container"
    bits = None  # most of these formats are lossy

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stated: int | None = None  # length in samples that a file with exact times states
        with _opened(path) as (container, stream):
            self.sr, self.channels = stream.rate, stream.channels
            if container.format.name.startswith("mov,") and stream.duration is not None:
                self._stated = round(stream.duration * _samples_per_tick(stream))

    def length(self) -> int:
        """Number of samples; a file without exact times is decoded to count them."""
        return sum(piece.shape[1] for _, piece in self._pieces(0)) if self._stated is None else self._stated

    def seconds(self) -> float:
        """Length in s according to the file's header; 0 where it is missing."""
        with _opened(self.path) as (container, _):
            return max((container.duration or 0) / 1e6, 0.0)

    def read(self, first: int, count: int) -> np.ndarray:
        """Samples `first` to `first + count`, `(count, C)` float32; fewer where the file ends early.

        Equal to that slice of the whole file, except for bands that AAC codes as noise of some level: the decoder draws
        that noise at random from where it starts, so that it is reproduced for the same `first` only.
        """
        x, end = np.zeros((count, self.channels), np.float32), 0
        for at, piece in self._pieces(first):
            begin, end = max(at - first, 0), min(at - first + piece.shape[1], count)
            if begin < end:
                x[begin:end] = piece[:, begin - at + first : end - at + first].T
            if end == count:
                break
        # The last frame of an mp4 may be incomplete: the samples that it lacks are silent.
        return x if self._stated is not None and end > count - PRE_ROLL else x[: max(end, 0)]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The whole file in blocks `(n, C)` float32 of at most `size` samples."""
        for at, piece in self._pieces(0):
            piece = piece if self._stated is None else piece[:, : max(self._stated - at, 0)]
            for start in range(0, piece.shape[1], size):
                yield piece[:, start : start + size].T

    def _pieces(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """Consecutive pieces `(C, n)`, each with the position of its first sample, from `first` or earlier on.

        Gaps between the times of frames are filled with silence.
        """
        exact = self._stated is not None
        with _opened(self.path) as (container, stream):
            origin, per_tick = stream.start_time or 0, _samples_per_tick(stream)
            if exact and first:
                container.seek(origin + int(max(first - PRE_ROLL, 0) / per_tick), stream=stream)
            end = None if exact and first else 0  # None: until the first frame after a seek gives its time
            for frame in container.decode(stream):
                x = self._samples(frame)
                at = round((frame.pts - origin) * per_tick) if exact and frame.pts is not None else end or 0
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
            raise UsageError(f"{self.path} changes its sample rate or its channels in the middle: export it again")
        x = frame.to_ndarray()
        if not frame.format.is_planar:
            x = x.reshape(-1, self.channels).T
        if x.dtype == np.uint8:
            return (x.astype(np.float32) - 128) / 128
        if x.dtype.kind == "i":
            return (x / 2.0 ** (8 * x.dtype.itemsize - 1)).astype(np.float32)
        return x.astype(np.float32, copy=False)


def _samples_per_tick(stream: "AudioStream") -> Fraction:
    """Samples in a unit of the stream's time stamps."""
    assert stream.time_base is not None  # checked by _opened
    return stream.time_base * stream.rate


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "AudioStream"]]:
    """The file and its first audio stream; UsageError where it has none or is damaged, ImportError without PyAV."""
    import av
    from av.error import FFmpegError

    try:
        options = {"format_whitelist": SELF_CONTAINED, "protocol_whitelist": "file"}
        with av.open(str(path), container_options=options, metadata_errors="replace") as container:
            streams = container.streams.audio
            if not streams:
                raise UsageError(f"{path} cannot be read as audio (it has no audio stream)")
            known = streams[0].codec_context is not None and streams[0].rate and streams[0].channels
            if not known or not streams[0].time_base:
                raise UsageError(f"{path} cannot be read as audio (its codec is unknown)")
            yield container, streams[0]
    except FFmpegError as error:
        raise UsageError(f"{path} cannot be read as audio ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} cannot be read as audio (it is damaged)") from None
