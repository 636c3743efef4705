"""TensorBoard of a training: scalars of its epochs, the first item of each validation, the scores of its test."""

from reknob.runtime.program import reason

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from reknob.estimation.estimator import Batch, Estimator
from reknob.report.curves import curves_figure

log = logging.getLogger(__name__)


class TrainingBoard:
    """Writes into a run folder; a resumed training continues the curves.

    An error (a full disk) does not end the training: the first one is logged and ends the writing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._has_failed = folder, False
        self._writer: SummaryWriter | None = None

    @torch.no_grad()
    def validated(self, estimator: Estimator, batch: Batch, wet: Tensor, q: Tensor, epoch: int) -> None:
        """Writes the first item of a validation: input, target and estimate as audio, and their values as curves."""
        # The validation has the same excerpts in every epoch: its first item shows the progress of the training.
        dry, q = batch["dry"][:1], q[:1].float()
        sounds = {"0 - Input": dry, "0 - Target": wet[:1], "0 - Estimate": estimator.render(dry, q)}
        true = (estimator.synthesis, estimator.synthesis.from_unit(batch["q"][:1]))
        estimate = (estimator.analysis, estimator.analysis.from_unit(q))

        def write(writer: SummaryWriter) -> None:
            for name, sound in sounds.items():
                # Peak-normalised, as TensorBoard clips beyond ±1.
                sound = sound[0, 0] / sound.abs().max().clamp(min=1e-8)
                writer.add_audio(name, sound, epoch, estimator.settings["sr"])
            writer.add_figure("settings", curves_figure({"true": true, "estimate": estimate}), epoch)

        self._attempt(write)

    def finished(self, scalars: Mapping[str, float], step: int) -> None:
        """Writes the scalars of an epoch."""

        def write(writer: SummaryWriter) -> None:
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        self._attempt(write)

    def scored(self, settings: Mapping[str, object], scores: Mapping[str, Sequence[float]]) -> None:
        """Writes the settings of a training with the mean of each score of its test."""
        chosen = {name: value for name, value in settings.items() if isinstance(value, (str, int, float))}
        means = {f"test/{name}": fmean(column) for name, column in scores.items()}

        def write(writer: SummaryWriter) -> None:
            for name, mean in means.items():
                writer.add_scalar(name, mean, 0)
            assert writer.file_writer is not None, "open since its first scalar"
            # Not `add_hparams`, which writes into a folder of its own.
            for summary in hparams(chosen, means):
                writer.file_writer.add_summary(summary)
            writer.close()

        self._attempt(write)

    def _attempt(self, write: Callable[[SummaryWriter], None]) -> None:
        """Calls `write` with the writer, unless an earlier call failed."""
        if self._has_failed:
            return
        try:
            self._writer = self._writer or SummaryWriter(self._folder)
            write(self._writer)
        except Exception as error:
            self._has_failed = True
            why = reason(error.__cause__ or error)
            log.warning("TensorBoard fails and is left out, the training goes on: %s", why)
