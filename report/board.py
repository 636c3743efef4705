"""TensorBoard: of a fit, loss terms, parameters in physical units, level-matched audio; of a training, estimates."""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from afx.effect import Values, flatten
from data.audio import normalise_loudness
from engine.train import Training

from .curves import settings_figure

# Steps between two records of the parameters; the loss terms are recorded at every step.
PARAMETERS_EVERY = 20
LOUDNESS = -18.0  # LUFS


class Board:
    """Writes one run's scalars and audio beside its other files; `step` continues where an earlier run stopped."""

    def __init__(self, folder: Path, step: int = 0):
        self.writer = SummaryWriter(folder, purge_step=step or None)

    def scalars(self, step: int, terms: dict[str, float], values: Values) -> None:
        for name, value in terms.items():
            self.writer.add_scalar(f"loss/{name}", value, step)
        if step % PARAMETERS_EVERY == 0:
            for name, value in flatten(values).items():
                for place, number in enumerate(value.detach().reshape(-1).tolist()):
                    tag = name.replace(".", "/")
                    self.writer.add_scalar(f"{tag}/{place:02d}" if value.dim() else tag, number, step)

    def audio(self, sounds: dict[str, Tensor], sr: int) -> None:
        """Sounds (C, T) by name, all at one loudness, mixed to mono as TensorBoard plays it."""
        for name, sound in sounds.items():
            level = normalise_loudness(sound, sr, LOUDNESS)
            self.writer.add_audio(name, level.mean(0).clamp(-1, 1), sample_rate=sr)

    def close(self) -> None:
        self.writer.close()


class OneBar(TQDMProgressBar):
    """Lightning's progress bar without the ones of the validations."""

    def init_validation_tqdm(self) -> tqdm:
        return tqdm(disable=True)


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
