"""The training of an estimator on sounds: epochs of steps, their validation, and the state that it is resumed from."""

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from tqdm import tqdm

from reknob.data.excerpts import EpochSampler, Excerpts
from reknob.estimation.descent import descend
from reknob.estimation.estimator import Batch, Estimator
from reknob.estimation.parallel import share_batches
from reknob.estimation.train import Training
from reknob.estimation.training_run import ESTIMATOR, LAST, PRECISIONS, TrainingSettings
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_tensors, write_tensors
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.processes import connected, mean_over_processes
from reknob.runtime.seeds import stream_seed

# Settings that an estimator's record leaves out: paths of the machine that it was trained on.
PRIVATE = {"data_dir", "log_dir", "init", "resume"}
# Between two states within an epoch, in s; writing them takes at most a share `WRITING` of the time.
PAUSE_S, WRITING = 30.0, 0.05
PROGRESS = ("epoch", "batch", "best", "best_epoch", "valid")


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

    Afterwards `estimator` has the weights of the epoch with the lowest validation loss, or, before the end of the first
    epoch, those so far; they are in estimator.pt with the settings. Raises UsageError where no validation loss was
    finite.
    """
    fabric = L.Fabric(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.share.count > 1 else "auto",
        precision=PRECISIONS[settings.precision],
    )
    fabric.launch()
    share_batches(estimator)
    training = Training(estimator, settings.loss, settings.coded, settings.seed)
    epochs = Epochs(training, settings, folder, loaders, fabric)
    if settings.resume:
        epochs.load()
    with Interrupt() as interrupt:
        epochs.run(interrupt, board)
        if interrupt.asked and not epochs.epoch:
            epochs.keep_best(epochs.validate(None))
    if math.isinf(epochs.best):
        raise UsageError(f"{folder}: the loss is not a number; give a lower --lr, or --precision 32")
    if settings.share.rank == 0:
        estimator.controller.load_state_dict(read_tensors(folder / ESTIMATOR)["weights"])
    return interrupt.asked


class Epochs:
    """Adam on encoder and perceptron, whose learning rate falls where the validation loss does not.

    A state, `last.ckpt`, is written after every epoch, every `PAUSE_S`, and when a signal asks to stop. A training that
    is resumed from it makes the steps that an uninterrupted one makes.
    """

    def __init__(
        self,
        training: Training,
        settings: TrainingSettings,
        folder: Path,
        loaders: dict[str, DataLoader],
        fabric: L.Fabric,
    ) -> None:
        self.training, self.settings, self.folder, self.fabric = training, settings, folder, fabric
        self.loaders, self.count = loaders, len(loaders["train"])
        optimiser = torch.optim.Adam(training.estimator.controller.parameters(), lr=settings.lr)
        self.schedule = ReduceLROnPlateau(optimiser, factor=0.1, patience=settings.lr_patience)
        self.model, self.optimiser = fabric.setup(training, optimiser)
        # Finished epochs and those up to the best one; steps of the next one and the sum of their losses.
        self.epoch = self.best_epoch = self.batch = 0
        self.losses = torch.zeros((), device=fabric.device)
        self.best, self.valid, self.waiting = math.inf, 0.0, 0.0
        self.next_state = time.monotonic() + PAUSE_S

    def run(self, interrupt: Interrupt, board: Board | None) -> None:
        """Trains until the last epoch, or one without improvement for too long, or until `interrupt` asks to stop."""
        with self._bar() as bar:
            while not (self._is_over() or self._is_asked(interrupt)):
                for _ in self._steps():
                    bar.update()
                    if self._is_asked(interrupt):
                        break
                    if time.monotonic() > self.next_state:
                        self.save()
                else:
                    self._finish_epoch(board)
                    bar.set_postfix(valid=f"{self.valid:.4f}", best=f"{self.best:.4f}")
                self.save()

    def validate(self, board: Board | None) -> float:
        """The loss of the validation, whose first batch is shown."""
        loader, total = self.loaders["valid"], torch.zeros_like(self.losses)
        assert isinstance(loader.dataset, Excerpts)
        self.training.eval()
        with torch.no_grad(), self.fabric.autocast():
            for index, batch in enumerate(loader):
                batch = self.fabric.to_device(batch)
                loss, wet, q = self.training.validate(batch, index)
                # Processes may have batches of different sizes, and different numbers of them.
                total += loss * (len(wet) / len(loader.dataset))
                if board and not index:
                    board.validated(self.training.estimator, batch, wet, q, self.epoch)
        self.training.train()
        return float(mean_over_processes(total) * connected())

    def keep_best(self, valid: float) -> None:
        """Writes the estimator where its validation loss is the lowest so far."""
        if valid < self.best:
            self.best, self.best_epoch = valid, self.epoch
            if self.fabric.is_global_zero:
                record = {name: value for name, value in self.settings.record().items() if name not in PRIVATE}
                self.training.estimator.save(self.folder / ESTIMATOR, **record, valid_loss=valid)

    def save(self) -> None:
        """Writes the state."""
        started, device = time.monotonic(), self.fabric.device
        state = {
            **{name: getattr(self, name) for name in PROGRESS},
            "losses": self.losses,
            "controller": self.training.estimator.controller.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        if self.fabric.is_global_zero:
            write_tensors(self.folder / LAST, state)
        ended = time.monotonic()
        self.next_state = ended + max(PAUSE_S, (ended - started) / WRITING)

    def load(self) -> None:
        """Continues from the state that was written last."""
        state, device = read_tensors(self.folder / LAST), self.fabric.device
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.losses = state["losses"].to(device)
        self.training.estimator.controller.load_state_dict(state["controller"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # of --precision 16
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if device.type == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], device)

    def _steps(self) -> Iterator[Tensor]:
        """Makes the steps that the epoch lacks, and yields their losses."""
        if not self.batch:
            # By its number, so that an epoch does not depend on what was drawn before it.
            torch.manual_seed(stream_seed(self.settings.seed, "epoch", self.epoch))
            self.losses.zero_()
        sampler = self.loaders["train"].sampler
        assert isinstance(sampler, EpochSampler)
        sampler.set_epoch(self.epoch, self.batch)
        losses = (self.model(partial(dict, batch)) for batch in self._batches())
        for loss in descend(losses, self.optimiser, backward=self.fabric.backward):
            self.losses += loss
            self.batch += 1
            yield loss

    def _batches(self) -> Iterator[Batch]:
        """Batches on the device; `self.waiting` is the fraction of the time that was spent waiting for them."""
        begun = ended = time.perf_counter()
        waited = 0.0
        for batch in self.loaders["train"]:
            waited += time.perf_counter() - ended
            yield self.fabric.to_device(batch)
            ended = time.perf_counter()
            self.waiting = waited / (ended - begun)

    def _finish_epoch(self, board: Board | None) -> None:
        self.valid = self.validate(board)
        scalars = {
            "train/loss": float(mean_over_processes(self.losses)) / self.count,
            "train/waiting": self.waiting,
            "valid/loss": self.valid,
            "lr-Adam": self.optimiser.param_groups[0]["lr"],
        }
        self.schedule.step(self.valid)
        self.epoch, self.batch = self.epoch + 1, 0
        self.keep_best(self.valid)
        if board:
            board.finished(scalars, self.epoch * self.count)

    def _is_over(self) -> bool:
        since_best = self.epoch - self.best_epoch
        is_stuck = since_best >= self.settings.stop_patience or not math.isfinite(self.valid)
        return self.epoch >= self.settings.epochs or is_stuck

    def _is_asked(self, interrupt: Interrupt) -> bool:
        """Whether a signal to one of the processes asks to stop."""
        if connected() > 1:
            asked = torch.tensor(float(interrupt.asked), device=self.fabric.device)
            interrupt.asked = bool(mean_over_processes(asked))
        return interrupt.asked

    def _bar(self) -> tqdm:
        """A bar of all epochs' steps, in the first process only."""
        if not self.fabric.is_global_zero:
            return tqdm(disable=True)
        done, total = (self.epoch * self.count + self.batch, self.settings.epochs * self.count)
        return progress_bar(title="training", total=total, initial=done, unit="step")
