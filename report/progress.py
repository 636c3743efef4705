"""A terminal's view of a session: one progress bar over all songs, a line where one begins, and how each ends."""

import sys
from collections import Counter
from collections.abc import Iterable

from tqdm import tqdm

from reknob.afx import kernels
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Outcome, Song
from reknob.report.tables import settings_table


class Progress:
    """A progress bar over the steps of all songs, and the session's news above it; an observer of a session.

    Args:
        songs: how many there are.
        epochs: steps of each.
    """

    def __init__(self, songs: int, epochs: int):
        self.songs, self.epochs, self.total = songs, epochs, songs * epochs
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, song: Song) -> None:
        run = song.run
        chunks = run.track.chunks.dry
        seconds = chunks.shape[-1] / run.pair.sr
        self._write(f"{run.pair.name}: {len(chunks)} chunks of {seconds:g} s, {run.device}, {run.path}")
        if self._bar is None:
            if run.device.type == "cpu" and not kernels.compiled():
                self._write("first run on this machine: compiling the sample loops, about a minute, once")
            self._bar = tqdm(total=self.total, unit="step", dynamic_ncols=True)
        self._bar.update(run.track.step_count)

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)
        self._bar.update()

    def pause(self, song: Song) -> None:
        """Nothing to do."""

    def end(self, song: Song) -> None:
        track = song.run and song.run.track
        if song.outcome is not Outcome.INTERRUPTED:
            self._expect_less(track.epochs - track.step_count if track else self.epochs)
        if song.outcome is Outcome.DONE_BEFORE:
            self._write(song.reason)
        elif song.outcome is Outcome.FAILED:
            # The reason of the only song follows from the program.
            self._write(f"failed: {song.reason}" if self.songs > 1 else "")
        elif not track.losses:
            self._write(f"{song.files.name}: no step was taken; {song.run.path}")
        else:
            reached = f"loss {track.losses[0]:.3f} -> {track.best.loss:.3f} in {track.step_count} steps"
            self._write(settings_table(song.run.chain, song.run.values))
            self._write(f"{song.files.name}: {reached}; {song.run.path}", *track.undone)

    def _expect_less(self, steps: int) -> None:
        """Takes steps that will not be taken out of the total."""
        self.total -= max(steps, 0)
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.refresh()

    def _write(self, *lines: str) -> None:
        for line in filter(None, lines):
            tqdm.write(line)
        # A program that is killed leaves what it had said.
        sys.stdout.flush()


def summary(songs: Iterable[Song], *, failed: int = 0, skipped: int = 0) -> str:
    """What became of all songs in one line, together with those that were no song: `failed`, and `skipped`."""
    counts = Counter({Outcome.FAILED: failed}) + Counter(song.outcome for song in songs)
    always = [Outcome.FITTED, Outcome.DONE_BEFORE, Outcome.FAILED]
    cells = [f"{counts[outcome]} {outcome}" for outcome in Outcome if outcome in always or counts[outcome]]
    return ", ".join([*cells, *([f"{skipped} skipped"] if skipped else [])])
