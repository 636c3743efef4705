"""Random excerpts of recordings with random controls, to train, validate and test a blind estimator with."""

import atexit
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from reknob.data.audio import resample
from reknob.data.recordings import SILENT, Recording
from reknob.runtime import plugins
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import ignore_signals

TRIES = 20  # silent excerpts of one recording before another is drawn, and recordings before an error is raised


class Excerpts(Dataset):
    """Excerpts of `seconds` s at `sr` Hz, each determined by `seed` and its index; any index >= 0 is valid.

    An item is `dry`, `(1, N)` float32: a random stretch of a random recording, not silent, of peak 1 and random sign;
    `q`, `(n_controls,)` float32: uniform in [0, 1); and `source`, `()`: the number of its data set. `sources` has one
    list of recordings per data set; data sets are drawn with equal probability. `length` is the number of excerpts in
    an epoch.
    UsageError for no recordings, and for recordings that are too short or cannot be resampled to `sr`.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Recording]],
        n_controls: int,
        length: int,
        seed: int = 0,
        *,
        sr: int = 44100,
        seconds: float = 10.0,
    ) -> None:
        if not sources or not all(sources):
            raise UsageError("no recordings: excerpts take at least one of every source")
        recordings = [recording for source in sources for recording in source]
        for recording in recordings:
            if recording.duration < seconds:
                raise UsageError(f"{recording.path} has {recording.duration:.2f} s, an excerpt takes {seconds:g} s")
        for rate, recording in {recording.sr: recording for recording in recordings}.items():
            try:
                resample(torch.zeros(1, 1), rate, sr)
            except ValueError as error:
                raise UsageError(f"{recording.path}: {error}") from error
        self.sources = sources
        self.n_controls, self.length, self.seed = n_controls, length, seed
        self.sr, self.seconds = sr, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        q = torch.from_numpy(rng.random(self.n_controls, dtype=np.float32))
        sign = rng.choice((-1.0, 1.0))
        for _ in range(TRIES):
            source = int(rng.integers(len(self.sources))) if len(self.sources) > 1 else 0
            recordings = self.sources[source]
            recording = recordings[int(rng.integers(len(recordings)))]
            for _ in range(TRIES):
                start = rng.uniform(0.0, recording.duration - self.seconds)
                x = recording.read(start, self.seconds, self.sr)
                peak = float(x.abs().max())
                if SILENT <= peak < float("inf"):  # false for NaN, too
                    return {"dry": x[None] * sign / peak, "q": q, "source": torch.tensor(source)}
        raise UsageError(
            f"{TRIES * TRIES} random excerpts in a row, the last of {recording.path}, peak below {SILENT:g} "
            "or are not finite: leave out the recordings that are mostly silent"
        )


class Share(NamedTuple):
    """Which of the processes of a training takes excerpts, and how many there are."""

    rank: int
    count: int


ALONE = Share(0, 1)


class EpochSampler(Sampler[int]):
    """The indices of the complete batches of an epoch, from `epoch length` on: every epoch has other excerpts.

    The epoch is part of the index, as persistent workers keep the copy of the data set that they were started with.
    Of n processes each takes every n-th index, so that all together take the batches that one alone would take.
    """

    def __init__(self, length: int, batch_size: int, share: Share = ALONE) -> None:
        self.length, self.epoch, self.share = length, 0, share
        self.taken, self.batch_size, self.first = length // batch_size * batch_size, batch_size, 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Makes the next iteration yield the indices of this epoch, from one of its batches on."""
        self.epoch, self.first = epoch, first_batch * self.batch_size

    def __len__(self) -> int:
        return len(self._indices())

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices())

    def _indices(self) -> range:
        start = self.epoch * self.length
        return range(start + self.first + self.share.rank, start + self.taken, self.share.count)


def excerpt_loader(
    excerpts: Excerpts, batch_size: int = 16, workers: int = 0, *, fresh: bool = False, share: Share = ALONE
) -> DataLoader:
    """Batches of `dry` `(B, 1, N)` and `q` `(B, n_controls)`; the same for any number of `workers`.

    The same excerpts in every epoch, in which the last batch may be smaller; or, if `fresh`, for training: complete
    batches only, and other ones after `loader.sampler.set_epoch(n)`. Workers are persistent and use one thread each.
    With a `share` only its part of every batch, whose size `share.count` divides.
    """
    if workers:
        # multiprocessing ends workers by SIGTERM, which these ignore.
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)
    return DataLoader(
        excerpts,
        batch_size // share.count,
        sampler=EpochSampler(len(excerpts), batch_size, share)
        if fresh
        else range(share.rank, len(excerpts), share.count),
        drop_last=fresh,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_begin,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise each epoch draws a number from the global one
    )


def _begin(worker: int) -> None:
    """Makes a worker ignore signals: the training loop decides when to stop, and needs the batch until then."""
    ignore_signals()
    plugins.load()


def _end_workers() -> None:
    """Kills the workers that are left when the program ends."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
