"""Instruments that are struck or plucked once a note: pianos, guitars, harps, mallets, bells, plucked basses."""

from dataclasses import dataclass

import numpy as np

from .draws import Range, between, chance, gain, log_between, midi_hz
from .score import Note
from .shaping import add, fade, toned
from .synthesis import modes, resonances, white

_FREE_BAR = (1.0, 2.756, 5.404, 8.933, 13.34)
_TUNED_BAR = (1.0, 3.98, 9.9, 16.2)
_BELL = (0.5, 1.0, 1.19, 1.5, 2.0, 2.5, 2.67, 3.0, 4.1, 5.4, 6.8, 8.2)
_TINE = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.1, 14.2, 21.0)


@dataclass(frozen=True)
class Struck:
    """Ranges from which an instrument with freely decaying partials is drawn.

    `slope` in dB per octave of partial number, `corner_hz` above which partials fall by another 12 dB per octave,
    `decay` seconds to 1/e of the fundamental at middle C, `damping` how much faster high partials decay, `strings` per
    note and their `detune` in cents, `stiffness` B of f_k = k f sqrt(1 + B k^2), `pluck` position as a fraction of the
    string, `body` number of resonances, `knock` level of the attack noise in dB, `release` seconds, `partials`
    frequency ratios, `drive` of the amplifier in dB.
    """

    decay: Range
    slope: Range = (-9.0, -4.0)
    corner_hz: Range = (1500.0, 6000.0)
    damping: Range = (0.2, 1.0)
    strings: int = 1
    detune: Range = (0.3, 2.0)
    stiffness: Range = (1e-5, 2e-4)
    pluck: Range | None = (0.08, 0.4)
    body: int = 6
    knock: Range = (-34.0, -16.0)
    release: Range = (0.05, 0.15)
    partials: tuple[float, ...] | None = None
    drive: Range | None = None


