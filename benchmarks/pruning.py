"""Whether effects that a record was made without are removed, and those that it was made with stay.

    python -m benchmarks.pruning VOICE... [--preset-set presets/own] [--cases 12] [--steps 120] [--json F]

VOICE is a dry recording, of which the loudest 4.5 s are taken, at 16 kHz. A case is a random preset, its values moved
into the ranges of a smaller chain (its reverb is drawn anew); every effect is left out with a probability of 0.4. The
fit starts near the values of those that are present, and near the defaults of the others, takes small annealed steps
and is pruned. An effect counts as audible where leaving it out of the true values costs more than the tolerance. The
last lines score all cases, and those whose fit came near.
"""

from reknob.runtime.program import program

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import parser, write_json
from reknob.afx.effect import Effect, Knobs, Tensors, flatten, values_at
from reknob.afx.param import Bounded
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.audio import loudness, normalise_loudness, read_audio, resample
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit, run
from reknob.fitting.pruning import prune, switches
from reknob.fitting.track import TrackState
from reknob.fitting.trial import Losses
from reknob.formats.presets import Preset, load_presets, read_chain
from reknob.losses import VocalLoss
from reknob.runtime.arguments import file_path, positive_int

SR, SECONDS, WARM_UP_S, LUFS = 16000, 4.5, 0.5, -18.0
ABSENT = 0.4  # probability
# Standard deviations of the start around the true raw parameters: of levels in dB, of others without and with a range.
NEAR_DB, NEAR_FREE, NEAR_RAW = 1.0, 0.03, 0.3
LR = 0.0025
NEAR_LOSSES = (0.1, 0.05)  # of fits that are scored apart as well
CHAIN = {
    "peak1": {"effect": "peak", "freq": {"default": 800, "range": [33, 5400]}},
    "peak2": {"effect": "peak", "freq": {"default": 4000, "range": [200, 7500]}},
    "low_shelf": {"effect": "low_shelf"},
    "high_shelf": {"effect": "high_shelf", "freq": {"default": 3500, "range": [750, 7000]}},
    "low_pass": {"effect": "low_pass", "freq": {"default": 7500, "range": [200, 7900]}},
    "high_pass": {"effect": "high_pass"},
    "comp": {"effect": "compressor_expander"},
    "sends": {
        "effect": "sends",
        "delay": {
            "effect": "ping_pong_delay",
            "ir_duration": 2,
            "surrogate": True,
            "regularise": True,
            "eq": {"effect": "low_pass", "freq": {"default": 4000, "range": [200, 7500]}, "Q": {"range": [0.5, 2]}},
        },
        "reverb": {"effect": "fdn", "ir_duration": 1.5, "bands": 9, "delays": [361, 419, 481, 563, 653, 761]},
    },
}
FILTERS = ("low_pass", "high_pass")  # which no values switch off: they are left out of the chain
SEND = "sends.delay_to_reverb"


@dataclass(frozen=True)
class Score:
    """What was removed in one case."""

    case: str
    absent: list[str]
    audible: dict[str, float]  # the cost of leaving it out of the true values
    removed: list[str]
    loss_before: float
    loss: float
    seconds: float

    @property
    def missed(self) -> list[str]:
        return [name for name in self.absent if name not in self.removed]

    @property
    def wrong(self) -> list[str]:
        return [name for name in self.removed if name in self.audible]


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = arguments().parse_args(argv)
    config, sr, _ = read_chain(args.preset_set, None)
    theirs = build(config, sr)
    presets = load_presets(args.preset_set, theirs)
    scores = []
    for seed in range(args.cases):
        scores.append(evaluate(seed, args, theirs, presets))
        print(line(scores[-1]), flush=True)
    print(summary(scores))
    write_json(args.json, {"scores": scores})
    return 0


def evaluate(seed: int, args: argparse.Namespace, theirs: Effect, presets: list[Preset]) -> Score:
    """Renders, fits and prunes one case."""
    chain, draw = build(CHAIN, SR), np.random.default_rng(seed)
    parts = {each.name: each for each in switches(chain) if each.name != SEND}
    preset, path = presets[draw.integers(len(presets))], args.voices[seed % len(args.voices)]
    absent = [name for name in parts if draw.random() < ABSENT]
    truth = converted(preset, theirs, chain)
    for name in absent:
        truth |= parts[name].off
    chunks, gain_db = rendered(chain, truth, absent, voice(path))
    truth["comp.makeup"] = truth["comp.makeup"] + gain_db
    start = near(chain, truth, {name for each in absent for name in parts[each].held}, seed)
    loss, track = VocalLoss(SR), TrackState(chain, chunks, epochs=args.steps, raws=start)
    begun = time.perf_counter()

    def refine(tracks: Sequence[TrackState]) -> Fit:
        return Fit(chain, tracks, loss, lr=LR, method="annealed", near=True)

    run(refine([track]), lambda *_: None, lambda _: None, lambda: False)
    pruned = prune(chain, track, loss, refine, device=torch.device("cpu"))
    assert pruned is not None
    _, record = pruned
    losses = Losses(chain, chunks, loss, torch.device("cpu"))
    costs = {name: losses(truth | part.off) - losses(truth) for name, part in parts.items() if name not in absent}
    audible = {name: cost for name, cost in costs.items() if cost > record.tolerance}
    name = f"{path.stem if path.stem != 'dry' else path.parent.name}+{preset.row}"
    removed = [name for name in record.removed if name != SEND]
    return Score(name, absent, audible, removed, record.loss_before, record.loss, time.perf_counter() - begun)


