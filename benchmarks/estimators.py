"""Scores estimators on recordings that they were not trained on, and on finished masters: tables in Markdown.

    python -m benchmarks.estimators checkpoints/*.pt --data_dir music [--items 200] [--codec mp3] [--pairs mastering/EQ]

Items are excerpts of the folders' test splits with random settings, the same for every estimator of a chain. A
folder of pairs holds Input_<n>.* and GT_<n>.*: the sound before and after.
"""

import argparse
import io
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

import soundfile
import torch

from data.audio import read_audio, resample
from data.excerpts import Excerpts, excerpt_loader
from data.recordings import RECORDINGS, find_recordings
from engine.estimator import Estimator, load_estimator
from engine.loaders import SR
from engine.train import score
from losses import build_metrics
from report.tables import text_table

#: File formats to hear through, and libsndfile's settings of them.
CODECS = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
OPUS_SR = 48000
METRICS = ("mrstft", "mse", "mel", "params")
SEED, BATCH = 7, 10


def cell(values: list[float]) -> str:
    """Mean with the half-width of its 95 % interval, and median."""
    width = 1.96 * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.3f} ± {width:.3f}, {median(values):.3f}"


def rows(path: str, args: argparse.Namespace) -> list[list[str]]:
    """An estimator's scores on the test split beside those of no effect and of random settings."""
    estimator, _ = load_estimator(path)
    folders = args.data_dir.split(",")
    sources = [find_recordings(args.data, folder, "test", args.seconds).recordings for folder in folders]
    n_controls = len(estimator.synthesis.controls())
    loader = excerpt_loader(Excerpts(sources, n_controls, args.items, SEED, seconds=args.seconds), BATCH)
    scores = score(estimator, loader, file=partial(through, codec=args.codec) if args.codec else None)
    chain = f"{estimator.settings['sfx']} → {estimator.settings['afx']}"
    lines = []
    for system, columns in scores.items():
        name = Path(path).stem if system == "estimate" else system
        lines.append([chain, name, *(cell(columns[m]) if m in columns else "" for m in METRICS)])
    return lines


def through(x: torch.Tensor, codec: str) -> torch.Tensor:
    """x (B, 1, N) at 44.1 kHz and a peak of 0.97, written to files of libsndfile's default quality and read again."""
    x = x / x.abs().amax((1, 2), keepdim=True) * 0.97
    return torch.stack([_file(item, codec)[:, : x.shape[-1]] for item in x])


def _file(x: torch.Tensor, codec: str) -> torch.Tensor:
    sr = OPUS_SR if codec == "opus" else SR
    file = io.BytesIO()
    soundfile.write(file, resample(x, SR, sr)[0].numpy(), sr, **CODECS[codec])
    file.seek(0)
    return resample(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None], sr, SR)


@torch.no_grad()
def pair_rows(path: str, folder: Path) -> list[list[str]]:
    """Mel distance to a finished sound: of the sound before, and of what an estimator makes of it."""
    estimator, _ = load_estimator(path)
    mel = build_metrics({"name": "blind"}, estimator.settings["sr"])
    lines = []
    for target in sorted(folder.glob("GT_*")):
        wet, dry = (mono(each, estimator) for each in (target, target.with_name(target.name.replace("GT_", "Input_"))))
        length = min(wet.shape[-1], dry.shape[-1])
        wet, dry = wet[..., :length], dry[..., :length]
        again = estimator.render(dry, estimator.listen(wet[0]).median(0, keepdim=True).values)
        distances = [mel(sound, wet)["mel"].item() for sound in (dry, again)]
        lines.append([f"{folder.name} {target.stem[3:]}", Path(path).stem, *(f"{d:.3f}" for d in distances)])
    return lines


def mono(path: Path, estimator: Estimator) -> torch.Tensor:
    """A recording (1, 1, T) at the estimator's rate."""
    x, sr = read_audio(path)
    return resample(x.mean(0, keepdim=True), sr, estimator.settings["sr"])[None]


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="estimator.pt files")
    parser.add_argument("--data", default="folder", choices=RECORDINGS, help="what the folders hold")
    parser.add_argument("--data_dir", help="folders of recordings, with commas, heard equally often")
    parser.add_argument("--items", type=int, default=200, help="excerpts")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of an excerpt (default 10)")
    parser.add_argument("--codec", choices=CODECS, help="hear the excerpts through such files")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="folders of Input_<n> and GT_<n>")
    args = parser.parse_args()
    if args.data_dir:
        lines = [line for path in args.checkpoints for line in rows(path, args)]
        print(text_table(["chain", "", *METRICS], lines), flush=True)
    if args.pairs:
        lines = [line for folder in args.pairs for path in args.checkpoints for line in pair_rows(path, folder)]
        print(text_table(["pair", "", "input's Mel", "estimate's Mel"], lines))


if __name__ == "__main__":
    main()
