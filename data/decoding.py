"""Audio files decoded in whole or in part, by libsndfile or, for formats that it does not support, by PyAV."""

import io
import logging
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from reknob.data.container_audio import CONTAINER_SUFFIXES, ContainerAudio
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

log = logging.getLogger(__name__)

#: File name extensions of audio that is searched for in folders.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".oga", ".rf64", ".w64"),
    *CONTAINER_SUFFIXES,
)
AUDIO_FILES = "audio files (wav, flac, mp3, ogg, opus, aiff, m4a, …)"
LOWEST_RATE, HIGHEST_RATE = 2000, 768_000  # Hz; a header with another sample rate is refused
#: libsndfile's sample type -> bits per sample that a copy needs, 32 standing for floats; lossy types have none.
STORED_BITS = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "PCM_16", "ALAC_16", "ULAW", "ALAW"), 16),
    **dict.fromkeys(("PCM_24", "ALAC_20", "ALAC_24"), 24),
    **dict.fromkeys(("PCM_32", "ALAC_32", "FLOAT", "DOUBLE"), 32),
}
MP3_PRE_ROLL = 1.0  # s; a frame of mp3 stores bits in earlier frames, and is decoded wrongly right after a seek
UNKNOWN_LENGTH = 2**62  # frames; libsndfile reports more for a flac that was written to a pipe
STREAMED_SIZES = (0, 0xFFFFFFFF)  # bytes of data in the header of a wav that was written to a pipe
HEADER_BYTES = 2**20  # a wav whose data begins later is not examined for such a size


class SndfileAudio:
    """A file that libsndfile has opened, read in whole or in part."""

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self.sr, self.channels, self.format = file.samplerate, file.channels, file.format
        self.bits = STORED_BITS.get(file.subtype)

    def length(self) -> int:
        """Number of frames; of an mp3 whose header lacks it, where libsndfile estimates it, by decoding the file."""
        frames = self._file.frames
        if self.format != "MP3" or len(self.read(frames - 1, 1)):
            return frames
        self._file.seek(0)
        return sum(map(len, self.blocks(2**18)))

    def seconds(self) -> float:
        """Length in s according to the file's header."""
        return self._file.frames / self.sr

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames `first` to `first + count`, `(count, C)` float32; fewer where the file ends."""
        early = min(first, round(MP3_PRE_ROLL * self.sr)) if self.format == "MP3" else 0
        self._file.seek(first - early)
        return self._file.read(early + count, dtype="float32", always_2d=True)[early:]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The rest of the file in blocks `(n, C)` float32 of at most `size` frames, whatever length its header has."""
        while len(x := self._file.read(size, dtype="float32", always_2d=True)):
            yield x


AudioFile = SndfileAudio | ContainerAudio


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioFile]:
    """An audio file to read from.

    UsageError, also while it is read, where it is missing, no regular file, no audio, damaged, or has a sample rate
    below 2 or above 768 kHz.
    """
    path = regular_file(path)
    file, reason = _open_sndfile(path)
    if file is None:
        yield _checked_rate(_open_container(path, reason), path)
        return
    try:
        with file:
            yield _checked_rate(SndfileAudio(file), path)
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path} cannot be read to its end ({_why(error)}): it is damaged, get it again") from None


def regular_file(path: str | Path) -> Path:
    """The user's path of an existing, readable regular file; UsageError otherwise, also for pipes and devices."""
    if not str(path):
        raise UsageError("an empty path: give the path of an audio file")
    path = user_path(path)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UsageError(f"{path} {why}: give the path of an audio file") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder: give an audio file")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is a pipe, a socket or a device: give an audio file")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read (Permission denied): give an audio file that you may read")
    return path


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file in `folder`, or a folder between the two, is hidden, as macOS's `._` files are."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _open_sndfile(path: Path) -> tuple[soundfile.SoundFile | None, str]:
    """A file opened by libsndfile, or None and the reason for which it cannot be opened."""
    if path.suffix.lower() == ".raw":
        return None, "it has no header with its rate and channels"
    size_offset = _streamed_size_offset(path)
    # As bytes, since file names need not be valid UTF-8.
    source = os.fsencode(path) if size_offset is None else _PatchedFile(path, size_offset)
    try:
        file = soundfile.SoundFile(source)  # pyright: ignore[reportArgumentType]  # bytes and RawIOBase are supported
    except soundfile.LibsndfileError as error:
        return None, _why(error)
    if file.format == "FLAC" and file.frames > UNKNOWN_LENGTH:
        file.close()
        return None, "a flac of unknown length"
    return file, ""


