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

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.excerpts import Excerpts
from data.recordings import Recording
from estimation.arguments import above_zero, add_music, natural, positive
from estimation.estimator import Estimator
from estimation.gather import Processed, Source, Untouched, gather
from estimation.loaders import SR, find_sources
from estimation.pools import EqualiserObjective, Objective, Pool, SettingsObjective, learn
from runtime.errors import UsageError
from runtime.interrupt import Interrupt
from runtime.seeds import stream_seed

EQUALISERS = ("peq", "geq")
SPLITS = ("train", "valid")
ITEMS, VALIDATIONS = 4000, 20
STOPPED = 130
# What an estimator need not tell its users.
PRIVATE = {"data_dir", "log_dir", "out", "init"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--chain", default="peq", help="effects that process the music and are estimated (default peq)")
    add_music(p)
    p.add_argument("--windows", type=positive, default=16, help="of an untouched recording (default 16)")
    p.add_argument("--items", type=positive, help="processed excerpts, in fifties (default 4000, for peq and geq none)")
    p.add_argument("--valid_items", type=positive, default=400, help="processed ones of the validation (default 400)")
    p.add_argument("--steps", type=positive, default=3000, help="default 3000")
    p.add_argument("--batch_size", type=positive, default=128, help="default 128")
    p.add_argument("--lr", type=above_zero, default=2e-3, help="highest learning rate (default 0.002)")
    p.add_argument("--init", metavar="FILE", help="begin with the weights of this estimator, as of peq for peq_comp")
    p.add_argument("--seed", type=natural, default=0, help="of weights, excerpts and settings (default 0)")
    p.add_argument("--out", type=Path, default="estimator.pt", help="default estimator.pt")
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    args.out = args.out.expanduser()
    try:
        torch.manual_seed(args.seed)
        if not os.access(args.out.parent, os.W_OK) or args.out.is_dir():
            raise UsageError(f"--out {args.out}: give a file in a folder that can be written")
        estimator = Estimator(sfx=args.chain, afx=args.chain, encoder="percentiles", sr=SR)
        if args.init:
            estimator.begin_with(args.init)
        if not args.items and args.chain not in EQUALISERS:
            args.items = ITEMS
        if args.coded and not args.items:
            raise UsageError(f"--coded {args.coded:g}: untouched music is not coded; give --items, or leave it out")
        objective = (SettingsObjective if args.items else EqualiserObjective)(estimator)
        began = time.perf_counter()
        pools = take_statistics(args, estimator)
        taken = time.perf_counter()
        with Interrupt() as interrupt:
            best = train(args, objective, pools, interrupt)
        told = {name: value for name, value in vars(args).items() if name not in PRIVATE}
        estimator.save(args.out, **told, valid_loss=best)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with the statistics that there are", file=sys.stderr)
        return STOPPED
    except (OSError, ValueError) as error:
        print(f"train_on_statistics.py: {str(error).splitlines()[-1]}", file=sys.stderr)
        return 2
    count, ended = sum(len(pool.q) for pool in pools["train"]), time.perf_counter()
    print(f"{count} excerpts in {(taken - began) / 60:.1f} min, training in {(ended - taken) / 60:.1f} min")
    print(f"{args.out}: validation loss {best:.4f}")
    return 0


def take_statistics(args: argparse.Namespace, estimator: Estimator) -> dict[str, list[Pool]]:
    """Statistics by split: of each data set where it is left untouched, of all together where it is processed."""
    found, skipped = find_sources(vars(args), {"train": args.pieces, "valid": max(args.pieces // 10, 1)})
    for reason in skipped:
        print(f"skipped {reason}")
    folder = Path(args.log_dir).expanduser() / "statistics"
    sources = {split: build_sources(args, split, found[split], estimator) for split in SPLITS}
    return {
        split: [gather(source, folder, args.workers, f"{split}: statistics") for source in sources[split]]
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


def train(args: argparse.Namespace, objective: Objective, pools: dict[str, list[Pool]], interrupt: Interrupt) -> float:
    """Trains, leaves the best state in the estimator, and returns its validation loss."""
    controller = objective.estimator.controller
    validation = Pool.join(pools["valid"])
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
def validate(objective: Objective, pool: Pool) -> float:
    """The loss on a pool, with the same settings every time."""
    controller = objective.estimator.controller.eval()
    loss = objective(pool, torch.Generator().manual_seed(0)).item()
    controller.train()
    return loss


if __name__ == "__main__":
    sys.exit(main())
