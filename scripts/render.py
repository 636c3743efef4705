"""Applies a fitted chain to recordings.

    python scripts/render.py --run logs/demo/run_0 in.wav out.wav                   a run folder, ours or published
    python scripts/render.py --preset presets/own --row 0 in.wav out.wav            a row of a preset set
    python scripts/render.py --values run_0/parametrised.pth in.wav out.wav         values in physical units
    python scripts/render.py --preset preset.json in.wav out.wav                    a preset document
    python scripts/render.py --preset preset.json --amount 0.7 --set comp.makeup=3 in.wav out.wav   changed on the way
    python scripts/render.py --preset preset.json takes/ more/*.flac rendered/      folders and many files, to a folder

The chain works at the level and the sample rate that it was fitted at: -18 LUFS unless a preset document has another;
`--loudness off` leaves the input's level. The output has the input's rate, bit depth and loudness, and is longer by the
tail. `--output-loudness chain --tail 0` gives what the chain itself puts out, in the input's length.

A stereo input is averaged for a chain that takes mono, and keeps its channels otherwise. `--amount` moves every value
from off towards the preset, `--set` then sets some. A file of several that cannot be rendered does not stop the others.
"""

from reknob.runtime.program import FAULT, MISTAKE, explain, print_error, program, reason

import argparse
import logging
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from reknob.afx.effect import Effect, Values
from reknob.data.audio import (
    FORMATS,
    LoudnessError,
    bits_like,
    check_audio_output,
    output_format,
    read_audio,
    read_bits,
    read_rate,
    resample,
    write_audio,
)
from reknob.data.file_lists import is_list, list_outputs
from reknob.data.rendering import AUTO, CHAIN, KEEP, LONGEST_TAIL, render_recording, takes
from reknob.formats.applied import input_loudness, load_chain
from reknob.runtime.arguments import Parser, chain_inputs, chain_options, file_path, integer, level, real
from reknob.runtime.bars import progress_bar
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.output import result

FLOAT = 32  # bits, of `--bits float`
BAR_AFTER_S = 3.0


class Rendered(NamedTuple):
    """A file that was written, its length in s, and the seconds that took."""

    output: Path
    seconds: float
    took: float

    @property
    def line(self) -> str:
        """In words."""
        speed = self.seconds / self.took
        return f"{self.output}: {self.seconds:.1f} s of sound in {self.took:.1f} s ({speed:.1f} times real time)"


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    suffix = f".{args.format}" if args.format else None
    if is_list(args.input, args.output):
        sources = [args.run, args.preset, args.values, args.fx_config]
        jobs = list_outputs(args.input, args.output, sources, suffix)
        return render_all(args, jobs, *load_chain(**vars(args)))
    if suffix:
        raise UsageError(f"--format {args.format}: is for several recordings; give {args.output} the suffix {suffix}")
    output_format(check_output(args.output, chain_inputs(args), new_folder=True), args.bits)
    chain, values = load_chain(**vars(args))
    rendered = render_file(args, chain, values, args.input[0], args.output)
    result(rendered.line, **rendered._asdict())
    return 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__, parents=[chain_options()])
    p.add_argument("input", type=file_path, nargs="+", help="audio files, folders, or patterns as 'takes/*.wav'")
    p.add_argument("output", type=file_path, help="file, in the format of its suffix; for several inputs a folder")
    text = f"LUFS of the output, {KEEP}: that of the input (default), {CHAIN}: what the chain makes of it"
    p.add_argument("--output-loudness", type=output_level, default=KEEP, metavar="LEVEL", help=text)
    text = f"silence to render after the input, in s; {AUTO}: until the output has fallen by 60 dB (default)"
    p.add_argument("--tail", type=tail, default=AUTO, metavar="SECONDS", help=text)
    p.add_argument("--mix", type=real(0, 1), default=1.0, metavar="X", help="0: the input, 1: the output (default)")
    p.add_argument("--bits", type=bits, metavar="16|24|float", help="bit depth of wav and flac (default: the input's)")
    p.add_argument("--rate", type=integer(8000, 192_000), metavar="HZ", help="sample rate (default: the input's)")
    formats = [name.removeprefix(".") for name in FORMATS]
    p.add_argument("--format", choices=formats, help="format for several inputs (default: wav, and flac of flac)")
    p.add_argument("--stereo", action="store_true", help="keep two channels, for a chain that takes stereo")
    return p


