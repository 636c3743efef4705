"""Statistics of music, taken once: each part of them is a file, so that what was broken off goes on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from reknob.data.coding import random_lossy_round_trip
from reknob.data.excerpts import Excerpts
from reknob.data.recordings import SILENT, Recording
from reknob.estimation.estimator import Estimator
from reknob.estimation.statistics_training import StatisticsSet
from reknob.estimation.train import synthesise
from reknob.runtime.files import read_tensors, write_tensors
from reknob.runtime.seeds import stream
from reknob.runtime.workers import map_processes

PART, BATCH = 50, 10  # excerpts of a file, and of what is processed at once
VERSION = 2  # raised when the same music comes to have other statistics


class Source(Protocol):
    """What statistics are taken of, part by part."""

    def __len__(self) -> int:
        """The number of parts."""

    def __getitem__(self, number: int) -> StatisticsSet:
        """The statistics of a part."""

    def key(self) -> list:
        """What they depend on besides the number, of plain values."""


@dataclass(frozen=True)
class Untouched:
    """Windows of `seconds` s spread over each recording, a part; `most` or as many as fit, none of silent ones."""

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
        return [*named(self.recordings), self.seconds, self.most]


@dataclass(frozen=True)
class Processed:
    """Excerpts processed with their controls, `share` of them `coded`; `PART` of them are a part."""

    excerpts: Excerpts
    estimator: Estimator
    share: float

    def __len__(self) -> int:
        return -(-len(self.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> StatisticsSet:
        generator = stream(self.excerpts.seed, "coded", number)
        first = PART * number
        return StatisticsSet.join(self._batch(start, generator) for start in range(first, first + PART, BATCH))

    def _batch(self, start: int, generator: torch.Generator) -> StatisticsSet:
        items = [self.excerpts[index] for index in range(start, start + BATCH)]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        sr = self.estimator.settings["sr"]
        wet = random_lossy_round_trip(synthesise(self.estimator, batch), sr, self.share, generator)
        return statistics_of(self.estimator, wet, batch["q"])

    def key(self) -> list:
        excerpts = self.excerpts
        names = [named(recordings) for recordings in excerpts.sources]
        return [names, self.estimator.settings["sfx"], excerpts.seconds, excerpts.seed, self.share]


def statistics_of(estimator: Estimator, x: Tensor, q: Tensor) -> StatisticsSet:
    """The statistics of sounds x (B, 1, N) with controls q (B, P)."""
    return StatisticsSet(*estimator.controller.encoder.statistics(x), q)


def named(recordings: Sequence[Recording]) -> list:
    """Recordings by their names, lengths and the times at which their files were written."""
    return [[r.name, r.first, r.frames, r.path.stat().st_mtime_ns] for r in recordings]


def cache_statistics(source: Source, folder: Path, workers: int, title: str) -> StatisticsSet:
    """All statistics of a source, read from `folder`, where those that it lacks are kept; by `workers` processes."""
    key = json.dumps([VERSION, type(source).__name__, *source.key()])
    folder = folder / hashlib.sha256(key.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.pt" for number in range(len(source))]
    missing = [job for job in enumerate(paths) if not job[1].exists()]
    with tqdm(desc=title, initial=len(paths) - len(missing), total=len(paths), unit="part") as bar:
        for _ in map_processes(partial(_keep, source), missing, workers):
            bar.update()
    tables = (read_tensors(path) for path in paths)
    return StatisticsSet.join(StatisticsSet(**{name: x.float() for name, x in table.items()}) for table in tables)


def _keep(source: Source, job: tuple[int, Path]) -> None:
    """Writes a part at half precision: levels to 0.004 nepers."""
    number, path = job
    write_tensors(path, {name: column.half() for name, column in source[number]._asdict().items()})
