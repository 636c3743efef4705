"""Trains an estimator on statistics of music, taken once: minutes on a laptop, where sounds take hours.

    python scripts/train_on_statistics.py --chain=peq --out start.pt
    python scripts/train_on_statistics.py --chain=peq --items=20000 --seconds=6 --init=start.pt --out my_peq.pt
    python scripts/train_on_statistics.py --chain=peq_comphalf --data=folder --data_dir=music --out my_chain.pt

An equaliser adds its gains to the statistics of untouched music: without --items, peq and geq are trained on that, for
their sound, with settings that never repeat. --items excerpts are processed once, for any chain, and trained on for
their settings, an equaliser's by what they do. train_analysis_net.py --encoder=percentiles --init=FILE can go on for
the sound.

Statistics are kept in <log_dir>/statistics: the same command goes on where it was broken off, and more --items are put
to those that there are. The state of the lowest validation loss is written at the end, or at Ctrl-C in the training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reknob.runtime.program import INTERRUPTED, program

import argparse
import time

import torch
from tqdm import tqdm

from reknob.data.excerpts import Excerpts
from reknob.data.recordings import Recording
from reknob.estimation.arguments import add_music
from reknob.estimation.estimator import Estimator
from reknob.estimation.loaders import SR, find_sources
from reknob.estimation.statistics_cache import Processed, Source, Untouched, cache_statistics
from reknob.estimation.statistics_training import EqualiserObjective, Objective, SettingsObjective, StatisticsSet, learn
from reknob.runtime.arguments import Parser, file_path, non_negative_int, positive_float, positive_int
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.seeds import stream_seed

EQUALISERS = ("peq", "geq")
SPLITS = ("train", "valid")
ITEMS, VALIDATIONS = 4000, 20
# What an estimator need not tell its users.
PRIVATE = {"data_dir", "log_dir", "out", "overwrite", "init"}


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__)
    p.add_argument("--chain", default="peq", help="effects that process the music and are estimated (default peq)")
    add_music(p)
    p.add_argument("--windows", type=positive_int, default=16, help="of a recording (default 16)")
    p.add_argument(
        "--items", type=positive_int, help="processed excerpts, in fifties (default 4000, for peq and geq none)"
    )
    p.add_argument("--valid_items", type=positive_int, default=400, help="those of the validation (default 400)")
    p.add_argument("--steps", type=positive_int, default=3000, help="default 3000")
    p.add_argument("--batch_size", type=positive_int, default=128, help="default 128")
    p.add_argument("--lr", type=positive_float, default=2e-3, help="highest learning rate (default 0.002)")
    p.add_argument("--init", type=file_path, metavar="FILE", help="begin with this estimator, as of peq for peq_comp")
    p.add_argument("--seed", type=non_negative_int, default=0, help="of weights, excerpts and settings (default 0)")
    p.add_argument("--out", type=file_path, default="estimator.pt", help="default estimator.pt")
    p.add_argument("--overwrite", action="store_true", help="replace an estimator that is there")
    return p


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    check_output(args.out, [args.init], overwrite=args.overwrite)
    torch.manual_seed(args.seed)
    estimator = Estimator(sfx=args.chain, afx=args.chain, encoder="percentiles", sr=SR)
    if args.init:
        estimator.begin_with(args.init)
    if not args.items and args.chain not in EQUALISERS:
        args.items = ITEMS
    if args.coded and not args.items:
        raise UsageError(f"--coded {args.coded:g}: untouched music is not coded; give --items, or leave it out")
    objective = (SettingsObjective if args.items else EqualiserObjective)(estimator)
    began = time.perf_counter()
    try:
        pools = take_statistics(args, estimator)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the statistics that there are", file=sys.stderr)
        return INTERRUPTED
    taken = time.perf_counter()
    with Interrupt() as interrupt:
        best = train(args, objective, pools, interrupt)
        told = {name: value for name, value in vars(args).items() if name not in PRIVATE}
        estimator.save(args.out, **told, valid_loss=best)
    count, ended = sum(len(pool.q) for pool in pools["train"]), time.perf_counter()
    print(f"{count} excerpts in {(taken - began) / 60:.1f} min, training in {(ended - taken) / 60:.1f} min")
    print(f"{args.out}: validation loss {best:.4f}{', stopped before its end' if interrupt.asked else ''}")
    return INTERRUPTED if interrupt.asked else 0


def take_statistics(args: argparse.Namespace, estimator: Estimator) -> dict[str, list[StatisticsSet]]:
    """Statistics by split: of each data set where it is left untouched, of all together where it is processed."""
    found, skipped = find_sources(vars(args), {"train": args.pieces, "valid": max(args.pieces // 10, 1)})
    for reason in skipped:
        print(f"skipped {reason}")
    folder = args.log_dir / "statistics"
    sources = {split: build_sources(args, split, found[split], estimator) for split in SPLITS}
    return {
        split: [cache_statistics(source, folder, args.workers, f"{split}: statistics") for source in sources[split]]
        for split in SPLITS
    }


def build_sources(
    args: argparse.Namespace, split: str, found: list[list[Recording]], estimator: Estimator
) -> list[Source]:
    """What the statistics of a split are taken of, whose data sets' recordings were found."""
    if not args.items:
        return [Untouched(recordings, estimator, args.seconds, args.windows) for recordings in found]
    items, seed = args.items if split == "train" else args.valid_items, stream_seed(args.seed, "statistics", split)
    n_controls = len(estimator.synthesis.controls())
    excerpts = Excerpts(found, n_controls, items, seed, sr=SR, seconds=args.seconds)
    return [Processed(excerpts, estimator, args.coded)]


def train(
    args: argparse.Namespace, objective: Objective, pools: dict[str, list[StatisticsSet]], interrupt: Interrupt
) -> float:
    """Trains, leaves the best state in the estimator, and returns its validation loss."""
    controller = objective.estimator.controller
    validation = StatisticsSet.join(pools["valid"])
    best, kept = float("inf"), controller.state_dict()
    every = -(-args.steps // VALIDATIONS)
    losses = learn(objective, pools["train"], steps=args.steps, batch_size=args.batch_size, lr=args.lr, seed=args.seed)
    with tqdm(losses, "training", args.steps, unit="step") as bar:
        for step, _ in enumerate(bar, start=1):
            if step % every and step < args.steps and not interrupt.asked:
                continue
            loss = validate(objective, validation)
            bar.set_postfix(valid=f"{loss:.4f}")
            if loss < best:
                best, kept = loss, {name: value.clone() for name, value in controller.state_dict().items()}
            if interrupt.asked:
                break
    controller.load_state_dict(kept)
    if best == float("inf"):
        raise UsageError("the loss is not a number; give a lower --lr")
    return best


@torch.no_grad()
def validate(objective: Objective, pool: StatisticsSet) -> float:
    """The loss on a pool, with the same settings every time."""
    controller = objective.estimator.controller.eval()
    loss = objective(pool, torch.Generator().manual_seed(0)).item()
    controller.train()
    return loss


if __name__ == "__main__":
    sys.exit(main())
