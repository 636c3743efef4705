"""Arguments of training programs: kinds of numbers, and the music to train on."""

import argparse
import math

from data.recordings import RECORDINGS


def natural(text: str, lowest: int = 0) -> int:
    """A whole number from 0 on."""
    value = int(text)
    if value < lowest:
        raise argparse.ArgumentTypeError(f"{value}: give {lowest} or more")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return natural(text, 1)


def above_zero(text: str) -> float:
    """A finite number above zero."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give 0 to 1")
    return value


def add_music(p: argparse.ArgumentParser) -> None:
    """What is heard: --data, --data_dir, --pieces, --seconds, --coded, --workers and --log_dir."""
    kinds = f"{', '.join(RECORDINGS)}; several, as generated,folder, are heard equally often"
    p.add_argument("--data", default="generated", help=f"{kinds} (default generated)")
    p.add_argument("--data_dir", help="folder of each, with commas between; may be left out for generated")
    p.add_argument("--pieces", type=positive, default=300, help="generated pieces to train on (default 300)")
    p.add_argument("--seconds", type=above_zero, default=10.0, help="length of an excerpt (default 10)")
    p.add_argument("--coded", type=share, default=0.0, help="share heard from mp3, Vorbis and Opus files (default 0)")
    p.add_argument("--workers", type=natural, default=1, help="processes that read, make or process music (default 1)")
    p.add_argument("--log_dir", default="logs", help="folder of runs and of generated music (default logs)")
