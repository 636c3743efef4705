"""A training on cached statistics from its settings: the objective, the statistics of each split, the best state."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reknob.data.excerpts import Excerpts
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import SR, FileSettings, Sources
from reknob.estimation.statistics_cache import Processed, Source, Untouched, cache_statistics
from reknob.estimation.statistics_training import (
    EqualiserObjective,
    Objective,
    ParameterObjective,
    StatisticsSet,
)
from reknob.estimation.trainer import EstimatorTask, Trainer, open_fabric, state_path
from reknob.runtime.errors import UsageError
from reknob.runtime.seeds import stream_seed

EQUALISERS = ("peq", "geq")  # trained on untouched music, unless `items` is given
SPLITS = ("train", "valid")
ITEMS, VALIDATIONS = 4000, 20
WARM_UP = 200  # steps over which the learning rate rises


@dataclass(frozen=True, kw_only=True)
class StatisticsSettings(FileSettings):
    """Settings of a training on statistics; names and defaults are those of the options of train_on_statistics.py.

    Args:
        chain: key of the chain that processes the music and is estimated.
        windows: number of windows of an untouched recording.
        items: number of processed excerpts, rounded up to a multiple of 50; None for untouched music where `chain` is
            an equaliser, and for 4000 otherwise.
        lr: highest learning rate.
        init: file of an estimator whose weights the training starts from.
        resume: whether to continue the training of `out`.
    """

    chain: str = "peq"
    windows: int = 16
    items: int | None = None
    steps: int = 3000
    batch_size: int = 128
    lr: float = 2e-3
    init: Path | None = None
    resume: bool = False

    @property
    def n_processed(self) -> int | None:
        """Number of processed excerpts in the training split; None where the music is left untouched."""
        return self.items if self.items or self.chain in EQUALISERS else ITEMS

    def record(self) -> dict[str, str | float | None]:
        """What an estimator's record holds of the settings."""
        return super().record() | {"items": self.n_processed}


def build_objective(settings: StatisticsSettings) -> Objective:
    """The estimator to train, with its loss; UsageError for unknown chains and settings that do not go together.

    Weights are drawn from torch's global generator, which `settings.seed` seeds here.
    """
    torch.manual_seed(settings.seed)
    estimator = Estimator(sfx=settings.chain, afx=settings.chain, encoder="percentiles", sr=SR)
    if settings.init:
        estimator.start_from(settings.init)
    for name in ("coded", "limited", "untouched"):
        share = getattr(settings, name)
        if share and not settings.n_processed:
            raise UsageError(f"--{name} {share:g} is of processed excerpts; give --items, or leave it out")
    return (ParameterObjective if settings.n_processed else EqualiserObjective)(estimator)


def load_statistics(
    settings: StatisticsSettings, estimator: Estimator, sources: dict[str, Sources]
) -> dict[str, list[StatisticsSet]]:
    """Statistics by split: one set for each data set where it is left untouched, one of all where it is processed.

    `sources` are those of `find_sources`. What <log_dir>/statistics lacks is computed and cached there.
    """
    folder = Path(settings.log_dir) / "statistics"
    # Both splits before the first is computed: `Excerpts` checks its recordings, and a mistake is reported at once.
    jobs = {split: statistics_sources(settings, split, sources[split], estimator) for split in SPLITS}
    return {
        split: [cache_statistics(job, folder, settings.workers, f"{split}: statistics") for job in jobs[split]]
        for split in SPLITS
    }


def statistics_sources(
    settings: StatisticsSettings, split: str, sources: Sources, estimator: Estimator
) -> list[Source]:
    """What the statistics of a split are computed from."""
    # A source for each data set, from which batches are drawn equally; `Excerpts` draws from data sets equally itself.
    if not settings.n_processed:
        return [Untouched(recordings, estimator, settings.seconds, settings.windows) for recordings in sources]
    items = settings.n_processed if split == "train" else settings.valid_items
    n_controls, seed = len(estimator.synthesis.controls()), stream_seed(settings.seed, "statistics", split)
    excerpts = Excerpts(sources, n_controls, items, seed, sr=SR, seconds=settings.seconds)
    return [Processed(excerpts, estimator, settings.coded, settings.untouched, settings.limited)]


def train_on(
    objective: Objective, statistics: dict[str, list[StatisticsSet]], settings: StatisticsSettings
) -> Trainer:
    """Trains on `statistics["train"]`, validates on `statistics["valid"]`, and returns the trainer.

    The estimator is left with the weights of the lowest validation loss, which are in the file `settings.out`; errors
    are those of `Trainer.train`.
    """
    task, fabric = StatisticsTask(objective, statistics, settings), open_fabric(torch.device("cpu"))
    trainer = Trainer(task, fabric, state_path(settings.out), settings)
    trainer.train(resume=settings.resume)
    return trainer


class StatisticsTask(EstimatorTask):
    """AdamW on the perceptron; the learning rate rises for `WARM_UP` steps and falls along half a cosine.

    Every batch has as many excerpts of each of the sets.
    """

    generator: torch.Generator

    def __init__(
        self, objective: Objective, statistics: dict[str, list[StatisticsSet]], settings: StatisticsSettings
    ) -> None:
        self.estimator, self.out, self.record = objective.estimator, settings.out, settings.record()
        self.sets, self.validation = statistics["train"], StatisticsSet.join(statistics["valid"])
        # Rounded up, so that a set is never left out of a batch.
        self.per_set = -(-settings.batch_size // len(self.sets))
        self.model, self.network = objective, objective.estimator.controller
        self.steps, self.epoch_steps = settings.steps, -(-settings.steps // VALIDATIONS)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.lr, weight_decay=1e-2)
        # The rise begins at step + 1: at a learning rate of 0 the first step would change nothing.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            lambda step: min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / settings.steps)) / 2,
        )
        self.generator = torch.Generator().manual_seed(settings.seed)

    def batches(self, epoch: int, first: int) -> Iterator[tuple[StatisticsSet, torch.Generator]]:
        """Random excerpts, and what else is random is drawn from."""
        for _ in range(self.left(epoch, first)):
            yield StatisticsSet.join(each.draw(self.per_set, self.generator) for each in self.sets), self.generator

    def validate(self, epoch: int) -> Tensor:
        """The loss with the same random parameters every time."""
        return self.model(self.validation, torch.Generator().manual_seed(0))
