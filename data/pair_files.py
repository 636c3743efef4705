"""The files of dry/wet pairs in the folders of data sets, found without reading audio."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from reknob.data.audio import AUDIO_SUFFIXES
from reknob.data.decoding import is_hidden
from reknob.runtime.errors import UsageError
from reknob.runtime.files import printable, user_path
from reknob.runtime.settings import read_yaml

VOCAL_INSTRUMENTS = ("speaker", "singer", "vocal", "voice", "speech")
VOCAL_NAMES = ("lv", "ld", "lead_vocal", "bv")
OTHER_NAMES = ("synth", "gtr", "guitar", "piano", "strings", "eg", "ag")
CORRESPONDENCE = "correspondence_pp.yaml"
LONGEST_LIST = 100_000_000  # bytes of a list of folders
DEMO = Path(__file__).parent / "demo"
FOLDER_LAYOUTS = "dry.* and wet.* (also in subfolders), NAME_dry.* and NAME_wet.*, or dry/NAME.* and wet/NAME.*"


@dataclass(frozen=True)
class PairFiles:
    """The two files of a pair, unread."""

    dry_path: Path
    wet_path: Path
    name: str  # the wet file's stem, without _wet; for dry.* and wet.* in a folder of pairs the folder's name


class PairListing(NamedTuple):
    """The pairs of a data set, and one line with the reason for each candidate that is not a pair."""

    files: list[PairFiles]
    skipped: list[str]


def vocal_stems(metadata: dict, folder: Path) -> PairListing:
    """Pairs of the vocal stems (wet) of a MedleyDB song with their raw tracks (dry), from the song's metadata.

    Stems of several raw tracks are skipped. UsageError where the metadata lacks a required key.
    """
    missing = {"stems", "stem_dir", "raw_dir"} - set(metadata)
    if missing:
        raise UsageError(f"the metadata of {folder.name} lacks {', '.join(sorted(missing))}: is it MedleyDB's?")
    if metadata.get("instrumental") in ("yes", True):
        return PairListing([], [f"{folder.name} is instrumental"])
    files: list[PairFiles] = []
    skipped: list[str] = []
    instruments: set[str] = set()
    for key, stem in metadata["stems"].items():
        listed = stem.get("instrument") or []
        names = [listed] if isinstance(listed, str) else [str(name) for name in listed]
        instruments.update(names)
        if not any(word in name.lower() for name in names for word in VOCAL_INSTRUMENTS):
            continue
        raw = list((stem.get("raw") or {}).values())
        if len(raw) != 1:
            skipped.append(f"{folder.name} {key} ({', '.join(names)}) has {len(raw)} raw tracks, not one")
            continue
        wet = _inside(folder, metadata["stem_dir"], stem["filename"])
        files.append(PairFiles(_inside(folder, metadata["raw_dir"], raw[0]["filename"]), wet, wet.stem))
    if not files and not skipped:
        skipped.append(f"{folder.name} has no vocal stem (its instruments: {', '.join(sorted(instruments))})")
    return PairListing(files, skipped)


def _inside(folder: Path, *names: str) -> Path:
    """The path of a file that the metadata in a folder names; UsageError where that would lead out of the folder."""
    path = Path(*names)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise UsageError(f"{folder.name}: its metadata names {str(path)[:80]!r}, which is no file inside the folder")
    return user_path(folder / path)  # which refuses what no file can be called


def _medley_vocal(data_dir: Path) -> PairListing:
    """The vocal stems in the folder of one MedleyDB song."""
    folder = Path(os.path.abspath(data_dir))  # "." has no name of its own
    path = folder / f"{folder.name}_METADATA.yaml"
    if not path.is_file():
        raise UsageError(f"{path} does not exist: dataset medley_vocal takes the folder of one MedleyDB song")
    metadata = read_yaml(path)
    try:
        return vocal_stems(metadata, folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not as MedleyDB writes it ({type(error).__name__}: {error})") from error


def _internal_vocal(data_dir: Path) -> PairListing:
    """The wet files that are named as vocals and matched with one dry file by a `correspondence_pp.yaml`."""
    files, skipped = [], []
    for path in sorted(data_dir.rglob(CORRESPONDENCE)):
        if is_hidden(path, data_dir):
            continue
        try:
            matched = read_yaml(path)["matched"]
            for wet, dries in matched.items():
                name = wet.lower()
                if not any(w in name for w in VOCAL_NAMES) or any(w in name for w in OTHER_NAMES):
                    skipped.append(f"{path.parent.name} {wet} is not named as a vocal")
                elif len(dries) != 1:
                    skipped.append(f"{path.parent.name} {wet} has {len(dries)} dry files, not one")
                else:
                    wet_path = _inside(path.parent, "multi", wet)
                    files.append(PairFiles(_inside(path.parent, "dry", dries[0]), wet_path, wet_path.stem))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append(f"{path} is broken ({type(error).__name__}: {error})")
    if not files and not skipped:
        skipped.append(f"{data_dir} holds no {CORRESPONDENCE}")
    return PairListing(files, skipped)


def _folder(data_dir: Path) -> PairListing:
    """The files of a folder and its subfolders that are paired by their names, see `FOLDER_LAYOUTS`."""
    top = Path(os.path.abspath(data_dir))
    sides: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    for path in sorted([*top.glob("*"), *top.glob("*/*")]):
        if path.suffix.lower() in AUDIO_SUFFIXES and not is_hidden(path, top):
            folder, name, side = _side(path)
            if side:
                sides.setdefault((folder, name), {"dry": [], "wet": []})[side].append(path)
    files, skipped = [], []
    for (_, name), paths in sides.items():
        wrong = [f"{len(each)} {side} files" for side, each in paths.items() if len(each) != 1]
        if wrong:
            skipped.append(f"{name} has {' and '.join(wrong)}, not one")
        else:
            files.append(PairFiles(paths["dry"][0], paths["wet"][0], name))
    if not sides:
        skipped.append(f"{top} holds no pair; looked for {FOLDER_LAYOUTS}")
    return PairListing(files, skipped)


def _side(path: Path) -> tuple[Path, str, str]:
    """The folder and name of the pair that a file belongs to, and its side, "dry", "wet" or "" for neither."""
    stem = path.stem.lower()
    for side in ("dry", "wet"):
        if stem == side:
            return path.parent, path.parent.name, side
        if stem.endswith(f"_{side}"):
            return path.parent, path.stem[:-4], side
        if path.parent.name.lower() == side:
            return path.parent.parent, path.stem, side
    return path.parent, path.stem, ""


def _pair(dry: Path, wet: Path) -> PairListing:
    if dry.exists() and wet.exists() and dry.samefile(wet):
        raise UsageError(f"dry and wet are the same file, {dry}: give an unprocessed and a processed recording")
    return PairListing([PairFiles(dry, wet, wet.stem)], [])


def _demo() -> PairListing:
    return _folder(DEMO)


class Dataset(NamedTuple):
    """How the pairs of a data set are found, and the names of the paths that `find` has as arguments."""

    find: Callable[..., PairListing]
    arguments: tuple[str, ...]


DATASETS = {
    "medley_vocal": Dataset(_medley_vocal, ("data_dir",)),
    "internal_vocal": Dataset(_internal_vocal, ("data_dir",)),
    "pair": Dataset(_pair, ("dry", "wet")),
    "folder": Dataset(_folder, ("data_dir",)),
    "demo": Dataset(_demo, ()),
}


def find_pairs(
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    dry: str | Path | None = None,
    wet: str | Path | None = None,
) -> PairListing:
    """The pairs of a data set, unread; without a `dataset` it is inferred from the paths (no path: the built-in demo).

    UsageError for an unknown key, for other paths than the data set needs, and, with reasons, where no pair is found.
    """
    named = {"data_dir": data_dir, "dry": dry, "wet": wet}
    paths = {key: user_path(path) for key, path in named.items() if path is not None}
    dataset = dataset or _infer(paths)
    if dataset not in DATASETS:
        raise UsageError(f"unknown dataset {dataset!r}; known: {', '.join(DATASETS)}")
    find, arguments = DATASETS[dataset]
    if set(paths) != set(arguments):
        given = ", ".join(f"{key}={path}" for key, path in paths.items())
        missing = [f"{key}=…" for key in arguments if key not in paths]
        add = f"; add {' and '.join(missing)}" if missing else ""
        takes = " and ".join(arguments) or "no path"
        raise UsageError(f"dataset {dataset} takes {takes}; given: {given or 'none'}{add}")
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        problem = "is a file" if paths["data_dir"].exists() else "does not exist"
        raise UsageError(f"data_dir={paths['data_dir']} {problem}: give a folder, or two files as dry=... and wet=...")
    listing = find(**paths)
    if not listing.files:
        raise UsageError(f"no pair found: {'; '.join(listing.skipped)}")
    return PairListing([replace(files, name=printable(files.name)) for files in listing.files], listing.skipped)


def find_songs(
    log_dir: Path,
    dataset: str | None = None,
    data_dir: str | None = None,
    dry: str | None = None,
    wet: str | None = None,
) -> tuple[dict[Path, list[PairFiles]], list[str], list[str]]:
    """The pairs of a data set or of several songs, and the reasons for which candidates were skipped and songs failed.

    Returns a dictionary from the folder of a song's logs, `log_dir` or one in it, to its pairs, and two lists of lines.
    `data_dir` may be @LIST, a file with one folder per line (blank lines and those that begin with # are ignored). Logs
    of a folder are then kept under its name; if that is taken, the names of folders above it are put in front (Intro,
    Artist_Intro). A folder without a pair has failed. UsageError as in `find_pairs`, and for a list that is empty or
    cannot be read.
    """
    if data_dir is None or not data_dir.startswith("@"):
        listing = find_pairs(dataset, data_dir, dry, wet)
        return {log_dir: listing.files}, listing.skipped, []
    songs: dict[Path, list[PairFiles]] = {}
    skipped: list[str] = []
    failed: list[str] = []
    names: dict[str, Path] = {}
    seen: set[Path] = set()
    for song in _listed(data_dir):
        path = Path(os.path.abspath(os.path.expanduser(song)))
        if path in seen:
            skipped.append(f"{song} is listed twice")
            continue
        seen.add(path)
        names[_free_name(path, names)] = path
        try:
            listing = find_pairs(dataset, song)
        except (UsageError, OSError) as error:
            failed.append(str(error) if song in str(error) else f"{song[:160]}: {error}")
            continue
        songs[log_dir / printable(next(reversed(names)))] = listing.files
        skipped += listing.skipped
    return songs, skipped, failed


def _free_name(path: Path, taken: Collection[str]) -> str:
    """A folder's name, preceded by the fewest names of folders above it that make it different from those taken."""
    parts = path.parts[1:]
    names = ("_".join(parts[-depth:]) for depth in range(1, len(parts) + 1))
    return next((name for name in names if name not in taken), f"{'_'.join(parts)}_{len(taken)}")


def _listed(data_dir: str) -> list[str]:
    """The folders that are listed in the text file `data_dir[1:]`."""
    path = user_path(data_dir[1:])
    no_text = f"data_dir={data_dir}: {path} is no text file; give one with a folder per line"
    try:
        if path.exists() and not path.is_file():
            raise UsageError(no_text)
        if path.stat().st_size > LONGEST_LIST:
            raise UsageError(f"data_dir={data_dir}: the list is longer than {LONGEST_LIST / 1e6:g} MB; is it a list?")
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        message = f"data_dir={data_dir}: the list cannot be read; give a text file with a folder per line"
        raise UsageError(message) from error
    if "\0" in text:
        raise UsageError(no_text)
    songs = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not songs:
        raise UsageError(f"data_dir={data_dir}: the list names no folder; give one per line")
    return songs


def _infer(paths: dict[str, Path]) -> str:
    """The data set that the given paths belong to."""
    if "dry" in paths or "wet" in paths:
        return "pair"
    if "data_dir" not in paths:
        return "demo"
    if any(not path.name.startswith(".") for path in paths["data_dir"].glob("*_METADATA.yaml")):
        return "medley_vocal"
    return "internal_vocal" if (paths["data_dir"] / CORRESPONDENCE).is_file() else "folder"
