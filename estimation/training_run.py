"""A training from its settings to a scored estimator: the run folder, resuming, the scores."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from reknob.data.excerpts import Share
from reknob.estimation.estimator import Batch, Estimator
from reknob.estimation.loaders import SR, MusicSettings
from reknob.estimation.scoring import Scored, score
from reknob.estimation.trainer import plain, read_state
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path, write_text
from reknob.runtime.processes import rank

#: Files of a run folder: the training's state, the settings, the best epoch's estimator, its scores and their tables.
LAST, RECORD, ESTIMATOR, METRICS = "last.ckpt", "settings.json", "estimator.pt", "metrics.json"
RESULTS = "results.md"


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


def build_estimator(settings: TrainingSettings) -> Estimator:
    """The estimator to train; UsageError where the two chains, the loss and the batch size do not go together.

    Weights are drawn from torch's global generator, which `settings.seed` seeds here.
    """
    torch.manual_seed(settings.seed)
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
    # A folder without a state has nothing to lose, and is used again.
    if settings.resume:
        state = read_state(folder / LAST, settings)
        begun = -(-state["step"] // (settings.epoch_items // settings.batch_size))
        if begun > settings.epochs:
            text = f"{folder / LAST} holds {begun} epochs; give --epochs {begun} or more, or another --suffix"
            raise UsageError(text)
    elif (folder / LAST).exists():
        raise UsageError(f"{folder} exists; --resume continues it, --suffix NAME starts another run")
    if not is_first:
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, json.dumps(plain(settings), indent=1))
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); choose another"
        raise UsageError(f"--log_dir {settings.log_dir}: {reason}") from error
    return folder


def score_run(estimator: Estimator, batches: Iterable[Batch], folder: Path, seed: int) -> Scored:
    """Scores a trained estimator, no effect and random parameters (`scoring.score`), and writes metrics.json."""
    scored = score(estimator, progress_bar(batches, "test", unit="step"), seed)
    write_text(folder / METRICS, json.dumps(scored.scores, indent=1))
    return scored
