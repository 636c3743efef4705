"""Whether a fit finds the values that are truly there: presets rendered on dry voices, then fitted and compared.

    python -m benchmarks.recovery VOICE... [--preset-set presets/own] [--rows 0,5-9 | --stratified 16] [--known FOLDER]
        [--start defaults --start signals] [--steps 200] [--method annealed] [--certainty]
        [--figure F.png] [--json F]

VOICE is a dry recording, of which the first 12 s are taken. Each of the rows of the preset set is rendered on each
voice; the order is such that the first cases hold all rows, on the voices in turn. --stratified N takes N rows, from
the one whose delay is least audible to the most audible one. --known adds real pairs whose row is known:
FOLDER/truth.csv with the columns pair and preset_row, the recordings as FOLDER/<pair>/anchor.* and oracle.*.

A row of the table is the median over the cases, and the 90 % point: the final loss over the loss of the true values
without delay and reverb; the error of the delay time; of the equaliser's response from 80 Hz to 14 kHz and of the
compressor's curve at the levels that occur, RMS about their mean; of the reverberation time. Delay and reverb count
only in cases where leaving them out costs more than 0.1. --certainty adds how many of the intervals of parameters that
are called found or bounded hold the true value: 68 % of them should. --json holds the scores, written after every case;
cases that it holds already are not fitted again.
"""

from reknob.runtime.program import program

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from reknob.afx.curve import RESPONSE, Curve
from reknob.afx.effect import Effect, Values, flatten
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import normalise_loudness, read_audio, resample
from reknob.data.doctor import PairCheck
from reknob.data.pairs import Pair
from reknob.fitting.certainty import certainty
from reknob.fitting.fit import run
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import STARTS, FitSettings
from reknob.formats.certainty import UNKNOWN, Certainty
from reknob.formats.presets import load_presets, read_chain, read_rows
from reknob.losses import VocalLoss
from reknob.report.tables import text_table
from reknob.runtime.arguments import Parser, file_path, positive_int
from reknob.runtime.files import write_text

LUFS, SECONDS, WARM_UP_S = -18.0, 12.0, 0.5
AUDIBLE = 0.1  # of the vocal loss
DELAY, DECAY, DYNAMICS = "sends.delay.delay", "Reverb decay by 60 dB", "Compressor and expander"
OCTAVES_HZ = np.array([250, 500, 1000, 2000, 4000, 8000])


@dataclass(frozen=True)
class Case:
    """A pair, and the values that made it."""

    name: str
    dry: Tensor  # (1, T)
    wet: Tensor  # (2, T)
    values: Values


@dataclass(frozen=True)
class Score:
    """How near a fit came; None where the true effect cannot be heard."""

    case: str
    start: str
    loss: float
    relative_loss: float
    seconds: float
    delay_ms: float | None
    true_delay_ms: float | None
    eq_db: float
    dynamics_db: float
    decay: float | None
    intervals: int = 0  # of parameters that are called found or bounded
    holding: int = 0  # of them, that hold the true value
    scalars: dict[str, tuple[float, float]] = field(default_factory=dict)  # by name: true value, found value

    @property
    def delay_error(self) -> float | None:
        return None if self.delay_ms is None or self.true_delay_ms is None else abs(self.delay_ms - self.true_delay_ms)


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    config, sr, _ = read_chain(args.preset_set, None)
    chain = build(config, sr).eval()
    is_begun = args.json and args.json.exists()
    scores = [Score(**score) for score in json.loads(args.json.read_text())] if is_begun else []
    done = {(score.case, score.start) for score in scores}
    for case in cases(args, chain):
        for start in args.start or STARTS:
            if (case.name, start) in done:
                continue
            scores.append(evaluate(case, chain, start, args))
            print(line(scores[-1]), flush=True)
            if args.json:
                write_text(args.json, json.dumps([asdict(score) for score in scores], indent=1))
    print(summary(scores))
    if args.figure:
        figure(scores).savefig(args.figure, dpi=120)
    return 0


def cases(args: argparse.Namespace, chain: Effect) -> Iterator[Case]:
    """The presets on the voices, and the known pairs."""
    presets = load_presets(args.preset_set, chain)
    voices = {path.stem if path.stem != "dry" else path.parent.name: voice(path, chain.sr) for path in args.voices}
    names = list(voices)

    def rendered(name: str, row: int) -> Case:
        dry, values = voices[name], presets[row].values(chain, torch.device("cpu"))
        with torch.no_grad():
            wet = render(chain, values, dry)[:, : dry.shape[-1]]
        return Case(f"{name}+{row}", dry, wet, values)

    rows = read_rows(args.rows, presets) if args.rows else list(range(len(presets)))
    if args.stratified and names:
        costs = {row: _loss_without(rendered(names[0], row), chain, ("delay",)) for row in rows}
        at = np.linspace(0, len(rows) - 1, min(args.stratified, len(rows))).round().astype(int)
        rows = [sorted(rows, key=costs.__getitem__)[i] for i in at]
    for shift in range(len(names)):
        for number, row in enumerate(rows):
            yield rendered(names[(number + shift) % len(names)], row)
    if args.known:
        with open(args.known / "truth.csv", newline="") as file:
            truths = list(csv.DictReader(file))
        for truth in truths:
            folder = args.known / truth["pair"]
            dry, wet = (voice(next(folder.glob(f"{side}.*")), chain.sr, side) for side in ("anchor", "oracle"))
            yield Case(truth["pair"], dry, wet, presets[int(truth["preset_row"])].values(chain, torch.device("cpu")))


