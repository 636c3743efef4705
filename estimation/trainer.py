"""The one loop of all trainings of a network: epochs of steps, their validation, and the state that it resumes from."""

import logging
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from reknob.estimation.descent import descend
from reknob.estimation.estimator import Estimator
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, read_tensors, write_tensors
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.processes import connected, mean_over_processes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from lightning import Fabric

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
# Between two states within an epoch, in s; writing them takes at most a share `WRITING` of the time.
PAUSE_S, WRITING = 30.0, 0.05
Show = Callable[[Mapping[str, float], int], object]
PROGRESS = ("epoch", "step", "best", "best_step", "valid")
# Settings that may differ between a training and its continuation.
FREE = {"epochs", "device", "devices", "nodes", "precision", "workers", "resume", "test_items", "out", "overwrite"}


class Task(ABC):
    """What is trained: a model, the batches of its epochs, its validation, and where it is kept.

    Attributes:
        model: called with a batch, its output is the loss, a scalar.
        network: the part of the model whose weights are trained.
        optimiser: of these weights.
        schedule: of the learning rate: by epochs if it is a `ReduceLROnPlateau`, otherwise by steps.
        steps: of all epochs.
        epoch_steps: of an epoch; the last one has what is left.
        patience: the training ends after so many epochs without improvement.
        most: the norm of all gradients together above which they are scaled down to it.
        generator: what batches and losses are drawn from besides torch's global generator.
    """

    model: nn.Module
    network: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    steps: int
    epoch_steps: int
    patience: float = math.inf
    most: float = math.inf
    generator: torch.Generator | None = None

    def left(self, epoch: int, first: int) -> int:
        """How many steps an epoch has from its step `first` on."""
        return min(self.epoch_steps, self.steps - epoch * self.epoch_steps) - first

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterable[tuple]:
        """The model's arguments for the steps of an epoch, from its step `first` on."""

    @abstractmethod
    def validate(self, epoch: int) -> Tensor:
        """The validation loss, without gradients; of several processes, each one's share of it."""

    @abstractmethod
    def keep(self, valid: float) -> None:
        """Writes the weights, whose validation loss is the lowest so far."""

    @abstractmethod
    def kept(self) -> dict[str, Tensor]:
        """The weights that were written last."""


def open_fabric(device: torch.device, *, devices: int = 1, nodes: int = 1, precision: str = "32") -> "Fabric":
    """Lightning Fabric on a device with `devices` processes on each of `nodes` machines, connected.

    Its remarks are not shown. `precision` is a key of `PRECISIONS`.
    """
    # Here, as it takes longer than importing everything else, which worker processes would do for nothing.
    from lightning import Fabric

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


class EstimatorTask(Task):
    """A task whose network is the controller of `estimator`, which is kept in the file `out` with a `record`."""

    estimator: Estimator
    out: Path
    record: Mapping[str, object]

    def keep(self, valid: float) -> None:
        """Writes the estimator."""
        self.estimator.save(self.out, **self.record, valid_loss=valid)

    def kept(self) -> dict[str, Tensor]:
        """The weights in its file."""
        return read_tensors(self.out)["weights"]


def state_path(out: Path) -> Path:
    """Where the state of a training is written that keeps its weights in the file `out`."""
    return out.with_name(f"{out.stem}_last.ckpt")


