"""Damaged audio files of every kind: whatever they hold, they are read in bounded time and memory, or refused."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from test_decoding import CONTAINERS, encode, music
from test_recordings import write_stems

from reknob.data.audio import read_audio, write_audio
from reknob.data.decoding import open_audio
from reknob.data.recordings import find_recordings
from reknob.runtime.errors import UsageError

EACH = 8  # damaged copies of a file
SNDFILE = [".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".w64", ".caf", ".au"]
MOST_SAMPLES = 50 * 44100  # that 0.3 s may seem to hold


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """A file with bits turned, lengths made absurd, parts lost, doubled or added, mostly near its beginning."""
    b = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        i = rng.randrange(min(len(b), rng.choice((64, 256, 2000, len(b)))))
        match rng.randrange(6):
            case 0:
                b[i] ^= 1 << rng.randrange(8)
            case 1:
                b[i] = rng.choice((0, 127, 128, 255))
            case 2:
                b[i : i + 4] = rng.choice((bytes(4), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
            case 3 if len(b) > 200:
                del b[i : i + rng.choice((1, 4, 100))]
            case 4:
                b[i:i] = rng.randbytes(rng.choice((1, 4, 40)))
            case _:
                j = rng.randrange(len(b))
                b[i : i + 8] = b[j : j + 8]
    return bytes(b[: rng.randrange(len(b))] if rng.random() < 0.15 else b)


def copies(path: Path) -> Iterator[Path]:
    """Damaged copies of a file, one after the other."""
    raw, rng = path.read_bytes(), random.Random(path.name)
    copy = path.parent / "damaged" / path.name
    copy.parent.mkdir()
    for _ in range(EACH):
        copy.write_bytes(damaged(raw, rng))
        yield copy


def read_in_every_way(path: Path) -> None:
    def part() -> None:
        with open_audio(path) as file:
            assert len(file.read(3000, 4000)) <= 4000

    def length() -> None:
        with open_audio(path) as file:
            file.length()

    def whole() -> None:
        assert read_audio(path)[0].numel() < MOST_SAMPLES

    for read in (part, length, whole, lambda: find_recordings("folder", path.parent, "train", 0.1)):
        refusal = ""
        try:
            read()
        except UsageError as error:
            refusal = str(error)
        assert "\n" not in refusal


@pytest.mark.parametrize("suffix", SNDFILE)
def test_damaged_files_of_libsndfile_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix in (".aiff", ".w64", ".caf", ".au"):
        soundfile.write(path, music(0.3).T.numpy(), 44100)
    else:
        write_audio(path, music(0.3), 44100)
    for copy in copies(path):
        read_in_every_way(copy)


@pytest.mark.parametrize("name", [*CONTAINERS, "x.stem.mp4"])
def test_damaged_files_of_pyav_are_read_or_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name in CONTAINERS:
        format, codec, sr, _, _ = CONTAINERS[name]
        encode(path, format, codec, music(0.3, sr), sr)
    else:
        write_stems(path, music(0.3))
    for copy in copies(path):
        read_in_every_way(copy)
