"""The report of a run as one HTML file: what was fitted, to hear, to see and to take along.

`look.css` holds the colours and the typography of every page of the project.
"""

from pathlib import Path

from reknob.runtime.errors import UsageError


def write_report(run: str | Path, path: str | Path | None = None, *, seconds: float = 20.0) -> Path:
    """Writes the report of a run folder as one self-contained HTML file; its path.

    Args:
        run: a run folder.
        path: of the file; report.html in the run folder by default.
        seconds: the longest excerpt that the players hold, from the loudest part.

    Raises:
        UsageError: a folder that is no run folder.
    """
    raise UsageError("not written yet")
