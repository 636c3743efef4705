"""Writing audio files: formats, bit depths and their limits, at once or in blocks, with every disk error raised."""

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
#: Bits of a sample -> sample type of libsndfile; 32 stands for floats.
SAMPLE_TYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz; audio at other rates is resampled to the last
VORBIS_RATE, VORBIS_CHANNELS = 200_000, 255  # limits above which libsndfile crashes instead of refusing
WRITE_BLOCK = 65536  # frames; libsndfile's Vorbis encoder overflows its stack where a file is written in one call
WAV_BYTES = 2**32 - 2**16  # of samples; sizes in a wav have 32 bits, larger files are written as RF64
RF64_AUTO_DOWNGRADE = 0x1210  # of libsndfile's sndfile.h


def output_format(path: str | Path, bits: int | None = None) -> tuple[str, str]:
    """libsndfile's format and sample type for a file's suffix and, if given, its bits per sample, of SAMPLE_TYPES.

    UsageError for an unknown suffix, and for bits that the format does not have.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: unknown audio suffix {suffix!r}; known: {', '.join(FORMATS)}")
    format, subtype = FORMATS[suffix.lower()]
    if bits is None:
        return format, subtype
    held = [each for each in SAMPLE_TYPES if soundfile.check_format(format, SAMPLE_TYPES[each])]
    if bits not in held:
        names = ", ".join("float" if each == 32 else str(each) for each in held) or "none, as it is lossy"
        raise UsageError(f"{path}: no {suffix} has {bits} bits a sample; it has {names}")
    return format, SAMPLE_TYPES[bits]


def bits_like(path: str | Path, bits: int | None) -> int | None:
    """The bits per sample, of SAMPLE_TYPES, with which a file stores audio of `bits` bits; None for its format's own.

    A flac has no floats and takes 24 bits for them; a lossy format has no bits, as has the audio that came from one.
    """
    held = [each for each in SAMPLE_TYPES if soundfile.check_format(output_format(path)[0], SAMPLE_TYPES[each])]
    return min(bits, max(held)) if held and bits is not None else None


def check_audio_output(path: str | Path, sr: int, channels: int, bits: int | None = None) -> None:
    """Raises UsageError if a file cannot be written; called before anything is computed.

    That is, for an unknown suffix, or a sample rate in Hz, a number of channels or bits per sample that the format does
    not support.
    """
    format, subtype = output_format(path, bits)
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


def write_audio(path: str | Path, x: Tensor, sr: int, bits: int | None = None) -> None:
    """Write `x` `(C, T)` at `sr` Hz in the format of the suffix, creating the folder; the file is replaced atomically.

    With `bits` per sample (16, 24, or 32 for floats) other than the format's own, in a wav or flac; integers are
    dithered. Audio at a rate that Opus does not support is resampled to 48 kHz; a wav over 4 GB is written as RF64.
    UsageError as in `check_audio_output`, OSError where the disk is full or fails.
    """
    with audio_writer(path, sr, x.shape[0], length=x.shape[1], bits=bits) as write:
        write(x)


@contextmanager
def audio_writer(
    path: str | Path, sr: int, channels: int, length: int | None = None, bits: int | None = None
) -> Iterator[Callable[[Tensor], None]]:
    """As `write_audio`, block by block: a function that appends `(channels, T)`; the file exists once the context ends.

    Without the `length` in samples, a wav has a larger header, which can become that of an RF64.
    """
    path = user_path(path)
    check_audio_output(path, sr, channels, bits)
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = written_rate(path, sr)
    resampler = BlockResampler(sr, rate) if rate != sr else None
    if resampler:
        log.info("%s: resampled from %d to %d Hz, which %s supports", path, sr, rate, path.suffix)
    peak = 0.0
    dither = np.random.default_rng(0)  # always the same, so that the same audio gives the same file
    with atomic_path(path) as part, _Disk(part, path) as disk:
        with disk.raising(), _opened(disk, path, rate, channels, length, bits) as file:

            def write(x: Tensor) -> None:
                nonlocal peak
                peak = max(peak, float(x.detach().abs().max()) if x.numel() else 0.0)
                with disk.raising():
                    _append(file, resampler.process(x.detach().cpu().float()) if resampler else x, dither)

            yield write
            if resampler:
                _append(file, resampler.flush(), dither)
    _warn_of_clipping(path, output_format(path, bits)[1], peak)


def _append(file: soundfile.SoundFile, x: Tensor, dither: np.random.Generator) -> None:
    """Write `x` `(C, T)` at the end of a file."""
    samples = np.ascontiguousarray(x.detach().cpu().float().numpy().T)
    bits = next((bits for bits in (16, 24) if SAMPLE_TYPES[bits] == file.subtype), None)
    for start in range(0, len(samples), WRITE_BLOCK):
        block = samples[start : start + WRITE_BLOCK]
        file.write(_quantised(block, bits, dither) if bits else block)


def _quantised(x: np.ndarray, bits: int, dither: np.random.Generator) -> np.ndarray:
    """Samples rounded to integers of `bits` bits, in the upper bits of an int32, with triangular dither of ±1 step.

    The dither makes mean and variance of the rounding error independent of the signal (Lipshitz, Wannamaker and
    Vanderkooy 1992). Samples that need no rounding get none, so that digital silence stays silent.
    """
    # libsndfile itself rounds towards minus infinity, which adds an offset of half a step.
    scaled = x * np.float64(2 ** (bits - 1))
    noise = dither.random(x.shape) - dither.random(x.shape)
    steps = np.rint(np.where(scaled == np.rint(scaled), scaled, scaled + noise))
    return steps.clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int32) << (32 - bits)


def _opened(
    disk: "_Disk", path: Path, rate: int, channels: int, length: int | None, bits: int | None = None
) -> soundfile.SoundFile:
    """A file of libsndfile on `disk`, in the format that the suffix of `path`, the length and the bits demand."""
    format, subtype = output_format(path, bits)
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


def _warn_of_clipping(path: Path, subtype: str, peak: float) -> None:
    """Log a warning if a peak over full scale does not survive in a file of the sample type `subtype`."""
    if not 1.0 < peak < math.inf:
        return
    over, remedy = 20 * math.log10(peak), "lower its level, or write a wav of floats"
    if subtype.startswith("PCM"):
        log.warning("%s: peaks %.1f dB over full scale are clipped; %s", path, over, remedy)
    elif subtype != "FLOAT":
        log.warning("%s: peaks %.1f dB over full scale, which players clip; %s", path, over, remedy)


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
