"""Plays a recording through a fitted chain, block by block, to the loudspeakers or to a file.

    python scripts/play.py --preset presets/own --row 3 in.wav                    to the loudspeakers
    python scripts/play.py --run logs/demo/run_0 --realtime in.wav out.wav        to a file, echoes sample by sample

Memory does not grow with the recording, which is read twice: to measure its loudness, and to play it. As in render.py
it is brought to the loudness that the chain was fitted at, but the output keeps the level that the chain gives it.
Ctrl-C stops and keeps what was written.
"""

from reknob.runtime.program import INTERRUPTED, program

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, takewhile
from pathlib import Path

from torch import Tensor

from reknob.afx.stream import Stream
from reknob.data.audio import (
    audio_writer,
    check_audio_output,
    loudness_gain,
    loudness_of_blocks,
    output_format,
    read_blocks,
    read_rate,
)
from reknob.formats.applied import input_loudness, load_chain
from reknob.runtime.arguments import Parser, chain_inputs, chain_options, file_path
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.output import result

LARGEST_BLOCK = 2**24
Sink = Callable[[Tensor], None]


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    if args.output:
        output_format(check_output(args.output, chain_inputs(args), new_folder=True))
    effect, values = load_chain(**vars(args))
    if args.output:
        check_audio_output(args.output, effect.sr, 2)
    gain = input_gain(args.input, effect.sr, input_loudness(args.loudness, args.preset), args.block)
    stream = Stream(effect, values)
    with Interrupt() as interrupt, open_sink(args.output, effect.sr, args.block) as write:
        # On Ctrl-C the blocks end as at the end of the recording: `play` flushes the stream, and the file is complete.
        blocks = takewhile(lambda _: not interrupt(), mono_blocks(args.input, args.block))
        samples, took = play(stream, (gain * block for block in blocks), write)
    seconds = samples / effect.sr
    speed = f"{seconds:.1f} s of sound in {took:.1f} s ({seconds / took:.1f} times real time)"
    result(f"{args.output or 'played'}: {speed}", output=args.output, seconds=seconds, took=took)
    return INTERRUPTED if interrupt() else 0


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__, parents=[chain_options()])
    p.add_argument("input", type=file_path, help="audio file at the chain's sample rate")
    p.add_argument("output", type=file_path, nargs="?", help="stereo file to write (default: the loudspeakers)")
    p.add_argument("--block", type=int, default=2**16, metavar="SAMPLES", help="size of a block (default %(default)s)")
    return p


def mono_blocks(path: Path, size: int) -> Iterator[Tensor]:
    """A recording's blocks, mixed to mono, (1, T)."""
    return (block.mean(0, keepdim=True) for block in read_blocks(path, size))


def input_gain(path: Path, sr: int, lufs: float | None, size: int) -> float:
    """The factor that brings a recording to a loudness; UsageError where it cannot be measured or played."""
    if not 1 <= size <= LARGEST_BLOCK:
        raise UsageError(f"--block {size}: give at least 1 sample and at most {LARGEST_BLOCK}")
    rate = read_rate(path)
    if rate != sr:
        raise UsageError(f"{path}: {rate} Hz, but the chain runs at {sr} Hz; resample it first, or use render.py")
    if lufs is None:
        return 1.0
    try:
        # In blocks of a fixed size: --block may be a single sample, of which measuring would take far too long.
        return loudness_gain(loudness_of_blocks(mono_blocks(path, 2**16), sr), lufs)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; --loudness off leaves its level") from error


def play(stream: Stream, blocks: Iterator[Tensor], write: Sink) -> tuple[int, float]:
    """Renders blocks (1, T) and writes them (2, T), a mono output to both channels.

    Returns the number of samples written, and the seconds that rendering took.
    """
    samples, took = 0, 0.0
    # None stands for the end, so that the flush is timed and written as a block is.
    for block in chain(blocks, [None]):
        started = time.perf_counter()
        y = stream.flush() if block is None else stream.process(block)
        # Without the writing, which waits for the loudspeakers.
        took += time.perf_counter() - started
        write(y.expand(2, -1))
        samples += y.shape[-1]
    return samples, took


def open_sink(path: Path | None, sr: int, block: int) -> AbstractContextManager[Sink]:
    """A context whose function writes stereo blocks (2, T) to a file, or to the loudspeakers without one."""
    return audio_writer(path, sr, 2) if path else loudspeakers(sr, block)


@contextmanager
def loudspeakers(sr: int, block: int) -> Iterator[Sink]:
    """The default sound device, buffering two blocks, so that one plays while the next is computed."""
    try:
        import sounddevice  # pyright: ignore[reportMissingImports] - optional
    except (ImportError, OSError) as error:  # OSError: its library, PortAudio, is missing
        remedy = "pip install sounddevice, or give a file to write"
        raise UsageError(f"no sound device: {error}; {remedy}") from None
    try:
        device = sounddevice.OutputStream(sr, channels=2, dtype="float32", latency=max(0.2, 2 * block / sr))
        with device:
            yield lambda y: device.write(y.T.contiguous().numpy())
    except sounddevice.PortAudioError as error:
        raise UsageError(f"no sound device: {error}; give a file to write") from None


if __name__ == "__main__":
    sys.exit(main())
