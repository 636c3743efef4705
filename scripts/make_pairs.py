"""Makes pairs to fit: generated voices, and the same voices through a chain with random parameters.

    python scripts/make_pairs.py logs/own/pairs --count 24

OUT/voice_NN holds dry.flac, wet.flac and preset.json, the parameters that a fit should find: the same on every machine.
No recording is used. Existing pairs are replaced with --overwrite only.
"""

from reknob.runtime.program import program

import argparse
import sys
from itertools import product

import torch

from reknob.afx.effect import Effect, Knobs
from reknob.afx.param import Free
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, write_audio
from reknob.data.music import generate_tracks
from reknob.formats.as_document import document_of
from reknob.formats.preset_document import DOCUMENT, write_document
from reknob.formats.presets import PUBLISHED_CHAIN
from reknob.formats.runs import read_chain_file
from reknob.runtime.arguments import Parser, file_path, integer, real
from reknob.runtime.files import check_output
from reknob.runtime.output import counted, result

LUFS = -18.0  # to which a fit brings its recordings, so that levels in dB of the chain mean the same here
PEAK = 0.9
LICENCE = "Random numbers, free to use."
SIDES = ("dry.flac", "wet.flac")


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    config, sr = read_chain_file(args.fx_config)
    chain = build(config, sr).eval()
    folders = [args.out / f"voice_{number:02d}" for number in range(args.count)]
    # Before the first voice is generated, which takes a while.
    for folder, name in product(folders, (*SIDES, DOCUMENT)):
        check_output(folder / name, [args.fx_config], overwrite=args.overwrite, new_folder=True)
    for number, folder in enumerate(folders):
        voice = generate_tracks(number, args.seconds, sr, style="solo voice")["voice"]
        dry = normalise_loudness(torch.from_numpy(voice), sr, LUFS)
        knobs = draw_knobs(chain, number)
        with torch.no_grad():
            wet = render(chain, knobs(), dry)
        for name, x in zip(SIDES, (dry, wet), strict=True):
            # FLAC clips at full scale. A gain per file does not alter a fit, which normalises the loudness of both.
            write_audio(folder / name, x * (PEAK / x.abs().max()), sr)
        truth = document_of(config, chain, knobs.state_dict(), folder.name, LICENCE)
        write_document(folder / DOCUMENT, truth)
    line = f"{args.out}: {counted(args.count, 'pair')} of {args.seconds:g} s"
    result(line, folder=args.out, pairs=args.count, seconds=args.seconds)
    return 0


def draw_knobs(chain: Effect, seed: int) -> Knobs:
    """Parameters scattered about the defaults, normally distributed as raw parameters.

    The standard deviation is 3 for levels in dB, 0.1 for other parameters without a range, and 1 for those with one.
    """
    generator = torch.Generator().manual_seed(seed)
    knobs = Knobs(chain, generator)
    scales = {name: 3.0 if p.unit == "dB" else 0.1 if isinstance(p.mapping, Free) else 1.0 for name, p in chain.walk()}
    with torch.no_grad():
        # Raw parameters, so that every draw is within the ranges.
        for name, raw in knobs.named_parameters():
            raw += scales[name] * torch.randn(raw.shape, generator=generator)
    return knobs


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
