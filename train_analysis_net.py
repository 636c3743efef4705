"""Trains a network that hears processed music and tells the settings of the effects that processed it.

    python train_analysis_net.py --sfx=peq --afx=peq                       a draft on generated music, on any laptop
    python train_analysis_net.py --sfx=peq_compfull --afx=peq_comphalf --encoder=mee --loss=mel
    python train_analysis_net.py --data=musdb18 --data_dir=MUSDB18 --batch_size=16 --epoch_items=480 \\
        --valid_items=70 --test_items=500 --epochs=400                     the published size

--sfx makes the sounds, --afx is what is estimated: words of geq, peq, compfull, comphalf, compsimple, taylor, chebyshev
and dist, joined by _; they run in this order. Results go to <log_dir>/<prefix>_SFX_…_<suffix>: estimator.pt (the best
epoch), metrics.json, TensorBoard. Ctrl-C keeps what was reached; --resume goes on with the next epoch.
"""

from reknob.runtime.program import INTERRUPTED, program

import argparse
import json
import logging
import math
import sys
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader

from reknob.encoders import ENCODERS
from reknob.estimation.arguments import add_music
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import SR, build_loaders
from reknob.estimation.train import StopWhenAsked, Training, objectives, score
from reknob.report.board import quiet_writer_threads
from reknob.report.tables import scores_table
from reknob.report.training_board import CarefulLogger, DataWait, EstimateBoard, OneBar
from reknob.runtime.arguments import Parser, file_path, non_negative_int, positive_float, positive_int
from reknob.runtime.device import pick_device
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, read_tensors, user_path, write_text
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.memory import keep_freed_memory

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# What may differ between a run and its continuation.
FREE = {"epochs", "device", "precision", "workers", "resume", "test_items"}
# What an estimator need not tell its users.
PRIVATE = {"data_dir", "log_dir", "init", "resume"}
LAST, RECORD = "last.ckpt", "settings.json"


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__)
    p.add_argument("--sfx", default="peq", help="effects that process the music (default peq)")
    p.add_argument("--afx", default="peq", help="effects whose settings are estimated (default peq)")
    p.add_argument("--encoder", default="time_frequency", choices=ENCODERS, help="default time_frequency")
    p.add_argument("--loss", default="mel", choices=objectives(), help="of audio, or params (default mel)")
    add_music(p)
    p.add_argument("--epochs", type=positive_int, default=10, help="default 10, a draft; published 400")
    p.add_argument("--epoch_items", type=positive_int, default=200, help="excerpts of an epoch (default 200)")
    p.add_argument("--valid_items", type=positive_int, default=40, help="excerpts of the validation (default 40)")
    p.add_argument("--test_items", type=positive_int, default=100, help="excerpts of the test (default 100)")
    p.add_argument("--batch_size", type=positive_int, default=8, help="default 8; published 16")
    p.add_argument("--lr", type=positive_float, default=1e-4, help="learning rate of Adam (default 1e-4)")
    p.add_argument("--lr_patience", type=positive_int, default=30, help="epochs before it falls (default 30)")
    p.add_argument("--stop_patience", type=positive_int, default=150, help="epochs before it ends (default 150)")
    p.add_argument("--seed", type=non_negative_int, default=0, help="of weights, excerpts and settings (default 0)")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    p.add_argument("--precision", default="32", choices=PRECISIONS, help="of the networks (default 32)")
    p.add_argument("--init", type=file_path, metavar="FILE", help="begin with the weights of this estimator.pt")
    p.add_argument("--prefix", default="", help="before the run's name")
    p.add_argument("--suffix", default="", help="after the run's name")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted or finished run of this name")
    return p


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    keep_freed_memory()
    L.seed_everything(args.seed, verbose=False)
    device = pick_device(args.device)
    estimator = build_estimator(args)
    folder = open_folder(args)
    loaders, skipped = build_loaders(vars(args), len(estimator.synthesis.controls()))
    for reason in skipped:
        print(f"skipped {reason}")
    if train(estimator, args, folder, loaders, device):
        print(f"stopped; the best epoch is in {folder / 'estimator.pt'}, and --resume goes on")
        return INTERRUPTED
    report(estimator, loaders["test"], folder, device, args.seed)
    return 0


