"""Writing audio files: formats and their limits, at once or in blocks, with every disk error raised."""

import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from reknob.data.resampling import BlockResampler, resampling_ratio
from reknob.runtime.errors import UsageError
from reknob.runtime.files import atomic_path, user_path

log = logging.getLogger(__name__)

#: Suffix -> format and sample type of libsndfile. A wav never clips, as its samples are floats; a flac may.
FORMATS = {
    ".wav": ("WAV", "FLOAT"),
    ".flac": ("FLAC", "PCM_24"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz; audio at other rates is resampled to the last
VORBIS_RATE, VORBIS_CHANNELS = 200_000, 255  # limits above which libsndfile crashes instead of refusing
WRITE_BLOCK = 65536  # frames; libsndfile's Vorbis encoder overflows its stack where a file is written in one call
WAV_BYTES = 2**32 - 2**16  # of samples; sizes in a wav have 32 bits, larger files are written as RF64
RF64_AUTO_DOWNGRADE = 0x1210  # of libsndfile's sndfile.h


def output_format(path: str | Path) -> tuple[str, str]:
    """libsndfile's format and sample type for a file's suffix; UsageError for an unknown one."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: unknown audio suffix {suffix!r}; known: {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def check_audio_output(path: str | Path, sr: int, channels: int) -> None:
    """Raises UsageError if a file cannot be written; called before anything is computed.

    That is, for an unknown suffix, or a sample rate in Hz or a number of channels that the format does not support.
    """
    format, subtype = output_format(path)
    rate = written_rate(path, sr)
    resampling_ratio(sr, rate)
    supported = subtype != "VORBIS" or (rate <= VORBIS_RATE and channels <= VORBIS_CHANNELS)
    try:
        if supported:
            soundfile.SoundFile(io.BytesIO(), "w", rate, channels, subtype, format=format).close()
    except (soundfile.LibsndfileError, OverflowError):
        supported = False
    if not supported:
        suffix = Path(path).suffix
        raise UsageError(f"{path}: {suffix} cannot hold {channels} channels at {sr} Hz: write wav, or resample")


def written_rate(path: str | Path, sr: int) -> int:
    """The sample rate in Hz of the file that audio at `sr` Hz is written to."""
    return OPUS_RATES[-1] if output_format(path)[1] == "OPUS" and sr not in OPUS_RATES else sr


def write_audio(path: str | Path, x: Tensor, sr: int) -> None:
    """Write `x` `(C, T)` at `sr` Hz in the format of the suffix, creating the folder; the file is replaced atomically.

    Audio at a rate that Opus does not support is resampled to 48 kHz; a wav over 4 GB is written as RF64. UsageError as
    in `check_audio_output`, OSError where the disk is full or fails.
    """
    with audio_writer(path, sr, x.shape[0], length=x.shape[1]) as write:
        write(x)


@contextmanager
def audio_writer(
    path: str | Path, sr: int, channels: int, length: int | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """As `write_audio`, block by block: a function that appends `(channels, T)`; the file exists once the context ends.

    Without the `length` in samples, a wav has a larger header, which can become that of an RF64.
    """
    path = user_path(path)
    check_audio_output(path, sr, channels)
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = written_rate(path, sr)
    resampler = BlockResampler(sr, rate) if rate != sr else None
    if resampler:
        log.info("%s: resampled from %d to %d Hz, which %s supports", path, sr, rate, path.suffix)
    peak = 0.0
    with atomic_path(path) as part, _Disk(part, path) as disk:
        with disk.raising(), _opened(disk, path, rate, channels, length) as file:

            def write(x: Tensor) -> None:
                nonlocal peak
                peak = max(peak, float(x.detach().abs().max()) if x.numel() else 0.0)
                with disk.raising():
                    _append(file, resampler.process(x.detach().cpu().float()) if resampler else x)

            yield write
            if resampler:
                _append(file, resampler.flush())
    _warn_of_clipping(path, peak)


def _append(file: soundfile.SoundFile, x: Tensor) -> None:
    """Write `x` `(C, T)` at the end of a file."""
    samples = np.ascontiguousarray(x.detach().cpu().float().numpy().T)
    for start in range(0, len(samples), WRITE_BLOCK):
        file.write(samples[start : start + WRITE_BLOCK])


def _opened(disk: "_Disk", path: Path, rate: int, channels: int, length: int | None) -> soundfile.SoundFile:
    """A file of libsndfile on `disk`, in the format that the suffix of `path` and the length demand."""
    format, subtype = output_format(path)
    large = format == "WAV" and (length is None or 4 * channels * length > WAV_BYTES)
    file = soundfile.SoundFile(
        disk,  # pyright: ignore[reportArgumentType]  # soundfile needs four methods of a BinaryIO, which _Disk has
        mode="w",
        samplerate=rate,
        channels=channels,
        subtype=subtype,
        format="RF64" if large else format,
    )
    if large:  # becomes a plain wav if it turns out to fit; soundfile has no function for this command
        soundfile._snd.sf_command(file._file, RF64_AUTO_DOWNGRADE, soundfile._ffi.NULL, 1)
    return file


def _warn_of_clipping(path: Path, peak: float) -> None:
    """Log a warning if a peak over full scale does not survive in the format of a file."""
    if not 1.0 < peak < math.inf:
        return
    over, suffix = 20 * math.log10(peak), path.suffix.lower()
    if suffix == ".flac":
        log.warning("%s: peaks %.1f dB over full scale are clipped; wav would keep them", path, over)
    elif suffix != ".wav":
        log.warning("%s: peaks %.1f dB over full scale, which players clip in %s; write wav", path, over, path.suffix)


class _Disk:
    """A file for libsndfile to write to, which keeps the first disk error: libsndfile drops or replaces some of them.

    Args:
        part: the file.
        path: its final path, for error messages.
    """

    def __init__(self, part: Path, path: Path) -> None:
        self._file, self._path = part.open("w+b", buffering=0), path
        self._error: OSError | None = None

    def __enter__(self) -> "_Disk":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raises the disk error that occurred, as OSError with the path, in place of libsndfile's."""
        try:
            yield
        except (soundfile.LibsndfileError, AssertionError):
            if self._error is None:
                raise
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self._path))

    def write(self, data: bytes) -> int:
        """Write all of `data`, in several writes if the disk takes less at once; the number of bytes written."""
        rest = memoryview(data)
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return len(data) - len(rest)

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
