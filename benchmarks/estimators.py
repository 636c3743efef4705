"""Scores estimators on recordings that they were not trained on, and on finished masters, as tables.

    python -m benchmarks.estimators checkpoints/*.pt --data_dir music [--items 200] [--codec mp3] [--pairs mastering/EQ]

    python -m benchmarks.estimators checkpoints/*.pt --groups music=music "voices=songs/*/dry.mp3" --scores scores.json

Items are excerpts of the folders' test splits with random parameters, the same for every estimator of a chain. A
folder of pairs holds Input_<n>.* and GT_<n>.*, or x.* and y.*: the recording before and after mastering.

Groups are scored as estimate.py estimates: the excerpts processed with random parameters, and as they are. A folder
stands for its test split, a pattern for all its files. Told are the mean Mel of no effect and of the estimate, the
share of excerpts that it makes worse, the share of unprocessed excerpts that it leaves alone, how often the intervals
hold the true value, and the settings' error, where guessing the middle gives 1/12. --scores keeps them by control;
--examples plays the excerpts that the estimate brings closest, less close and least close to the processed ones.
"""

from reknob.runtime.program import program

import argparse
import sys
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

import torch
from matplotlib.figure import Figure

from reknob.data.audio import read_audio, resample
from reknob.data.coding import CODECS, lossy_round_trip
from reknob.data.decoding import open_audio
from reknob.data.excerpts import Excerpts, excerpt_loader
from reknob.data.file_lists import list_recordings
from reknob.data.recordings import RECORDINGS, Recording, find_recordings
from reknob.estimation.estimate import estimate_recording
from reknob.estimation.estimator import Estimator, load_estimator
from reknob.estimation.judgement import distance
from reknob.estimation.loaders import SR
from reknob.estimation.scoring import Kept, score, score_kept
from reknob.report.page.examples import Example, Group, examples, write_examples_page
from reknob.report.results import KEPT_COLUMNS, draw_reliability, kept_row
from reknob.report.tables import text_table
from reknob.runtime.arguments import Parser, file_path, positive_float, positive_int
from reknob.runtime.files import write_text
from reknob.runtime.output import to_json
from reknob.runtime.seeds import stream_seed

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
    file = partial(from_files, sr=SR, codec=args.codec) if args.codec else None
    scores = score(estimator, loader, file=file).scores
    chain = f"{estimator.settings['sfx']} → {estimator.settings['afx']}"
    lines = []
    for system, columns in scores.items():
        name = Path(path).stem if system == "estimate" else system
        lines.append([chain, name, *(cell(columns[m]) if m in columns else "" for m in METRICS)])
    return lines


def group_scores(
    estimator: Estimator, name: str, given: str, args: argparse.Namespace
) -> tuple[dict, list[Example]]:
    """Scores of the excerpts of a group (`Kept`), with its name, its chain and the names of the controls; examples."""
    n_controls, sr = len(estimator.synthesis.controls()), estimator.settings["sr"]
    # Each group with parameters of its own: together they are then as many different ones.
    seed = stream_seed(SEED, "group", name)
    recordings = recordings_of(given, args.seconds)
    excerpts = Excerpts([recordings], n_controls, args.items, seed, sr=sr, seconds=args.seconds)
    group = {"group": name, "chain": estimator.settings["afx"], "controls": estimator.analysis.controls()}
    kept, heard = score_kept(estimator, excerpts), []
    if args.examples:
        members = Group(f"{group['chain']}, {name}", kept.none, kept.estimate, range(len(kept.none)))
        heard = examples(estimator, excerpts, members, lambda wet: estimate_recording(estimator, wet[0], sr).q)
    return group | asdict(kept), heard


def recordings_of(given: str, seconds: float) -> list[Recording]:
    """The test split of a folder, or all files of a pattern; without those that are shorter than an excerpt."""
    if Path(given).is_dir():
        return find_recordings("folder", given, "test", seconds).recordings
    found = []
    for path in list_recordings([Path(given)]):
        with open_audio(path) as file:
            found.append(Recording(path.name, path, file.sr, file.length()))
    return [recording for recording in found if recording.duration >= seconds]


def group_row(scores: dict) -> list[str]:
    """A group's scores as a row of the table."""
    kept = Kept(**{column.name: scores[column.name] for column in fields(Kept)})
    return [scores["chain"], scores["group"], *kept_row(kept)]


