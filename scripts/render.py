"""Applies a fitted chain to any recording.

    python scripts/render.py --run logs/demo/run_0 in.wav out.wav                   a run folder, ours or published
    python scripts/render.py --preset presets/medleydb --row 0 in.wav out.wav       a row of a preset set
    python scripts/render.py --values run_0/parametrised.pth in.wav out.wav         values in physical units

The input is brought to -18 LUFS first, the level that presets are fitted at; `--loudness off` leaves it as it is.
"""

import argparse
import logging
import math
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from afx.delay import PingPongDelay
from afx.effect import Effect, Knobs, Values, nest
from afx.registry import build
from afx.reverb import FDN
from afx.stream import render
from data.audio import normalise_loudness, read_audio, resample, write_audio
from data.presets import PUBLISHED_CHAIN, load_presets, read_chain
from data.runs import load_run, load_values, read_chain_file


def main(argv: list[str] | None = None) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        chain, values = load_chain(args)
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
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("input", help="any audio file")
    p.add_argument("output", help="file to write; the suffix says which format")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="FOLDER", help="run folder")
    source.add_argument("--preset", metavar="FOLDER", help="preset set; say which row")
    source.add_argument("--values", metavar="FILE", help="parametrised.pth")
    p.add_argument("--row", type=int, default=0, help="row of the preset set (default 0)")
    p.add_argument("--fx-config", metavar="YAML", help="their chain (default: the set's own, or the full one)")
    p.add_argument("--loudness", type=lufs, default=-18.0, help="LUFS of the input, or off (default -18)")
    p.add_argument("--no-delay", action="store_true", help="mute the delay")
    p.add_argument("--no-reverb", action="store_true", help="mute the reverb")
    p.add_argument("--realtime", action="store_true", help="render delay and reverb sample by sample")
    return p


def lufs(text: str) -> float | None:
    """A loudness in LUFS, or None for off."""
    try:
        value = None if text == "off" else float(text)
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: give a number of LUFS, or off")
    return value


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
        raise ValueError(f"{path}: {error}; --loudness off leaves its level") from error


def load_chain(args: argparse.Namespace) -> tuple[Effect, Values]:
    """The chain and its values as the arguments name them."""
    raws = None
    if args.run:
        run = load_run(args.run)
        config, sr, raws = run.config, run.sr, run.raws
    elif args.preset:
        config, sr, _ = read_chain(args.preset, args.fx_config)
    else:
        config, sr = read_chain_file(args.fx_config or PUBLISHED_CHAIN)
    chain = build(realtime(config) if args.realtime else config, sr).eval()
    if args.preset:
        presets = load_presets(args.preset, chain)
        if not 0 <= args.row < len(presets):
            raise ValueError(f"--row {args.row}: {args.preset} has rows 0 to {len(presets) - 1}")
        raws = presets[args.row].raws
    if raws is None:
        values = nest(load_values(args.values, chain))
    else:
        knobs = Knobs(chain)
        knobs.load_state_dict(raws, strict=False)
        with torch.no_grad():
            values = knobs()
    mute(chain, values, {PingPongDelay: ("gain", args.no_delay), FDN: ("c", args.no_reverb)})
    return chain, values


def realtime(config: dict) -> dict:
    """The same chain with its delays and FDNs rendered sample by sample."""
    config = {key: realtime(value) if isinstance(value, dict) else value for key, value in config.items()}
    return config | ({"render": "realtime"} if config.get("effect") in ("ping_pong_delay", "fdn") else {})


def mute(effect: Effect, values: Values, muted: dict[type[Effect], tuple[str, bool]]) -> None:
    """Sets the output level of the effects that are to be silent to zero."""
    for kind, (level, wanted) in muted.items():
        if wanted and isinstance(effect, kind):
            values[level] = torch.zeros_like(values[level])
    for name, part in effect.parts():
        mute(part, values[name], muted)


if __name__ == "__main__":
    sys.exit(main())
