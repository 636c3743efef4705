"""Estimates which parameters of an effect chain a recording was processed with, from the recording alone.

    python scripts/estimate.py song.mp3                                  parameters, by the project's estimator
    python scripts/estimate.py song.mp3 --figure song.png --json song.json
    python scripts/estimate.py song.mp3 --preset preset.json             a preset document, for render.py and export.py
    python scripts/estimate.py master.wav --dry mix.wav --output again.wav   and how close the dry recording gets
    python scripts/estimate.py song.mp3 --apply other.wav --output like_song.wav
    python scripts/estimate.py song.mp3 --checkpoint a/estimator.pt b/estimator.pt --figure both.png
    python scripts/estimate.py master.wav --dry mix.wav --report master.html   a page to look at and listen to

    python scripts/estimate.py album/ "takes/*.wav" --json all.json      several recordings, each by itself

The recording is analysed in windows of 10 s, whose information is pooled: the true value of a setting lies in its 68 %
interval for 68 of 100 recordings like those that the estimator was tested with. An estimate is no effect
where it is uncertain, and where the recording is unlike what the estimator was trained with. Bands above the
recording's highest frequency (an mp3 or a low sample rate) are not estimated.
"""

from reknob.runtime.program import MISTAKE, explain, print_error, program, reason

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from reknob.data.audio import FORMATS, check_audio_output, read_audio, read_rate, resample, write_audio
from reknob.data.file_lists import list_recordings
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, load_pair
from reknob.estimation.comparison import check_dry, render_at_rms, score_estimate
from reknob.estimation.estimate import Estimate, alternatives, as_record, estimate_recording, response_range
from reknob.estimation.estimator import ESTIMATORS, Estimator, load_estimator
from reknob.estimation.preset import estimate_document
from reknob.formats.preset_document import write_document
from reknob.report.curves import curves_figure
from reknob.report.figures import SUFFIXES
from reknob.report.page.estimate import Heard, write_estimate_page
from reknob.report.tables import number, text_table
from reknob.runtime.arguments import Parser, file_path, input_file
from reknob.runtime.errors import UsageError
from reknob.runtime.files import atomic_path, check_output, input_path, write_text
from reknob.runtime.output import counted, result, to_json

DEFAULT = ESTIMATORS / "peq.pt"
ALTERNATIVES = 8  # settings in the JSON that the sound allows as well


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument(
        "input", type=file_path, nargs="+", help="the recording, any audio file; folders and patterns for several"
    )
    p.add_argument(
        "--checkpoint", type=input_file, nargs="+", default=[DEFAULT], metavar="FILE", help="estimator.pt, or several"
    )
    p.add_argument("--dry", type=file_path, metavar="FILE", help="the recording before it was processed, to compare")
    p.add_argument("--apply", type=file_path, metavar="FILE", help="another recording, to process with the estimate")
    p.add_argument("--output", type=file_path, metavar="FILE", help="file for --dry or --apply with the estimate")
    text = "parameters and scores as JSON, to a file or, instead of the text, to standard output"
    p.add_argument("--json", nargs="?", const=True, type=file_path, metavar="FILE", help=text)
    p.add_argument(
        "--preset", type=file_path, metavar="FILE", help="file for the estimate, as a preset document"
    )
    text = "file for a page with the estimate, its curves and what it sounds like, as html"
    p.add_argument("--report", type=file_path, metavar="FILE", help=text)
    p.add_argument("--whole", action="store_true", help="keep the whole estimate, however uncertain it is")
    p.add_argument("--figure", type=file_path, metavar="FILE", help="file for the curves, as png, svg or pdf")
    return p


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    recordings = list_recordings([given if given.exists() else input_path(given) for given in args.input])
    check(args, recordings)
    estimators = {str(path): load_estimator(path)[0] for path in args.checkpoint}
    if args.output:
        check_audio_output(args.output, next(iter(estimators.values())).settings["sr"], 2)
    if len(recordings) == 1:
        record = estimate_one(args, estimators, recordings[0])
        failed = []
    else:
        records = [estimate_of_several(args, estimators, recording) for recording in recordings]
        failed = [each["input"] for each in records if "error" in each]
        record = {"recordings": records}
    result(**record)
    if json_file := vars(args).get("json"):
        write_text(json_file, to_json(record))
    if not failed:
        return 0
    print_error(f"estimate.py: {len(failed)} of {len(recordings)} recordings not estimated: {', '.join(failed)}")
    return MISTAKE


