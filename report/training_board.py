"""What a training shows: one progress bar, and in TensorBoard the first item of each validation."""

import time

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from tqdm import tqdm

from estimation.train import Training
from report.curves import settings_figure


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


class EstimateBoard(L.Callback):
    """Of each validation, the first item's input, target and estimate as audio, and the settings as curves."""

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, training: Training, outputs: dict[str, Tensor], batch: dict[str, Tensor], index: int
    ) -> None:
        if index:
            return
        estimator, writer, epoch = training.estimator, trainer.logger.experiment, trainer.current_epoch
        dry, q, true_q = batch["dry"][:1], outputs["q"][:1].float(), batch["q"][:1]
        sounds = {"0 - Input": dry, "0 - Target": outputs["wet"][:1], "0 - Estimate": estimator.render(dry, q)}
        for name, sound in sounds.items():
            sound = sound[0, 0] / sound.abs().max().clamp(min=1e-8)
            writer.add_audio(name, sound, epoch, estimator.settings["sr"])
        true = (estimator.synthesis, estimator.synthesis.from_unit(true_q))
        estimate = (estimator.analysis, estimator.analysis.from_unit(q))
        writer.add_figure("settings", settings_figure({"true": true, "estimate": estimate}), epoch)
