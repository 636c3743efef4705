"""An observer of a session that writes the report of every song that was fitted."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Outcome, Song
from reknob.report.page import write_report
from reknob.report.page.batch import write_batch

log = logging.getLogger(__name__)


class ReportWriter:
    """Writes report.html into the run folder of every song that was fitted."""

    def __init__(self) -> None:
        self.written: list[Path] = []

    def begin(self, song: Song) -> None:
        """Nothing to do."""

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """Nothing to do."""

    def pause(self, song: Song) -> None:
        """Nothing to do."""

    def end(self, song: Song) -> None:
        """Writes the report, with the recordings of the fit."""
        if song.run is None or song.outcome is not Outcome.FITTED:
            return
        log.info("%s: writing the report", song.files.name)
        self.written.append(write_report(song.run.path, pair=song.run.pair))

    def finish(self, songs: Sequence[Song]) -> list[Path]:
        """The reports that were written; before them, of several songs, a page on all of them."""
        logs = {song.log_dir for song in songs}
        if not self.written or len(songs) < 2:
            return self.written
        folder = Path(os.path.commonpath(logs))
        reasons = {song.files.name: song.reason for song in songs if song.outcome is Outcome.FAILED}
        return [write_batch(folder, reasons=reasons), *self.written]
