"""Signals that no recording has and parameters at the ends of their ranges: everything is finite, or refused by name.

    python -m benchmarks.guard_rails [--steps 2000] [--what effects,fits] [--losses vocal,esr] [chain.sends=null …]

effects: every registered effect, each of its parameters at both ends of its range (the ends of the raw parameter that
are distinguished in float32), on every signal; outputs and gradients have to be finite. fits: each signal with the wet
file that belongs to it, as one batch, without the check of the pair, which would refuse most of them; further settings
change the chain or the fit.
"""

from reknob.runtime.program import program

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import parser, some_of, write_json
from reknob.afx.effect import Effect, nest
from reknob.afx.registry import EFFECTS, build
from reknob.data.audio import write_audio
from reknob.formats import runs
from reknob.losses import LOSSES
from reknob.runtime.arguments import positive_int
from reknob.runtime.files import read_json, read_tensors

FIT_PROGRAM = import_module("main").main  # a program is run here, as from a command line
SR, SECONDS = 16000, 1.1  # one chunk, no longer than the losses need
END = 20.0  # of a raw parameter: 1 - σ(20) is 2e-9, beside 1 the spacing of float32 is 1e-7
SHORT = {"ping_pong_delay": {"ir_duration": 2}, "fdn": {"ir_duration": 1.0}, "fir": {"length": 64}}
# The full chain of a voice with a clipper, below half the sample rate and with short responses.
CHAIN = [
    *("chain.peak2.freq.range=[200,7000]", "chain.high_shelf.freq.range=[750,7000]", "chain.clip.effect=clipper"),
    *("chain.low_pass.freq.range=[200,7000]", "chain.low_pass.freq.default=6000"),
    *("chain.sends.delay.ir_duration=2", "chain.sends.reverb.ir_duration=0.5"),
    *("chain.sends.delay.eq.freq.range=[200,7000]", "chain.sends.delay.eq.freq.default=6000"),
    "chain.sends.reverb.eq.high_shelf.freq.range=[1500,7000]",
    *("chain.sends.reverb.eq.high_shelf.freq.default=6000", "chain.high_shelf.freq.default=4000"),
]
FIT = [f"sr={SR}", "chunk_duration=1.1", "chunk_overlap=0.1", "align=false", "check_pair=false", "device=cpu"]


@dataclass(frozen=True)
class Case:
    """What became of one case."""

    name: str
    outcome: str  # finite, refused, or failed
    detail: str = ""


