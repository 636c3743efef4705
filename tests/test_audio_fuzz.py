"""Damaged audio files of every kind: whatever they hold, they are read in bounded time and memory, or refused."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from test_decoding import CONTAINERS, encode, music
from test_recordings import write_stems

from benchmarks.fuzz import damaged_bytes
from reknob.data.audio import read_audio, write_audio
from reknob.data.decoding import open_audio
from reknob.data.recordings import find_recordings
from reknob.runtime.errors import UsageError

EACH = 8  # damaged copies of a file
SNDFILE = [".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".w64", ".caf", ".au"]
MOST_SAMPLES = 50 * 44100  # that 0.3 s may seem to hold


def copies(path: Path) -> Iterator[Path]:
    """Damaged copies of a file, one after the other."""
    raw, rng = path.read_bytes(), random.Random(path.name)
    copy = path.parent / "damaged" / path.name
    copy.parent.mkdir()
    for _ in range(EACH):
        copy.write_bytes(damaged_bytes(raw, rng))
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
