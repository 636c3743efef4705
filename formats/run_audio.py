"""The recordings of a run folder: dry, wet and fitted, aligned, of one length and level-matched, as flac."""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from reknob.data.audio import write_audio
from reknob.runtime.files import user_path

NAMES = ("dry", "wet", "fitted")
#: What is kept, by the setting `keep_audio`.
KEPT: dict[str, tuple[str, ...]] = {"all": NAMES, "fitted": ("fitted",), "none": ()}
BITS = 16  # per sample: to listen to; render.py makes a file to work on
HIGHEST_PEAK = 0.99  # a flac clips what lies above full scale, and dither adds a step


def write_run_audio(folder: Path, sounds: Mapping[str, Tensor], sr: int) -> float:
    """Writes recordings (C, T) by name, as <name>.flac, and removes the others of a run folder.

    Returns:
        the gain in dB that all of them were given: below 0 where one would be over full scale, otherwise 0.
    """
    peak = max((float(x.abs().max()) for x in sounds.values()), default=0.0)
    gain = min(1.0, HIGHEST_PEAK / peak) if 0 < peak < math.inf else 1.0
    for name in NAMES:
        if name in sounds:
            write_audio(folder / f"{name}.flac", gain * sounds[name], sr, BITS)
        else:
            (folder / f"{name}.flac").unlink(missing_ok=True)
    (folder / "fitted.wav").unlink(missing_ok=True)  # of an earlier version, whose run was resumed
    return 20 * math.log10(gain)


def run_audio(folder: str | Path) -> dict[str, Path]:
    """The recordings that a run folder has, by name; of one from an earlier version `fitted.wav`."""
    folder = user_path(folder)
    places = [(name, folder / f"{name}{suffix}") for name in NAMES for suffix in (".wav", ".flac")]
    return {name: path for name, path in places if path.is_file()}