def _why(error: soundfile.LibsndfileError) -> str:
    """libsndfile's message, without its prefix."""
    return error.error_string.strip().removeprefix("Error : ").rstrip(".") or "damaged"


def _open_container(path: Path, reason: str) -> ContainerAudio:
    """A file opened by PyAV; UsageError, with libsndfile's `reason`, where neither library can open it."""
    try:
        return ContainerAudio(path)
    except ImportError:
        if path.suffix.lower() in CONTAINER_SUFFIXES:
            raise UsageError(f"{path} cannot be read: {path.suffix} files take PyAV; pip install av") from None
    except UsageError:
        if path.suffix.lower() in CONTAINER_SUFFIXES:
            raise
    with path.open("rb") as file:
        tagged = file.read(3) == b"ID3"
    if tagged:
        raise UsageError(
            f"{path} cannot be read as audio: its tags (ID3) are broken, or no audio follows them; write it again "
            "without tags, for example ffmpeg -i in.mp3 -map_metadata -1 -map 0:a out.mp3"
        )
    raise UsageError(
        f"{path} cannot be read as audio ({reason}): give wav, flac, mp3, ogg, opus or aiff, or another format that "
        "libsndfile or FFmpeg decodes"
    )


def _checked_rate(file: AudioFile, path: Path) -> AudioFile:
    """The file; UsageError for a sample rate outside of the range allowed."""
    if not LOWEST_RATE <= file.sr <= HIGHEST_RATE:
        raise UsageError(
            f"{path}: its sample rate is {file.sr} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are allowed: "
            "correct its header, or export it again"
        )
    return file


def _streamed_size_offset(path: Path) -> int | None:
    """Byte offset of the size of the data in a wav whose writer left it unknown; None for any other file."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8 and file.tell() < HEADER_BYTES:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                offset = file.tell() - 4
                if size not in STREAMED_SIZES or (size == 0 and _only_chunks_follow(file)):
                    return None
                _warn_of_streamed(path, size)
                return offset
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _only_chunks_follow(file: BinaryIO) -> bool:
    """Whether the rest of a wav consists of complete chunks, so that a size of 0 is correct: it has no samples."""
    at, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(at)
    while at < end:
        chunk = file.read(8)
        if len(chunk) < 8 or not all(0x20 <= byte < 0x7F for byte in chunk[:4]):
            return False
        at += 8 + struct.unpack("<I", chunk[4:])[0]
        at = file.seek(at + at % 2) if at < end else at
    return at <= end + 1


@cache
def _warn_of_streamed(path: Path, size: int) -> None:
    """Log, once per file, that its length is taken from the file and not from the header."""
    stated = "no data" if size == 0 else "data of unknown size"
    log.warning("%s: the header of a streamed file, which states %s; read to the end of the file", path, stated)


class _PatchedFile(io.RawIOBase):
    """A wav with its data size replaced by 0xFFFFFFFF, for which libsndfile reads to the end of the file.

    Args:
        path: the file.
        size_offset: byte offset of the four bytes of the data size.
    """

    def __init__(self, path: Path, size_offset: int) -> None:
        self._file, self._size_offset = path.open("rb"), size_offset

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        at, count = self.tell(), self._file.readinto(buffer)
        for i in range(max(self._size_offset, at), min(self._size_offset + 4, at + count)):
            buffer[i - at : i - at + 1] = b"\xff"
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
