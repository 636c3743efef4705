"""Scores estimators on recordings that they were not trained on, and on finished masters, as tables.

    python -m benchmarks.estimators checkpoints/*.pt --data_dir music [--items 200] [--codec mp3] [--pairs mastering/EQ]

Items are excerpts of the folders' test splits with random parameters, the same for every estimator of a chain. A
folder of pairs holds Input_<n>.* and GT_<n>.*: the recording before and after mastering.
"""

from reknob.runtime.program import program

import argparse
import sys
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

import torch

from reknob.data.audio import read_audio, resample
from reknob.data.coding import CODECS, lossy_round_trip
from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.recordings import RECORDINGS, find_recordings
from reknob.estimation.estimator import Estimator, load_estimator
from reknob.estimation.loaders import SR
from reknob.estimation.train import score
from reknob.losses import build_metrics
from reknob.report.tables import text_table
from reknob.runtime.arguments import Parser, file_path, positive_float, positive_int

METRICS = ("mrstft", "mse", "mel", "params")
SEED, BATCH = 7, 10


def cell(values: list[float]) -> str:
    """Mean with the half-width of its 95 % interval, and median."""
    width = 1.96 * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.3f} ± {width:.3f}, {median(values):.3f}"


def rows(path: str, args: argparse.Namespace) -> list[list[str]]:
    """An estimator's scores on the test split, with those of no effect and of random parameters."""
    estimator, _ = load_estimator(path)
    folders = args.data_dir.split(",")
    sources = [find_recordings(args.data, folder, "test", args.seconds).recordings for folder in folders]
    n_controls = len(estimator.synthesis.controls())
    loader = excerpt_loader(Excerpts(sources, n_controls, args.items, SEED, seconds=args.seconds), BATCH)
    scores = score(estimator, loader, file=partial(from_files, sr=SR, codec=args.codec) if args.codec else None)
    chain = f"{estimator.settings['sfx']} → {estimator.settings['afx']}"
    lines = []
    for system, columns in scores.items():
        name = Path(path).stem if system == "estimate" else system
        lines.append([chain, name, *(cell(columns[m]) if m in columns else "" for m in METRICS)])
    return lines


def from_files(x: torch.Tensor, sr: int, codec: str) -> torch.Tensor:
    """Audio x (B, 1, N) at `sr` Hz, each item encoded to a file and decoded."""
    return torch.stack([lossy_round_trip(item, sr, codec) for item in x])


@torch.no_grad()
def pair_rows(path: str, folder: Path, codec: str | None) -> list[list[str]]:
    """Mel loss against each GT_<n> file: of its Input_<n>, and of that rendered with the estimate.

    With a codec the render is scored after encoding as well, as the GT files are of that codec.
    """
    estimator, _ = load_estimator(path)
    mel = build_metrics({"name": "blind"}, estimator.settings["sr"])
    lines = []
    for target in sorted(folder.glob("GT_*")):
        wet, dry = (mono(each, estimator) for each in (target, target.with_name(target.name.replace("GT_", "Input_"))))
        length = min(wet.shape[-1], dry.shape[-1])
        wet, dry = wet[..., :length], dry[..., :length]
        again = estimator.render(dry, estimator.estimate_windows(wet[0]).median(0, keepdim=True).values)
        sounds = [dry, again] + ([from_files(again, estimator.settings["sr"], codec)] if codec else [])
        distances = [mel(sound, wet)["mel"].item() for sound in sounds]
        lines.append([f"{folder.name} {target.stem[3:]}", Path(path).stem, *(f"{d:.3f}" for d in distances)])
    return lines


def mono(path: Path, estimator: Estimator) -> torch.Tensor:
    """A recording (1, 1, T) at the estimator's rate."""
    x, sr = read_audio(path)
    return resample(x.mean(0, keepdim=True), sr, estimator.settings["sr"])[None]


@program
def main(argv: list[str]) -> int:
    """Prints the tables; the exit status."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("checkpoints", nargs="+", help="estimator.pt files")
    parser.add_argument("--data", default="folder", choices=RECORDINGS, help="what the folders hold")
    parser.add_argument("--data_dir", help="folders of recordings, with commas, sampled uniformly")
    parser.add_argument("--items", type=positive_int, default=200, help="excerpts")
    parser.add_argument("--seconds", type=positive_float, default=10.0, help="length of an excerpt (default 10)")
    parser.add_argument("--codec", choices=CODECS, help="encode excerpts, and renders of pairs, with this codec")
    parser.add_argument("--pairs", type=file_path, nargs="*", default=[], help="folders of Input_<n> and GT_<n>")
    args = parser.parse_args(argv)
    if args.data_dir:
        lines = [line for path in args.checkpoints for line in rows(path, args)]
        print(text_table(["chain", "", *METRICS], lines), flush=True)
    if args.pairs:
        pairs = [(path, folder) for folder in args.pairs for path in args.checkpoints]
        lines = [line for path, folder in pairs for line in pair_rows(path, folder, args.codec)]
        print(text_table(["pair", "", "input's Mel", "estimate's", *[f"as {args.codec}"] * bool(args.codec)], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
