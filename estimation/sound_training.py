"""The training of an estimator on sounds: excerpts that are processed anew in every epoch."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from reknob.data.excerpts import EpochSampler, Excerpts
from reknob.estimation.estimator import Batch, Estimator
from reknob.estimation.parallel import share_batches
from reknob.estimation.train import Training
from reknob.estimation.trainer import EstimatorTask, Trainer, open_fabric
from reknob.estimation.training_run import ESTIMATOR, LAST, TrainingSettings
from reknob.runtime.seeds import stream_seed

if TYPE_CHECKING:
    from lightning import Fabric


class Board(Protocol):
    """What shows a training while it runs."""

    def validated(self, estimator: Estimator, batch: Batch, wet: Tensor, q: Tensor, epoch: int) -> None:
        """Shows the first batch of a validation: its processed audio (B, 1, T) and the estimated controls (B, P)."""
        ...

    def finished(self, scalars: Mapping[str, float], step: int) -> None:
        """Shows the scalars of an epoch that ended with this step."""
        ...


def train(
    estimator: Estimator,
    settings: TrainingSettings,
    folder: Path,
    loaders: dict[str, DataLoader],
    device: torch.device,
    *,
    board: Board | None = None,
) -> bool:
    """Trains on loaders "train" and "valid", and returns whether a signal ended it early.

    Afterwards `estimator` has the weights that are in the folder's estimator.pt with the settings: those that
    `Trainer.train` keeps, whose errors it raises.
    """
    fabric = open_fabric(device, devices=settings.devices, nodes=settings.nodes, precision=settings.precision)
    share_batches(estimator)
    trainer = Trainer(
        SoundTask(estimator, settings, folder, loaders, fabric, board),
        fabric,
        folder / LAST,
        settings,
        board.finished if board else None,
    )
    trainer.train(resume=settings.resume)
    return trainer.stopped


class SoundTask(EstimatorTask):
    """Adam on encoder and perceptron, whose learning rate falls where the validation loss does not."""

    def __init__(
        self,
        estimator: Estimator,
        settings: TrainingSettings,
        folder: Path,
        loaders: dict[str, DataLoader],
        fabric: "Fabric",
        board: Board | None,
    ) -> None:
        self.estimator, self.out, self.record = estimator, folder / ESTIMATOR, settings.record()
        self.loaders, self.fabric, self.board, self.seed = loaders, fabric, board, settings.seed
        self.model = self.training = Training(estimator, settings.loss, settings.coded, settings.seed)
        self.network = estimator.controller
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.lr)
        self.schedule = ReduceLROnPlateau(self.optimiser, factor=0.1, patience=settings.lr_patience)
        self.epoch_steps, self.patience = len(loaders["train"]), settings.stop_patience
        self.steps = settings.epochs * self.epoch_steps

    def batches(self, epoch: int, first: int) -> Iterator[tuple]:
        """Batches of excerpts, as functions: Lightning would round tensors to the networks' precision."""
        if not first:
            # By its number, so that an epoch does not depend on what was drawn before it.
            torch.manual_seed(stream_seed(self.seed, "epoch", epoch))
        sampler = self.loaders["train"].sampler
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(epoch, first)
        for batch in self.loaders["train"]:
            yield (partial(dict, self.fabric.to_device(batch)),)

    def validate(self, epoch: int) -> Tensor:
        """The loss of this process's excerpts, as part of that of all; the first batch is shown."""
        loader, total = self.loaders["valid"], torch.zeros((), device=self.fabric.device)
        assert isinstance(loader.dataset, Excerpts)
        for index, batch in enumerate(loader):
            batch = self.fabric.to_device(batch)
            loss, wet, q = self.training.validate(batch, index)
            # Processes may have batches of different sizes, and different numbers of them.
            total += loss * (len(wet) / len(loader.dataset))
            if self.board and not index:
                self.board.validated(self.estimator, batch, wet, q, epoch)
        return total