def estimate_of_several(args: argparse.Namespace, estimators: dict[str, Estimator], recording: Path) -> dict:
    """The record of one of several recordings; where it cannot be estimated, its name and the error, printed too."""
    try:
        return estimate_one(args, estimators, recording)
    except Exception as error:
        if explain(error) is None:
            raise
        print_error(f"{recording}: failed: {reason(error)}")
        return {"input": str(recording), "error": reason(error)}


def estimate_one(args: argparse.Namespace, estimators: dict[str, Estimator], recording: Path) -> dict:
    """Estimates, prints and writes what is asked for of one recording; its record."""
    # Before the estimates, which take the time: against an unrelated recording the scores would mean nothing.
    pair = load_compared(args.dry, recording, next(iter(estimators.values()))) if args.dry else None
    estimates = {path: (each, estimate(each, path, recording, whole=args.whole)) for path, each in estimators.items()}
    first, first_estimate = next(iter(estimates.values()))
    if args.figure:
        labels = labels_of(estimates)
        curves = {labels[path]: (e.analysis, e.analysis.from_unit(one.q)) for path, (e, one) in estimates.items()}
        ranges = {labels[path]: response_range(one) for path, (_, one) in estimates.items()}
        # matplotlib writes in place, and an interrupted program would leave half a figure.
        with atomic_path(args.figure) as part:
            curves_figure(curves, ranges).savefig(part, dpi=150)
    record = {
        "input": str(recording),
        "remarks": first_estimate.remarks,
        "kept": {path: one.kept for path, (_, one) in estimates.items()},
        "estimates": {path: as_record(*each) for path, each in estimates.items()},
        "alternatives": {path: alternatives(*each, ALTERNATIVES) for path, each in estimates.items()},
    }
    if pair:
        record["scores"] = {path: compare(each[0], each[1].q, pair) for path, each in estimates.items()}
    if args.output:
        edge = first_estimate.edge if args.dry else math.inf  # another recording has an edge of its own
        y = render_at_rms(first, first_estimate.q, read(args.apply or args.dry, first), edge)
        write_audio(args.output, y, first.settings["sr"])
        result(str(args.output))
    if args.preset or args.report:
        document = estimate_document(first, first_estimate, recording, args.checkpoint[0])
        if args.preset:
            write_document(args.preset, document)
        if args.report:
            scores = next(iter(record.get("scores", {}).values()), None)
            heard = listen(args, first, recording, pair)
            result(str(write_estimate_page(args.report, first, first_estimate, document, heard, scores)))
    return record


def listen(args: argparse.Namespace, estimator: Estimator, recording: Path, pair: Pair | None) -> Heard:
    """What is heard on the page of a recording."""
    if pair:
        return Heard(pair.wet, "dry", pair.dry)
    wet = read(recording, estimator)
    return Heard(wet, "apply", read(args.apply, estimator)) if args.apply else Heard(wet)


