"""The songs of a fleet: found in a list, a folder or at a URL, with names that stay, and their states by their runs."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from reknob.data.pair_files import find_pairs, find_songs
from reknob.fitting.settings import FitSettings
from reknob.fleet.store import BLOCK, Store, is_url, reached
from reknob.formats import runs
from reknob.formats.effects import EFFECTS
from reknob.runtime.errors import UsageError
from reknob.runtime.files import TEXT_BYTES, write_bytes

#: Files that say which recordings belong together, and are read where pairs are looked for.
DESCRIBING = (".yaml", ".yml")
FEW = 100  # songs whose folders are listed one by one
CHECKPOINTS = re.compile(r"(.+)/run_(\d{1,9})/" + re.escape(runs.CHECKPOINT))


class State(StrEnum):
    """How far a song is."""

    WAITING = "waiting"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class Song:
    """A pair of recordings at paths or URLs; its runs are <results>/<folder>/<name>/run_<N>."""

    folder: str  # of its list's line, "" for the results themselves
    name: str
    dry: str
    wet: str
    size: int = 0  # of the wet file in bytes, which songs of like length share

    @property
    def id(self) -> str:
        """Its name in the fleet, which is also the folder of its runs below the results."""
        return f"{self.folder}/{self.name}".lstrip("/")


class Songs(NamedTuple):
    """The songs that were found, sorted by id, and lines on what is no pair and on what could not be read."""

    songs: list[Song]
    skipped: list[str]
    failed: list[str]


def find(source: str, dataset: str | None, scratch: Path) -> Songs:
    """The songs of a list of folders, of a folder of pairs, or of a folder of such folders; each a path or a URL.

    Args:
        source: a text file with a folder per line, also as @FILE, as main.py takes it; or a folder.
        dataset: how pairs are found in a folder (`data.pair_files.DATASETS`); None: by its files.
        scratch: an empty local folder; a folder at a URL is laid out in it by empty files, so that the rules for
            folders on a disk apply. Only files that describe pairs are fetched.

    Raises UsageError where the source cannot be read or holds no pair.
    """
    mirror, source = _Mirror(scratch), source.removeprefix("@")
    if is_url(source):
        store = Store(source)
        is_list = reached(source, store.is_file)
        text = reached(source, lambda: store.read("")) if is_list else None
    else:
        if not Path(source).expanduser().exists():
            raise UsageError(f"{source}: does not exist; give a text file with a folder per line, or a folder of pairs")
        is_list = Path(source).expanduser().is_file()
        text = Path(source).expanduser().read_bytes() if is_list else None
    if text is not None:
        lines = [mirror.local(line.strip()) for line in text.decode("utf-8-sig", "surrogateescape").splitlines()]
        found = _listed(lines, dataset, scratch, source)
    else:
        found = _in_folder(mirror.local(source), dataset, scratch)
    songs = [
        Song(
            "" if folder == Path() else folder.as_posix(),
            pair.name,
            mirror.original(pair.dry_path),
            mirror.original(pair.wet_path),
        )
        for folder, pairs in found[0].items()
        for pair in pairs
    ]
    songs = [replace(song, size=mirror.size(song.wet)) for song in songs]
    lines = ([mirror.as_given(line) for line in lines] for lines in found[1:])
    return Songs(sorted(_distinct(songs), key=lambda song: song.id), *lines)


def _listed(lines: list[str], dataset: str | None, scratch: Path, source: str) -> tuple:
    """The pairs in listed folders; errors name `source`, and not the file that `find_songs` gets."""
    path = scratch / "songs.txt"
    write_bytes(path, "\n".join(lines).encode("utf-8", "surrogateescape"))
    try:
        return find_songs(Path(), dataset, f"@{path}")
    except UsageError as error:
        reason = str(error).removeprefix(f"data_dir=@{path}: ").removeprefix(f"{path} ")
        raise UsageError(f"{source}: {reason}") from None


def _in_folder(folder: str, dataset: str | None, scratch: Path) -> tuple:
    """The pairs in a folder; where it holds none itself, those of each folder in it."""
    try:
        listing = find_pairs(dataset, folder)
        return {Path(): listing.files}, listing.skipped, []
    except UsageError:
        below = sorted(str(path) for path in Path(folder).glob("*/") if path.is_dir() and path.name[0] != ".")
        found = _listed(below, dataset, scratch, folder) if below else ({}, [], [])
        if not found[0]:
            raise  # what was wrong with the folder itself
        return found


def _distinct(songs: list[Song]) -> list[Song]:
    """The songs with ids that differ: of several with one id, each gets the hash of its wet file's place."""
    counts = Counter(song.id for song in songs)
    return [
        replace(song, name=f"{song.name}-{hashlib.sha256(song.wet.encode()).hexdigest()[:8]}")
        if counts[song.id] > 1
        else song
        for song in songs
    ]