def build_estimator(args: argparse.Namespace) -> Estimator:
    """The network; UsageError where its two chains and its loss do not go together."""
    estimator = Estimator(sfx=args.sfx, afx=args.afx, encoder=args.encoder, sr=SR)
    if args.loss == "params" and not estimator.same_controls:
        raise UsageError(
            f"--loss params compares settings one by one, but --sfx {args.sfx} and --afx {args.afx} have others; "
            "give the same effects to both, or --loss mel"
        )
    if args.init:
        estimator.begin_with(args.init)
    if not 2 <= args.batch_size <= args.epoch_items:
        raise UsageError(
            f"--batch_size {args.batch_size}: batch normalisation needs at least 2, and an epoch has "
            f"--epoch_items {args.epoch_items}"
        )
    return estimator


def open_folder(args: argparse.Namespace) -> Path:
    """The run's folder, new or to be continued; UsageError where it is another run's, or cannot be written."""
    words = [args.prefix, "SFX", args.sfx, "AFX", args.afx, "ENC", args.encoder, "LOSS", args.loss, args.suffix]
    folder = user_path(args.log_dir / "_".join(word for word in words if word))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    if (folder / LAST).exists():
        if not args.resume:
            raise UsageError(f"{folder} exists; --resume goes on with it, --suffix NAME begins another")
        before = read_json(folder / RECORD)
        changed = sorted(key for key in settings.keys() - FREE if before.get(key) != settings[key])
        if changed:
            raise UsageError(f"{folder} was begun with other settings: {', '.join(changed)}; give those, or a --suffix")
        done = read_tensors(folder / LAST).get("epoch", -1) + 1
        if not 0 < done <= args.epochs:
            wanted = f"--epochs {max(done, 1)} or more, or another --suffix"
            raise UsageError(f"{folder / LAST} holds {done} epochs; give {wanted}")
        write_text(folder / RECORD, json.dumps(before | settings, indent=1))
        return folder
    if args.resume:
        raise UsageError(f"--resume: there is no epoch of {folder} to go on from; leave --resume out to begin")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RECORD, json.dumps(settings, indent=1))
    except OSError as error:
        raise UsageError(f"--log_dir {args.log_dir}: cannot be written ({error.strerror}); choose another") from error
    return folder


def train(estimator: Estimator, args: argparse.Namespace, folder: Path, loaders: dict, device: torch.device) -> bool:
    """Trains, and says whether it was asked to stop before the end; estimator.pt then holds the best epoch."""
    interrupt = Interrupt()
    best = ModelCheckpoint(folder, "best", monitor="valid/loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)
    training = Training(estimator, args.loss, args.lr, args.lr_patience, args.coded)
    trainer = L.Trainer(
        accelerator=device.type,
        devices=1,
        precision=PRECISIONS[args.precision],
        max_epochs=args.epochs,
        callbacks=[
            best,
            last,
            EarlyStopping("valid/loss", patience=args.stop_patience),
            StopWhenAsked(interrupt),
            LearningRateMonitor(),
            DataWait(),
            EstimateBoard(),
            OneBar(),
        ],
        logger=CarefulLogger(folder),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    before = folder / LAST if args.resume else None
    with interrupt, quiet_writer_threads():
        try:
            trainer.fit(training, loaders["train"], loaders["valid"], ckpt_path=before, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    if best.best_model_score is None or not math.isfinite(best.best_model_score):
        raise UsageError(f"{folder}: the loss is not a number; give a lower --lr, or --precision 32")
    training.load_state_dict(read_tensors(best.best_model_path)["state_dict"])
    told = {name: value for name, value in vars(args).items() if name not in PRIVATE}
    estimator.save(folder / "estimator.pt", **told, valid_loss=float(best.best_model_score))
    return interrupt.asked


def report(estimator: Estimator, loader: DataLoader, folder: Path, device: torch.device, seed: int) -> None:
    """Scores the best epoch and both baselines on the test list; writes metrics.json and prints them."""
    scores = score(estimator.to(device), loader, seed)
    write_text(folder / "metrics.json", json.dumps(scores, indent=1))
    print(scores_table(scores))
    print(f"{folder / 'estimator.pt'}; every item's scores: {folder / 'metrics.json'}")


if __name__ == "__main__":
    sys.exit(main())
