"""A session in the terminal: a progress bar over all songs, the time a fit will take, a line where a song ends."""

import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from tqdm import tqdm

from reknob.afx import kernels
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.run_folder import RunFolder
from reknob.fitting.session import Observer, Outcome, Song
from reknob.formats.effects import EffectsRecord
from reknob.report.values import value_rows, values_table
from reknob.runtime.bars import progress_bar
from reknob.runtime.output import counted, duration, result, write_above_bars

# An estimate of the time is of so many steps at least, after the first, and of so many seconds, in which they differ.
ESTIMATE_STEPS, ESTIMATE_S = 3, 3.0
# The bar shows no time that is left: the estimate is a line of its own.
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"


class Pace:
    """The time of the steps of one fit, and from its first ones the time of the whole fit, once.

    The songs of a fit take every step together. The first step is left out: it compiles, and its memory is new.
    """

    def __init__(self, fit: Fit) -> None:
        # Weakly, so that its memory is free for the next one.
        self._fit = weakref.ref(fit)
        self._steps, self._begun, self._is_estimated = 0, 0.0, False

    def is_of(self, fit: Fit) -> bool:
        """Whether it is the pace of this fit."""
        return self._fit() is fit

    def step(self, now: float) -> float | None:
        """Counts a step that ended at `now`, in s; the seconds per step once they are known, and None otherwise."""
        self._steps += 1
        if self._steps == 1:
            self._begun = now
        timed, seconds = self._steps - 1, now - self._begun
        if self._is_estimated or timed < ESTIMATE_STEPS or seconds < ESTIMATE_S:
            return None
        self._is_estimated = True
        return seconds / timed


def estimate(fit: Fit, each: float, songs: int) -> str:
    """The time that a fit takes from here on, at `each` s a step; `songs` are those that are fitted after it."""
    left = min(track.epochs - track.step_count for track in fit.tracks)
    seconds = each * (left + fit.choice_steps)
    together = f" of {len(fit.tracks)} songs together" if len(fit.tracks) > 1 else ""
    then = f"; then {counted(songs, 'more song')}" if songs else ""
    return f"about {duration(seconds)} for {counted(left, 'more step')}{together} ({each:.2g} s each){then}"


class Progress(Observer):
    """An observer of a session with a progress bar over the steps of all songs, and messages above it.

    `records` has an entry per song that ended: name, outcome, reason, and of a fit its run, losses, values and effects.

    Args:
        songs: the number of songs.
        epochs: the number of steps of each.
    """

    def __init__(self, songs: int, epochs: int) -> None:
        self.songs, self.epochs, self.total = songs, epochs, songs * epochs
        self._bar: tqdm | None = None
        self._pace: Pace | None = None
        self._ended = 0  # songs
        self.records: list[dict[str, object]] = []

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, song: Song) -> None:
        run = song.open_run
        chunks = run.track.chunks.dry
        count, seconds = counted(len(chunks), "chunk"), chunks.shape[-1] / run.pair.sr
        self._write(f"{run.pair.name}: {count} of {seconds:g} s, {run.device}, {run.path}")
        if self._bar is None:
            if run.device.type == "cpu" and not kernels.compiled():
                self._write("first run on this machine: compiling the sample loops, about a minute, once")
            # Only now, so that a session whose songs were all done before shows no bar.
            self._bar = progress_bar(total=self.total, unit="step", drawing=BAR)
        # The steps of an earlier run that is resumed.
        self._bar.update(run.track.step_count)

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        assert self._bar is not None
        # Drawn with the next update, at most ten times a second; a refresh would draw at every step.
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()}, refresh=False)
        self._bar.update()
        self._estimate(song, fit)

    def _estimate(self, song: Song, fit: Fit) -> None:
        """Writes the time of a fit after its first steps."""
        if self._pace is None or not self._pace.is_of(fit):
            self._pace = Pace(fit)
        # The steps of all songs of a fit are reported one after another.
        if song.open_run.track is fit.tracks[-1] and (each := self._pace.step(time.monotonic())):
            self._write(estimate(fit, each, self.songs - self._ended - len(fit.tracks)))

    def end(self, song: Song) -> None:
        run = song.run
        self._ended += 1
        # An interrupted session ends, so that its bar stays where it is.
        if song.outcome is not Outcome.INTERRUPTED:
            self._reduce_total(run.track.epochs - run.track.step_count if run else self.epochs)
        if song.outcome is Outcome.DONE_BEFORE:
            self._write(song.reason)
        elif song.outcome is Outcome.FAILED:
            # Of a single song, the program prints the reason itself.
            self._write(f"failed: {song.reason}" if self.songs > 1 else "")
        elif run is not None:
            result("\n".join(_result(song, run)))
        self.records.append(record(song))

    def _reduce_total(self, steps: int) -> None:
        """Subtracts steps that will not be taken from the total of the bar."""
        self.total -= max(steps, 0)
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.refresh()

    def _write(self, *lines: str) -> None:
        for line in filter(None, lines):
            write_above_bars(line, sys.stdout)


def _result(song: Song, run: RunFolder) -> list[str]:
    """The values and the losses of a song that was fitted or interrupted."""
    track = run.track
    if not track.losses:
        return [f"{song.files.name}: no step was taken; {run.path}"]
    lowest = track.effects.loss_before if track.effects else track.best.loss
    over = f" over all {len(track.chunks.dry)} chunks" if track.drawn and track.chosen else ""
    losses = f"loss {track.losses[0]:.3f} -> {lowest:.3f}{over} in {counted(track.step_count, 'step')}"
    effects = effects_lines(track.effects) if track.effects else []
    table = values_table(run.chain, run.values, run.certainty, track.effects)
    return [table, *effects, f"{song.files.name}: {losses}; {run.path}", *track.undone]


def record(song: Song) -> dict[str, object]:
    """A song that ended, for `--json`; its arrays are in the run's preset.json."""
    fields: dict[str, object] = {"name": song.files.name, "outcome": str(song.outcome), "reason": song.reason}
    if song.run is None or not song.run.values:
        return fields
    run, track = song.run, song.run.track
    rows = value_rows(run.chain, run.values, run.certainty)
    return fields | {
        "run": run.path,
        "steps": track.step_count,
        "loss": {"first": track.losses[0], "lowest": track.best.loss} if track.losses else {},
        "values": {row.name: row.record() for row in rows},
        "effects": asdict(track.effects) if track.effects else None,
    }


def effects_lines(record: EffectsRecord) -> list[str]:
    """Which effects were removed, what that cost, and what the others are worth, the dearest first."""
    removed = ", ".join(record.removed) or "none"
    worth = sorted(record.costs.items(), key=lambda item: -item[1])
    return [
        f"removed: {removed}; loss {record.loss_before:.3f} -> {record.loss:.3f}",
        f"loss without one of the others: {', '.join(f'{name} {cost:+.3f}' for name, cost in worth) or 'none'}",
    ]


def summary(songs: Iterable[Song], *, failed: int = 0, skipped: int = 0) -> str:
    """The number of songs per outcome, in one line.

    `failed` and `skipped` are pairs that were found but did not become songs of the session.
    """
    counts = Counter({Outcome.FAILED: failed}) + Counter(song.outcome for song in songs)
    always = [Outcome.FITTED, Outcome.DONE_BEFORE, Outcome.FAILED]
    parts = [f"{counts[outcome]} {outcome}" for outcome in Outcome if outcome in always or counts[outcome]]
    return ", ".join([*parts, *([f"{skipped} skipped"] if skipped else [])])
