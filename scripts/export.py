"""Writes a preset in the format of another program.

    python scripts/export.py logs/demo/run_0 --to equalizer-apo                        to the terminal
    python scripts/export.py preset.json --to camilladsp --output voice.yml            to a file
    python scripts/export.py presets/own --row 3 --to ir-space --output space.wav      delay and reverb for a convolver
    python scripts/export.py preset.json --to recall --amount 0.7 --set comp.makeup=3  changed on the way

A preset is a document, a run folder, or a preset set and --row. What the other program has no form for is listed on the
standard error, and in the file where it has comments.

Formats:
"""

from reknob.runtime.program import print_error, program

import argparse
import sys

from torch import Tensor

from reknob.formats.as_document import open_preset
from reknob.formats.changes import changed
from reknob.formats.exporters.registry import EXPORTERS, export, write_export
from reknob.formats.preset_document import PresetDocument
from reknob.runtime.arguments import LARGEST_INT, Parser, file_path, input_file, integer, real
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    if args.output:
        check_output(args.output, [args.preset])
    document = with_changes(open_preset(args.preset, args.row), args.changes, args.amount)
    if args.output:
        paths, lacking = write_export(document, args.to, args.output)
        result("\n".join(map(str, paths)), files=paths, lacking=lacking)
    else:
        made = export(document, args.to)
        lacking = made.lacking
        if isinstance(made.content, Tensor) or made.files:
            raise UsageError(f"--to {args.to} writes audio: give --output NAME{EXPORTERS[args.to].suffix}")
        result(str(made.content), content=made.content, lacking=lacking)
    for line in lacking:
        print_error(f"lacking: {line}")
    return 0


def with_changes(document: PresetDocument, changes: list[str], amount: float) -> PresetDocument:
    """A document with its values changed."""
    if not changes and amount == 1:
        return document
    values = changed(document.effect, document.tensors(), changes, amount)
    return document.with_values(values, ", ".join([f"amount {amount:g}", *changes]))


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    width = max(map(len, EXPORTERS))
    formats = "".join(f"    {key:<{width}}  {one.what} ({one.suffix})\n" for key, one in EXPORTERS.items())
    p = Parser(f"{__doc__}{formats}")
    p.add_argument("preset", type=input_file, metavar="PRESET", help="preset.json, run folder or preset set")
    p.add_argument("--to", required=True, choices=list(EXPORTERS), metavar="FORMAT", help="one of the formats above")
    p.add_argument("--output", type=file_path, metavar="FILE", help="file to write")
    p.add_argument("--row", type=integer(-LARGEST_INT), default=0, help="row of the preset set (default 0)")
    p.add_argument("--set", dest="changes", metavar="NAME=VALUE", action="append", default=[], help="change a value")
    p.add_argument("--amount", type=real(0, 2), default=1.0, metavar="X", help="how much of the preset: 0 off, 1 all")
    return p


if __name__ == "__main__":
    sys.exit(main())
