"""Applies a fitted chain to any recording.

    python scripts/render.py --run logs/demo/run_0 in.wav out.wav                   a run folder, ours or published
    python scripts/render.py --preset presets/own --row 0 in.wav out.wav            a row of a preset set
    python scripts/render.py --values run_0/parametrised.pth in.wav out.wav         values in physical units
    python scripts/render.py --preset preset.json in.wav out.wav                    a preset document
    python scripts/render.py --preset preset.json --amount 0.7 --set comp.makeup=3 in.wav out.wav   changed on the way

The input's level is set first to that of the recordings that the preset was fitted to, -18 LUFS unless a preset
document has another; `--loudness off` leaves it unchanged. Its channels are averaged; `--stereo` keeps two, for a chain
that was fitted with stereo_dry=true. `--amount` moves every value from off towards the preset, `--set` then sets some.
"""

from reknob.runtime.program import program

import argparse
import logging
import sys
import time
from pathlib import Path

from torch import Tensor

from reknob.afx.stream import render
from reknob.data.audio import check_audio_output, normalise_loudness, output_format, read_audio, resample, write_audio
from reknob.formats.applied import input_loudness, load_chain
from reknob.runtime.arguments import Parser, chain_inputs, chain_options, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.output import result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    output_format(check_output(args.output, chain_inputs(args), new_folder=True))
    chain, values = load_chain(**vars(args))
    # Only now, as it depends on the chain's sample rate, which some formats do not support.
    check_audio_output(args.output, chain.sr, 2)
    x = load_input(args.input, chain.sr, input_loudness(args.loudness, args.preset), stereo=args.stereo)
    chain.channels(len(x))
    started = time.perf_counter()
    write_audio(args.output, render(chain, values, x), chain.sr)
    took = time.perf_counter() - started
    seconds = x.shape[-1] / chain.sr
    line = f"{args.output}: {seconds:.1f} s of sound in {took:.1f} s ({seconds / took:.1f} times real time)"
    result(line, output=args.output, seconds=seconds, took=took)
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__, parents=[chain_options()])
    p.add_argument("input", type=file_path, help="any audio file")
    p.add_argument("output", type=file_path, help="file to write, in the format of its suffix")
    p.add_argument("--stereo", action="store_true", help="keep two channels, for a chain that takes stereo")
    return p


def load_input(path: Path, sr: int, loudness: float | None, *, stereo: bool = False) -> Tensor:
    """A recording (1, T), or in stereo (2, T), at a chain's sample rate and, if given, at a loudness in LUFS."""
    x, file_sr = read_audio(path)
    if file_sr != sr:
        logging.info("%s: resampled from %d to %d Hz", path, file_sr, sr)
        x = resample(x, file_sr, sr)
    if stereo and len(x) <= 2:
        x = x.expand(2, -1)
    elif len(x) > 1:
        logging.info("%s: %d channels averaged to mono, which the chain takes", path, x.shape[0])
        x = x.mean(0, keepdim=True)
    try:
        return x if loudness is None else normalise_loudness(x, sr, loudness)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; --loudness off leaves its level") from error


if __name__ == "__main__":
    sys.exit(main())
