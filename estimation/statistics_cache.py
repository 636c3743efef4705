"""Statistics of music, computed once and cached part by part, so that an interrupted computation resumes."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from reknob.data.coding import random_lossy_round_trip
from reknob.data.conditions import random_band_limit, random_level
from reknob.data.excerpts import Excerpts
from reknob.data.recordings import SILENT, Recording
from reknob.estimation.controls import no_effect
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.estimation.statistics_training import StatisticsSet, percentile_encoder
from reknob.runtime.bars import progress_bar
from reknob.runtime.files import read_tensors, write_tensors
from reknob.runtime.seeds import stream
from reknob.runtime.workers import map_processes

PART, BATCH = 50, 10  # excerpts in a file, and in a batch that is processed at once
#: Raised when the statistics of the same music, or what an estimator makes of it, change: cached ones no longer match.
VERSION = 3


class Source(Protocol):
    """What statistics are computed from, part by part."""

    def __len__(self) -> int:
        """The number of parts."""
        ...

    def __getitem__(self, number: int) -> Any:  # noqa: ANN401 - a NamedTuple of tensors
        """The statistics of a part, a NamedTuple of tensors."""
        ...

    def key(self) -> list:
        """What the statistics depend on besides the part's number, as plain values."""
        ...


@dataclass(frozen=True)
class Untouched:
    """Windows of untouched recordings, a part for each recording.

    Windows last `seconds` s and start at equal distances; there are `most`, or as many as fit without overlap. Silent
    ones are left out.
    """

    recordings: Sequence[Recording]
    estimator: Estimator
    seconds: float
    most: int

    def __len__(self) -> int:
        return len(self.recordings)

    @torch.no_grad()
    def __getitem__(self, number: int) -> StatisticsSet:
        recording, sr = self.recordings[number], self.estimator.settings["sr"]
        last = recording.duration - self.seconds
        count = min(self.most, int(last // self.seconds) + 1)
        starts = [last * window / max(count - 1, 1) for window in range(count)]
        x = torch.stack([recording.read(start, self.seconds, sr)[None] for start in starts])
        audible = x.abs().amax((1, 2)) > SILENT
        return statistics_of(self.estimator, x, torch.empty(count, 0)).take(audible)

    def key(self) -> list:
        # Of the estimator the rate alone: statistics are computed without learned weights.
        return [*identify(self.recordings), self.estimator.settings["sr"], self.seconds, self.most]


@dataclass(frozen=True)
class Processed:
    """Excerpts processed by the estimator's synthesis at their controls, `PART` in a part.

    A random share `coded` of them is encoded and decoded by a lossy codec, and a share `untouched` not processed at all
    (its controls say so). Independently of each other, half of `limited` has a random band limit before the processing,
    half of it one afterwards, and half of it a low level at 16 bits. The last part is full as well: `Excerpts` has an
    item for any index.
    """

    excerpts: Excerpts
    estimator: Estimator
    coded: float
    untouched: float = 0.0
    limited: float = 0.0

    def __len__(self) -> int:
        return -(-len(self.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> StatisticsSet:
        # A stream for each part, so that its coding does not depend on which parts are cached, or on `workers`.
        generator = stream(self.excerpts.seed, "coded", number)
        first = PART * number
        batches = (self.batch(range(at, at + BATCH), generator) for at in range(first, first + PART, BATCH))
        return StatisticsSet.join(statistics_of(self.estimator, batch["wet"], batch["q"]) for batch in batches)

    def batch(self, indices: Iterable[int], generator: torch.Generator) -> Batch:
        """Excerpts with the audio `wet` (B, 1, N) that they become; `dry` and `q` are what it was made from."""
        sr, items = self.estimator.settings["sr"], [self.excerpts[index] for index in indices]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        if self.untouched:
            left = torch.rand(len(items), generator=generator) < self.untouched
            batch["q"] = torch.where(left[:, None], no_effect(self.estimator.synthesis, batch["q"]), batch["q"])
        if self.limited:
            batch["dry"] = random_band_limit(batch["dry"], sr, self.limited / 2, generator)
        wet = synthesise(self.estimator, batch)
        if self.limited:
            wet = random_level(random_band_limit(wet, sr, self.limited / 2, generator), self.limited / 2, generator)
        return batch | {"wet": random_lossy_round_trip(wet, sr, self.coded, generator)}

    def key(self) -> list:
        excerpts, settings = self.excerpts, self.estimator.settings
        # Not the number of excerpts: a training with more of them continues with the parts of an earlier one.
        names = [identify(recordings) for recordings in excerpts.sources]
        ranges = [[name, repr(p.mapping)] for name, p in self.estimator.synthesis.walk()]
        shares = [self.coded, self.untouched, self.limited]
        return [names, settings["sfx"], ranges, settings["sr"], excerpts.seconds, excerpts.seed, *shares]


def statistics_of(estimator: Estimator, x: Tensor, q: Tensor) -> StatisticsSet:
    """The statistics of audio x (B, 1, N) with controls q (B, P)."""
    spectral, wave = percentile_encoder(estimator).statistics(x)
    return StatisticsSet(spectral, wave, q)


def identify(recordings: Sequence[Recording]) -> list:
    """Names, first samples, lengths and files' modification times of recordings: statistics change with any of them."""
    return [[r.name, r.first, r.frames, r.path.stat().st_mtime_ns] for r in recordings]


def cache_statistics(source: Source, folder: Path, workers: int, title: str) -> StatisticsSet:
    """All statistics of a source, read from `folder`; parts that it lacks are computed by `workers` processes first.

    A source's parts are in a folder of their own, named by a hash of its key. `title` is the progress bar's.
    """
    return StatisticsSet(*join_parts(source, folder, workers, title))


def join_parts(source: Source, folder: Path, workers: int, title: str) -> tuple[Tensor, ...]:
    """The columns of all parts of a source, as `cache_statistics` reads and computes them."""
    key = json.dumps([VERSION, type(source).__name__, *source.key()])
    folder = folder / hashlib.sha256(key.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.pt" for number in range(len(source))]
    # A part that exists is complete, as files are written atomically.
    missing = [job for job in enumerate(paths) if not job[1].exists()]
    with progress_bar(title=title, total=len(paths), unit="part", initial=len(paths) - len(missing)) as bar:
        for _ in map_processes(partial(_write_part, source), missing, workers):
            bar.update()
    columns = zip(*(read_tensors(path).values() for path in paths), strict=True)
    return tuple(torch.cat(column).float() for column in columns)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """What identifies the values of tensors."""
    return hashlib.sha256(b"".join(x.cpu().numpy().tobytes() for x in tensors.values())).hexdigest()


def _write_part(source: Source, job: tuple[int, Path]) -> None:
    """Computes a part and writes it at half precision, which rounds levels by up to 0.004 nepers."""
    number, path = job
    write_tensors(path, {name: column.half() for name, column in source[number]._asdict().items()})
