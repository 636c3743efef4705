"""Any audio file, decoded in whole or in part: by libsndfile, and by PyAV what libsndfile does not know."""

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

#: What is looked for in folders.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".oga", ".rf64", ".w64"),
    *CONTAINER_SUFFIXES,
)
LOWEST_RATE, HIGHEST_RATE = 2000, 768_000  # Hz, of what can be a recording
MP3_PRE_ROLL = 1.0  # s: a frame of mp3 keeps bits in those before it, and is decoded wrongly right after a seek
UNKNOWN_LENGTH = 2**62  # libsndfile's number of frames of a flac that was streamed is larger
STREAMED_SIZES = (0, 0xFFFFFFFF)  # of the data of a wav whose writer did not know its length, as in a pipe
HEADER_BYTES = 2**20  # of a wav, in which its data must begin


class SndfileAudio:
    """A file that libsndfile has opened, in whole or in part."""

    def __init__(self, file: soundfile.SoundFile):
        self._file = file
        self.sr, self.channels, self.format = file.samplerate, file.channels, file.format

    def length(self) -> int:
        """Number of frames. That of an mp3 without a header is estimated: it is decoded then."""
        frames = self._file.frames
        if self.format != "MP3" or len(self.read(frames - 1, 1)):
            return frames
        self._file.seek(0)
        return sum(map(len, self.blocks(2**18)))

    def seconds(self) -> float:
        """Length in s as the file announces it."""
        return self._file.frames / self.sr

    def read(self, first: int, count: int) -> np.ndarray:
        """Frames `first` to `first + count`, `(count, C)` float32; fewer where the file ends."""
        early = min(first, round(MP3_PRE_ROLL * self.sr)) if self.format == "MP3" else 0
        self._file.seek(first - early)
        return self._file.read(early + count, dtype="float32", always_2d=True)[early:]

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """What is left in blocks `(n, C)` float32 of at most `size` frames, however many the file announces."""
        while len(x := self._file.read(size, dtype="float32", always_2d=True)):
            yield x


AudioFile = SndfileAudio | ContainerAudio


@contextmanager
def open_audio(path: str | Path) -> Iterator[AudioFile]:
    """An audio file to read from, of a sample rate `sr` in Hz.

    UsageError, also for what fails while it is read, where it is missing, no regular file, no audio, damaged, or of a
    sample rate that no recording has.
    """
    path = regular_file(path)
    file, reason = _open_sndfile(path)
    if file is None:
        yield _of_a_recording(_open_container(path, reason), path)
        return
    try:
        with file:
            yield _of_a_recording(SndfileAudio(file), path)
    except soundfile.LibsndfileError as error:
        raise UsageError(f"{path} cannot be read to its end ({_why(error)}): it is damaged, get it again") from None


def regular_file(path: str | Path) -> Path:
    """A path of the user's, of which there is a file; UsageError for all else, pipes and devices too."""
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
        raise UsageError(f"{path} is a pipe, a socket or a device: give an audio file, which can be read in any order")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read (Permission denied): give an audio file that you may read")
    return path


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file or a folder on the way to it from `folder` is hidden, as macOS's `._` files are."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _open_sndfile(path: Path) -> tuple[soundfile.SoundFile | None, str]:
    """A file opened by libsndfile, or None and why it could not."""
    if path.suffix.lower() == ".raw":
        return None, "it has no header that tells its rate and channels"
    streamed = _streamed_data(path)
    try:
        # By its bytes, as names need not be UTF-8.
        file = soundfile.SoundFile(os.fsencode(path) if streamed is None else _PatchedFile(path, streamed))
    except soundfile.LibsndfileError as error:
        return None, _why(error)
    if file.format == "FLAC" and file.frames > UNKNOWN_LENGTH:
        file.close()
        return None, "a flac of unknown length"
    return file, ""


def _why(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().removeprefix("Error : ").rstrip(".") or "damaged"


def _open_container(path: Path, reason: str) -> ContainerAudio:
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
            f"{path} cannot be read as audio: its tags (ID3) are broken, or no sound follows them; write it again "
            "without tags, for example ffmpeg -i in.mp3 -map_metadata -1 -map 0:a out.mp3"
        )
    raise UsageError(
        f"{path} cannot be read as audio ({reason}): give wav, flac, mp3, ogg, opus or aiff, or another format that "
        "libsndfile or FFmpeg decodes"
    )


def _of_a_recording(file: AudioFile, path: Path) -> AudioFile:
    if not LOWEST_RATE <= file.sr <= HIGHEST_RATE:
        raise UsageError(
            f"{path} says that its sample rate is {file.sr} Hz; {LOWEST_RATE} to {HIGHEST_RATE} Hz are allowed: "
            "correct its header, or export it again"
        )
    return file


def _streamed_data(path: Path) -> int | None:
    """Where the size of the data stands in a wav that was written without knowing it; None for any other file."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(8)) == 8 and file.tell() < HEADER_BYTES:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                place = file.tell() - 4
                if size not in STREAMED_SIZES or (size == 0 and _chunks_fill(file)):
                    return None
                _tell_streamed(path, size)
                return place
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _chunks_fill(file: BinaryIO) -> bool:
    """Whether nothing but whole chunks follows: a wav that is empty indeed."""
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
def _tell_streamed(path: Path, size: int) -> None:
    said = "no data" if size == 0 else "data of unknown size"
    log.warning("%s: the header of a streamed file, which announces %s; read to the end of the file", path, said)


class _PatchedFile(io.RawIOBase):
    """A wav as its header would be had its writer known nothing but to say so: the size of the data all ones.

    Args:
        path: the file.
        place: where the four bytes of that size are.
    """

    def __init__(self, path: Path, place: int):
        self._file, self._place = path.open("rb"), place

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:
        at, count = self.tell(), self._file.readinto(buffer)
        for i in range(max(self._place, at), min(self._place + 4, at + count)):
            buffer[i - at : i - at + 1] = b"\xff"
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