def output_level(text: str) -> float | str:
    """A loudness in LUFS, or KEEP or CHAIN."""
    if text in (KEEP, CHAIN):
        return text
    value = level(text)
    if not isinstance(value, float):
        raise argparse.ArgumentTypeError(f"{text[:40]}: give a number of LUFS, or {KEEP} or {CHAIN}")
    return value


def tail(text: str) -> float | str:
    """A length of tails in s, or "auto"."""
    return text if text == AUTO else real(0, LONGEST_TAIL)(text)


def bits(text: str) -> int:
    """Bits per sample, FLOAT for the word."""
    if text not in ("16", "24", "float"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: give 16, 24 or float")
    return FLOAT if text == "float" else int(text)


def render_all(args: argparse.Namespace, jobs: list[tuple[Path, Path]], chain: Effect, values: Values) -> int:
    """Renders recordings one by one, those after a bad one too; the exit status."""
    files, failed, has_fault = [], [], False
    for number, (source, target) in enumerate(jobs, 1):
        try:
            files.append(render_file(args, chain, values, source, target))
            result(f"{number}/{len(jobs)} {files[-1].line}")
        except Exception as error:
            logging.debug("%s", source, exc_info=error)
            print_error(f"{number}/{len(jobs)} {source}: failed: {reason(error)}")
            failed.append(str(source))
            has_fault |= explain(error) is None
    result(files=[file._asdict() for file in files], failed=failed)
    if not failed:
        return 0
    print_error(f"render.py: {len(failed)} of {len(jobs)} recordings not rendered: {', '.join(failed)}")
    return FAULT if has_fault else MISTAKE


def render_file(args: argparse.Namespace, chain: Effect, values: Values, source: Path, target: Path) -> Rendered:
    """Renders one recording to a file."""
    sr = read_rate(source)
    rate, depth = args.rate or sr, args.bits or bits_like(target, read_bits(source))
    # Only now, as some formats do not support every rate.
    check_audio_output(target, rate, 2, depth)
    x, _ = read_audio(source)
    if len(x) > 1 and not takes(chain, len(x)):
        logging.info("%s: %d channels averaged to mono, which the chain takes", source, len(x))
    if sr != chain.sr:
        lost = f", so that nothing above {chain.sr / 2:g} Hz is left of it" if sr > chain.sr else ""
        logging.info("%s: resampled from %d to %d Hz for the chain%s", source, sr, chain.sr, lost)
    started, lufs = time.perf_counter(), input_loudness(args.loudness, args.preset)
    options = {"lufs": lufs, "output": args.output_loudness, "tail": args.tail, "mix": args.mix}
    bar = partial(progress_bar, title=source.name, unit="block", delay=BAR_AFTER_S)
    try:
        y = render_recording(chain, values, x, sr, **options, stereo=args.stereo or None, watched=bar)
    except LoudnessError as error:
        remedy = f"--output-loudness {KEEP}" if lufs is None else "--loudness off"
        raise UsageError(f"{source}: {error}; {remedy} leaves its level") from error
    y = y if rate == sr else resample(y, sr, rate)
    peak = float(y.abs().max())
    if peak > 1 and output_format(target, depth)[1] == "FLOAT":  # of other formats the writer tells
        over = f"{20 * math.log10(peak):.1f} dB over full scale"
        logging.warning("%s: peaks %s stay in a wav of floats; set a lower --output-loudness", target, over)
    write_audio(target, y, rate, depth)
    took, seconds = time.perf_counter() - started, y.shape[1] / rate
    return Rendered(target, seconds, took)


if __name__ == "__main__":
    sys.exit(main())
