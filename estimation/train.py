"""Training of an estimator: its losses as a Lightning module, and the scores of a trained one."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from reknob.data.coding import random_lossy_round_trip
from reknob.data.excerpts import Excerpts, Share
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.losses import LOSSES, build_loss, build_metrics, channels_of
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.processes import connected, rank
from reknob.runtime.seeds import stream, stream_seed

PARAMS = "params"
#: The published losses.
OBJECTIVES = ("mel", PARAMS)
# By system and metric, one number an item.
Scores = dict[str, dict[str, list[float]]]


class Training(L.LightningModule):
    """Adam on the encoder and the perceptron; the learning rate falls where the validation loss does not.

    Args:
        estimator: the estimator to train; its chains have no weights to train.
        loss: one of `objectives()`: "params", between true and estimated controls; or a loss of audio, as "mel",
            between the target and the dry audio rendered with the estimated controls.
        lr: learning rate.
        patience: epochs without improvement after which the learning rate falls to a tenth.
        coded: share of the processed audio that is encoded and decoded by a lossy codec.

    Source: BE-AFX, arXiv 2310.11781.
    """

    def __init__(self, estimator: Estimator, loss: str, lr: float, patience: int = 30, coded: float = 0.0) -> None:
        super().__init__()
        # `build_estimator` has seeded torch with the run's seed.
        self.coded, self.seed = coded, torch.initial_seed()
        self.estimator, self.loss, self.lr, self.patience = estimator, loss, lr, patience
        self.compare = build_loss({"name": loss}, estimator.settings["sr"])

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.Adam(self.estimator.controller.parameters(), lr=self.lr)
        scheduler = ReduceLROnPlateau(optimiser, factor=0.1, patience=self.patience)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "monitor": "valid/loss"}}

    def compute_loss(self, batch: Batch, wet: Tensor, q: Tensor) -> Tensor:
        """The loss of estimated controls q (B, P), for the target `wet` (B, 1, T) that the batch was processed to."""
        q = q.float()
        if self.loss == PARAMS:
            return self.compare(q, batch["q"])
        # Mixed precision is for the networks only: filters and spectra need float32.
        with torch.autocast(wet.device.type, enabled=False):
            return self.compare(self.estimator.render(batch["dry"], q), wet)

    def estimate(self, wet: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Controls (B, P) estimated from processed audio (B, 1, T), a share of it through a lossy codec."""
        with torch.autocast(wet.device.type, enabled=False):
            share = Share(rank() if connected() > 1 else 0, connected())
            wet = random_lossy_round_trip(wet, self.estimator.settings["sr"], self.coded, generator, share)
        return self.estimator(wet)

    def on_train_epoch_start(self) -> None:
        """Seeds the epoch by its number, so that a resumed training equals an uninterrupted one."""
        torch.manual_seed(stream_seed(self.seed, "epoch", self.current_epoch))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        wet = synthesise(self.estimator, batch)
        loss = self.compute_loss(batch, wet, self.estimate(wet))
        is_shared = connected() > 1
        size = len(wet)
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=size, sync_dist=is_shared)
        return loss

    def validation_step(self, batch: Batch, index: int) -> Batch:
        """Logs the loss, and returns the processed audio and the estimated controls for callbacks."""
        wet = synthesise(self.estimator, batch)
        # The same lossy coding in every epoch, so that their losses compare.
        q = self.estimate(wet, stream(self.seed, "validation", index))
        # A sum of shares of the mean: processes may have batches of different sizes, and different numbers of them.
        loaders = self.trainer.val_dataloaders
        assert isinstance(loaders, DataLoader) and isinstance(loaders.dataset, Excerpts)
        share = self.compute_loss(batch, wet, q) * (len(wet) / len(loaders.dataset))
        self.log("valid/loss", share, prog_bar=True, batch_size=len(wet), reduce_fx="sum", sync_dist=connected() > 1)
        return {"wet": wet, "q": q}

    def on_train_epoch_end(self) -> None:
        """Steps the learning rate's scheduler, before the epoch's checkpoint is saved.

        Lightning would step it afterwards, and a resumed training would be an epoch late.
        """
        if self.trainer.is_last_batch and "valid/loss" in self.trainer.callback_metrics:
            scheduler = self.lr_schedulers()
            assert isinstance(scheduler, ReduceLROnPlateau)
            scheduler.step(self.trainer.callback_metrics["valid/loss"])

    def lr_scheduler_step(self, *_: object) -> None:
        """Does nothing: `on_train_epoch_end` has stepped the scheduler."""


def objectives() -> list[str]:
    """The losses that an estimator can be trained with: the published ones, and all registered losses of mono audio."""
    return [*OBJECTIVES, *(name for name, loss in LOSSES.items() if 1 in channels_of(loss) and name not in OBJECTIVES)]


class StopWhenAsked(L.Callback):
    """Ends the training after the step during which Ctrl-C, SIGTERM or another such signal arrived.

    During the training it replaces Lightning's own signal handlers, which end within a step.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self.interrupt, self._handling = interrupt, ExitStack()

    def on_train_start(self, *_: object) -> None:
        self._handling.enter_context(self.interrupt)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        # Never back to False: `EarlyStopping` sets it as well.
        asked = self.interrupt.asked
        if trainer.world_size > 1:  # a signal may reach one of the processes only
            asked = self.interrupt.asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        trainer.should_stop = trainer.should_stop or asked

    def on_train_end(self, *_: object) -> None:
        self._handling.close()

    def on_exception(self, *_: object) -> None:
        self._handling.close()


@torch.no_grad()
def score(
    estimator: Estimator, batches: Iterable[Batch], seed: int = 0, file: Callable[[Tensor], Tensor] | None = None
) -> Scores:
    """Scores of every item by system ("no effect", "random settings", "estimate") and metric.

    Where `file` is given, the estimator's input is `file` of the processed audio (B, 1, T), as a lossy round trip.
    The metrics are mrstft, mse and mel, and where both chains have the same controls, params: the mean squared error
    of the controls, whose range is [0, 1]. `seed` is of the random settings.
    """
    sr, device = estimator.settings["sr"], next(estimator.parameters()).device
    metrics = build_metrics({"name": "blind"}, sr)
    # On the CPU, so that the random settings are the same on every device.
    generator = torch.Generator().manual_seed(seed)
    estimator.eval()
    scores: Scores = {}
    for batch in batches:
        batch = {name: content.to(device) for name, content in batch.items()}
        dry, wet = batch["dry"], synthesise(estimator, batch)
        q = estimator(file(wet) if file else wet)
        guesses = {"random settings": torch.rand(q.shape, generator=generator).to(q), "estimate": q}
        sounds = {"no effect": dry} | {system: estimator.render(dry, guess) for system, guess in guesses.items()}
        for system, sound in sounds.items():
            items = metrics(sound, wet)
            if estimator.same_controls and system in guesses:
                items["params"] = F.mse_loss(guesses[system], batch["q"], reduction="none").mean(1)
            columns = scores.setdefault(system, {})
            for name, values in items.items():
                columns.setdefault(name, []).extend(values.tolist())
    return scores