STRUCK = {
    "piano": Struck((1.2, 3.0), (-8, -3), (900, 4000), (0.3, 1.2), 2, (0.3, 1.5), (1e-4, 6e-4), (0.1, 0.14), 8,
        (-30, -16), (0.08, 0.3)),
    "upright": Struck((0.7, 1.6), (-9, -4), (700, 3000), (0.6, 1.6), 2, (1, 6), (2e-4, 9e-4), (0.1, 0.16), 8,
        (-26, -12), (0.08, 0.2)),
    "epiano": Struck((0.8, 2.5), (-16, -8), (1000, 5000), (0.4, 1.5), body=2, pluck=None, knock=(-40, -24),
        partials=_TINE, drive=(-14, 6)),
    "clavinet": Struck((0.4, 1.2), (-5, -1), (2000, 7000), (0.3, 0.8), pluck=(0.05, 0.2), body=3,
        release=(0.02, 0.05), drive=(-12, 6)),
    "harpsichord": Struck((0.6, 1.5), (-4, 0), (4000, 11000), (0.2, 0.6), 2, (0.5, 3), pluck=(0.05, 0.15),
        knock=(-26, -12)),
    "nylon guitar": Struck((0.5, 1.3), (-10, -5), (1200, 3500), (0.5, 1.6), pluck=(0.1, 0.35), body=8,
        knock=(-32, -16)),
    "steel guitar": Struck((0.8, 2.0), (-7, -3), (2500, 8000), (0.25, 0.8), 1, pluck=(0.06, 0.3), body=8,
        knock=(-28, -12)),
    "twelve string": Struck((0.8, 1.8), (-6, -2), (3000, 9000), (0.25, 0.7), 2, (3, 9), pluck=(0.06, 0.2), body=8,
        knock=(-28, -12)),
    "clean guitar": Struck((0.8, 2.0), (-8, -3), (1800, 5000), (0.3, 0.9), pluck=(0.06, 0.25), body=4,
        knock=(-40, -22), drive=(-10, 6)),
    "crunch guitar": Struck((1.2, 2.5), (-6, -2), (2000, 5000), (0.2, 0.6), pluck=(0.06, 0.2), body=3,
        knock=(-36, -18), drive=(10, 24)),
    "fuzz guitar": Struck((1.5, 3.0), (-6, -2), (2000, 6000), (0.2, 0.5), pluck=(0.06, 0.2), body=3, knock=(-36, -18),
        drive=(24, 42)),
    "banjo": Struck((0.2, 0.5), (-5, -1), (2500, 7000), (0.3, 0.9), pluck=(0.05, 0.15), body=8, knock=(-20, -8)),
    "mandolin": Struck((0.3, 0.8), (-6, -2), (2500, 7000), (0.3, 0.9), 2, (1, 6), pluck=(0.06, 0.2),
        knock=(-24, -10)),
    "sitar": Struck((0.8, 2.0), (-3, 1), (3000, 8000), (0.1, 0.4), pluck=(0.03, 0.1), knock=(-26, -12)),
    "harp": Struck((0.6, 1.8), (-12, -7), (1500, 5000), (0.4, 1.2), pluck=(0.25, 0.5), knock=(-36, -22),
        release=(0.2, 0.6)),
    "pizzicato": Struck((0.1, 0.3), (-10, -5), (1200, 4000), (0.5, 1.5), 3, (4, 12), pluck=(0.1, 0.3),
        knock=(-24, -10)),
    "marimba": Struck((0.12, 0.4), (-14, -8), (1500, 5000), (0.5, 1.5), pluck=None, knock=(-26, -10),
        release=(0.3, 0.5), partials=_TUNED_BAR),
    "vibraphone": Struck((1.0, 3.0), (-16, -9), (2000, 7000), (0.4, 1.2), pluck=None, knock=(-36, -20),
        release=(0.1, 0.6), partials=_TUNED_BAR),
    "glockenspiel": Struck((0.4, 1.2), (-8, -3), (5000, 14000), (0.1, 0.4), pluck=None, knock=(-30, -14),
        release=(0.5, 1), partials=_FREE_BAR),
    "kalimba": Struck((0.2, 0.8), (-16, -9), (1500, 6000), (0.3, 1), pluck=None, knock=(-22, -8), release=(0.2, 0.5),
        partials=(1.0, 5.9, 11.2)),
    "bells": Struck((1.0, 3.5), (-6, -1), (2000, 8000), (0.2, 0.8), pluck=None, knock=(-30, -16), release=(0.8, 1.5),
        partials=_BELL),
    "steel drum": Struck((0.2, 0.6), (-9, -3), (2000, 6000), (0.3, 0.8), pluck=None, knock=(-24, -10),
        partials=(1.0, 2.0, 3.01, 4.1, 5.9)),
    "synth pluck": Struck((0.08, 0.5), (-6, -3), (1500, 9000), (0.3, 2.5), 3, (2, 14), (1e-9, 2e-9), None, 0,
        (-60, -40)),
    "double bass": Struck((0.4, 1.0), (-9, -5), (500, 2000), (0.8, 2.5), pluck=(0.15, 0.4), body=8, knock=(-26, -10)),
    "finger bass": Struck((0.8, 2.0), (-9, -5), (500, 2000), (0.6, 2.0), pluck=(0.12, 0.35), body=3, knock=(-34, -18),
        drive=(-12, 4)),
    "pick bass": Struck((0.8, 2.0), (-7, -3), (1200, 4000), (0.4, 1.2), pluck=(0.05, 0.2), body=3, knock=(-28, -12),
        drive=(-10, 10)),
    "slap bass": Struck((0.6, 1.5), (-5, -1), (2000, 7000), (0.4, 1.2), pluck=(0.05, 0.15), body=3, knock=(-18, -6),
        drive=(-10, 6)),
    "fuzz bass": Struck((1.0, 2.0), (-6, -2), (1000, 3000), (0.3, 0.8), pluck=(0.05, 0.2), body=3, drive=(18, 36)),
}  # fmt: skip


