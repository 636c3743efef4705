"""A training on cached statistics from its settings: the objective, the statistics of each split, the best state."""

from dataclasses import dataclass
from pathlib import Path

import torch

from reknob.data.excerpts import Excerpts
from reknob.estimation.descent import train_best
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import SR, FileSettings, Sources
from reknob.estimation.statistics_cache import Processed, Source, Untouched, cache_statistics
from reknob.estimation.statistics_training import (
    EqualiserObjective,
    Objective,
    ParameterObjective,
    StatisticsSet,
    train_steps,
)
from reknob.runtime.errors import UsageError
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.seeds import stream_seed

EQUALISERS = ("peq", "geq")  # trained on untouched music, unless `items` is given
SPLITS = ("train", "valid")
ITEMS, VALIDATIONS = 4000, 20


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
    """

    chain: str = "peq"
    windows: int = 16
    items: int | None = None
    steps: int = 3000
    batch_size: int = 128
    lr: float = 2e-3
    init: Path | None = None

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
    if settings.coded and not settings.n_processed:
        raise UsageError(f"--coded {settings.coded:g}: untouched music is not coded; give --items, or leave it out")
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
    return [Processed(excerpts, estimator, settings.coded)]


def train_on(
    objective: Objective,
    statistics: dict[str, list[StatisticsSet]],
    settings: StatisticsSettings,
    interrupt: Interrupt,
) -> float:
    """Trains on `statistics["train"]`, and returns the lowest loss on `statistics["valid"]`, of `VALIDATIONS`.

    The estimator is left with the weights that gave it; `interrupt` and errors are those of `train_best`.
    """
    steps = train_steps(
        objective,
        statistics["train"],
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
    )
    validation = StatisticsSet.join(statistics["valid"])
    return train_best(
        objective.estimator.controller,
        steps,
        settings.steps,
        lambda: validate(objective, validation),
        every=-(-settings.steps // VALIDATIONS),
        interrupt=interrupt,
    )[0]


@torch.no_grad()
def validate(objective: Objective, validation: StatisticsSet) -> float:
    """The loss on a statistics set, with the same random parameters every time."""
    controller = objective.estimator.controller.eval()
    loss = objective(validation, torch.Generator().manual_seed(0)).item()
    controller.train()
    return loss