def plain(settings: "DataclassInstance") -> dict[str, str | float | None]:
    """Settings as plain values, paths as text."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}


def read_state(path: Path, settings: "DataclassInstance") -> dict:
    """The state in a file, of a training with these settings.

    Raises UsageError where there is none, or where it is damaged, of another version, or of other settings.
    """
    if not path.exists():
        raise UsageError(f"--resume: no {path}, so there is nothing to resume; leave --resume out to start it")
    state = read_tensors(path)
    if "network" not in state:
        raise UsageError(f"{path}: not a training's state of this version; start another one, with another name")
    before, after = state["settings"], plain(settings)
    changed = sorted(key for key in after.keys() - FREE if before.get(key) != after[key])
    if changed:
        text = f"{path} was started with other settings: {', '.join(changed)}"
        raise UsageError(f"{text}; give the same ones, or another name")
    return state


def check_training(
    out: Path, inputs: Iterable[Path | None], settings: "DataclassInstance", *, overwrite: bool, resume: bool
) -> None:
    """Raises UsageError where a training that keeps its weights in the file `out` can be neither started nor resumed.

    The errors are those of `check_output` and, to `resume`, of `read_state`.
    """
    check_output(out, inputs, overwrite=overwrite or resume)
    state = state_path(out)
    if resume:
        read_state(state, settings)
    elif state.exists() and not overwrite:
        raise UsageError(f"{state} exists: --resume continues this training, --overwrite starts another one")


class Trainer:
    """The epochs of a task, and their state in the file `path`, which holds the `settings` of the training.

    The state is written every `PAUSE_S`, at the end, and when a signal asks to stop. A training that is resumed from it
    makes the steps that an uninterrupted one makes. `show` is called with the scalars of every epoch and the
    number of its last step.

    Attributes:
        best: the lowest validation loss so far.
        best_step: number of steps before it.
        stopped: whether a signal ended the training early.
    """

    def __init__(
        self, task: Task, fabric: "Fabric", path: Path, settings: "DataclassInstance", show: Show | None = None
    ) -> None:
        self.task, self.fabric, self.path, self.settings, self.show = task, fabric, path, settings, show
        self.model, self.optimiser = fabric.setup(task.model, task.optimiser)
        # Finished epochs, steps so far, those up to the lowest validation loss; the sum of the losses of this epoch.
        self.epoch = self.step = self.best_step = 0
        self.losses = torch.zeros((), device=fabric.device)
        self.best, self.valid, self.waiting, self.stopped = math.inf, 0.0, 0.0, False
        cuda = [torch.cuda.default_generators[fabric.device.index or 0]] if fabric.device.type == "cuda" else []
        self.generators = [torch.default_generator, *([task.generator] if task.generator else []), *cuda]
        self.next_state = time.monotonic() + PAUSE_S

    def train(self, *, resume: bool = False) -> None:
        """Trains to the end, or until a signal asks to stop, and leaves the network with the weights that were kept.

        They are those of the epoch with the lowest validation loss, or, before the end of the first epoch, those so
        far. Raises UsageError where no validation loss was finite.
        """
        if resume:
            self.load()
        with Interrupt() as interrupt:
            self._run(interrupt)
            if interrupt.asked and not self.epoch:
                self._keep_best(self._validate())
        self.model.eval()
        self.stopped = interrupt.asked
        if math.isinf(self.best):
            self.path.unlink(missing_ok=True)  # there is nothing to resume
            mixed = self.fabric.strategy.precision.precision != PRECISIONS["32"]
            raise UsageError(f"the loss is not a number; give a lower --lr{', or --precision 32' if mixed else ''}")
        if self.fabric.is_global_zero:
            self.task.network.load_state_dict(self.task.kept())

    def save(self) -> None:
        """Writes the state."""
        started = time.monotonic()
        state = {
            **{name: getattr(self, name) for name in PROGRESS},
            "settings": plain(self.settings),
            "losses": self.losses,
            "network": self.task.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.task.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "random": [generator.get_state() for generator in self.generators],
        }
        if self.fabric.is_global_zero:
            write_tensors(self.path, state)
        ended = time.monotonic()
        self.next_state = ended + max(PAUSE_S, (ended - started) / WRITING)

    def load(self) -> None:
        """Continues from the state that was written last."""
        state = read_state(self.path, self.settings)
        for name in PROGRESS:
            setattr(self, name, state[name])
        self.losses = state["losses"].to(self.fabric.device)
        self.task.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.task.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # of --precision 16
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        # Fewer where a training on a CPU continues one on a GPU.
        for generator, random in zip(self.generators, state["random"], strict=False):
            generator.set_state(random)

    def _run(self, interrupt: Interrupt) -> None:
        self.model.train()
        with self._bar() as bar:
            while not (self._is_over() or self._is_asked(interrupt)):
                for _ in self._steps():
                    bar.update()
                    if self._is_asked(interrupt):
                        break
                    if time.monotonic() > self.next_state:
                        self.save()
                else:
                    self._finish_epoch()
                    bar.set_postfix(valid=f"{self.valid:.4f}", best=f"{self.best:.4f}")
            self.save()

    def _steps(self) -> Iterator[Tensor]:
        """Makes the steps that the epoch lacks, and yields their losses."""
        first, task = self.step - self.epoch * self.task.epoch_steps, self.task
        if not first:
            self.losses.zero_()
        losses = (self.model(*batch) for batch in self._timed(task.batches(self.epoch, first)))
        schedule = None if isinstance(task.schedule, ReduceLROnPlateau) else task.schedule
        for loss in descend(losses, self.optimiser, schedule, backward=self.fabric.backward, most=task.most):
            self.losses += loss
            self.step += 1
            yield loss

    def _timed(self, batches: Iterable[tuple]) -> Iterator[tuple]:
        """The batches; `self.waiting` is the fraction of the time that was spent waiting for them."""
        begun = ended = time.perf_counter()
        waited = 0.0
        for batch in batches:
            waited += time.perf_counter() - ended
            yield batch
            ended = time.perf_counter()
            self.waiting = waited / (ended - begun)

    def _finish_epoch(self) -> None:
        self.valid = self._validate()
        steps = self.step - self.epoch * self.task.epoch_steps
        scalars = {
            "train/loss": float(mean_over_processes(self.losses)) / steps,
            "train/waiting": self.waiting,
            "valid/loss": self.valid,
            "lr-Adam": self.optimiser.param_groups[0]["lr"],
        }
        if isinstance(self.task.schedule, ReduceLROnPlateau):
            self.task.schedule.step(self.valid)
        self.epoch += 1
        self._keep_best(self.valid)
        if self.show:
            self.show(scalars, self.step)

    def _validate(self) -> float:
        self.model.eval()
        with torch.no_grad(), self.fabric.autocast():
            valid = self.task.validate(self.epoch)
        self.model.train()
        return float(mean_over_processes(valid) * connected())

    def _keep_best(self, valid: float) -> None:
        if valid < self.best:
            self.best, self.best_step = valid, self.step
            if self.fabric.is_global_zero:
                self.task.keep(valid)

    def _is_over(self) -> bool:
        task = self.task
        since_best = self.epoch - self.best_step // task.epoch_steps
        is_stuck = since_best >= task.patience or not math.isfinite(self.valid)
        return self.epoch * task.epoch_steps >= task.steps or is_stuck

    def _is_asked(self, interrupt: Interrupt) -> bool:
        """Whether a signal to one of the processes asks to stop."""
        if connected() > 1:
            asked = torch.tensor(float(interrupt.asked), device=self.fabric.device)
            interrupt.asked = bool(mean_over_processes(asked))
        return interrupt.asked

    def _bar(self) -> tqdm:
        """A bar of all steps, in the first process only."""
        if not self.fabric.is_global_zero:
            return tqdm(disable=True)
        return progress_bar(title="training", total=self.task.steps, initial=self.step, unit="step")