def voice(path: Path) -> Tensor:
    """The loudest seconds (1, T) of a recording at -18 LUFS, mono."""
    x, rate = read_audio(path)
    x = resample(x.mean(0, keepdim=True), rate, SR)
    length = min(round(SECONDS * SR), x.shape[-1])
    loudest = int(x[0].square().unfold(-1, length, SR // 2).mean(-1).argmax()) * (SR // 2)
    return normalise_loudness(x[:, loudest : loudest + length], SR, LUFS)


def converted(preset: Preset, theirs: Effect, chain: Effect) -> Tensors:
    """The raw parameters of a preset for a smaller chain: by values, inside its ranges; but for the reverb's."""
    raws = Knobs(chain, torch.Generator().manual_seed(preset.row)).state_dict()
    values = flatten(preset.values(theirs))
    raws["sends.reverb.c"] = values["sends.reverb.c"].float().clone()
    for name, p in chain.walk():
        if name in values and not name.startswith("sends.reverb."):
            value = values[name].double()
            if isinstance(p.mapping, Bounded):
                value = p.mapping.from_unit(p.mapping.to_unit(value).clamp(0.02, 0.98))
            raws[name] = p.mapping.raw(value).float()
    return raws


@torch.no_grad()
def rendered(chain: Effect, raws: Tensors, absent: list[str], dry: Tensor) -> tuple[Chunks, float]:
    """The case as one chunk, wet at -18 LUFS too, and the gain in dB that brought it there."""
    left_out = {name for name in absent if name in FILTERS}
    made = build({name: entry for name, entry in CHAIN.items() if name not in left_out}, SR).eval()
    values = {name: value for name, value in values_at(chain, raws).items() if name not in left_out}
    wet = render(made, values, dry)[:, : dry.shape[-1]]
    gain_db = LUFS - loudness(wet, SR)
    return Chunks(dry[None], normalise_loudness(wet, SR, LUFS)[None], round(WARM_UP_S * SR), (0,)), gain_db


def near(chain: Effect, truth: Tensors, absent: set[str], seed: int) -> Tensors:
    """Raw parameters around the true ones, or around the defaults where `absent`."""
    generator = torch.Generator().manual_seed(seed)
    defaults = Knobs(chain, generator).state_dict()
    start = {}
    for name, p in chain.walk():
        spread = NEAR_RAW if isinstance(p.mapping, Bounded) else NEAR_DB if p.unit == "dB" else NEAR_FREE
        base = defaults[name] if name in absent else truth[name]
        start[name] = base + (0.0 if p.multimodal else spread) * torch.randn(base.shape, generator=generator)
    return start


def line(score: Score) -> str:
    """One case in one line."""
    wrong = ", ".join(f"{name} ({score.audible[name]:.3f})" for name in score.wrong)
    return (
        f"{score.case}: loss {score.loss_before:.3f} -> {score.loss:.3f}, absent {len(score.absent)}, kept "
        f"{', '.join(score.missed) or 'none'}; audible {len(score.audible)}, removed {wrong or 'none'}; "
        f"{score.seconds:.0f} s"
    )


def summary(scores: list[Score]) -> str:
    """The shares over all cases, and over those whose fit came near."""
    lines = []
    for most in (math.inf, *NEAR_LOSSES):
        near = [score for score in scores if score.loss <= most]
        absent, audible = (sum(len(getattr(score, side)) for score in near) for side in ("absent", "audible"))
        missed, wrong = (sum(len(getattr(score, side)) for score in near) for side in ("missed", "wrong"))
        lines.append(
            f"{len(near)} fits of a loss up to {most:g}: removed {absent - missed} of {absent} absent effects, "
            f"{wrong} of {audible} audible ones"
        )
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    p = parser(__doc__)
    p.add_argument("voices", nargs="+", type=file_path, metavar="VOICE", help="dry recordings")
    own = Path("presets/own")
    p.add_argument("--preset-set", type=file_path, default=own, metavar="FOLDER", help="default %(default)s")
    p.add_argument("--cases", type=positive_int, default=12, help="default %(default)s")
    p.add_argument("--steps", type=positive_int, default=120, help="of each fit (default %(default)s)")
    return p


if __name__ == "__main__":
    sys.exit(main())
