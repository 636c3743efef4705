"""What a training shows: one progress bar, and in TensorBoard the first item of each validation."""

from reknob.runtime.program import explain, one_line

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from reknob.estimation.estimator import Estimator
from reknob.estimation.train import Training
from reknob.report.curves import settings_figure

log = logging.getLogger(__name__)


class OneBar(TQDMProgressBar):
    """Lightning's progress bar without the ones of the validations."""

    def init_validation_tqdm(self) -> tqdm:
        return tqdm(disable=True)


class DataWait(L.Callback):
    """The share of each epoch's time that is spent waiting for excerpts, as train/waiting."""

    def on_train_epoch_start(self, *_: object) -> None:
        self.began = self.ready = time.perf_counter()
        self.waited = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        self.waited += time.perf_counter() - self.ready

    def on_train_batch_end(self, trainer: L.Trainer, training: Training, *_: object) -> None:
        self.ready = time.perf_counter()
        training.log("train/waiting", self.waited / (self.ready - self.began), on_step=True, on_epoch=False)


class CarefulLogger(TensorBoardLogger):
    """TensorBoard's logger, which ends no training: where it fails (a full disk), it says so once and is left out."""

    def __init__(self, folder: Path):
        super().__init__(folder, name="", version="")
        self._has_failed = False

    def attempt(self, write: Callable[[], object]) -> None:
        """Writes something, unless something could not be written before."""
        if self._has_failed:
            return
        try:
            write()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            reason = explain(error.__cause__ or error) or one_line(f"{type(error).__name__}: {error}")
            log.warning("TensorBoard fails and is left out, the training goes on: %s", reason)
        self._has_failed = True

    @property
    def experiment(self) -> SummaryWriter | None:
        """The writer; None where its file cannot be made."""
        if not self._has_failed:
            try:
                return super().experiment
            except OSError as error:
                self._fail(error)
        return None

    def log_hyperparams(self, *given: object, **named: object) -> None:
        self.attempt(partial(super().log_hyperparams, *given, **named))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(partial(super().log_metrics, metrics, step))

    def save(self) -> None:
        self.attempt(super().save)

    def finalize(self, status: str) -> None:
        self.attempt(partial(super().finalize, status))


class EstimateBoard(L.Callback):
    """Of each validation, the first item's input, target and estimate as audio, and the settings as curves."""

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, training: Training, outputs: dict[str, Tensor], batch: dict[str, Tensor], index: int
    ) -> None:
        if not index:
            trainer.logger.attempt(partial(self._show, trainer, training.estimator, outputs, batch))

    def _show(
        self, trainer: L.Trainer, estimator: Estimator, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> None:
        writer, epoch = trainer.logger.experiment, trainer.current_epoch
        dry, q, true_q = batch["dry"][:1], outputs["q"][:1].float(), batch["q"][:1]
        sounds = {"0 - Input": dry, "0 - Target": outputs["wet"][:1], "0 - Estimate": estimator.render(dry, q)}
        for name, sound in sounds.items():
            sound = sound[0, 0] / sound.abs().max().clamp(min=1e-8)
            writer.add_audio(name, sound, epoch, estimator.settings["sr"])
        true = (estimator.synthesis, estimator.synthesis.from_unit(true_q))
        estimate = (estimator.analysis, estimator.analysis.from_unit(q))
        writer.add_figure("settings", settings_figure({"true": true, "estimate": estimate}), epoch)
