"""An observer of a session that writes the report of every song that was fitted, once all songs have ended."""

from reknob.runtime.program import reason

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from reknob.fitting.session import Observer, Outcome, Song
from reknob.report.page import write_report
from reknob.report.page.batch import write_batch

log = logging.getLogger(__name__)


class ReportWriter(Observer):
    """Writes report.html into the run folder of every song that was fitted, and of several songs a page on all.

    Only in `finish`: a report takes longer than the other files of a run, which must not wait for those of other songs.
    """

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def end(self, song: Song) -> None:
        """Remembers the run folder of a song that was fitted."""
        if song.run is not None and song.outcome is Outcome.FITTED:
            self.folders.append(song.run.path)

    def finish(self, songs: Sequence[Song]) -> Iterator[Path]:
        """Writes the files, the page on all songs last, and yields the path of each."""
        for folder in self.folders:
            log.info("%s: writing the report", folder)
            try:
                path = write_report(folder)
            except Exception as error:
                log.warning("%s: has no report: %s", folder, reason(error))
            else:
                yield path
        if self.folders and len(songs) > 1:
            logs = Path(os.path.commonpath({song.log_dir for song in songs}))
            reasons = {song.files.name: song.reason for song in songs if song.outcome is Outcome.FAILED}
            yield write_batch(logs, reasons=reasons)
