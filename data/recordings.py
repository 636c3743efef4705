"""Recordings to train a blind estimator with: found in data sets, split, and read in part."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reknob.data.audio import AUDIO_FILES, AUDIO_SUFFIXES, resample
from reknob.data.decoding import is_hidden, open_audio
from reknob.data.generated import MARK, SPLITS
from reknob.data.resampling import resampling_ratio, resampling_reach
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

SILENT = 1e-5  # peak below which a recording or an excerpt is not used
STRETCHES = {
    "train": (0.0, 0.6),
    "valid": (0.6, 0.8),
    "test": (0.8, 1.0),
}  # of each song, if there are too few to split
#: The songs of MUSDB18's training folder that the musdb package uses for validation.
MUSDB18_VALID = (
    *("ANiMAL - Rockshow", "Actions - One Minute Smile", "Alexander Ross - Goodbye Bolero"),
    *("Clara Berry And Wooldog - Waltz For My Victims", "Fergessen - Nos Palpitants", "James May - On The Line"),
    *("Johnny Lokke - Promises & Lies", "Leaf - Summerghost", "Meaxic - Take A Step"),
    *("Patrick Talbot - A Reason To Leave", "Skelpolu - Human Mistakes", "Traffic Experiment - Sirens"),
    *("Triviul - Angelsaint", "Young Griffo - Pennies"),
)


@dataclass(frozen=True)
class Recording:
    """An audio file or a stretch of one, from which excerpts are read."""

    name: str  # path within its data set
    path: Path
    sr: int  # Hz, of the file
    frames: int
    first: int = 0  # frame of the file at which the recording begins

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sr

    def read(self, start: float, seconds: float, sr: int) -> Tensor:
        """The mean of the channels from `start` s on, `(round(seconds sr),)` float32 at `sr` Hz.

        Equal to that slice of the whole recording after resampling; too late a `start` gives the last `seconds`.
        UsageError where the recording is shorter than `seconds`, and where its file is damaged.
        """
        try:
            old, new = resampling_ratio(self.sr, sr)
        except UsageError as error:
            raise UsageError(f"{self.path}: {error}") from None
        length, total = round(seconds * sr), -(-self.frames * new // old)
        if length > total:
            raise UsageError(f"{self.path} has {self.duration:.2f} s, asked for an excerpt of {seconds:g} s")
        first = min(round(start * sr), total - length)
        if old == new:
            return torch.from_numpy(self.mono(first, length))
        # The resampler's filters repeat every `old` samples: a part that begins at a multiple of `old` is resampled as
        # within the whole, except where the filter reaches beyond its ends.
        reach = resampling_reach(old, new)
        block = max(first // new - math.ceil(reach / old), 0)
        end = min(-(-(first + length) * old // new) + reach, self.frames)
        x = torch.from_numpy(self.mono(block * old, end - block * old))
        return resample(x[None], self.sr, sr)[0, first - block * new :][:length]

    def mono(self, first: int, count: int) -> np.ndarray:
        """The mean of the channels at the file's own rate, `(count,)` float32; UsageError where the file is damaged."""
        with open_audio(self.path) as file:
            x = file.read(self.first + first, count)
        if len(x) < count:
            raise UsageError(f"{self.path} ends before the length in its header: it is damaged, get it again")
        return np.ascontiguousarray(x.T).mean(axis=0)  # five times as fast as x.mean(axis=1)


class Song(NamedTuple):
    """A file of a data set. All files of a group belong to one split."""

    path: Path
    group: str
    split: str | None = None  # None: chosen by a hash of the group's name


class RecordingListing(NamedTuple):
    """The recordings of a split, sorted by name, and one line with the reason for each file that was skipped."""

    recordings: list[Recording]
    skipped: list[str]


def _generated(folder: Path) -> list[Song]:
    splits = SPLITS if (folder / MARK).is_file() else ()
    return [Song(path, path.stem, split) for split in splits for path in _files(folder, f"{split}/*.flac")]


def _musdb18(folder: Path) -> list[Song]:
    def songs(side: str) -> dict[str, Path]:
        stems = {path.name.removesuffix(".stem.mp4"): path for path in _files(folder, f"{side}/*.stem.mp4")}
        # Where a song has both, the wav, which is read faster.
        return stems | {path.parent.name: path for path in _files(folder, f"{side}/*/mixture.wav")}

    train = songs("train")
    valid = set(train).intersection(MUSDB18_VALID)
    splits = {name: "valid" if name in valid else "train" for name in train} if valid else {}
    not_test = [Song(path, name, splits.get(name)) for name, path in train.items()]
    return not_test + [Song(path, name, "test") for name, path in songs("test").items()]


def _folder(folder: Path) -> list[Song]:
    paths = [path for path in _files(folder) if path.suffix.lower() in AUDIO_SUFFIXES]
    return [Song(path, path.relative_to(folder).with_suffix("").as_posix()) for path in paths]


def _medleydb(folder: Path, pattern: str) -> list[Song]:
    audio = folder / "Audio" if (folder / "Audio").is_dir() else folder
    return [Song(path, path.relative_to(audio).parts[0]) for path in _files(audio, pattern)]


def _enst(folder: Path) -> list[Song]:
    songs = []
    for number, split in enumerate(SPLITS, start=1):
        mixes = (_files(folder, f"drummer_{number}/audio/{mix}/*.wav") for mix in ("wet_mix", "dry_mix"))
        songs += [Song(path, path.stem, split) for path in next(filter(None, mixes), [])]
    return songs


