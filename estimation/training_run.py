"""A training from its settings to a scored estimator: the run folder, the Lightning trainer, resuming, the record."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from reknob.data.excerpts import Share
from reknob.estimation.estimator import Batch, Estimator
from reknob.estimation.loaders import SR, MusicSettings
from reknob.estimation.parallel import share_batches
from reknob.estimation.train import Scores, StopWhenAsked, Training, score
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, read_tensors, user_path, write_text
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.processes import rank

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
#: Files of a run folder: the last epoch's state, the settings, the best epoch's estimator and its scores.
LAST, RECORD, ESTIMATOR, METRICS = "last.ckpt", "settings.json", "estimator.pt", "metrics.json"
# Settings that may differ between a run and its continuation.
FREE = {"epochs", "device", "devices", "nodes", "precision", "workers", "resume", "test_items"}
# Settings that an estimator's record leaves out: paths of the machine that it was trained on.
PRIVATE = {"data_dir", "log_dir", "init", "resume"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(MusicSettings):
    """Settings of a training; names and defaults are those of the options of train_analysis_net.py.

    Args:
        sfx, afx: chain keys of the synthesis, which processes the music, and of the analysis, which is estimated.
        encoder, loss: keys of `ENCODERS` and `OBJECTIVES`.
        epoch_items, valid_items, test_items: number of excerpts of an epoch, of the validation and of the test.
        lr: learning rate of Adam; it falls to a tenth after `lr_patience` epochs without improvement.
        stop_patience: the training ends after so many epochs without improvement.
        seed: of weights, excerpts and parameters.
        devices: processes on each machine, on GPUs one for each; `batch_size` is of all together.
        nodes: number of machines.
        precision: key of `PRECISIONS`, of encoder and controller.
        init: file of an estimator whose weights the training starts from.
        prefix, suffix: words of the run folder's name.
        resume: whether to continue the run of this name.
    """

    sfx: str = "peq"
    afx: str = "peq"
    encoder: str = "time_frequency"
    loss: str = "mel"
    epochs: int = 10
    epoch_items: int = 200
    valid_items: int = 40
    test_items: int = 100
    batch_size: int = 8
    lr: float = 1e-4
    lr_patience: int = 30
    stop_patience: int = 150
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "32"
    init: Path | None = None
    prefix: str = ""
    suffix: str = ""
    resume: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Number of excerpts by split."""
        return {"train": self.epoch_items, "valid": self.valid_items, "test": self.test_items}

    @property
    def share(self) -> Share:
        """Which of the processes this is, and how many there are."""
        count = self.devices * self.nodes
        return Share(rank() if count > 1 else 0, count)

    @property
    def folder(self) -> Path:
        """The run folder: <log_dir>/<prefix>_SFX_…_AFX_…_ENC_…_LOSS_…_<suffix>."""
        words = [self.prefix, "SFX", self.sfx, "AFX", self.afx, "ENC", self.encoder, "LOSS", self.loss, self.suffix]
        return user_path(Path(self.log_dir) / "_".join(word for word in words if word))

    def record(self) -> dict[str, str | float | None]:
        """The settings as plain values."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def build_estimator(settings: TrainingSettings) -> Estimator:
    """The estimator to train; UsageError where the two chains, the loss and the batch size do not go together.

    Weights are drawn from torch's global generator, which `settings.seed` seeds here.
    """
    L.seed_everything(settings.seed, verbose=False)
    estimator = Estimator(sfx=settings.sfx, afx=settings.afx, encoder=settings.encoder, sr=SR)
    if settings.loss == "params" and not estimator.same_controls:
        raise UsageError(
            f"--loss params compares parameters one by one, but those of --sfx {settings.sfx} and "
            f"--afx {settings.afx} differ; give the same effects to both, or --loss mel"
        )
    if settings.init:
        estimator.start_from(settings.init)
    if not 2 <= settings.batch_size <= settings.epoch_items:
        raise UsageError(
            f"--batch_size {settings.batch_size}: batch normalisation needs at least 2, and an epoch has "
            f"--epoch_items {settings.epoch_items}"
        )
    processes = settings.share.count
    if settings.batch_size % processes or settings.valid_items < processes:
        raise UsageError(
            f"--devices {settings.devices} times --nodes {settings.nodes}: give a --batch_size that is a multiple of "
            f"{processes}, and at least as many --valid_items"
        )
    return estimator


def open_folder(settings: TrainingSettings) -> Path:
    """The run folder, new or to be continued, with the settings written to it.

    Raises UsageError where it holds a run of other settings, holds nothing to resume, or cannot be written.
    """
    folder, is_first = settings.folder, settings.share.rank == 0
    # A folder without a finished epoch has nothing to lose, and is used again.
    if (folder / LAST).exists():
        _continue(folder, settings, is_first=is_first)
        return folder
    if settings.resume:
        raise UsageError(f"--resume: {folder} holds no finished epoch; leave --resume out to start it")
    if not is_first:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, json.dumps(settings.record(), indent=1))
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); choose another"
        raise UsageError(f"--log_dir {settings.log_dir}: {reason}") from error
    return folder


def _continue(folder: Path, settings: TrainingSettings, *, is_first: bool) -> None:
    """Checks that a run may be continued, and writes what its continuation changes to its settings."""
    if not settings.resume:
        raise UsageError(f"{folder} exists; --resume continues it, --suffix NAME starts another run")
    before, after = read_json(folder / RECORD), settings.record()
    changed = sorted(key for key in after.keys() - FREE if before.get(key) != after[key])
    if changed:
        text = f"{folder} was started with other settings: {', '.join(changed)}"
        raise UsageError(f"{text}; give the same ones, or a --suffix")
    # Lightning numbers epochs from 0.
    done = read_tensors(folder / LAST).get("epoch", -1) + 1
    if not 0 < done <= settings.epochs:
        remedy = f"--epochs {max(done, 1)} or more, or another --suffix"
        raise UsageError(f"{folder / LAST} holds {done} epochs; give {remedy}")
    if is_first:
        write_text(folder / RECORD, json.dumps(before | after, indent=1))


def train(
    estimator: Estimator,
    settings: TrainingSettings,
    folder: Path,
    loaders: dict[str, DataLoader],
    device: torch.device,
    *,
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> bool:
    """Trains on loaders "train" and "valid", and returns whether a signal ended it early.

    Afterwards `estimator` has the weights of the epoch with the lowest validation loss, which are written to
    estimator.pt with the settings. Raises UsageError where no validation loss was finite.
    """
    interrupt = Interrupt()
    # Versions (last-v1.ckpt) may be written beside the files of the run that is resumed, and the next --resume would
    # read the old one. `last` is saved once the epoch has stepped the learning rate's scheduler.
    best = ModelCheckpoint(folder, "best", monitor="valid/loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)
    stop = EarlyStopping("valid/loss", patience=settings.stop_patience)
    training = Training(estimator, settings.loss, settings.lr, settings.lr_patience, settings.coded)
    # No sanity validation: `EstimateBoard` would write it to TensorBoard before the first epoch.
    trainer = L.Trainer(
        accelerator=device.type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.share.count > 1 else "auto",
        use_distributed_sampler=False,  # the loaders' own take the batches of one process
        precision=PRECISIONS[settings.precision],
        max_epochs=settings.epochs,
        callbacks=[best, last, stop, StopWhenAsked(interrupt), *callbacks],
        logger=logger or False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
    )
    share_batches(estimator)
    before = folder / LAST if settings.resume else None
    with interrupt:
        try:
            # weights_only: a checkpoint may come from somebody else, and loading it must execute no code.
            trainer.fit(training, loaders["train"], loaders["valid"], ckpt_path=before, weights_only=True)
        except SystemExit:  # Lightning turns Ctrl-C into it
            raise KeyboardInterrupt from None
    if best.best_model_score is None or not math.isfinite(best.best_model_score):
        raise UsageError(f"{folder}: the loss is not a number; give a lower --lr, or --precision 32")
    if settings.share.rank:
        return interrupt.asked
    training.load_state_dict(read_tensors(best.best_model_path)["state_dict"])
    record = {name: value for name, value in settings.record().items() if name not in PRIVATE}
    estimator.save(folder / ESTIMATOR, **record, valid_loss=float(best.best_model_score))
    return interrupt.asked


def score_run(estimator: Estimator, batches: Iterable[Batch], folder: Path, seed: int) -> Scores:
    """Scores a trained estimator, no effect and random parameters (`train.score`), and writes metrics.json."""
    scores = score(estimator, batches, seed)
    write_text(folder / METRICS, json.dumps(scores, indent=1))
    return scores
