"""Applies a fitted chain to any recording.

    python scripts/render.py --run logs/demo/run_0 in.wav out.wav                   a run folder, ours or published
    python scripts/render.py --preset presets/own --row 0 in.wav out.wav            a row of a preset set
    python scripts/render.py --values run_0/parametrised.pth in.wav out.wav         values in physical units

The input is brought to -18 LUFS first, the level that presets are fitted at; `--loudness off` leaves it as it is.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from afx.stream import render
from data.audio import normalise_loudness, output_format, read_audio, resample, write_audio
from formats.applied import load_chain
from runtime.errors import UsageError
from runtime.settings import chain_options


def main(argv: list[str] | None = None) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        output_format(args.output)
        chain, values = load_chain(**vars(args))
        x = load_input(args.input, chain.sr, args.loudness)
        started = time.perf_counter()
        write_audio(args.output, render(chain, values, x), chain.sr)
        took = time.perf_counter() - started
    except (OSError, ValueError) as error:
        print(f"render.py: {error}", file=sys.stderr)
        return 2
    seconds = x.shape[-1] / chain.sr
    print(f"{args.output}: {seconds:.1f} s of sound in {took:.1f} s ({seconds / took:.1f} times real time)")
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[chain_options()]
    )
    p.add_argument("input", help="any audio file")
    p.add_argument("output", help="file to write; the suffix says which format")
    return p


def load_input(path: str, sr: int, loudness: float | None) -> Tensor:
    """A recording as a chain takes it, (1, T): at its sample rate, mono, and at a loudness in LUFS or as it is."""
    x, file_sr = read_audio(path)
    if file_sr != sr:
        logging.info("%s: resampled from %d to %d Hz", path, file_sr, sr)
        x = resample(x, file_sr, sr)
    if x.shape[0] > 1:
        logging.info("%s: %d channels averaged to mono, which the chain takes", path, x.shape[0])
    x = x.mean(0, keepdim=True)
    try:
        return x if loudness is None else normalise_loudness(x, sr, loudness)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; --loudness off leaves its level") from error


if __name__ == "__main__":
    sys.exit(main())
