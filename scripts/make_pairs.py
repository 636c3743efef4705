"""Makes pairs to fit: generated voices, and the same voices through a chain with random parameters.

    python scripts/make_pairs.py logs/own/pairs --count 24

OUT/voice_NN/dry.flac and wet.flac are the same on every machine; no recording is used. Existing pairs are replaced with
--overwrite only.
"""

from reknob.runtime.program import program

import argparse
import sys
from itertools import product

import torch

from reknob.afx.effect import Effect, Knobs, Values
from reknob.afx.param import Free
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, write_audio
from reknob.data.music import generate_tracks
from reknob.formats.presets import PUBLISHED_CHAIN
from reknob.formats.runs import read_chain_file
from reknob.runtime.arguments import Parser, file_path, integer, real
from reknob.runtime.files import check_output
from reknob.runtime.output import counted, result

LUFS = -18.0  # to which a fit brings its recordings, so that levels in dB of the chain mean the same here
PEAK = 0.9
SIDES = ("dry.flac", "wet.flac")


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    config, sr = read_chain_file(args.fx_config)
    chain = build(config, sr).eval()
    folders = [args.out / f"voice_{number:02d}" for number in range(args.count)]
    # Before the first voice is generated, which takes a while.
    for folder, name in product(folders, SIDES):
        check_output(folder / name, [args.fx_config], overwrite=args.overwrite, new_folder=True)
    for number, folder in enumerate(folders):
        voice = generate_tracks(number, args.seconds, sr, style="solo voice")["voice"]
        dry = normalise_loudness(torch.from_numpy(voice), sr, LUFS)
        wet = render(chain, draw_values(chain, number), dry)
        for name, x in zip(SIDES, (dry, wet), strict=True):
            # FLAC clips at full scale. A gain per file does not alter a fit, which normalises the loudness of both.
            write_audio(folder / name, x * (PEAK / x.abs().max()), sr)
    line = f"{args.out}: {counted(args.count, 'pair')} of {args.seconds:g} s"
    result(line, folder=args.out, pairs=args.count, seconds=args.seconds)
    return 0


def draw_values(chain: Effect, seed: int) -> Values:
    """Values scattered about the defaults, normally distributed in raw parameters.

    The standard deviation is 3 for levels in dB, 0.1 for other parameters without a range, and 1 for those with one.
    """
    generator = torch.Generator().manual_seed(seed)
    knobs = Knobs(chain, generator)
    scales = {name: 3.0 if p.unit == "dB" else 0.1 if isinstance(p.mapping, Free) else 1.0 for name, p in chain.walk()}
    with torch.no_grad():
        # Raw parameters, so that every draw is within the ranges.
        for name, raw in knobs.named_parameters():
            raw += scales[name] * torch.randn(raw.shape, generator=generator)
        return knobs()


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("out", metavar="OUT", type=file_path, help="folder of the pairs")
    p.add_argument("--count", type=integer(1, 9999), default=24, help="how many (default %(default)s)")
    p.add_argument("--seconds", type=real(1, 3600), default=19.0, help="length of each (default %(default)s)")
    text = "the chain (default: the full one)"
    p.add_argument("--fx-config", metavar="YAML", type=file_path, default=PUBLISHED_CHAIN, help=text)
    p.add_argument("--overwrite", action="store_true", help="replace existing pairs")
    return p


if __name__ == "__main__":
    sys.exit(main())