def signals() -> dict[str, Tensor]:
    """Signals (1, T) by name."""
    t = torch.arange(round(SECONDS * SR))
    click = torch.zeros(1, len(t))
    click[:, len(t) // 2] = 1.0
    noise = 0.5 * torch.randn(1, len(t), generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    return {
        "silence": 0 * click,
        "silence with a click": click,
        "DC": torch.ones_like(click),
        "full-scale square": (t // 40 % 2 * 2.0 - 1)[None].float(),
        "white noise": noise,
    }


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """Dry (1, T) and wet (2, T) by name: every signal with a quieter copy, and noise with itself and its negative."""
    every = signals()
    noise = every["white noise"]
    made = {name: (x, 0.5 * x.expand(2, -1)) for name, x in every.items()}
    return made | {"wet = dry": (noise, noise.expand(2, -1)), "wet = -dry": (noise, -noise.expand(2, -1))}


def effects() -> Iterator[Case]:
    """Every effect with its parameters at their ends, on every signal."""
    for key in EFFECTS:
        effect = build({"effect": key, **SHORT.get(key, {})}, 48000)
        if not list(effect.walk()):
            continue  # what holds other effects, and is tested with them
        for name, x in signals().items():
            x = x.expand(max(effect.input_channels) if 1 not in effect.input_channels else 1, -1)
            broken = "; ".join(at_ends(effect, x[:, : SR // 2]))
            yield Case(f"{key}, {name}", "failed" if broken else "finite", broken)


def at_ends(effect: Effect, x: Tensor) -> Iterator[str]:
    """Names what is not finite with one parameter at an end of its range, and with all of them."""
    generator = torch.Generator().manual_seed(0)
    centre = {name: p.initial_raw(generator) for name, p in effect.walk()}
    items = [{name: end} for name in centre for end in (END, -END)] + [dict.fromkeys(centre, e) for e in (END, -END)]
    for item in items:
        raws = {n: torch.full_like(raw, item[n]) if n in item else raw.clone() for n, raw in centre.items()}
        for raw in raws.values():
            raw.requires_grad_()
        y = effect(x[None], **nest({name: p.mapping.value(raws[name]) for name, p in effect.walk()}))
        place = f"{', '.join(item) if len(item) < 3 else 'all'} at {next(iter(item.values())):g}"
        if not y.isfinite().all():
            yield f"output with {place}"
        if y.requires_grad:
            found = torch.autograd.grad(y.square().mean(), list(raws.values()), allow_unused=True)
            bad = [name for name, g in zip(raws, found, strict=True) if g is not None and not g.isfinite().all()]
            if bad:
                yield f"gradient of {', '.join(bad)} with {place}"


def fits(steps: int, losses: Sequence[str], folder: Path, settings: Sequence[str] = ()) -> Iterator[Case]:
    """A fit of every pair with every loss; all pairs at once, as a step of a batch takes little longer than of one."""
    for name, (dry, wet) in pairs().items():
        write_audio(folder / f"{name}_dry.wav", dry, SR)
        write_audio(folder / f"{name}_wet.wav", wet, SR)
    for loss in losses:
        logs, error = folder / "logs" / loss, io.StringIO()
        arguments = [f"data_dir={folder}", f"log_dir={logs}", f"epochs={steps}", f"loss.name={loss}", *FIT, *CHAIN]
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            FIT_PROGRAM([*arguments, *settings])
        for name in pairs():
            yield fitted(name, loss, logs / name / "run_0", error.getvalue().splitlines())


def fitted(name: str, loss: str, run: Path, errors: Sequence[str]) -> Case:
    """What became of the fit of a pair: all losses and values finite, or refused in one of the lines `errors`."""
    title = f"fit, {name}, {loss}"
    if not (run / runs.VALUES).exists():
        marks = (f" {name}: ", f"{name}_dry.wav is", f"{name}_wet.wav is")
        reason = next((line for line in errors if any(mark in line for mark in marks)), "")
        is_fault = not reason or "internal error" in reason
        return Case(title, "failed" if is_fault else "refused", reason or "no reason is given")
    losses = torch.tensor(read_json(run / runs.META)["losses"])
    values = read_tensors(run / runs.VALUES)
    bad = [key for key, value in values.items() if not value.isfinite().all()]
    if bad or not losses.isfinite().all():
        return Case(title, "failed", f"not finite: {', '.join(bad) or 'a loss'}")
    return Case(title, "finite", f"{len(losses)} steps, loss {losses[0]:.4g} to {losses.min():.4g}")


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status, 1 where a case failed."""
    p = parser(__doc__)
    p.add_argument("--steps", type=positive_int, default=2000, help="of each fit (default %(default)s)")
    p.add_argument("--what", type=some_of(("effects", "fits")), default="effects,fits", help="with commas between")
    p.add_argument("--losses", type=some_of(LOSSES), default="vocal,esr", help="with commas between")
    p.add_argument("settings", nargs="*", metavar="key=value", help="of main.py, for the fits")
    args = p.parse_args(argv)
    cases = []
    with tempfile.TemporaryDirectory(prefix="reknob-guard-") as folder:
        parts = {"effects": effects(), "fits": fits(args.steps, args.losses, Path(folder), args.settings)}
        for what in args.what:
            for case in parts[what]:
                cases.append(case)
                print(f"{case.outcome}: {case.name}{': ' if case.detail else ''}{case.detail}", flush=True)
    counts = {outcome: sum(case.outcome == outcome for case in cases) for outcome in ("finite", "refused", "failed")}
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    write_json(args.json, {"cases": cases})
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