def reliability_figure(scored: list[dict]) -> Figure:
    """How often intervals of each level held the true value: a panel per estimator."""
    chains = list(dict.fromkeys(each["chain"] for each in scored if each["held"]))
    figure = Figure(figsize=(3.4 * len(chains), 3.6), layout="constrained")
    axes = figure.subplots(1, len(chains), sharey=True, squeeze=False)[0]
    for ax, chain in zip(axes, chains, strict=True):
        draw_reliability(ax, [item for each in scored if each["chain"] == chain for item in each["held"]])
        ax.set(title=chain)
    axes[0].set_ylabel("held the true value, %")
    return figure


def from_files(x: torch.Tensor, sr: int, codec: str) -> torch.Tensor:
    """Audio x (B, 1, N) at `sr` Hz, each item encoded to a file and decoded."""
    return torch.stack([lossy_round_trip(item, sr, codec) for item in x])


@torch.no_grad()
def pair_rows(path: str, folder: Path, codec: str | None) -> list[list[str]]:
    """Mel loss against each GT_<n> file, up to its band edge: of its Input_<n>, and of that rendered with the estimate.

    With a codec the render is scored after encoding as well, as the GT files are of that codec.
    """
    estimator, _ = load_estimator(path)
    lines = []
    for target in sorted([*folder.glob("GT_*"), *folder.glob("y.*")]):
        source = "x" + target.suffix if target.stem == "y" else target.name.replace("GT_", "Input_")
        wet, dry = (mono(each, estimator) for each in (target, target.with_name(source)))
        length = min(wet.shape[-1], dry.shape[-1])
        wet, dry = wet[..., :length], dry[..., :length]
        estimate = estimate_recording(estimator, wet[0], estimator.settings["sr"])
        again = estimator.render(dry, estimate.q)
        sounds = [dry, again] + ([from_files(again, estimator.settings["sr"], codec)] if codec else [])
        distances = [distance(estimator, sound, wet, [estimate.edge]).item() for sound in sounds]
        lines.append([f"{folder.name} {target.stem[3:]}", Path(path).stem, *(f"{d:.3f}" for d in distances)])
    return lines


def mono(path: Path, estimator: Estimator) -> torch.Tensor:
    """A recording (1, 1, T) at the estimator's rate."""
    x, sr = read_audio(path)
    return resample(x.mean(0, keepdim=True), sr, estimator.settings["sr"])[None]


def group(text: str) -> str:
    """An argument type: a name and what it stands for."""
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text}: give name=FOLDER or name=PATTERN")
    return text


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
    text = "name=FOLDER or name=PATTERN, recordings that are scored processed and unprocessed"
    parser.add_argument("--groups", type=group, nargs="*", default=[], metavar="GROUP", help=text)
    parser.add_argument("--scores", type=file_path, metavar="FILE", help="file for the groups' scores, as JSON")
    text = "file for their reliability diagram, as png, svg or pdf"
    parser.add_argument("--figure", type=file_path, metavar="FILE", help=text)
    text = "file for a page with examples of every group to listen to, as html"
    parser.add_argument("--examples", type=file_path, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    if args.data_dir:
        lines = [line for path in args.checkpoints for line in rows(path, args)]
        print(text_table(["chain", "", *METRICS], lines), flush=True)
    if args.groups:
        given = [group.split("=", 1) for group in args.groups]
        found = [group_scores(load_estimator(path)[0], *each, args) for path in args.checkpoints for each in given]
        scored = [scores for scores, _ in found]
        table = ["chain", "group", *KEPT_COLUMNS], [group_row(each) for each in scored]
        print(text_table(*table), flush=True)
        if args.examples:
            heard = [example for _, each in found for example in each]
            write_examples_page(args.examples, "Estimators as estimate.py uses them", heard, table=table, sr=SR)
        if args.scores:
            write_text(args.scores, to_json(scored))
        if args.figure:
            reliability_figure(scored).savefig(args.figure, dpi=110)
    if args.pairs:
        pairs = [(path, folder) for folder in args.pairs for path in args.checkpoints]
        lines = [line for path, folder in pairs for line in pair_rows(path, folder, args.codec)]
        print(text_table(["pair", "", "input's Mel", "estimate's", *[f"as {args.codec}"] * bool(args.codec)], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
