"""Arguments of training programs: the music to train on."""

import argparse

from reknob.data.recordings import RECORDINGS
from reknob.estimation.loaders import MusicSettings
from reknob.runtime.arguments import file_path, integer, positive_int, real

MOST_WORKERS = 256


def add_music(p: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `MusicSettings`."""
    default = MusicSettings()
    kinds = f"{', '.join(RECORDINGS)}; a list, as generated,folder, is sampled uniformly"
    p.add_argument("--data", default=default.data, help=f"{kinds} (default %(default)s)")
    p.add_argument("--data_dir", help="a folder for each, separated by commas; generated needs none")
    text = "generated pieces to train on (default %(default)s)"
    p.add_argument("--pieces", type=positive_int, default=default.pieces, help=text)
    text = "length of an excerpt in s (default %(default)g)"
    p.add_argument("--seconds", type=real(0.1, 600), default=default.seconds, help=text)
    text = "share of excerpts encoded and decoded by a lossy codec (default %(default)g)"
    p.add_argument("--coded", type=real(0, 1), default=default.coded, help=text)
    text = "processes that read, generate or process music (default %(default)s)"
    p.add_argument("--workers", type=integer(0, MOST_WORKERS), default=default.workers, help=text)
    text = "folder of runs and generated music (default %(default)s)"
    p.add_argument("--log_dir", type=file_path, default=default.log_dir, help=text)
