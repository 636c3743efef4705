"""The report of a run as one HTML file: what was fitted, to hear, to see and to take along.

`look.css`, `charts.css`, `charts.js` and `player.js` hold the look, the charts and the player of every page of the
project: reports have them inside, and the local web page is served them.
"""

from pathlib import Path
from typing import Any

from reknob.data.pairs import Pair
from reknob.formats.preset_document import DOCUMENT
from reknob.formats.run_audio import run_audio
from reknob.report.page.files import fill, link
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
    return write_page(source.folder, target, measure(source, seconds))


def write_page(folder: Path, target: Path, content: dict[str, Any]) -> Path:
    """Writes what was measured of a folder as one HTML file, with its preset document inside; the file's path."""
    document = folder / DOCUMENT
    # As text: the numbers of a document are read back bit for bit.
    content["preset"] = document.read_text(encoding="utf-8") if document.exists() else ""
    content["beside"] = {name: link(path, target.parent) for name, path in run_audio(folder).items()}
    return fill_page(target, content)


def fill_page(target: Path, content: dict[str, Any]) -> Path:
    """Writes a report of this content as one HTML file; its path."""
    styles, scripts = ("look.css", "charts.css", "report.css"), ("charts.js", "player.js", "report.js")
    write_text(target, fill("report.html", f"{content['name']}: report", content, styles, scripts))
    return target
