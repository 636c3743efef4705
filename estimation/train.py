"""Training of an estimator: its losses as a Lightning module, and the scores of a trained one."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.data.coding import random_lossy_round_trip
from reknob.estimation.estimator import Estimator
from reknob.losses import LOSSES, build_loss, build_metrics, channels_of
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.seeds import stream, stream_seed

PARAMS = "params"
#: The published losses.
OBJECTIVES = ("mel", PARAMS)
# dry (B, 1, T) and its true controls q (B, P)
Batch = dict[str, Tensor]
Scores = dict[str, dict[str, list[float]]]


class Training(L.LightningModule):
    """Adam on the controller, the learning rate falling where the validation loss stays.

    Args:
        estimator: what is trained; its chains stay as they are.
        loss: one of `objectives()`: "params" compares true and estimated controls; a loss of audio, as "mel", compares
            the processed audio with the dry audio rendered with the estimated controls.
        lr: learning rate.
        patience: epochs without improvement after which it falls to a tenth.
        coded: share of the processed sounds that are heard from lossy files.

    Source: BE-AFX, arXiv 2310.11781.
    """

    def __init__(self, estimator: Estimator, loss: str, lr: float, patience: int = 30, coded: float = 0.0):
        super().__init__()
        self.coded, self.seed = coded, torch.initial_seed()
        self.estimator, self.loss, self.lr, self.patience = estimator, loss, lr, patience
        self.compare = build_loss({"name": loss}, estimator.settings["sr"])

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.Adam(self.estimator.controller.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=self.patience)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "monitor": "valid/loss"}}

    def distance(self, batch: Batch, wet: Tensor, q: Tensor) -> Tensor:
        """The loss of estimated controls q (B, P)."""
        q = q.float()
        if self.loss == PARAMS:
            return self.compare(q, batch["q"])
        # Mixed precision is for the encoder and the controller alone.
        with torch.autocast(wet.device.type, enabled=False):
            return self.compare(self.estimator.render(batch["dry"], q), wet)

    def estimate(self, wet: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Controls (B, P) estimated of processed sounds (B, 1, T)."""
        with torch.autocast(wet.device.type, enabled=False):
            wet = random_lossy_round_trip(wet, self.estimator.settings["sr"], self.coded, generator)
        return self.estimator(wet)

    def on_train_epoch_start(self) -> None:
        """What is drawn in an epoch depends on its number alone, so that a training goes on as if never stopped."""
        torch.manual_seed(stream_seed(self.seed, "epoch", self.current_epoch))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        wet = synthesise(self.estimator, batch)
        loss = self.distance(batch, wet, self.estimate(wet))
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(wet))
        return loss

    def validation_step(self, batch: Batch, index: int) -> Batch:
        """Logs the loss; the processed sounds and the estimated controls."""
        wet = synthesise(self.estimator, batch)
        q = self.estimate(wet, stream(self.seed, "validation", index))
        self.log("valid/loss", self.distance(batch, wet, q), prog_bar=True, batch_size=len(wet), sync_dist=True)
        return {"wet": wet, "q": q}

    def on_train_epoch_end(self) -> None:
        """Takes the epoch into account for the learning rate: here, as checkpoints are saved next.

        Lightning would do so after that, and a training would go on an epoch late.
        """
        if self.trainer.is_last_batch and "valid/loss" in self.trainer.callback_metrics:
            self.lr_schedulers().step(self.trainer.callback_metrics["valid/loss"])

    def lr_scheduler_step(self, *_: object) -> None:
        """Nothing more to do."""


def objectives() -> list[str]:
    """The losses that an estimator can be trained with: the published ones, and all registered losses of mono audio."""
    return [*OBJECTIVES, *(name for name, loss in LOSSES.items() if 1 in channels_of(loss) and name not in OBJECTIVES)]


class StopWhenAsked(L.Callback):
    """Ends the training after the step at which Ctrl-C, SIGTERM and the like ask for it.

    While it trains this takes the place of Lightning's own handlers, which leave in the middle of an epoch.
    """

    def __init__(self, interrupt: Interrupt):
        self.interrupt, self._handling = interrupt, ExitStack()

    def on_train_start(self, *_: object) -> None:
        self._handling.enter_context(self.interrupt)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.should_stop or self.interrupt.asked

    def on_train_end(self, *_: object) -> None:
        self._handling.close()

    def on_exception(self, *_: object) -> None:
        self._handling.close()


@torch.no_grad()
def synthesise(estimator: Estimator, batch: Batch) -> Tensor:
    """The processed sounds (B, 1, T) of a batch of dry ones and their true controls, in full precision."""
    with torch.autocast(batch["dry"].device.type, enabled=False):
        return estimator.synthesis(batch["dry"], **estimator.synthesis.from_unit(batch["q"]))


@torch.no_grad()
def score(
    estimator: Estimator, batches: Iterable[Batch], seed: int = 0, file: Callable[[Tensor], Tensor] | None = None
) -> Scores:
    """Scores of every item by system ("no effect", "random settings", "estimate") and metric.

    Where `file` is given, the estimator hears what it makes of the processed sounds (B, 1, T), as writing and reading.

    The metrics are mrstft, mse and mel, and where both chains have the same controls, params: the mean squared error
    of the controls, whose range is [0, 1].
    """
    sr, device = estimator.settings["sr"], next(estimator.parameters()).device
    metrics = build_metrics({"name": "blind"}, sr)
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