def voice(path: Path, sr: int, side: str = "anchor") -> Tensor:
    """The first seconds of a recording at a sample rate and at -18 LUFS, mono but for the "oracle"."""
    x, rate = read_audio(path)
    x = (x if side == "oracle" else x.mean(0, keepdim=True))[..., : round(SECONDS * rate)]
    return normalise_loudness(x if rate == sr else resample(x, rate, sr), sr, LUFS)


def evaluate(case: Case, chain: Effect, start: str, args: argparse.Namespace) -> Score:
    """Fits a case from a start, and compares what it found with the truth."""
    seconds = case.dry.shape[-1] / chain.sr
    settings = FitSettings(start=start, epochs=args.steps, chunk_duration=seconds, chunk_overlap=WARM_UP_S)
    settings.optimiser.method = args.method
    settings.read_model()
    recipe = Recipe(settings)
    pair = Pair(case.name, case.dry, case.wet, chain.sr, Path(), Path(), 0, PairCheck())
    begun = time.perf_counter()
    track = recipe.track(pair)
    run(recipe.fit([track]), lambda *_: None, lambda _: None, lambda: False)
    taken = time.perf_counter() - begun
    values = track.best_values(recipe.chain)
    held = holds(certainty(recipe.chain, track.chunks, recipe.loss, values), case.values) if args.certainty else []
    score = _score(case, chain, start, track.best.loss, values, taken)
    return replace(score, intervals=len(held), holding=sum(held))


def holds(certainties: dict[str, Certainty], values: Values) -> list[bool]:
    """For every interval of a parameter that is called found or bounded, whether it holds the true value."""
    held = []
    for name, each in certainties.items():
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (each.low, each.high))
        inside = (low <= flatten(values)[name]) & (flatten(values)[name] <= high)
        called = np.array(each.word, dtype=object) != UNKNOWN
        held += inside.numpy()[called].tolist()
    return held


@torch.no_grad()
def _score(case: Case, chain: Effect, start: str, loss: float, values: Values, seconds: float) -> Score:
    truth, found = ({c.title: c for c in chain.curves(v)} for v in (case.values, values))
    true_loss = _loss_without(case, chain, ())  # of a coded record not 0: what is too quiet, the coder has removed
    audible = {part: _loss_without(case, chain, (part,)) - true_loss > AUDIBLE for part in ("delay", "reverb")}
    eq_mean, eq = _difference(truth[RESPONSE], found[RESPONSE], (80, 14000))
    levels = [_levels(case.dry, truth[RESPONSE], chain.sr), _levels(case.dry, found[RESPONSE], chain.sr)]
    dynamics = _static_difference(truth[DYNAMICS], found[DYNAMICS], *levels)
    decays = [np.interp(OCTAVES_HZ, curve.x, curve.y) for curve in (truth[DECAY], found[DECAY])]
    return Score(
        case.name,
        start,
        loss,
        loss / max(_loss_without(case, chain, ("delay", "reverb")), 1e-9),
        seconds,
        flatten(values)[DELAY].item() if audible["delay"] else None,
        flatten(case.values)[DELAY].item() if audible["delay"] else None,
        eq,
        dynamics,
        float(np.median(np.abs(decays[1] / decays[0] - 1))) if audible["reverb"] else None,
        scalars=_scalars(chain, case.values, values),
    )


def _scalars(chain: Effect, truth: Values, found: Values) -> dict[str, tuple[float, float]]:
    """True and found value of every scalar that a preset holds."""
    true, fitted = flatten(truth), flatten(found)
    names = [name for name, p in chain.walk() if p.preset and not p.shape]
    return {name: (true[name].item(), fitted[name].item()) for name in names}


def _difference(a: Curve, b: Curve, between: tuple[float, float]) -> tuple[float, float]:
    """Mean of the difference of two curves within an interval, and its RMS about that mean."""
    inside = (a.x >= between[0]) & (a.x <= between[1])
    difference = (b.y - a.y)[inside]
    return float(difference.mean()), float(difference.std())


def _levels(x: Tensor, response: Curve, sr: int) -> np.ndarray:
    """Levels in dB of frames of 2048 samples after an equaliser of this response."""
    spectra = torch.stft(x[0], 2048, 1024, window=torch.hann_window(2048), return_complex=True).abs().square()
    gain = np.interp(np.linspace(0, sr / 2, 1025), response.x, response.y)
    power = (spectra * torch.from_numpy(10 ** (gain / 10))[:, None]).sum(0) / 2048**2
    return 10 * np.log10(power.clamp(min=1e-12).numpy())


