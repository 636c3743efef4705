"""How far a fleet is: one record per song, its summary as JSON, CSV and text, and what workers say of themselves."""

from reknob.runtime.program import reason

import csv
import io
import json
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from reknob.fleet.songs import Progress, State
from reknob.fleet.store import Store
from reknob.fleet.task import RUNNING, Result
from reknob.runtime.errors import UsageError
from reknob.runtime.output import duration

ROWS = 10  # running songs that a table shows
SILENT_S = 120  # after which a driver or a worker that has written nothing is taken for gone


@dataclass(slots=True)
class Row:
    """A song of a fleet, as it is in the summary."""

    id: str
    state: State = State.WAITING
    attempts: int = 0  # in this fleet, the successful one included
    steps: int = 0
    first_loss: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    run: str = ""
    worker: str = ""
    reason: str = ""  # of the last failure

    def begin(self, progress: Progress, results: str) -> None:
        """Takes over how far the newest run is."""
        self.state, self.steps = progress.state, progress.steps
        self.first_loss, self.loss = progress.first_loss, progress.loss
        self.run = f"{results.rstrip('/')}/{progress.run}" if progress.run else ""

    def record(self, result: Result) -> None:
        """Takes over a result."""
        self.state, self.reason = result.state, result.reason
        self.steps, self.first_loss, self.loss = result.steps, result.first_loss, result.loss
        self.seconds, self.run, self.worker = result.seconds, result.run or self.run, result.worker


COLUMNS = tuple(column.name for column in fields(Row))


def values_of(row: Row) -> dict[str, object]:
    """A song's record by the names of its columns."""
    return {name: getattr(row, name) for name in COLUMNS}


