"""Pairs of a dry take and its mix: where a data set keeps them, and how one is loaded, checked and aligned."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.align import measure_alignment
from data.audio import AUDIO_SUFFIXES, read_audio, resample
from data.doctor import (
    NOTE,
    REFUSAL,
    WARNING,
    PairCheck,
    check_alignment,
    check_file,
    check_relation,
    refuse_unrelated,
)
from data.prepare import crop_to_overlap, gain_to, ringing, to_mono, undo_drift, without_offset
from runtime.errors import UsageError
from runtime.settings import read_yaml

log = logging.getLogger(__name__)

VOCAL_INSTRUMENTS = ("speaker", "singer", "vocal", "voice", "speech")
VOCAL_NAMES = ("lv", "ld", "lead_vocal", "bv")
OTHER_NAMES = ("synth", "gtr", "guitar", "piano", "strings", "eg", "ag")
CORRESPONDENCE = "correspondence_pp.yaml"
DEMO = Path(__file__).parent / "demo"
FOLDER_LAYOUTS = "dry.* and wet.* (also in subfolders), NAME_dry.* and NAME_wet.*, or dry/NAME.* and wet/NAME.*"


@dataclass(frozen=True)
class PairFiles:
    """The two files of a pair, unread."""

    dry_path: Path
    wet_path: Path
    name: str  # the wet file's stem, without _wet; for dry.* and wet.* in a folder of pairs the folder's name


class Found(NamedTuple):
    """The pairs of a data set, and one line for each candidate that is not one and why."""

    files: list[PairFiles]
    skipped: list[str]


@dataclass(frozen=True)
class Pair:
    """A dry take and its mix, of one length and aligned."""

    name: str
    dry: Tensor  # (1, T)
    wet: Tensor  # (2, T)
    sr: int  # Hz
    dry_path: Path
    wet_path: Path
    alignment_shift: int  # samples by which dry is later than in its file; negative: earlier
    check: PairCheck = field(default_factory=PairCheck)  # what was found of the two files


def vocal_stems(metadata: dict, folder: Path) -> Found:
    """The vocal stems of a MedleyDB song that were made from one raw track, out of the song's metadata.

    Wet is the stem, dry its raw track. UsageError where the metadata lacks what is needed.
    """
    missing = {"stems", "stem_dir", "raw_dir"} - set(metadata)
    if missing:
        raise UsageError(f"the metadata of {folder.name} lacks {', '.join(sorted(missing))}: is it MedleyDB's?")
    if metadata.get("instrumental") in ("yes", True):
        return Found([], [f"{folder.name} is instrumental"])
    files, skipped, heard = [], [], set()
    for key, stem in metadata["stems"].items():
        given = stem.get("instrument") or []
        names = [given] if isinstance(given, str) else [str(name) for name in given]
        heard.update(names)
        if not any(word in name.lower() for name in names for word in VOCAL_INSTRUMENTS):
            continue
        raw = list((stem.get("raw") or {}).values())
        if len(raw) != 1:
            skipped.append(f"{folder.name} {key} ({', '.join(names)}) has {len(raw)} raw tracks, not one")
            continue
        wet = folder / metadata["stem_dir"] / stem["filename"]
        files.append(PairFiles(folder / metadata["raw_dir"] / raw[0]["filename"], wet, wet.stem))
    if not files and not skipped:
        skipped.append(f"{folder.name} has no vocal stem (its instruments: {', '.join(sorted(heard))})")
    return Found(files, skipped)


def _medley_vocal(data_dir: Path) -> Found:
    folder = Path(os.path.abspath(data_dir))  # "." has no name of its own
    path = folder / f"{folder.name}_METADATA.yaml"
    if not path.is_file():
        raise UsageError(f"{path} does not exist: dataset medley_vocal takes the folder of one MedleyDB song")
    return vocal_stems(read_yaml(path), folder)


def _internal_vocal(data_dir: Path) -> Found:
    files, skipped = [], []
    for path in sorted(data_dir.rglob(CORRESPONDENCE)):
        try:
            matched = read_yaml(path)["matched"]
            for wet, dries in matched.items():
                name = wet.lower()
                if not any(w in name for w in VOCAL_NAMES) or any(w in name for w in OTHER_NAMES):
                    skipped.append(f"{path.parent.name} {wet} is not named as a vocal")
                elif len(dries) != 1:
                    skipped.append(f"{path.parent.name} {wet} has {len(dries)} dry files, not one")
                else:
                    wet_path = path.parent / "multi" / wet
                    files.append(PairFiles(path.parent / "dry" / dries[0], wet_path, wet_path.stem))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append(f"{path} is broken ({type(error).__name__}: {error})")
    if not files and not skipped:
        skipped.append(f"{data_dir} holds no {CORRESPONDENCE}")
    return Found(files, skipped)


def _folder(data_dir: Path) -> Found:
    top = Path(os.path.abspath(data_dir))
    sides: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    for path in sorted([*top.glob("*"), *top.glob("*/*")]):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            folder, name, side = _side(path)
            if side:
                sides.setdefault((folder, name), {"dry": [], "wet": []})[side].append(path)
    files, skipped = [], []
    for (_, name), paths in sides.items():
        wrong = [f"{len(found)} {side} files" for side, found in paths.items() if len(found) != 1]
        if wrong:
            skipped.append(f"{name} has {' and '.join(wrong)}, not one")
        else:
            files.append(PairFiles(paths["dry"][0], paths["wet"][0], name))
    if not sides:
        skipped.append(f"{top} holds no pair; looked for {FOLDER_LAYOUTS}")
    return Found(files, skipped)


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


def _pair(dry: Path, wet: Path) -> Found:
    if dry.exists() and wet.exists() and dry.samefile(wet):
        raise UsageError(f"dry and wet are the same file, {dry}: give the take and its mix")
    return Found([PairFiles(dry, wet, wet.stem)], [])


def _demo() -> Found:
    return _folder(DEMO)


class Dataset(NamedTuple):
    """How the pairs of a data set are found, and which paths that takes."""

    find: Callable[..., Found]
    takes: tuple[str, ...]


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
) -> Found:
    """The pairs of a data set, unread; without a `dataset`, the paths tell which it is (none: the built-in demo).

    UsageError for an unknown key, for paths that the data set does not take, and, with reasons, where no pair is found.
    """
    named = {"data_dir": data_dir, "dry": dry, "wet": wet}
    paths = {key: Path(path).expanduser() for key, path in named.items() if path is not None}
    dataset = dataset or _infer(paths)
    if dataset not in DATASETS:
        raise UsageError(f"unknown dataset {dataset!r}; known: {', '.join(DATASETS)}")
    find, takes = DATASETS[dataset]
    if set(paths) != set(takes):
        given = ", ".join(f"{key}={path}" for key, path in paths.items())
        raise UsageError(f"dataset {dataset} takes {' and '.join(takes) or 'no path'}; given: {given or 'none'}")
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        problem = "is a file" if paths["data_dir"].exists() else "does not exist"
        raise UsageError(f"data_dir={paths['data_dir']} {problem}: give a folder, or two files as dry=... and wet=...")
    found = find(**paths)
    if not found.files:
        raise UsageError(f"no pair found: {'; '.join(found.skipped)}")
    return found


def find_songs(settings: dict) -> tuple[dict[Path, list[PairFiles]], list[str], list[str]]:
    """The pairs that settings name, by the folder for their logs; what was skipped, and what failed, a line each.

    `data_dir` may be @LIST, a file with a folder a line (blank lines and those that begin with # count nothing): every
    folder's logs then have a folder of its name, and one without a pair has failed. UsageError as in `find_pairs`, and
    for a list that cannot be read or is empty.
    """
    dataset, data_dir, logs = settings["dataset"], settings["data_dir"], Path(settings["log_dir"]).expanduser()
    if not (data_dir or "").startswith("@"):
        found = find_pairs(dataset, data_dir, settings["dry"], settings["wet"])
        return {logs: found.files}, found.skipped, []
    songs, skipped, failed = {}, [], []
    for song in _listed(data_dir):
        try:
            found = find_pairs(dataset, song)
        except ValueError as error:
            failed.append(f"{song}: {error}")
            continue
        folder = logs / Path(os.path.abspath(song)).name
        if folder in songs:
            failed.append(f"{song}: another song of the list has this folder name; fit it with another log_dir")
            continue
        songs[folder] = found.files
        skipped += found.skipped
    return songs, skipped, failed


def _listed(data_dir: str) -> list[str]:
    try:
        lines = Path(data_dir[1:]).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data_dir={data_dir}: the list cannot be read; give a text file, a folder a line") from error
    songs = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not songs:
        raise UsageError(f"data_dir={data_dir}: the list names no folder; give one a line")
    return songs


def _infer(paths: dict[str, Path]) -> str:
    if "dry" in paths or "wet" in paths:
        return "pair"
    if "data_dir" not in paths:
        return "demo"
    if any(paths["data_dir"].glob("*_METADATA.yaml")):
        return "medley_vocal"
    return "internal_vocal" if (paths["data_dir"] / CORRESPONDENCE).is_file() else "folder"


class PairError(UsageError):
    """A pair that cannot be one; `check` holds what was found of it."""

    def __init__(self, message: str, check: PairCheck):
        super().__init__(message)
        self.check = check


def load_pair(
    files: PairFiles,
    sr: int = 44100,
    lufs: float | None = -18.0,
    *,
    align: bool = True,
    shift: int | None = None,
    wrap: bool = False,
    check: bool = True,
    fix_drift: bool = False,
    fix_channel_polarity: bool = False,
) -> Pair:
    """The two files as mono and stereo, cut to what overlaps once dry is `shift` samples later, at `lufs` LUFS each.

    The shift is measured where none is given and `align` is set, else it is 0. Where wet goes on after dry its tail
    stays, beside silence. A wet of opposite polarity is inverted and a DC offset removed; `fix_drift` resamples a wet
    whose clock drifts, `fix_channel_polarity` turns a single inverted channel. `lufs` None keeps the levels. With
    `wrap` dry is rolled around its end and nothing else is done, as the published preset sets were made.
    All that is found is logged and in the pair's `check`; PairError (a UsageError, one line) for what cannot be a
    pair, without `check` unrelated files are a warning only.
    """
    found = PairCheck()
    try:
        dry, wet = _read(found, files, sr)
        if wrap:
            length, shift = min(dry.shape[-1], wet.shape[-1]), shift or 0
            dry, wet = dry[:, :length].roll(shift, dims=-1), wet[:, :length]
        else:
            fixes = Fixes(align, shift, fix_drift, fix_channel_polarity)
            dry, wet, shift = place(found, dry, wet, sr, files, fixes, check)
        refusal = next(iter(found.refusals), None)
        if refusal:
            raise UsageError(str(refusal))
        gains = gain_to(dry, sr, lufs, files.dry_path), gain_to(wet, sr, lufs, files.wet_path)
    except UsageError as error:
        if not found.refusals:
            found.add("unusable", REFUSAL, str(error))
        raise PairError(str(error), found) from None
    if not wrap:
        _tell(found, files.name)
    return Pair(files.name, dry * gains[0], wet * gains[1], sr, files.dry_path, files.wet_path, shift, found)


def _read(found: PairCheck, files: PairFiles, sr: int) -> tuple[Tensor, Tensor]:
    """Both files at `sr` Hz, dry mono and wet stereo, and what they show by themselves."""
    sides, rates = {}, {}
    for side, path in (("dry", files.dry_path), ("wet", files.wet_path)):
        x, rates[side] = read_audio(path)
        if x.shape[0] > 2:
            raise UsageError(f"{path} has {x.shape[0]} channels, at most 2 are allowed: export it as mono or stereo")
        x, offset = without_offset(x)
        if offset:
            found.add("dc", NOTE, f"{path}: a DC offset of {offset:+.3f}", "removed")
        check_file(found, side, x, rates[side], sr, path)
        if rates[side] != sr:
            found.add("rates", NOTE, f"{path}: resampled from {rates[side]} to {sr} Hz")
        sides[side] = resample(x, rates[side], sr) if rates[side] != sr else x
    dry, wet = sides["dry"], sides["wet"]
    found.dry_sr = rates["dry"]
    if len(wet) < len(dry):
        text = f"{files.wet_path} is mono and {files.dry_path} is stereo: are dry and wet swapped?"
        found.add("swapped", WARNING, text)
    if len(wet) == 1:
        text = f"{files.wet_path} is mono: copied to both sides, the panoramas will have nothing to find"
        found.add("mono_wet", WARNING, text)
    folded = to_mono(dry, files.dry_path)
    if folded.channels == 2:
        found.add("mono_dry", NOTE, f"{files.dry_path}: stereo, averaged to mono")
    for x, path in ((folded.x, files.dry_path), (wet, files.wet_path)):
        if x.shape[-1] < 0.4 * sr or not x.any():
            gain_to(x, sr, None, path)  # raises
    return folded.x, wet.expand(2, -1)


class Fixes(NamedTuple):
    """What `load_pair` is asked to do about time and polarity."""

    align: bool
    shift: int | None
    drift: bool
    channel_polarity: bool


def place(
    found: PairCheck, dry: Tensor, wet: Tensor, sr: int, files: PairFiles, fixes: Fixes, check: bool
) -> tuple[Tensor, Tensor, int]:
    """`dry` `(1, T1)` and `wet` `(2, T2)` where they overlap, in one length and polarity, and the shift of dry."""
    alignment = measure_alignment(dry, wet, sr)
    related = refuse_unrelated(found, alignment, files, REFUSAL if check else WARNING)
    shift, signs = fixes.shift, wet.new_tensor(alignment.polarity)[:, None]
    if related:
        check_alignment(found, alignment, sr, fixes.drift, fixes.channel_polarity)
        if fixes.channel_polarity or len(set(alignment.polarity)) == 1:
            wet, signs = wet * signs, torch.ones_like(signs)
        if fixes.drift and alignment.drift_ppm:
            wet = undo_drift(wet, alignment.drift_ppm, alignment.lag_samples)
        if shift is None and fixes.align:
            shift = round(alignment.lag_samples)
    shift = shift or 0
    lengths = dry.shape[-1] - max(0, -shift), wet.shape[-1] - max(0, shift)
    dry, wet = crop_to_overlap(dry, wet, shift, ringing(wet, dry.shape[-1] + shift, sr))
    if not wet.shape[-1]:
        raise UsageError(f"{files.name}: with shift={shift} samples dry and wet do not overlap; give another shift")
    if abs(lengths[0] - lengths[1]) > 0.1 * sr:
        seconds = [x / sr for x in lengths]
        what = "cut to the shorter" if lengths[1] < lengths[0] else f"{wet.shape[-1] / sr:.2f} s are used"
        found.add("lengths", NOTE, f"{what} of {seconds[0]:.2f} s (dry) and {seconds[1]:.2f} s (wet)")
    if related:
        check_relation(found, dry, wet * signs, sr, alignment, fixes.drift)
    return dry, wet, shift


def _tell(found: PairCheck, name: str) -> None:
    for finding in found.findings:
        log.log(logging.INFO if finding.severity == NOTE else logging.WARNING, "%s: %s", name, finding)
    if not found.findings:
        log.info("%s: a good pair: %s", name, found.summary())
