"""Polyphonic instruments that hold their tone: string sections, organs, choirs, brass, pads, reeds."""

from dataclasses import dataclass

import numpy as np

from .draws import Range, between, chance, gain, log_between, midi_hz
from .score import Note
from .shaping import add, fade
from .synthesis import cloud, resonances

_VOWEL_AH = (700.0, 1150.0, 2700.0, 3500.0)
_VOWEL_OO = (330.0, 800.0, 2500.0, 3400.0)


@dataclass(frozen=True)
class Sustained:
    """Ranges from which an instrument with held tones is drawn.

    `slope` in dB per octave of partial number, `corner_hz` above which partials fall by another 12 dB per octave,
    `detune` the standard deviation of every partial's frequency in cents, `attack` and `release` in seconds, `odd`
    level of even partials in dB, `drawbars` whether the first nine partials have random levels, `formants` in Hz,
    `body` number of random resonances, `tremolo` depth in 0..1, `drive` of the amplifier in dB.
    """

    slope: Range = (-9.0, -4.0)
    corner_hz: Range = (1500.0, 8000.0)
    detune: Range = (4.0, 15.0)
    attack: Range = (0.03, 0.3)
    release: Range = (0.1, 0.6)
    odd: Range = (0.0, 0.0)
    drawbars: bool = False
    formants: tuple[float, ...] = ()
    body: int = 6
    tremolo: Range = (0.0, 0.0)
    drive: Range | None = None


SUSTAINED = {
    "strings": Sustained((-7, -4), (2000, 7000), (6, 20), (0.05, 0.4), (0.15, 0.6)),
    "quartet": Sustained((-7, -3), (2000, 6000), (3, 8), (0.04, 0.15), (0.08, 0.25), body=9),
    "brass": Sustained((-5, -2), (1000, 4000), (3, 10), (0.02, 0.1), (0.05, 0.2), body=4),
    "woodwinds": Sustained((-13, -7), (1200, 4000), (2, 6), (0.03, 0.1), (0.05, 0.15), odd=(-14, 0), body=4),
    "organ": Sustained((-4, 0), (2500, 9000), (0.5, 3), (0.003, 0.02), (0.02, 0.08), drawbars=True, body=2,
        tremolo=(0, 0.4), drive=(-12, 12)),
    "church organ": Sustained((-5, -1), (2500, 9000), (1, 6), (0.03, 0.12), (0.1, 0.4), drawbars=True, body=4),
    "accordion": Sustained((-4, -1), (2500, 7000), (4, 12), (0.02, 0.08), (0.03, 0.1), body=6, tremolo=(0, 0.2)),
    "choir ah": Sustained((-9, -6), (3000, 9000), (10, 22), (0.08, 0.4), (0.2, 0.6), formants=_VOWEL_AH, body=3),
    "choir oo": Sustained((-11, -8), (2000, 6000), (10, 22), (0.08, 0.4), (0.2, 0.6), formants=_VOWEL_OO, body=3),
    "saw pad": Sustained((-6.5, -5.5), (800, 12000), (8, 25), (0.02, 0.8), (0.2, 1.0), body=0),
    "super saw": Sustained((-6, -5), (4000, 16000), (10, 30), (0.003, 0.03), (0.05, 0.3), body=0),
    "square pad": Sustained((-7, -5), (800, 8000), (2, 15), (0.01, 0.6), (0.1, 0.8), odd=(-40, -15), body=0,
        tremolo=(0, 0.5)),
    "soft pad": Sustained((-16, -9), (600, 3000), (4, 20), (0.2, 1.2), (0.4, 1.2), body=2),
    "glass pad": Sustained((-6, -1), (3000, 12000), (2, 10), (0.1, 0.8), (0.4, 1.2), drawbars=True, body=3),
    "chip chord": Sustained((-6.1, -5.9), (9000, 20000), (0.1, 0.5), (0.001, 0.003), (0.005, 0.02), odd=(-60, -3),
        body=0),
}  # fmt: skip


class _Instrument:
    """One instrument drawn from the ranges of a Sustained, which synthesises a seamless loop of any pitch."""

    def __init__(self, spec: Sustained, rng: np.random.Generator, sr: int) -> None:
        self.rng, self.sr = rng, sr
        self.slope, self.corner = between(rng, spec.slope), log_between(rng, spec.corner_hz)
        self.detune, self.odd = log_between(rng, spec.detune), between(rng, spec.odd)
        fixed = len(spec.formants)
        self.centre = np.concatenate([spec.formants, np.exp(rng.uniform(np.log(150.0), np.log(9000.0), spec.body))])
        self.width = np.concatenate([np.full(fixed, 0.22), rng.uniform(0.1, 0.6, spec.body)])
        self.level = np.concatenate([rng.uniform(10.0, 22.0, fixed), rng.uniform(-7.0, 8.0, spec.body)])
        self.bars = rng.uniform(-24.0, 6.0, 9) if spec.drawbars else np.zeros(9)

    def loop(self, pitch: float) -> np.ndarray:
        """Loop (65536,) float32 of a pitch, of unit power."""
        f0 = midi_hz(pitch)
        number = np.arange(1, min(int(0.45 * self.sr / f0), 200) + 1)
        freq = f0 * number
        db = self.slope * np.log2(number) + np.where(number % 2 == 0, self.odd, 0.0)
        db[:9] += self.bars[: len(db)]
        amp = gain(db) * resonances(freq, self.centre, self.width, self.level) / (1 + (freq / self.corner) ** 2)
        out = cloud(freq, amp, self.detune, self.sr, self.rng)
        return out / (np.sqrt(np.mean(out**2)) + 1e-9)


def play_sustained(spec: Sustained, notes: list[Note], n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Render notes to (n,) float32, each from a random position in the loop of its pitch, with an envelope."""
    instrument, out = _Instrument(spec, rng, sr), np.zeros(n, np.float32)
    loops: dict[float, np.ndarray] = {}
    attack, release = log_between(rng, spec.attack), log_between(rng, spec.release)
    sink = between(rng, (0.0, 0.6)) if chance(rng, 0.3) else 0.0
    for note in notes:
        if note.pitch not in loops:
            loops[note.pitch] = instrument.loop(note.pitch)
        size = int((max(note.length, attack) + release) * sr)
        phase = int(rng.integers(65536))  # repeated notes begin at other positions in the loop
        tone = np.resize(np.roll(loops[note.pitch], phase), size) * np.float32(note.velocity)
        if sink:
            tone *= np.linspace(1.0, 1.0 - sink, size, dtype=np.float32)
        add(out, fade(tone, attack, release, sr), int(note.start * sr))
    depth = between(rng, spec.tremolo)
    if depth > 0:
        rate = log_between(rng, (0.8, 7.5))
        out *= 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate / sr * np.arange(n, dtype=np.float32)))
    return out