class _Instrument:
    """One instrument drawn from the ranges of a Struck, which synthesises any pitch, soft or strong."""

    def __init__(self, spec: Struck, rng: np.random.Generator, sr: int) -> None:
        self.spec, self.rng, self.sr = spec, rng, sr
        self.decay, self.corner = log_between(rng, spec.decay), log_between(rng, spec.corner_hz)
        self.slope, self.damping = between(rng, spec.slope), log_between(rng, spec.damping)
        self.stiffness, self.detune = log_between(rng, spec.stiffness), log_between(rng, spec.detune)
        self.pluck = between(rng, spec.pluck) if spec.pluck else None
        self.release, self.knock = log_between(rng, spec.release), between(rng, spec.knock)
        self.soft = between(rng, (0.4, 0.8))
        self.aligned = chance(rng, 0.4)
        self.centre = np.exp(rng.uniform(np.log(90.0), np.log(6000.0), spec.body))
        self.width, self.level = rng.uniform(0.08, 0.5, spec.body), rng.uniform(-8.0, 9.0, spec.body)
        self.click = {300.0: -20.0, log_between(rng, (600.0, 4000.0)): 0.0, 15000.0: -30.0}

    def tone(self, pitch: float, strong: bool, seconds: float) -> np.ndarray:
        """Tone (n,) float32 of a pitch, peak near 1, at most `seconds` long, shorter where it decays sooner."""
        spec, rng, f0 = self.spec, self.rng, midi_hz(pitch)
        ring = self.decay * (261.6 / f0) ** 0.45  # s to 1/e; high notes decay faster
        n = int(min(seconds, 4.5 * ring + 0.05) * self.sr)
        number = np.arange(1, min(int(0.45 * self.sr / f0), 90) + 1, dtype=float)
        ratio = np.array(spec.partials) if spec.partials else number * np.sqrt(1 + self.stiffness * number**2)
        freq = f0 * ratio
        amp = gain(self.slope * np.log2(np.maximum(ratio, 0.5))) * resonances(freq, self.centre, self.width, self.level)
        # A soft stroke excites high partials less: its corner is lower.
        amp /= 1 + (freq / (max(self.corner, 1.5 * f0) * (1.0 if strong else self.soft))) ** 2
        if self.pluck:  # partials with a node at the plucked position are weak
            amp *= np.abs(np.sin(np.pi * ratio * self.pluck)) + 0.03
        if spec.partials:
            amp *= rng.uniform(0.5, 1.0, len(ratio))
        decay = ring / (1 + self.damping * (np.maximum(freq - f0, 0) / 1500.0) ** 0.8)
        decay *= rng.uniform(0.8, 1.2, len(ratio))
        phase = np.zeros(len(ratio)) if self.aligned else rng.uniform(0, 2 * np.pi, len(ratio))
        if spec.strings > 1:  # (strings K,): every partial once per string, with beating and two-stage decay
            shift = 2.0 ** (self.detune / 1200 * np.linspace(-1, 1, spec.strings) * rng.uniform(0.7, 1.3, spec.strings))
            freq, amp, phase = np.outer(shift, freq).ravel(), np.tile(amp, spec.strings), np.tile(phase, spec.strings)
            decay = np.outer(np.geomspace(0.7, 1.6, spec.strings), decay).ravel()
        out = modes(freq, decay, amp, n, self.sr, phase)
        out /= np.abs(out).max() + 1e-9
        size = min(int(0.03 * self.sr), n)
        knock = toned(white(size, rng), self.sr, self.click) * np.exp(-np.arange(size) / (0.005 * self.sr))
        out[:size] += (knock * (gain(self.knock) / (np.abs(knock).max() + 1e-9))).astype(np.float32)
        return out


def play_struck(spec: Struck, notes: list[Note], n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Render notes to (n,) float32; a tone is synthesised once per pitch and strength and used for all its notes."""
    instrument, out = _Instrument(spec, rng, sr), np.zeros(n, np.float32)
    tones: dict[tuple[float, bool], np.ndarray] = {}
    longest = max((note.length for note in notes), default=0.0) + instrument.release
    tail = int(instrument.release * sr) + 1
    for note in notes:
        key = (note.pitch, note.velocity > 0.7)
        if key not in tones:
            tones[key] = instrument.tone(*key, seconds=min(longest, 5.0))
        tone = tones[key][: int(max(note.length, 0.02) * sr) + tail]
        add(out, fade(tone * np.float32(note.velocity**1.3), 0.0, instrument.release, sr), int(note.start * sr))
    return out
