"""The report of a run as one HTML file: what was fitted, to hear, to see and to take along.

`look.css` holds the colours and the typography of every page of the project.
"""

from pathlib import Path

from reknob.data.pairs import Pair
from reknob.report.page.files import fill
from reknob.report.page.measure import measure
from reknob.report.page.source import open_run
from reknob.runtime.files import check_output, user_path, write_text

REPORT = "report.html"
SECONDS = 20.0


def write_report(
    run: str | Path, path: str | Path | None = None, *, seconds: float = SECONDS, pair: Pair | None = None
) -> Path:
    """Writes the report of a run folder as one self-contained HTML file; its path.

    Args:
        run: a run folder.
        path: of the file; report.html in the run folder by default.
        seconds: the longest excerpt that is heard and measured, from the loudest part.
        pair: its recordings, where they are loaded already.

    Raises:
        UsageError: a folder that is no run folder, and a file that cannot be written.
    """
    source = open_run(run, pair)
    target = check_output(path or user_path(run) / REPORT)
    scripts = ("charts.js", "player.js", "report.js")
    content = measure(source, seconds)
    write_text(target, fill("report.html", f"{source.name}: report", content, ("look.css", "report.css"), scripts))
    return target
