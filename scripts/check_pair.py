"""Checks a dry and a wet recording before a fit: what is wrong, how severe it is, and what to do.

    python scripts/check_pair.py dry.wav wet.wav
    python scripts/check_pair.py dry.wav wet.wav --json findings.json       to a file; alone: instead of the text
    python scripts/check_pair.py dry.wav wet.wav --fix mended      mended/dry.wav and mended/wet.wav, aligned

For a good pair one line is printed. `--fix` writes float files at the dry file's rate, cut to their overlap, with
drift, polarity and DC offset corrected, at their original levels. The exit status is 2 where the pair is refused.
"""

from reknob.runtime.program import program

import sys
from pathlib import Path

from reknob.data.audio import read_rate, write_audio
from reknob.data.doctor import CODES, PairCheck
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair, PairError, load_pair
from reknob.runtime.arguments import Parser, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, write_text
from reknob.runtime.output import result, to_json, unlogged


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    dry, wet, record = args.dry, args.wet, vars(args).get("json")
    if record:
        check_output(record, [dry, wet])
    targets = fix_targets(args.fix, dry, wet) if args.fix else None
    # Without --fix the recordings are checked as they are: correcting them resamples or inverts a channel.
    fix = bool(targets)
    refusal = None
    try:
        with unlogged("reknob.data.pairs"):  # the findings are printed here
            pair = load_pair(
                PairFiles(dry, wet, wet.stem), read_rate(dry), lufs=None, fix_drift=fix, fix_channel_polarity=fix
            )
        check = pair.check
    except PairError as error:
        refusal, check = error, error.check
    show(check)
    # Before the refusal is raised: the findings of a refused pair are what the file is for.
    if record:
        write_text(record, to_json(check.record()))
    if refusal:
        raise UsageError(str(refusal))
    if targets:
        write_fixed(pair, targets)
    return 0


def show(check: PairCheck) -> None:
    """Prints the findings, a line each, and the alignment."""
    for finding in check.findings:
        if finding.severity != "refusal":  # printed as the program's error
            result(f"{finding.severity}, {finding.code}: {finding}")
    if not check.refusals:
        result(f"{'aligned' if check.findings else 'a good pair'}: {check.summary()}")
    result(**check.record())


def fix_targets(folder: Path, dry: Path, wet: Path) -> tuple[Path, Path]:
    """The files that `--fix` writes; UsageError where one exists, is an input or cannot be written."""
    targets = folder / "dry.wav", folder / "wet.wav"
    for target in targets:
        if any(target.exists() and source.exists() and target.samefile(source) for source in (dry, wet)):
            raise UsageError(f"--fix {folder}: {target} is an input; give another folder")
        if target.exists():
            raise UsageError(f"--fix {folder}: {target} exists; give another folder")
        check_output(target, new_folder=True)
    return targets


def write_fixed(pair: Pair, targets: tuple[Path, Path]) -> None:
    """Writes the aligned and corrected pair, and prints the files' names."""
    for x, target in ((pair.dry, targets[0]), (pair.wet, targets[1])):
        write_audio(target, x, pair.sr)
        result(str(target))
    result(fixed=targets)


def parser() -> Parser:
    """The program's options."""
    codes = "\n".join(f"  {code:20}{meaning}" for code, meaning in CODES.items())
    p = Parser(__doc__, epilog=f"codes of findings:\n{codes}")
    p.add_argument("dry", metavar="DRY", type=file_path, help="the unprocessed recording")
    p.add_argument("wet", metavar="WET", type=file_path, help="the processed recording")
    p.add_argument("--fix", metavar="OUT", type=file_path, help="folder for the aligned and corrected pair")
    text = "the findings as JSON, to a file or, instead of the text, to standard output"
    p.add_argument("--json", nargs="?", const=True, metavar="FILE", type=file_path, help=text)
    return p


if __name__ == "__main__":
    sys.exit(main())
