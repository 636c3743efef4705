"""Output of a training: one progress bar, and TensorBoard with the first item of each validation."""

from reknob.runtime.program import reason

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from reknob.estimation.estimator import Estimator
from reknob.estimation.train import Training
from reknob.report.curves import curves_figure
from reknob.runtime.bars import progress_bar

log = logging.getLogger(__name__)


class OneBar(TQDMProgressBar):
    """Lightning's progress bar without separate bars for validations."""

    def init_train_tqdm(self) -> tqdm:
        return progress_bar(title=self.train_description, unit="batch", drawing=self.BAR_FORMAT)

    def init_validation_tqdm(self) -> tqdm:
        return tqdm(disable=True)


class DataWait(L.Callback):
    """Logs train/waiting, the fraction of an epoch's time so far that was spent waiting for excerpts."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.epoch_start = self.batch_end = time.perf_counter()
        self.waiting_s = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        # Between two batches Lightning waits for the data loader.
        self.waiting_s += time.perf_counter() - self.batch_end

    def on_train_batch_end(self, trainer: L.Trainer, training: Training, *_: object) -> None:
        self.batch_end = time.perf_counter()
        fraction = self.waiting_s / (self.batch_end - self.epoch_start)
        training.log("train/waiting", fraction, on_step=True, on_epoch=False)


class CarefulLogger(TensorBoardLogger):
    """A TensorBoard logger whose errors (a full disk) do not end the training: the first one disables it."""

    def __init__(self, folder: Path) -> None:
        # Without name and version the files are in the run folder itself, and a resumed run continues them.
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self._has_failed = False

    def attempt(self, write: Callable[[], object]) -> None:
        """Calls `write`, unless an earlier call failed; an error is logged once."""
        if self._has_failed:
            return
        try:
            write()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            why = reason(error.__cause__ or error)
            log.warning("TensorBoard fails and is left out, the training goes on: %s", why)
        self._has_failed = True

    @property
    def experiment(self) -> SummaryWriter | None:
        """The writer; None where its file cannot be created."""
        if not self._has_failed:
            try:
                return super().experiment
            except OSError as error:
                self._fail(error)
        return None

    def log_hyperparams(self, *given: object, **named: object) -> None:
        self.attempt(partial(super().log_hyperparams, *given, **named))

    def log_result(self, settings: Mapping[str, object], scores: Mapping[str, Sequence[float]]) -> None:
        """Writes the settings of a training with the mean of each score of its test."""
        chosen = {name: value for name, value in settings.items() if isinstance(value, (str, int, float))}
        self.log_hyperparams(chosen, {f"test/{name}": fmean(column) for name, column in scores.items()})
        self.attempt(self.experiment.close if self.experiment else lambda: None)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(partial(super().log_metrics, metrics, step))

    def save(self) -> None:
        self.attempt(super().save)

    def finalize(self, status: str) -> None:
        self.attempt(partial(super().finalize, status))


class EstimateBoard(L.Callback):
    """Writes the first item of each validation: input, target and estimate as audio, and their values as curves."""

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, training: Training, outputs: dict[str, Tensor], batch: dict[str, Tensor], index: int
    ) -> None:
        # The validation has the same excerpts in every epoch: its first item shows the progress of the training.
        if not index and trainer.is_global_zero:
            logger = trainer.logger
            assert isinstance(logger, CarefulLogger)
            logger.attempt(partial(self._write, logger, trainer.current_epoch, training.estimator, outputs, batch))

    def _write(
        self,
        logger: CarefulLogger,
        epoch: int,
        estimator: Estimator,
        outputs: dict[str, Tensor],
        batch: dict[str, Tensor],
    ) -> None:
        writer = logger.experiment
        if writer is None:
            return
        dry, q, true_q = batch["dry"][:1], outputs["q"][:1].float(), batch["q"][:1]
        sounds = {"0 - Input": dry, "0 - Target": outputs["wet"][:1], "0 - Estimate": estimator.render(dry, q)}
        for name, sound in sounds.items():
            # Peak-normalised, as TensorBoard clips beyond ±1.
            sound = sound[0, 0] / sound.abs().max().clamp(min=1e-8)
            writer.add_audio(name, sound, epoch, estimator.settings["sr"])
        true = (estimator.synthesis, estimator.synthesis.from_unit(true_q))
        estimate = (estimator.analysis, estimator.analysis.from_unit(q))
        writer.add_figure("settings", curves_figure({"true": true, "estimate": estimate}), epoch)
