"""Arguments of training programs: the music to train on."""

import argparse

from reknob.data.recordings import RECORDINGS
from reknob.runtime.arguments import file_path, integer, positive_int, real

MOST_WORKERS = 256


def add_music(p: argparse.ArgumentParser) -> None:
    """What is heard: --data, --data_dir, --pieces, --seconds, --coded, --workers and --log_dir."""
    kinds = f"{', '.join(RECORDINGS)}; several, as generated,folder, are heard equally often"
    p.add_argument("--data", default="generated", help=f"{kinds} (default generated)")
    p.add_argument("--data_dir", help="folder of each, with commas between; may be left out for generated")
    p.add_argument("--pieces", type=positive_int, default=300, help="generated pieces to train on (default 300)")
    p.add_argument("--seconds", type=real(0.1, 600), default=10.0, help="length of an excerpt (default 10)")
    p.add_argument("--coded", type=real(0, 1), default=0.0, help="share heard from lossy files (default 0)")
    workers = "processes that read, make or process music (default 1)"
    p.add_argument("--workers", type=integer(0, MOST_WORKERS), default=1, help=workers)
    p.add_argument("--log_dir", type=file_path, default="logs", help="folder of runs and made music (default logs)")