class Layout(NamedTuple):
    """How the songs of a data set are found, and what its folder is expected to hold."""

    find: Callable[[Path], list[Song]]
    expected: str


RECORDINGS = {
    "generated": Layout(_generated, f"{MARK} and the pieces made with it"),
    "musdb18": Layout(_musdb18, "train/ and test/, with *.stem.mp4 or with a folder and mixture.wav for each song"),
    "folder": Layout(_folder, AUDIO_FILES),
    "medleydb": Layout(partial(_medleydb, pattern="*/*_MIX.wav"), "SONG/SONG_MIX.wav, or these in Audio/"),
    "medleydb_raw": Layout(partial(_medleydb, pattern="*/*_RAW/*.wav"), "SONG/SONG_RAW/*.wav, or these in Audio/"),
    "enst": Layout(_enst, "drummer_1/, drummer_2/ and drummer_3/ with audio/wet_mix/*.wav or audio/dry_mix/*.wav"),
}


def find_recordings(data: str, data_dir: str | Path | None, split: str, seconds: float = 10.0) -> RecordingListing:
    """The recordings of a split of a data set that last at least `seconds` s and are not silent.

    Where the data set defines no split, songs are sorted by a hash of their names: the first tenth is for testing, the
    second for validation, the rest for training. If there are too few songs for that, every song is divided in time.
    UsageError for an unknown key, for a missing folder or one of another layout, and where no recording is left.
    """
    for key, known, noun in ((data, RECORDINGS, "data"), (split, SPLITS, "split")):
        if key not in known:
            raise UsageError(f"unknown {noun} {key!r}; known: {', '.join(known)}")
    expected = RECORDINGS[data].expected
    if not data_dir:
        raise UsageError(f"data={data} takes data_dir=FOLDER, a folder of {expected}")
    folder = Path(os.path.abspath(user_path(data_dir)))
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"data_dir={data_dir} {problem}: data={data} takes a folder of {expected}")
    songs = RECORDINGS[data].find(folder)
    if not songs:
        content = _some([path.relative_to(folder).as_posix() for path in _files(folder)], ", ")
        raise UsageError(
            f"data_dir={data_dir} is no folder of {expected}, which data={data} takes; it holds: {content}"
        )
    recordings, skipped = [], _other_files(folder) if data == "folder" else []
    for path, stretch in sorted(_members(songs, split)):
        try:
            recordings.append(_recording(folder, path, stretch, seconds))
        except ValueError as error:
            skipped.append(str(error))
    if not recordings:
        raise UsageError(f"no recording for split {split} in data_dir={data_dir}: {_some(skipped, '; ')}")
    return RecordingListing(recordings, skipped)


def _files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The files that match a pattern, sorted, without those that are hidden or in hidden folders."""
    paths = [path for path in folder.glob(pattern) if path.is_file()]
    return sorted(path for path in paths if not is_hidden(path, folder))


def _some(lines: list[str], separator: str, most: int = 5) -> str:
    """The first few lines, joined, and how many more there are."""
    more = [f"{len(lines) - most} more"] if len(lines) > most else []
    return separator.join([*lines[:most], *more]) or "none"


def _other_files(folder: Path) -> list[str]:
    """A line for each file name extension of no known audio format."""
    counts = Counter(path.suffix.lower() for path in _files(folder))
    unknown = sorted(set(counts) - set(AUDIO_SUFFIXES))
    return [f"{counts[suffix]} files *{suffix} are of no known audio format" for suffix in unknown]


def _hash(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def _members(songs: list[Song], split: str) -> list[tuple[Path, tuple[float, float]]]:
    """The files of a split, each with the stretch of it, as fractions of its length, that belongs to the split."""
    defined = {song.split for song in songs}
    held_out = [each for each in ("test", "valid") if each not in defined]
    ranked = sorted({song.group for song in songs if song.split is None}, key=_hash)
    tenth = max(1, round(len(ranked) / 10))
    drawn = dict.fromkeys(ranked, "train")
    for k, each in enumerate(held_out):
        drawn |= dict.fromkeys(ranked[k * tenth : (k + 1) * tenth], each)
    members = []
    for song in songs:
        if song.split is None and len(ranked) <= len(held_out):
            members += [(song.path, STRETCHES[split])] if split not in defined else []
        elif (song.split or drawn[song.group]) == split:
            members.append((song.path, (0.0, 1.0)))
    return members


def _recording(folder: Path, path: Path, stretch: tuple[float, float], seconds: float) -> Recording:
    """The recording in a file; UsageError where it is damaged, shorter than `seconds`, or silent."""
    with open_audio(path) as file:
        sr, frames = file.sr, file.length()
    first, end = (round(edge * frames) for edge in stretch)
    recording = Recording(path.relative_to(folder).as_posix(), path, sr, end - first, first)
    if recording.duration < seconds:
        part = f"{stretch[0]:.0%} to {stretch[1]:.0%} of " if end - first < frames else ""
        raise UsageError(f"{part}{path} lasts {recording.duration:.2f} s, shorter than an excerpt of {seconds:g} s")
    second = min(sr, recording.frames)
    recording.mono(recording.frames - second, second)  # raises where the file is shorter than its header says
    # From the middle outwards: beginnings and ends may be silent, the middle seldom is, so that little is read.
    begins = np.arange(0, recording.frames, second)
    for begin in begins[np.argsort(np.abs(begins - recording.frames // 2))].tolist():
        if np.abs(recording.mono(begin, min(second, recording.frames - begin))).max() >= SILENT:
            return recording
    raise UsageError(f"{path} is silent: it peaks below {SILENT:g}")