@dataclass
class Summary:
    """The songs of a fleet, or of one of its shards, and when they ended."""

    backend: str
    rows: dict[str, Row]
    skipped: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.time)  # s since 1970
    done_before: int = 0
    is_running: bool = True
    driver: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    updated: float = 0.0

    def counts(self) -> dict[str, int]:
        """The number of songs per state."""
        counts = Counter(row.state for row in self.rows.values())
        return {state.value: counts[state] for state in State}

    def per_hour(self) -> float | None:
        """Songs finished in an hour, by those that this fleet has finished; None before the first."""
        done = self.counts()[State.FINISHED] - self.done_before
        hours = ((self.updated or time.time()) - self.begun) / 3600
        return done / hours if done > 0 and hours > 0 else None

    def seconds_left(self) -> float | None:
        """The time for the songs that are neither finished nor failed, at the rate so far."""
        counts, rate = self.counts(), self.per_hour()
        left = sum(counts.values()) - counts[State.FINISHED] - counts[State.FAILED]
        return 3600 * left / rate if rate else None

    def median_loss(self) -> float | None:
        """The median of the lowest losses of the finished songs; None before the first."""
        losses = [row.loss for row in self.rows.values() if row.state is State.FINISHED and row.loss is not None]
        return statistics.median(losses) if losses else None

    def record(self) -> dict[str, object]:
        """The summary as `summary.json` holds it."""
        return self.totals() | {"songs": [values_of(row) for row in self.rows.values()]}

    def totals(self) -> dict[str, object]:
        """The summary without its songs."""
        return {
            "backend": self.backend,
            "driver": self.driver,
            "begun": self.begun,
            "updated": self.updated,
            "is_running": self.is_running,
            "total": len(self.rows),
            "counts": self.counts(),
            "done_before": self.done_before,
            "median_loss": self.median_loss(),
            "songs_per_hour": self.per_hour(),
            "seconds_left": self.seconds_left() if self.is_running else None,
            "skipped": self.skipped,
        }

    def json(self) -> str:
        """The summary as `summary.json` holds it, a line per song."""
        # In pieces: the encoder of a whole tree with line breaks is slow, and holds a record of every song at once.
        songs = ",\n".join(json.dumps(values_of(row), ensure_ascii=False) for row in self.rows.values())
        return f'{json.dumps(self.totals(), ensure_ascii=False)[:-1]},\n"songs": [\n{songs}\n]}}\n'

    def csv(self) -> str:
        """A line per song, as `summary.csv` holds it."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(values_of(row).values() for row in self.rows.values())
        return text.getvalue()

    def take_beats(self, beats: Iterable[dict]) -> None:
        """Takes over what workers say of the songs that they fit."""
        running = {}
        for beat in beats:
            for song in beat["songs"]:
                running[song["id"]] = (song, beat["worker"])
        for row in self.rows.values():
            song, worker = running.get(row.id, (None, ""))
            if song and song["state"] == State.RUNNING and row.state in (State.WAITING, State.INTERRUPTED):
                row.state = State.RUNNING
            if song and row.state is State.RUNNING:
                row.steps, row.loss, row.worker = song["step"], song["loss"], worker


def read_beats(store: Store) -> list[dict]:
    """What the workers of a fleet wrote last: `worker`, `at` in s since 1970, and their `songs`."""
    beats = []
    for content in store.read_all(store.names(RUNNING)).values():
        try:
            beat = json.loads(content)
            beat["songs"] = [{key: song.get(key) for key in ("id", "state", "step", "loss")} for song in beat["songs"]]
            beats.append({"worker": str(beat["worker"]), "at": float(beat["at"]), "songs": beat["songs"]})
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # of another version, or damaged: the next one replaces it
    return beats


def names_of(shard: str) -> tuple[str, str]:
    """The files of the summary of a shard, `3/8` say; "" stands for all songs."""
    stem = f"summary-{shard.replace('/', 'of')}" if shard else "summary"
    return f"{stem}.json", f"{stem}.csv"


class Writer:
    """Writes a summary into the results, not more often than is cheap."""

    def __init__(self, store: Store, shard: str, interval_s: float = 1.0) -> None:
        self.store, self.names, self.interval_s = store, names_of(shard), interval_s
        self._written, self._cost = -float("inf"), 0.0

    def is_due(self) -> bool:
        """Whether it is time to write again: of a large summary, in the worst case, 5 % of the time is spent on it."""
        return time.monotonic() - self._written >= max(self.interval_s, 20 * self._cost)

    def write(self, summary: Summary) -> None:
        """Writes both files, each as a whole."""
        begun = time.monotonic()
        summary.updated = time.time()
        for name, text in zip(self.names, (summary.json, summary.csv), strict=True):
            self.store.write(name, text().encode("utf-8", "replace"))
        self._written = time.monotonic()
        self._cost = self._written - begun


def read_summaries(store: Store) -> dict[str, Summary]:
    """The summaries of a fleet by file; UsageError where there is none, or one is damaged."""
    names = [name for name in store.top_names() if name.startswith("summary") and name.endswith(".json")]
    if not names:
        raise UsageError(f"{store.url}: holds no summary.json; give the RESULTS of fit_many.py")
    records = {}
    for name, content in store.read_all(sorted(names)).items():
        try:
            record = json.loads(content)
            rows = {row["id"]: Row(**row | {"state": State(row["state"])}) for row in record["songs"]}
            summary = Summary(
                str(record["backend"]),
                rows,
                list(record["skipped"]),
                float(record["begun"]),
                int(record["done_before"]),
                bool(record["is_running"]),
                str(record["driver"]),
                float(record["updated"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{store.url}/{name}: is no summary of a fleet ({reason(error)})") from error
        records[name] = summary
    return records


def line(summary: Summary) -> str:
    """A fleet in one line."""
    counts, rate, left, loss = summary.counts(), summary.per_hour(), summary.seconds_left(), summary.median_loss()
    parts = [f"{counts[State.FINISHED]} of {len(summary.rows)} done"]
    parts += [f"{counts[state]} {state}" for state in (State.RUNNING, State.FAILED)]
    parts += [f"{counts[State.INTERRUPTED]} interrupted"] if counts[State.INTERRUPTED] else []
    parts += [] if loss is None else [f"median loss {loss:.3f}"]
    parts += [f"{rate:.0f} songs an hour"] if rate else []
    parts += [f"about {duration(left)} left"] if left and summary.is_running else []
    return f"{summary.backend}: {', '.join(parts)}"


def table(summary: Summary) -> list[str]:
    """A fleet in lines: the counts, the songs that run, at most ten, and those that failed last."""
    rows = summary.rows.values()
    running = [row for row in rows if row.state is State.RUNNING]
    failed = [row for row in rows if row.state is State.FAILED]
    lines = [line(summary)]
    for row in running[:ROWS]:
        loss = "" if row.loss is None else f"loss {row.loss:.3f}"
        lines.append(f"  {row.id[:40]:40} step {row.steps:5} {loss:12} {row.worker}")
    lines += [f"  … and {len(running) - ROWS} more"] if len(running) > ROWS else []
    return [*lines, *(f"  failed: {row.reason}" for row in failed[-3:])]