def check(args: argparse.Namespace, inputs: list[Path]) -> None:
    """Raises UsageError for arguments that do not go together, unwritable outputs, and inputs that are no audio."""
    if args.dry and args.apply:
        raise UsageError("--dry and --apply exclude each other; give one of them")
    if args.output and not (args.dry or args.apply):
        raise UsageError("--output needs --dry or --apply, the recording to process")
    if args.apply and not (args.output or args.report):
        raise UsageError("--apply needs --output FILE or --report FILE")
    single = [f"--{name}" for name in ("dry", "apply", "output", "preset", "figure", "report") if vars(args)[name]]
    if len(inputs) > 1 and single:
        raise UsageError(
            f"{', '.join(single)}: of one recording, but {len(inputs)} are given; give one, or only --json"
        )
    recordings = [recording for recording in (*inputs, args.dry, args.apply) if recording]
    used = [*recordings, *args.checkpoint]
    kinds = {"output": tuple(FORMATS), "json": (), "preset": (".json",), "figure": SUFFIXES, "report": (".html",)}
    for name, suffixes in kinds.items():
        output = vars(args).get(name)
        if output and suffixes and output.suffix.lower() not in suffixes:
            raise UsageError(f"--{name} {output}: its suffix must be one of {', '.join(suffixes)}")
        if output:
            # It counts as used from now on: two options must not name the same file.
            used.append(check_output(output, used))
    # Headers only, so that a file that is no audio is reported before estimators are loaded. Of several it is reported
    # when its turn comes.
    for recording in recordings if len(inputs) == 1 else []:
        read_rate(recording)


def labels_of(checkpoints: Iterable[str]) -> dict[str, str]:
    """Names of checkpoints in a figure: of their files, or of their run folders; their paths where these are alike."""
    # Every training names its file estimator.pt; the run folders differ.
    paths = {given: Path(given) for given in checkpoints}
    short = {given: path.parent.name if path.stem == "estimator" else path.stem for given, path in paths.items()}
    are_names = all(short.values()) and len(set(short.values())) == len(short)
    return short if are_names else {given: given for given in paths}


def read(path: Path, estimator: Estimator) -> Tensor:
    """A recording (C, T) at the estimator's rate."""
    x, sr = read_audio(path)
    return resample(x, sr, estimator.settings["sr"])


def estimate(estimator: Estimator, checkpoint: str, path: Path, *, whole: bool) -> Estimate:
    """The estimate of a recording, which is printed as well."""
    try:
        estimated = estimate_recording(estimator, *read_audio(path), whole=whole)
    except UsageError as error:
        # Errors of reading name the file already, those of estimating cannot.
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    record = as_record(estimator, estimated)
    result(f"{path}, by {checkpoint}, {counted(estimated.windows, 'window')}")
    for remark in estimated.remarks:
        result(remark)
    names = {"interval": ("low", "high")}
    if estimated.wide is not None:
        names = {"68 % interval": ("low", "high"), "95 % interval": ("low_95", "high_95")}
    rows = [
        [
            name,
            "-" if s["value"] is None else number(s["value"]),
            *("-" if s[low] is None else f"{number(s[low])} to {number(s[high])}" for low, high in names.values()),
            s["unit"],
            s["note"],
        ]
        for name, s in record.items()
    ]
    result(text_table(["parameter", "value", *names, "unit", ""], rows))
    return estimated


def load_compared(dry: Path, wet: Path, estimator: Estimator) -> Pair:
    """The dry recording and the processed one, aligned and checked as a fit does, which logs what it finds."""
    sr = estimator.settings["sr"]
    check_dry(read(dry, estimator), read(wet, estimator), sr, (f"--dry {dry}", str(wet)))
    return load_pair(PairFiles(dry, wet, wet.stem), sr, lufs=None)


def compare(estimator: Estimator, q: Tensor, pair: Pair) -> dict[str, dict[str, float]]:
    """Prints and returns the scores of the dry recording, and of its render with the estimate, against the input."""
    scores = score_estimate(estimator, q, pair.dry, pair.wet)
    names = list(scores["dry"])
    result(text_table(["to the input", *names], [[k, *(f"{s[n]:.4f}" for n in names)] for k, s in scores.items()]))
    before, after = scores.values()
    if sum(after[name] > before[name] for name in names) > len(names) / 2:
        result("the estimate does not help: by most metrics the dry recording is closer to the input without it")
    return scores


if __name__ == "__main__":
    sys.exit(main())
