"""Writes the report of a run as one HTML file: what was fitted, to hear, to see and to take along.

    python scripts/report.py logs/demo/run_0                    report.html in the run folder
    python scripts/report.py logs/demo/run_0 --out demo.html    another file
    python scripts/report.py logs                               a page on all songs of a log folder, with links

The file is complete and opens in any browser without a network. Players hold the loudest 20 s.
"""

from reknob.runtime.program import program

import sys
from pathlib import Path

from reknob.formats.runs import CONFIG
from reknob.report.page import SECONDS, write_report
from reknob.report.page.batch import write_batch
from reknob.runtime.arguments import Parser, input_file, real
from reknob.runtime.arguments import file_path as output_file
from reknob.runtime.errors import UsageError
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    folder: Path = args.folder
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder; give a run folder, or a log folder")
    is_run = (folder / CONFIG).exists()
    path = write_report(folder, args.out, seconds=args.seconds) if is_run else write_batch(folder, args.out)
    result(str(path), report=str(path))
    return 0


def parser() -> Parser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument(
        "folder", metavar="RUN|LOGS", type=input_file, help="a run folder, or a log folder with several songs"
    )
    p.add_argument("--out", metavar="FILE", type=output_file, help="default: report.html, or index.html, in the folder")
    p.add_argument("--seconds", type=real(1, 120), default=SECONDS, help="longest excerpt (default %(default)s)")
    return p


if __name__ == "__main__":
    sys.exit(main())
