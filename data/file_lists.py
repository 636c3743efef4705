"""Recordings named by files, folders and patterns, and the names of what is made of each."""

import glob
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from reknob.data.audio import AUDIO_FILES, AUDIO_SUFFIXES
from reknob.data.decoding import is_hidden
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, user_path

LOSSLESS = (".wav", ".flac")  # suffixes that an output shares with its input; others become the first


def is_list(given: Sequence[Path], output: Path) -> bool:
    """Whether inputs of a program make several outputs, in the folder `output`, and not the one file `output`."""
    return len(given) > 1 or given[0].is_dir() or _is_pattern(given[0]) or output.is_dir()


def list_outputs(
    given: Sequence[Path], folder: Path, inputs: Sequence[str | Path | None] = (), suffix: str | None = None
) -> list[tuple[Path, Path]]:
    """The recordings that are given, each with its output in a folder.

    Args:
        given: files; folders, with all audio below them; patterns, for programs whose shell expands none.
        folder: of the outputs. Those of a folder lie below it as the recordings do below theirs, those of a pattern as
            the recordings do below its part without wildcards. Recordings that lie inside `folder` already are no
            inputs, unless they are given by name.
        inputs: other files and folders that are read, and not to be replaced either.
        suffix: of the outputs; None for that of a wav or flac, and .wav for the others.

    Raises:
        UsageError: nothing found, two recordings with one output, and an output that is an input or not writable.
    """
    if folder.suffix.lower() in AUDIO_SUFFIXES and not folder.is_dir():
        raise UsageError(f"{folder}: several recordings need a folder for their outputs; give one")
    found = {path: name for each in given for path, name in _expanded(each, folder)}
    sources: dict[Path, Path] = {}
    for path, name in found.items():
        kept = path.suffix.lower() if path.suffix.lower() in LOSSLESS else LOSSLESS[0]
        target = folder / name.with_suffix(suffix or kept)
        if target in sources:
            both = f"{sources[target]} and {path} would both be {target}"
            raise UsageError(f"{both}; give the folder above them, or render them one after the other")
        check_output(target, [*found, *inputs], new_folder=True)
        sources[target] = path
    return [(path, target) for target, path in sources.items()]


def list_recordings(given: Sequence[Path]) -> list[Path]:
    """The recordings that are given: files; folders, with all audio below them; patterns.

    Raises UsageError where a folder or a pattern holds none.
    """
    return list(dict.fromkeys(path for each in given for path, _ in _expanded(each, None)))


def _expanded(given: Path, outputs: Path | None) -> list[tuple[Path, Path]]:
    """The recordings that one argument names, each with its name below the folder of the outputs, if there is one."""
    if given.is_dir():
        below = [path for path in sorted(given.rglob("*")) if path.is_file() and not is_hidden(path, given)]
        left = outputs.resolve() if outputs and outputs.resolve() != given.resolve() else None
        kept = [path for path in below if left not in path.resolve().parents]
        recordings = [(path, path.relative_to(given)) for path in kept if path.suffix.lower() in AUDIO_SUFFIXES]
        if not recordings:
            raise UsageError(f"{given}: holds no {AUDIO_FILES}")
        return recordings
    if not _is_pattern(given):
        return [(given, Path(given.name))]
    matches = [user_path(path) for path in sorted(glob.glob(str(given), recursive=True))]
    named = [match for match in matches if match.is_dir() or match.suffix.lower() in AUDIO_SUFFIXES]
    if not named:
        raise UsageError(f"{given}: matches no audio file")
    root = Path(*takewhile(lambda part: not glob.has_magic(part), given.parts))
    return [
        (path, match.relative_to(root) / name if match.is_dir() else match.relative_to(root))
        for match in named
        for path, name in _expanded(match, outputs)
    ]


def _is_pattern(path: Path) -> bool:
    """Whether a path is a pattern of names, as `takes/*.wav`, and no file of that very name."""
    return glob.has_magic(str(path)) and not path.exists()