class _Mirror:
    """Folders at URLs as folders of empty files; a path on a disk stays what it is."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._originals: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def local(self, place: str) -> str:
        """A folder on the disk with the files of a place."""
        if not is_url(place) or place.startswith("#"):
            return place
        store = Store(place)
        if store.is_local:
            return store.root
        scheme, _, rest = place.partition("://")
        folder = self.scratch / scheme / rest.strip("/")
        if ".." in folder.parts:
            raise UsageError(f"{place}: give a URL without ..")
        folder.mkdir(parents=True, exist_ok=True)
        self._originals[str(folder)] = place
        for name, size in reached(place, store.names).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in DESCRIBING and size < TEXT_BYTES:
                store.get(name, path)
            else:
                path.touch()
            self._originals[str(path)], self._sizes[f"{place.rstrip('/')}/{name}"] = f"{place.rstrip('/')}/{name}", size
        return str(folder)

    def original(self, path: Path) -> str:
        """The URL of a file of a mirrored folder; a path on a disk in full."""
        return self._originals.get(str(path)) or str(path.absolute())

    def size(self, place: str) -> int:
        """The size of a file in bytes; 0 where there is none, which the fit will report."""
        if is_url(place):
            return self._sizes.get(place, 0)
        path = Path(place)
        return path.stat().st_size if path.is_file() else 0

    def as_given(self, line: str) -> str:
        """A message with the places as they were given."""
        return line.replace(f"{self.scratch}/", "").replace(str(self.scratch), "")


def shard(songs: list[Song], text: str) -> list[Song]:
    """The i-th of n parts of a list, by `i/n` with i from 1; every song is in one part, and the parts are even.

    UsageError for other text.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text[:40]}: give i/n with i from 1 to n, as 3/8")
    return songs[int(match[1]) - 1 :: int(match[2])]


class Progress(NamedTuple):
    """How far the newest run of a song is."""

    state: State
    run: str = ""  # its folder below the results
    steps: int = 0
    first_loss: float | None = None
    loss: float | None = None  # the lowest


def progress(store: Store, songs: Sequence[Song], settings: FitSettings) -> dict[str, Progress]:
    """The progress of each song by its newest run that has a checkpoint; songs without one are waiting.

    Args:
        store: the results.
        songs: of many a remote store is listed once as a whole, else the folder of each.
        settings: of the fits: after how many steps, and by what else, one is finished.
    """
    if len(songs) >= FEW and not store.is_local:
        return _progress_by(store, songs, settings, store.names())
    found: dict[str, Progress] = {}
    # A block at a time: the names and the records of all would take gigabytes.
    for at in range(0, len(songs), FEW):
        block, names = songs[at : at + FEW], dict[str, int]()
        for song in block:
            names |= store.names(song.id)
        found |= _progress_by(store, block, settings, names)
    return found


def _progress_by(
    store: Store, songs: Sequence[Song], settings: FitSettings, files: Mapping[str, int]
) -> dict[str, Progress]:
    """The progress of songs by the names of the files in their folders."""
    newest: dict[str, int] = {}
    for name in files:
        match = CHECKPOINTS.fullmatch(name)
        if match:
            newest[match[1]] = max(newest.get(match[1], -1), int(match[2]))
    folders = {song.id: f"{song.id}/run_{newest[song.id]}" for song in songs if song.id in newest}
    found = {song.id: Progress(State.WAITING) for song in songs}
    began = list(folders)
    for at in range(0, len(began), BLOCK):
        block = {name: f"{folders[name]}/{runs.META}" for name in began[at : at + BLOCK]}
        records = store.read_all(path for path in block.values() if path in files)
        for name, path in block.items():
            is_pruned = not settings.prune or f"{folders[name]}/{EFFECTS}" in files
            found[name] = _progress(folders[name], records.get(path, b"{}"), settings.epochs if is_pruned else None)
    return found


def _progress(folder: str, record: bytes, epochs: int | None) -> Progress:
    """The progress by the record of a run; without `epochs` it cannot be finished yet."""
    try:
        meta = json.loads(record)
        ended, losses = meta.get("terminated_by", "running"), [float(loss) for loss in meta.get("losses") or ()]
    except (AttributeError, TypeError, ValueError):
        return Progress(State.FAILED, folder)  # damaged; the fit says how
    is_finished = not ended and epochs is not None and len(losses) >= epochs
    state = State.FINISHED if is_finished else State.FAILED if ended == "error" else State.INTERRUPTED
    return Progress(state, folder, len(losses), losses[0] if losses else None, min(losses, default=None))