def _static_difference(a: Curve, b: Curve, levels_a: np.ndarray, levels_b: np.ndarray) -> float:
    """RMS of the difference of two static curves, about its mean, over the levels that occur at the input of each.

    An equaliser that is louder by 3 dB before a threshold that is higher by 3 dB is the same compressor.
    """
    shift = np.median(levels_b - levels_a)
    low, high = np.quantile(levels_a, [0.3, 0.99])
    at = np.linspace(low, high, 100)
    return float(np.std(np.interp(at + shift, b.x, b.y) - np.interp(at, a.x, a.y)))


@torch.no_grad()
def _loss_without(case: Case, chain: Effect, names: tuple[str, ...]) -> float:
    """The vocal loss of the true values with effects of the sends off."""
    sends = dict(case.values["sends"])
    for name, part in chain.sends.parts():
        if name in names:
            sends[name] = part.off(sends[name])
    y = render(chain, {**case.values, "sends": sends}, case.dry)[:, : case.wet.shape[-1]]
    return VocalLoss(chain.sr)(y[None], case.wet[None])[0].item()


def line(score: Score) -> str:
    """One case in one line."""
    delay = "" if score.delay_ms is None else f", delay {score.delay_ms:.1f} for {score.true_delay_ms:.1f} ms"
    decay = "" if score.decay is None else f", decay {100 * score.decay:.0f} %"
    return (
        f"{score.case} {score.start}: loss {score.loss:.3f} ({score.relative_loss:.2f}){delay}, "
        f"eq {score.eq_db:.2f} dB, dynamics {score.dynamics_db:.2f} dB{decay}, {score.seconds:.0f} s"
        + (f", {score.holding} of {score.intervals} intervals hold the truth" if score.intervals else "")
    )


def summary(scores: list[Score]) -> str:
    """Median and 90 % point by start."""
    rows = []
    for start in dict.fromkeys(score.start for score in scores):
        own = [score for score in scores if score.start == start]
        errors = [score.delay_error for score in own if score.delay_error is not None]
        decays = [score.decay for score in own if score.decay is not None]
        right = f"{sum(error < 1 for error in errors)} of {len(errors)}"
        cells = [[getattr(s, name) for s in own] for name in ("loss", "relative_loss", "eq_db", "dynamics_db")]
        quantiles = [np.quantile(cell, [0.5, 0.9]) if cell else (np.nan, np.nan) for cell in (*cells, decays)]
        share = sum(s.holding for s in own) / max(sum(s.intervals for s in own), 1)
        rows.append([start, str(len(own)), right, *(f"{a:.2f} / {b:.2f}" for a, b in quantiles), f"{share:.0%}"])
    medians = ["loss", "relative loss", "eq (dB)", "dynamics (dB)", "decay"]
    return text_table(["start", "cases", "delay within 1 ms", *medians, "intervals"], rows)


def figure(scores: list[Score]) -> plt.Figure:
    """Found against true values, a panel for each parameter, by start."""
    names = list(scores[0].scalars)
    columns = 6
    rows = -(-len(names) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.4 * rows), layout="constrained", squeeze=False)
    for name, axis in zip(names, axes.flat, strict=False):
        for start in dict.fromkeys(score.start for score in scores):
            points = [score.scalars[name] for score in scores if score.start == start]
            axis.plot(*zip(*points, strict=True), "o", label=start, alpha=0.7, markersize=4)
        point = scores[0].scalars[name][0]
        axis.axline((point, point), slope=1, color="0.7", zorder=0)
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    axes.flat[0].legend(fontsize=7)
    fig.supxlabel("true")
    fig.supylabel("found")
    return fig


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__, has_result=False)
    p.add_argument("voices", nargs="*", type=file_path, metavar="VOICE", help="dry recordings")
    own = Path("presets/own")
    p.add_argument("--preset-set", type=file_path, default=own, metavar="FOLDER", help="default %(default)s")
    p.add_argument("--rows", metavar="ROWS", help="rows of the preset set: 0,5-9 (default: all)")
    p.add_argument("--stratified", type=positive_int, metavar="N", help="N of the rows, by how audible their delay is")
    p.add_argument("--known", type=file_path, metavar="FOLDER", help="pairs whose row is known")
    p.add_argument("--start", action="append", choices=STARTS, help="repeatable (default: both)")
    p.add_argument("--steps", type=positive_int, default=200, help="of each fit (default %(default)s)")
    p.add_argument("--method", default="annealed", help="of the optimiser (default %(default)s)")
    p.add_argument("--certainty", action="store_true", help="count the intervals that hold the truth; 20 s a fit")
    p.add_argument("--figure", type=file_path, metavar="F", help="image of found against true values, by parameter")
    p.add_argument("--json", type=file_path, metavar="F", help="file of all scores, continued if there is one")
    return p


if __name__ == "__main__":
    sys.exit(main())
