"""Tells which settings of an effect chain a recording was processed with, from the recording alone.

    python scripts/estimate.py song.mp3                                  settings, from the estimator of the project
    python scripts/estimate.py song.mp3 --figure song.png --json song.json
    python scripts/estimate.py master.wav --dry mix.wav --output again.wav   and how close they bring the dry sound
    python scripts/estimate.py song.mp3 --apply other.wav --output like_song.wav
    python scripts/estimate.py song.mp3 --checkpoint a/estimator.pt b/estimator.pt --figure both.png

The recording is heard in windows of 10 s; a setting is the median over them, its spread their middle 68 %. One window
has no spread. Bands above what the recording holds (an mp3 or a low sample rate ends early) are not estimated.
"""

from reknob.runtime.program import program

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from reknob.data.align import RELATED, gcc_phat_peak
from reknob.data.audio import FORMATS, check_audio_output, read_audio, read_rate, resample, write_audio
from reknob.estimation.estimate import Estimate, as_record, estimate_recording
from reknob.estimation.estimator import Estimator, load_estimator, to_mono
from reknob.losses import build_metrics
from reknob.report.curves import settings_figure
from reknob.report.tables import number, text_table
from reknob.runtime.arguments import Parser, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import atomic_path, check_output, write_text

DEFAULT = Path(__file__).resolve().parent.parent / "checkpoints" / "peq.pt"
COPY = 1e-6  # share of a recording's power in which its copy at another level may differ from it
FIGURES = (".png", ".svg", ".pdf")


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
    estimators = {str(path): load_estimator(path)[0] for path in args.checkpoint}
    if args.output:
        check_audio_output(args.output, next(iter(estimators.values())).settings["sr"], 2)
    if args.dry:
        check_dry(args.dry, args.input, next(iter(estimators.values())))
    estimates = {path: (each, estimate(each, path, args.input)) for path, each in estimators.items()}
    first = next(iter(estimates.values()))
    if args.figure:
        curves = {label(path): (e.analysis, e.analysis.from_unit(found.q)) for path, (e, found) in estimates.items()}
        with atomic_path(args.figure) as part:
            settings_figure(curves).savefig(part, dpi=150)
    record = {
        "input": str(args.input),
        "remarks": first[1].remarks,
        "estimates": {path: as_record(*each) for path, each in estimates.items()},
    }
    if args.dry:
        record["scores"] = {path: compare(each[0], each[1].q, args) for path, each in estimates.items()}
    if args.output:
        write(process(first[0], first[1].q, read(args.apply or args.dry, first[0])), args.output, first[0])
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


def check_dry(dry: Path, wet: Path, estimator: Estimator) -> None:
    """UsageError where one recording is a copy of the other, and where they have nothing in common."""
    sr = estimator.settings["sr"]
    x, y = (to_mono(read(path, estimator))[0] for path in (dry, wet))
    length = min(len(x), len(y))
    x, y = x[None, :length], y[None, :length]
    common = (x.double() * y).sum().square() / (x.double().square().sum() * y.double().square().sum()).clamp(min=1e-30)
    if common > 1 - COPY:
        raise UsageError(f"--dry {dry} holds the same sound as {wet}: give the recording before it was processed")
    alike = gcc_phat_peak(x, y, sr)
    if alike < RELATED:
        raise UsageError(
            f"--dry {dry} and {wet} seem unrelated: their whitened correlation is {alike:.3f}, at least {RELATED:g} is "
            "allowed; give the recording before it was processed"
        )


def estimate(estimator: Estimator, checkpoint: str, path: Path) -> Estimate:
    """What an estimator makes of a recording; prints it."""
    try:
        found = estimate_recording(estimator, *read_audio(path))
    except UsageError as error:
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    rows = [
        [
            name,
            "-" if s["value"] is None else number(s["value"]),
            "-" if s["low"] is None else f"{number(s['low'])} to {number(s['high'])}",
            s["unit"],
            s["note"],
        ]
        for name, s in as_record(estimator, found).items()
    ]
    print(f"{path}, by {checkpoint}, {found.windows} window{'s' * (found.windows > 1)}")
    for remark in found.remarks:
        print(remark)
    print(text_table(["setting", "value", "spread", "unit", ""], rows))
    return found


@torch.no_grad()
def process(estimator: Estimator, q: Tensor, x: Tensor) -> Tensor:
    """A recording (C, T) with the estimated settings, at the RMS that it had."""
    y = estimator.render(x[None], q)[0]
    return y * (x.square().mean() / y.square().mean().clamp(min=1e-12)).sqrt()


def compare(estimator: Estimator, q: Tensor, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Prints and returns the distances of the dry and of the processed dry recording to the input, level-matched."""
    sr = estimator.settings["sr"]
    wet, dry = (to_mono(read(path, estimator))[0][None] for path in (args.input, args.dry))
    length = min(wet.shape[-1], dry.shape[-1])
    metrics = build_metrics({"name": "blind"}, sr)
    again = process(estimator, q, dry)
    scores = {}
    for name, sound in {"dry": dry, "dry with the estimate": again}.items():
        scores[name] = {key: v.item() for key, v in metrics(sound[None, :, :length], wet[None, :, :length]).items()}
    names = list(scores["dry"])
    print(text_table(["to the input", *names], [[k, *(f"{s[n]:.4f}" for n in names)] for k, s in scores.items()]))
    before, after = scores.values()
    if sum(after[name] > before[name] for name in names) > len(names) / 2:
        print("the estimate leads away from the input: without any effect the dry recording is closer to it")
    return scores


def write(y: Tensor, path: Path, estimator: Estimator) -> None:
    """Writes a recording and says so."""
    write_audio(path, y, estimator.settings["sr"])
    print(path)


if __name__ == "__main__":
    sys.exit(main())
