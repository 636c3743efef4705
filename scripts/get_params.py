"""Collects the fitted parameters of many runs into one preset set.

    python scripts/get_params.py --loss-thresh 4 --fluc-thresh 0.2 LOGS OUT 2024-09-17:00 --end_date 2024-09-23:00

Of a track's runs within the dates the newest one counts; it is rejected when it was terminated early, when its lowest
loss is above --loss-thresh, when its first loss is its lowest, or when median |diff(losses)| is above --fluc-thresh.
The rejected runs are listed by reason, the first five of each; --json lists all. info.json and raw_params.npy are
written to OUT; an existing set is replaced with --overwrite only.
"""

from reknob.runtime.program import program

import argparse
import sys
from datetime import datetime

from reknob.formats.harvest import Rules, parse_date, read_harvest, reason_lines, rejection_lines, select
from reknob.formats.presets import check_new, write_presets
from reknob.runtime.arguments import Parser, file_path, positive_float
from reknob.runtime.errors import UsageError
from reknob.runtime.output import counted, result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    end = parse_date(args.end_date) if args.end_date else datetime.now()
    rules = Rules(parse_date(args.start), end, args.loss_thresh, args.fluc_thresh, args.include_all)
    if rules.end < rules.start:
        raise UsageError(f"--end_date {args.end_date or end.date()} lies before the start, {args.start}")
    # Before all runs are read, which may be hundreds.
    check_new(args.out, overwrite=args.overwrite)
    selection = select(args.logs, rules)
    try:
        harvest = read_harvest(selection)
    finally:
        # Also where no run is left, which raises: the reasons are then all there is to show.
        lines = [f"rejected {line}" for line in reason_lines(selection.rejected)]
        result("\n".join(lines), rejected=rejection_lines(selection.rejected))
    write_presets(
        args.out,
        harvest.presets,
        harvest.effect,
        chain=harvest.chain,
        rejected=selection.problems(rules),
        overwrite=args.overwrite,
    )
    kept = len(harvest.presets)
    result(
        f"{args.out}: kept {kept} of {counted(kept + len(selection.rejected), 'run')}", folder=args.out, kept=kept
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("logs", type=file_path, metavar="LOGS", help="log folder; runs, ours or published, at any depth")
    p.add_argument("out", type=file_path, metavar="OUT", help="folder of the preset set")
    p.add_argument("start", metavar="START", help="earliest date of a run, as 2024-09-17:00 (year-month-day:hour)")
    p.add_argument("--end_date", "--end-date", metavar="END", help="latest date (default: now)")
    p.add_argument("--loss-thresh", type=positive_float, default=4.0, help="largest loss of a run (default 4)")
    text = "largest median |diff(losses)| of a run (default 0.2)"
    p.add_argument("--fluc-thresh", type=positive_float, default=0.2, help=text)
    p.add_argument("--include-all", action="store_true", help="every run of a track, not only the newest")
    p.add_argument("--overwrite", action="store_true", help="replace an existing set")
    return p


if __name__ == "__main__":
    sys.exit(main())
