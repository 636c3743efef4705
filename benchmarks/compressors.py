"""Whether chains with a compressor reproduce pairs that a compressor made, and find its threshold and ratio.

    python -m benchmarks.compressors FOLDER... [--model compressor] [--loss vocal] [--steps 150] [--seconds 10]
        [--start signals] [--json F]

A folder holds pairs NAME_dry.* and NAME_wet.*, or Input_N.* and GT_N.*, mono or stereo, at their own levels. A row of
the table is a pair: the error-to-signal ratio after the best gain of the input and of the fit, their quotient, the
settings found, and the known ones, where the name says them as in "comp_-20db_4to1". A threshold is given as the peak
level in dB of a sine, 3 dB above its RMS level.
"""

from reknob.runtime.program import program

import argparse
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import parser, write_json
from reknob.afx.effect import Effect, Values, flatten
from reknob.afx.stream import render
from reknob.data.chunks import cut_chunks
from reknob.data.pair_files import PairFiles
from reknob.fitting.compressor_start import chain_start
from reknob.fitting.fit import run
from reknob.fitting.initialise import raws_from
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import STARTS, FitSettings
from reknob.fitting.track import TrackState
from reknob.losses import ErrorToSignal
from reknob.report.tables import text_table
from reknob.runtime.arguments import file_path, positive_float, positive_int

PATTERNS = (("*_dry.*", "_dry.", "_wet."), ("Input_*.*", "Input_", "GT_"))
WARM_UP_S = 0.25
SINE_DB = 3.01  # peak over RMS level of a sine
KNOWN = re.compile(r"_(-?[\d.]+)db_([\d.]+)to1")


@dataclass(frozen=True)
class Score:
    """How well a fit reproduces a pair; None where the name of the pair does not say it, or the chain has none."""

    pair: str
    loss: float
    input_error: float  # error-to-signal ratio after best gain, 0 … 1
    fit_error: float
    threshold: float | None  # dB, peak of a sine
    ratio: float | None
    known_threshold: float | None
    known_ratio: float | None
    seconds: float
    values: dict[str, float]


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = arguments().parse_args(argv)
    scores = []
    for files in pairs(args.folders):
        scores.append(evaluate(files, args))
        print(f"{scores[-1].pair}: {shown(scores[-1].values)}", flush=True)
    print(table(scores))
    write_json(args.json, {"scores": scores})
    return 0


def pairs(folders: list[Path]) -> Iterator[PairFiles]:
    """The pairs of some folders, by name."""
    for folder in folders:
        for pattern, dry_word, wet_word in PATTERNS:
            for dry in sorted(folder.glob(pattern)):
                wet = dry.with_name(dry.name.replace(dry_word, wet_word))
                if wet.exists():
                    name = wet.stem.removesuffix("_wet")
                    yield PairFiles(dry, wet, f"{folder.name}/{name}" if wet_word == "GT_" else name)


def evaluate(files: PairFiles, args: argparse.Namespace) -> Score:
    """Fits the chain to a pair."""
    settings = FitSettings(model=args.model, lufs=None, epochs=args.steps, chunk_overlap=WARM_UP_S)
    settings.optimiser.method, settings.optimiser.lr, settings.loss.name = args.method, args.lr, args.loss
    settings.read_model()
    recipe = Recipe(settings)
    pair = recipe.load(files)
    seconds = min(args.seconds, int(100 * pair.dry.shape[-1] / pair.sr) / 100)
    chunks = cut_chunks(pair, seconds, WARM_UP_S, recipe.loss.least_samples)
    begun = time.perf_counter()
    start = chain_start(recipe.chain, pair.dry, pair.wet) if args.start == "signals" else {}
    raws = raws_from(recipe.chain, start)
    track = TrackState(recipe.chain, chunks.select(torch.arange(1)), epochs=args.steps, raws=raws)
    run(recipe.fit([track]), lambda *_: None, lambda _: None, lambda: False)
    taken = time.perf_counter() - begun
    return score(files.name, recipe.chain, track, taken)


@torch.no_grad()
def score(name: str, chain: Effect, track: TrackState, seconds: float) -> Score:
    """Compares what a fit found with what is known."""
    values = track.best_values(chain)
    warm_up = track.chunks.warm_up
    dry, wet = track.chunks.dry, track.chunks.wet[..., warm_up:]
    measure = ErrorToSignal(best_gain=True)
    rendered = render(chain.eval(), values, dry[0])[None, :, warm_up : dry.shape[-1]]
    input_error, fit_error = (measure(x, wet).item() for x in (dry[..., warm_up:].expand_as(wet), rendered))
    threshold, ratio = compression(values)
    known = KNOWN.search(name)
    numbers = {key: value.item() for key, value in flatten(values).items() if value.dim() == 0}
    return Score(
        name,
        track.best.loss,
        input_error,
        fit_error,
        None if threshold is None else threshold + SINE_DB,
        ratio,
        *([float(known[1]), float(known[2])] if known else [None, None]),
        seconds,
        numbers,
    )


def compression(values: Values) -> tuple[float | None, float | None]:
    """Threshold (RMS level) and ratio of the first compressor."""
    flat: dict[str, Tensor] = flatten(values)
    found = []
    for names in (("threshold", "cmp_threshold"), ("ratio", "cmp_ratio")):
        found.append(next((flat[key].item() for key in flat if key.split(".")[-1] in names), None))
    return found[0], found[1]


def shown(values: dict[str, float]) -> str:
    """Values on one line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def table(scores: list[Score]) -> str:
    """A row for each pair."""
    header = ["pair", "loss", "input", "fit", "fit/input", "threshold", "known", "ratio", "known", "s"]
    rows = []
    for s in scores:
        numbers = (s.threshold, s.known_threshold, s.ratio, s.known_ratio)
        cells = ["" if number is None else f"{number:.2f}" for number in numbers]
        quotient = f"{s.fit_error / max(s.input_error, 1e-12):.2f}"
        errors = [f"{s.loss:.5f}", f"{s.input_error:.5f}", f"{s.fit_error:.5f}", quotient]
        rows.append([s.pair, *errors, *cells, f"{s.seconds:.0f}"])
    return text_table(header, rows)


def arguments() -> argparse.ArgumentParser:
    p = parser(__doc__)
    p.add_argument("folders", nargs="+", type=file_path, metavar="FOLDER", help="of pairs")
    p.add_argument("--model", default="compressor", help="chain file in cfg/model, or a path (default %(default)s)")
    p.add_argument("--loss", default="vocal", help="loss of the fit (default %(default)s)")
    p.add_argument("--start", default="signals", choices=STARTS, help="default %(default)s")
    p.add_argument("--steps", type=positive_int, default=150, help="of each fit (default %(default)s)")
    p.add_argument("--seconds", type=positive_float, default=10.0, help="of each pair (default %(default)s)")
    p.add_argument("--method", default="annealed", help="of the optimiser (default %(default)s)")
    p.add_argument("--lr", type=positive_float, default=0.01, help="learning rate (default %(default)s)")
    return p


if __name__ == "__main__":
    sys.exit(main())
