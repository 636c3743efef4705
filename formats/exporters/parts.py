"""What exporters share: a preset as steps in series, and what programs have in common: bands, dynamics, panning."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto

from torch import Tensor

from reknob.afx.chain import Normalised, Serial
from reknob.afx.dynamics import Compressor, CompressorExpander, SimpleCompressor
from reknob.afx.effect import Effect, HasResponse, Values, own_values, part_values
from reknob.afx.eq import Biquad, HighPass, HighShelf, LowPass, LowShelf, Peak
from reknob.afx.equaliser import Band as EqualiserBand
from reknob.afx.equaliser import Design, FixedBand
from reknob.afx.functional import biquad
from reknob.afx.registry import EFFECTS
from reknob.afx.reverb import FIR
from reknob.afx.stereo import Panning, StereoWidth, pan_gains
from reknob.formats.preset_document import PresetDocument


class Kind(StrEnum):
    """What a filter of the RBJ cookbook is."""

    PEAK = auto()
    LOW_SHELF = auto()
    HIGH_SHELF = auto()
    LOW_PASS = auto()
    HIGH_PASS = auto()


_KINDS: dict[type[Effect], Kind] = {
    Peak: Kind.PEAK,
    LowShelf: Kind.LOW_SHELF,
    HighShelf: Kind.HIGH_SHELF,
    LowPass: Kind.LOW_PASS,
    HighPass: Kind.HIGH_PASS,
}
_DESIGNS: dict[Design, Kind] = {
    biquad.peak: Kind.PEAK,
    biquad.low_shelf: Kind.LOW_SHELF,
    biquad.high_shelf: Kind.HIGH_SHELF,
}
#: ln 9: a one-pole average rises from 10 to 90 % in this many time constants, as afx.functional.level has it.
RISE = 2.2


@dataclass(frozen=True, eq=False)
class Step:
    """One effect of the chain, with its values."""

    name: str
    effect: Effect
    values: Values

    @property
    def is_linear(self) -> bool:
        """Whether it is linear and time-invariant, so that an impulse response is all of it."""
        return isinstance(self.effect, (Biquad, FIR, StereoWidth)) or isinstance(self.effect, HasResponse)

    def scalar(self, name: str) -> float:
        """One of its values as a number."""
        return float(own_values(self.values)[name])

    def __str__(self) -> str:
        key = next((key for key, kind in EFFECTS.items() if kind is type(self.effect)), type(self.effect).__name__)
        return self.name if key == self.name else f"{self.name} ({key})"


@dataclass(frozen=True)
class Rig:
    """A preset to export.

    Args:
        document: the preset, with the values as they are exported.
        stem: the name, without folder and suffix, of the file that is written; of further files it is the beginning.
    """

    document: PresetDocument
    stem: str
    steps: Sequence[Step] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _steps(self.document.effect, self.document.tensors()))

    @property
    def sr(self) -> int:
        """Sample rate in Hz."""
        return self.document.sr

    def remarks(self, *, dynamics: bool = True) -> list[str]:
        """What no export has: the level of the input, which counts for `dynamics`, and what lies between effects."""
        remarks = []
        if self.document.lufs is not None and dynamics and any(map(dynamics_of, self.steps)):
            remarks.append(f"thresholds are for an input of {self.document.lufs:g} LUFS: bring the track to it first")
        if isinstance(self.document.effect, Normalised):
            remarks.append("the chain scales the input of every effect to a peak of 1, which this export does not")
        return remarks


@dataclass(frozen=True)
class Export:
    """A preset in the format of another program.

    Args:
        content: of the file: text, or audio (C, T).
        lacking: what the export does not have, a line for each part.
        files: further audio (C, T), by what follows the stem in its name.
    """

    content: str | Tensor
    lacking: list[str]
    files: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Band:
    """A second-order filter of the RBJ cookbook. `gain_db` is None for a low- or high-pass."""

    name: str
    kind: Kind
    freq: float
    Q: float
    gain_db: float | None


@dataclass(frozen=True)
class Dynamics:
    """A compressor, and an expander where `exp_slope` is not 0, as programs have them.

    Levels in dB; `*_tau` are time constants (63 %) in ms; `exp_ratio` is that of a downward expander, at least 1: below
    the threshold the output falls so many dB for each dB of the input.
    """

    threshold: float
    ratio: float
    knee: float
    attack_tau: float
    release_tau: float
    makeup: float
    lookahead: float = 0.0
    average_tau: float = 0.0
    exp_threshold: float = -200.0
    exp_ratio: float = 1.0

    @property
    def expands(self) -> bool:
        """Whether it has an expander that does anything."""
        return self.exp_ratio > 1


def _steps(effect: Effect, values: Values, name: str = "") -> list[Step]:
    # Not of subclasses, which may put their parts together in another way.
    if type(effect) not in (Serial, Normalised):
        return [Step(name or "chain", effect, values)]
    before = f"{name}." if name else ""
    return [step for part, inner in effect.parts() for step in _steps(inner, part_values(values, part), before + part)]


def band_of(step: Step) -> Band | None:
    """The band that a step is; None for any other effect."""
    effect = step.effect
    if isinstance(effect, FixedBand):
        return Band(step.name, _DESIGNS[effect.design], float(effect.freq), float(effect.Q), step.scalar("gain"))
    if isinstance(effect, EqualiserBand):
        kind = _DESIGNS[effect.design]
        return Band(step.name, kind, step.scalar("freq"), step.scalar("Q"), step.scalar("gain"))
    kind = _KINDS.get(type(effect))
    if kind is None:
        return None
    Q = effect.steepness if isinstance(effect, (LowShelf, HighShelf)) else step.scalar("Q")
    gain = None if kind in (Kind.LOW_PASS, Kind.HIGH_PASS) else step.scalar("gain")
    return Band(step.name, kind, step.scalar("freq"), Q, gain)


def dynamics_of(step: Step) -> Dynamics | None:
    """The compressor that a step is; None for any other effect."""
    effect = step.effect
    if isinstance(effect, SimpleCompressor):
        attack = release = step.scalar("time_constant")
    elif isinstance(effect, (Compressor, CompressorExpander)):
        attack, release = step.scalar("attack"), step.scalar("release")
    else:
        return None
    if isinstance(effect, Compressor):
        threshold, ratio, knee = (step.scalar(name) for name in ("threshold", "ratio", "knee"))
        return Dynamics(threshold, ratio, knee, attack, release, step.scalar("makeup"))
    return Dynamics(
        step.scalar("cmp_threshold"),
        step.scalar("cmp_ratio"),
        0.0,
        attack / RISE,
        release / RISE,
        step.scalar("makeup"),
        step.scalar("lookahead") if "lookahead" in step.values else 0.0,
        1000 / effect.sr / max(step.scalar("avg_coef"), 1e-6),
        step.scalar("exp_threshold"),
        1 / max(step.scalar("exp_ratio"), 1e-3),
    )


def pan_of(step: Step) -> tuple[float, float] | None:
    """The gains (factors) of left and right of a panning; None for any other effect."""
    if not isinstance(step.effect, Panning):
        return None
    left, right = pan_gains(own_values(step.values)["pan"]).tolist()
    return left, right


def grouped(steps: Iterable[Step], lacking: list[str]) -> Iterator[list[Band] | tuple[str, Dynamics]]:
    """Steps in their order as a host with equalisers and dynamics has them; what it has not is added to `lacking`.

    Neighbouring filters are one list of bands, which is never empty; a compressor comes with the name of its step.
    """
    bands: list[Band] = []
    for step in steps:
        band, dynamics = band_of(step), dynamics_of(step)
        if band:
            bands.append(band)
        elif dynamics:
            if bands:
                yield bands
            bands = []
            lacking.append(f"{step.name}: the detector differs (the chain smooths the gain): the transients differ")
            yield step.name, dynamics
        else:
            lacking.append(lacks(step))
    if bands:
        yield bands


def lacks(step: Step) -> str:
    """The line on a step that a format has no form for."""
    if isinstance(step.effect, Biquad):
        return f"{step}: this filter has no form there"
    if step.is_linear:
        return f"{step}: not in this export; `--to ir-space` writes it as an impulse response"
    if dynamics_of(step):
        return f"{step}: not in this export, which has no dynamics"
    return f"{step}: cannot be exported"


def without(name: str, dynamics: Dynamics, detector: str, *, expander: bool) -> list[str]:
    """What a program's compressor does not have of one: lines on its detector, lookahead and knee, and the expander."""
    missing = [f"{name}: {detector}: the transients differ"]
    if dynamics.expands and not expander:
        missing.append(f"{name}: the expander (1 : {dynamics.exp_ratio:.2f} below {dynamics.exp_threshold:.1f} dB)")
    if dynamics.lookahead > 0.1:
        missing.append(f"{name}: the lookahead of {dynamics.lookahead:.2f} ms")
    if dynamics.knee:
        missing.append(f"{name}: the knee of {dynamics.knee:.1f} dB")
    return missing


def comments(lines: Sequence[str], sign: str) -> str:
    """Lines of text as comments."""
    return "".join(f"{sign} {line}".rstrip() + "\n" for line in lines)


def heading(rig: Rig, lacking: Sequence[str], *notes: str, dynamics: bool = True) -> list[str]:
    """The comment at the beginning of a file: what it is, its conventions, what it lacks."""
    name = " ".join(rig.document.name.split()) or rig.stem
    lines = [f"Preset {name}, exported by reknob at {rig.sr} Hz", *notes, *rig.remarks(dynamics=dynamics)]
    return [*lines, *(f"Lacking: {line}" for line in lacking)]


def number(x: float) -> str:
    """A number with six digits, without an exponent: of a filter, an error below 0.0001 dB."""
    return f"{x:.6g}" if 1 <= abs(x) < 1e6 else f"{x:.6f}".rstrip("0").rstrip(".")
