"""Generated music as audio files, written once and read like any other recordings."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from reknob.data.audio import write_audio
from reknob.data.music import generate_music
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json, write_text
from reknob.runtime.workers import map_processes

SPLITS = ("train", "valid", "test")
GENERATOR = 1  # version of data.music: incremented when a seed gives different audio
MARK = "generated.json"  # file that marks a folder of generated pieces and holds their parameters
PEAK = 0.9


def prepare_generated(
    folder: str | Path,
    counts: Mapping[str, int],
    seconds: float = 10.0,
    sr: int = 44100,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Generate the pieces of data "generated" that `folder` lacks: `counts[split]` of `seconds` s at `sr` Hz per split.

    A piece depends on its split and number only: any number of `workers` writes the same files, and a call that was
    interrupted can be repeated. `progress(done, total)` is called after each piece.
    UsageError where the folder holds pieces with other parameters, or anything else.
    """
    folder = Path(folder).expanduser()
    wanted = {"generator": GENERATOR, "seconds": float(seconds), "sr": sr}
    if (folder / MARK).exists():
        existing = read_json(folder / MARK)
        if existing != wanted:
            made = str(existing)[:200]
            raise UsageError(f"{folder} holds pieces made with {made}, asked for {wanted}: give another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        advice = "give a new folder, or data=folder to use the recordings in it"
        raise UsageError(f"{folder} holds something else than generated pieces: {advice}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MARK, json.dumps(wanted))
    jobs = [
        (folder / split / f"{number:06d}.flac", number * len(SPLITS) + SPLITS.index(split))
        for split, count in counts.items()
        for number in range(count)
    ]
    missing = [(path, seed) for path, seed in jobs if not path.exists()]
    generate = partial(_generate, seconds=seconds, sr=sr)
    for done, _ in enumerate(map_processes(generate, missing, workers), start=1):
        if progress:
            progress(done, len(missing))


def _generate(job: tuple[Path, int], *, seconds: float, sr: int) -> None:
    """Write one piece; `job` is its path and seed."""
    path, seed = job
    write_audio(path, torch.from_numpy(PEAK * generate_music(seed, seconds, sr)), sr)
