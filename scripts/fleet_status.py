"""Shows how far a fleet is, from any machine that reads its results: the counts, what runs, and what failed.

    python scripts/fleet_status.py logs
    python scripts/fleet_status.py s3://bucket/logs --json

Shards are counted together. The exit status is 0 where no song failed, 2 where one did.
"""

from reknob.runtime.program import MISTAKE, program

import sys
import time

from reknob.fleet import watch
from reknob.fleet.songs import State
from reknob.fleet.store import Store, reached
from reknob.runtime.arguments import Parser
from reknob.runtime.output import duration, result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    store = Store(args.results)
    summaries = reached(args.results, lambda: watch.read_summaries(store))
    beats = reached(args.results, lambda: watch.read_beats(store))
    for summary in summaries.values():
        summary.take_beats(beats)
    for name, summary in summaries.items():
        result("\n".join([*watch.table(summary), *notes(name, summary)]), **{name: summary.record()})
    for beat in beats:
        if time.time() - beat["at"] > watch.SILENT_S:
            names = ", ".join(song["id"] for song in beat["songs"] if song["state"] == State.RUNNING)
            result(f"  silent: {beat['worker']} has written nothing for {age(beat['at'])}; it fitted {names}")
    return MISTAKE if any(summary.counts()[State.FAILED] for summary in summaries.values()) else 0


def notes(name: str, summary: watch.Summary) -> list[str]:
    """What a summary says of its driver."""
    if not summary.is_running:
        return [f"  {name}: ended {age(summary.updated)} ago"]
    silent = time.time() - summary.updated > watch.SILENT_S
    gone = "; it is gone, run the same command again" if silent else ""
    return [f"  {name}: written {age(summary.updated)} ago by {summary.driver}{gone}"]


def age(at: float) -> str:
    """The time since a moment, in words."""
    return duration(max(time.time() - at, 0))


def parser() -> Parser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("results", metavar="RESULTS", help="the folder that fit_many.py writes to; path or URL")
    return p


if __name__ == "__main__":
    sys.exit(main())
