"""Tells which settings of an effect chain a recording was processed with, from the recording alone.

    python scripts/estimate.py song.mp3                                  settings, from the estimator of the project
    python scripts/estimate.py song.mp3 --figure song.png --json song.json
    python scripts/estimate.py master.wav --dry mix.wav --output again.wav   and how close they bring the dry sound
    python scripts/estimate.py song.mp3 --apply other.wav --output like_song.wav
    python scripts/estimate.py song.mp3 --checkpoint a/estimator.pt b/estimator.pt --figure both.png

The recording is heard in windows of 10 s; a setting is the median over them, its spread their middle 68 %.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.program import program

import argparse
import json

import torch
from torch import Tensor

from afx.effect import Values, flatten
from data.audio import FORMATS, read_audio, read_rate, resample, write_audio
from estimation.estimator import STEADY, Estimator, load_estimator, steadiness
from losses import build_metrics
from report.curves import settings_figure
from report.tables import number, text_table
from runtime.arguments import Parser, file_path
from runtime.errors import UsageError
from runtime.files import check_output, whole, write_text

DEFAULT = Path(__file__).resolve().parent.parent / "checkpoints" / "peq.pt"
FIGURES = (".png", ".svg", ".pdf")
QUANTILES = torch.tensor([0.5, 0.16, 0.84])
# Closer to an end of its range, the truth may well lie beyond it.
MARGIN = 0.02


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__)
    p.add_argument("input", type=file_path, help="the recording, any audio file")
    p.add_argument(
        "--checkpoint", type=file_path, nargs="+", default=[DEFAULT], metavar="FILE", help="estimator.pt, or several"
    )
    p.add_argument("--dry", type=file_path, metavar="FILE", help="the recording before it was processed, to compare")
    p.add_argument("--apply", type=file_path, metavar="FILE", help="another recording, to process with these settings")
    p.add_argument("--output", type=file_path, metavar="FILE", help="file for that recording with the (first) estimate")
    p.add_argument("--json", type=file_path, metavar="FILE", help="settings and scores as a file")
    p.add_argument("--figure", type=file_path, metavar="FILE", help="curves of the settings, as png, svg or pdf")
    return p


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    check(args)
    estimates = {str(path): estimate(path, args.input) for path in args.checkpoint}
    first = next(iter(estimates.values()))
    if args.figure:
        curves = {label(path): (e.analysis, e.analysis.from_unit(q[:1])) for path, (e, q) in estimates.items()}
        with whole(args.figure) as part:
            settings_figure(curves).savefig(part, dpi=150)
    record = {"input": str(args.input), "estimates": {path: as_record(*each) for path, each in estimates.items()}}
    if args.dry:
        record["scores"] = {path: compare(*each, args) for path, each in estimates.items()}
    if args.output:
        write(process(*first, read(args.apply or args.dry, first[0])), args.output, first[0])
    if args.json:
        write_text(args.json, json.dumps(record, indent=1))
    return 0


def check(args: argparse.Namespace) -> None:
    """UsageError for arguments that do not go together, unwritable outputs, and inputs that are no sound."""
    if args.dry and args.apply:
        raise UsageError("--dry and --apply are two questions; ask one at a time")
    if args.output and not (args.dry or args.apply):
        raise UsageError("--output needs --dry or --apply: which recording to process?")
    if args.apply and not args.output:
        raise UsageError("--apply needs --output FILE")
    recordings = [recording for recording in (args.input, args.dry, args.apply) if recording]
    taken = [*recordings, *args.checkpoint]
    for name, suffixes in {"output": tuple(FORMATS), "json": (), "figure": FIGURES}.items():
        output = getattr(args, name)
        if output and suffixes and output.suffix.lower() not in suffixes:
            raise UsageError(f"--{name} {output}: its suffix must be one of {', '.join(suffixes)}")
        if output:
            taken.append(check_output(output, taken))
    for recording in recordings:
        read_rate(recording)


def label(path: str | Path) -> str:
    """A checkpoint's name in a figure: its file's, or its run folder's."""
    return Path(path).parent.name if Path(path).stem == "estimator" else Path(path).stem


def read(path: Path, estimator: Estimator) -> Tensor:
    """A recording (C, T) at the estimator's rate."""
    x, sr = read_audio(path)
    return resample(x, sr, estimator.settings["sr"])


def estimate(checkpoint: Path, path: Path) -> tuple[Estimator, Tensor]:
    """An estimator and the controls (3, P) it hears in a recording, median and both ends of the spread; prints them."""
    estimator, _ = load_estimator(checkpoint)
    x = read(path, estimator)
    try:
        heard = estimator.listen(x)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    q = heard.quantile(QUANTILES, dim=0)
    rows = [
        [name, number(s["value"]), f"{number(s['low'])} to {number(s['high'])}", s["unit"], s["note"]]
        for name, s in as_record(estimator, q).items()
    ]
    print(f"{path}, by {checkpoint}, {len(heard)} windows")
    if steadiness(x) > STEADY:
        print("this is steady noise, not music: what follows says nothing about how it was processed")
    print(text_table(["setting", "value", "spread", "unit", ""], rows))
    return estimator, q


def as_record(estimator: Estimator, q: Tensor) -> dict[str, dict]:
    """Each control in physical units, with its spread and unit, and a note where it lies at an end of its range."""
    units = {name: p.unit for name, p in estimator.analysis.walk()}
    columns = columns_of(estimator.analysis.from_unit(q))
    record = {}
    for i, name in enumerate(estimator.analysis.controls()):
        value, low, high = columns[:, i].tolist()
        at = q[0, i].item()
        note = "at the end of its range" if not MARGIN < at < 1 - MARGIN else ""
        record[name] = {"value": value, "low": low, "high": high, "unit": units.get(name, ""), "note": note}
    return record


def columns_of(values: Values) -> Tensor:
    """Values as columns (B, P)."""
    return torch.cat([value.reshape(len(value), -1) for value in flatten(values).values()], 1)


@torch.no_grad()
def process(estimator: Estimator, q: Tensor, x: Tensor) -> Tensor:
    """A recording (C, T) with the estimated settings, at the RMS that it had."""
    y = estimator.render(x[None], q[:1])[0]
    return y * (x.square().mean() / y.square().mean().clamp(min=1e-12)).sqrt()


def compare(estimator: Estimator, q: Tensor, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Prints and returns the distances of the dry and of the processed dry recording to the input, level-matched."""
    sr = estimator.settings["sr"]
    wet, dry = (read(path, estimator).mean(0, keepdim=True) for path in (args.input, args.dry))
    length = min(wet.shape[-1], dry.shape[-1])
    metrics = build_metrics({"name": "blind"}, sr)
    again = process(estimator, q, dry)
    scores = {}
    for name, sound in {"dry": dry, "dry with the estimate": again}.items():
        scores[name] = {key: v.item() for key, v in metrics(sound[None, :, :length], wet[None, :, :length]).items()}
    names = list(scores["dry"])
    print(text_table(["to the input", *names], [[k, *(f"{s[n]:.4f}" for n in names)] for k, s in scores.items()]))
    return scores


def write(y: Tensor, path: Path, estimator: Estimator) -> None:
    """Writes a recording and says so."""
    write_audio(path, y, estimator.settings["sr"])
    print(path)


if __name__ == "__main__":
    sys.exit(main())
