"""Monophonic instruments with gliding pitch: bowed strings, winds, synthesiser leads and basses."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # not its part `signal`, which loads when it is first used

from .draws import Range, between, chance, gain, log_between, midi_hz
from .score import Note
from .shaping import frame_times, moving_filter
from .synthesis import HOP, oscillator, resonances, upsample_contour, white


@dataclass(frozen=True)
class Phrased:
    """Ranges from which a monophonic instrument is drawn.

    `slope` in dB per octave of partial number, `odd` level of even partials in dB, `attack`, `release`, `glide` in
    seconds, `vibrato` in cents, `breath` level of noise in dB, `corner` of the low-pass in multiples of the
    fundamental, `sweep` octaves by which the corner is higher at the start of a note, decaying in `sweep_time` seconds,
    `body` number of resonances, `voices` detuned by `detune` cents, `decay` seconds to 1/e of a held note, `drive` in
    dB.
    """

    slope: Range = (-8.0, -4.0)
    odd: Range = (0.0, 0.0)
    attack: Range = (0.01, 0.05)
    release: Range = (0.03, 0.1)
    glide: Range = (0.003, 0.02)
    vibrato: Range = (0.0, 0.0)
    breath: Range = (-80.0, -60.0)
    corner: Range = (4.0, 20.0)
    sweep: Range = (0.0, 0.0)
    sweep_time: Range = (0.05, 0.4)
    body: int = 0
    voices: int = 1
    detune: Range = (4.0, 20.0)
    decay: Range = (2.0, 20.0)
    drive: Range | None = None


PHRASED = {
    "violin": Phrased((-7, -4), (0, 0), (0.03, 0.12), (0.05, 0.15), (0.01, 0.05), (10, 35), (-46, -32), (6, 20),
        body=9),
    "cello": Phrased((-8, -5), (0, 0), (0.04, 0.15), (0.06, 0.2), (0.01, 0.06), (8, 30), (-46, -32), (8, 25), body=9),
    "flute": Phrased((-16, -9), (0, 0), (0.03, 0.09), (0.04, 0.1), (0.005, 0.02), (5, 25), (-34, -18), (4, 10),
        body=2),
    "clarinet": Phrased((-9, -5), (-30, -12), (0.02, 0.06), (0.03, 0.08), (0.005, 0.02), (0, 10), (-44, -30), (5, 12),
        body=3),
    "oboe": Phrased((-4, -1), (0, 0), (0.02, 0.06), (0.03, 0.08), (0.005, 0.02), (5, 20), (-44, -30), (5, 12),
        body=6),
    "saxophone": Phrased((-6, -2), (0, 0), (0.02, 0.07), (0.03, 0.1), (0.01, 0.04), (5, 30), (-36, -22), (6, 16),
        (0, 1), body=6, drive=(-12, 4)),
    "trumpet": Phrased((-4, -1), (0, 0), (0.015, 0.05), (0.03, 0.08), (0.005, 0.02), (0, 20), (-46, -34), (4, 14),
        (-1, 1), (0.03, 0.1), body=4),
    "trombone": Phrased((-5, -2), (0, 0), (0.02, 0.07), (0.04, 0.1), (0.01, 0.08), (0, 15), (-46, -34), (5, 16),
        (-1, 1), (0.03, 0.1), body=4),
    "whistle": Phrased((-30, -18), (0, 0), (0.02, 0.08), (0.03, 0.1), (0.02, 0.1), (10, 50), (-30, -16), (3, 8)),
    "saw lead": Phrased((-6.2, -5.8), (0, 0), (0.002, 0.02), (0.02, 0.2), (0.003, 0.08), (0, 30), corner=(6, 60),
        sweep=(0, 3), voices=2, drive=(-14, 10)),
    "square lead": Phrased((-6.2, -5.8), (-60, -8), (0.002, 0.01), (0.01, 0.1), (0.002, 0.05), (0, 30),
        corner=(6, 80)),
    "chip lead": Phrased((-6.1, -5.9), (-80, -3), (0.001, 0.002), (0.002, 0.01), (0.001, 0.002), (0, 40),
        corner=(300, 900), decay=(0.1, 10)),
    "soft lead": Phrased((-20, -10), (0, 0), (0.005, 0.05), (0.05, 0.3), (0.005, 0.1), (0, 30), corner=(3, 10)),
    "acid": Phrased((-6.2, -5.8), (-40, 0), (0.001, 0.004), (0.01, 0.04), (0.002, 0.06), corner=(1.5, 6),
        sweep=(2, 4.5), body=1, drive=(-6, 24)),
    "sub bass": Phrased((-40, -16), (0, 0), (0.003, 0.02), (0.02, 0.1), (0.003, 0.08), corner=(2, 6),
        drive=(-14, 10)),
    "saw bass": Phrased((-6.5, -5.5), (0, 0), (0.001, 0.01), (0.01, 0.06), (0.002, 0.04), corner=(2, 20),
        sweep=(0, 4), voices=2, decay=(0.3, 8), drive=(-12, 14)),
    "square bass": Phrased((-6.5, -5.5), (-50, -10), (0.001, 0.01), (0.01, 0.06), (0.002, 0.04), corner=(2, 16),
        sweep=(0, 3), decay=(0.3, 8), drive=(-12, 10)),
    "reese bass": Phrased((-6.5, -5.5), (0, 0), (0.003, 0.02), (0.02, 0.1), (0.003, 0.1), corner=(3, 20),
        sweep=(-1, 1), voices=3, detune=(15, 45), drive=(0, 22)),
    "triangle bass": Phrased((-12.5, -11.5), (-60, -40), (0.001, 0.003), (0.003, 0.02), (0.001, 0.01),
        corner=(20, 200)),
    "long boom": Phrased((-30, -12), (0, 0), (0.001, 0.004), (0.03, 0.1), (0.003, 0.15), corner=(2, 8), sweep=(1, 4),
        sweep_time=(0.01, 0.04), decay=(0.3, 1.2), drive=(0, 20)),
}  # fmt: skip


class Contours(NamedTuple):
    """Contours (m,) of a line of notes, one value every HOP samples."""

    pitch: np.ndarray  # MIDI note number, with glide and vibrato
    level: np.ndarray  # 0..1
    age: np.ndarray  # s since the start of the note
    note: np.ndarray  # index of the note, sorted by start


def contours(
    notes: list[Note],
    n: int,
    sr: int,
    rng: np.random.Generator,
    attack: float,
    release: float,
    glide: float,
    vibrato: float,
    scoop: float,
    decay: float = 20.0,
) -> Contours:
    """Contours of n samples of a line of notes, each of which ends the one before.

    Times in seconds, vibrato in cents; scoop is by how many semitones a note may begin below its pitch.
    """
    notes = sorted(notes)
    start, length, pitch, velocity = (np.array(column) for column in zip(*notes, strict=True))
    step = HOP / sr
    t = np.arange(n // HOP + 2) * step
    at = np.maximum(np.searchsorted(start, t, side="right") - 1, 0)
    age = t - start[at]
    rise = np.where(age > 0, 1 - np.exp(-np.maximum(age, 0) / attack), 0.0)
    held = np.minimum(np.maximum(age, 0), length[at])
    level = velocity[at] * rise * np.exp(-held / decay - np.maximum(age - length[at], 0) / release)
    late = between(rng, (0.1, 0.4))
    rate = between(rng, (4.5, 6.8)) * (1 + 0.08 * _smooth_noise(len(t), step, 0.5, rng))
    wave = np.sin(2 * np.pi * np.cumsum(rate) * step) * np.clip((age - late) / 0.2, 0.0, 1.0)
    drift = 4.0 if vibrato else 0.0
    bend = (vibrato * wave + drift * _smooth_noise(len(t), step, 0.15, rng)) / 100.0
    if scoop:
        below = scoop * np.maximum(rng.standard_normal(len(notes)), -0.3) * (rng.random(len(notes)) < 0.6)
        bend -= below[at] * np.exp(-np.maximum(age, 0) / between(rng, (0.03, 0.12)))
        level *= gain(1.5 * _smooth_noise(len(t), step, 0.12, rng))
    return Contours(_smoothed(pitch[at], step, glide) + bend, _smoothed(level, step, 0.0025), age, at)


def _smoothed(x: np.ndarray, step: float, seconds: float) -> np.ndarray:
    """Contour x (m,), one value every `step` seconds, through a one-pole low-pass that starts at its first value."""
    coef = np.exp(-step / seconds)
    return scipy.signal.lfilter([1 - coef], [1, -coef], x, zi=[coef * x[0]])[0]


def _smooth_noise(size: int, step: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise (size,) of unit deviation, one value every `step` seconds, through a one-pole low-pass."""
    coef = np.exp(-step / seconds)
    return np.asarray(scipy.signal.lfilter([np.sqrt(1 - coef**2)], [1, -coef], rng.standard_normal(size)))


def play_phrased(spec: Phrased, notes: list[Note], n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Render the line to (n,) float32: oscillators and breath through a moving low-pass and a fixed body."""
    attack, release, glide = (log_between(rng, span) for span in (spec.attack, spec.release, spec.glide))
    vibrato, decay = between(rng, spec.vibrato), log_between(rng, spec.decay)
    line = contours(notes, n, sr, rng, attack, release, glide, vibrato, 0.4 if spec.body else 0.0, decay)
    freq, level = midi_hz(line.pitch), upsample_contour(line.level, n)
    out = np.zeros(n, np.float32)
    detune, harmonics = between(rng, spec.detune), _harmonics(spec, rng)
    for k in range(spec.voices if spec.voices == 1 or chance(rng, 0.7) else 1):
        out += oscillator(freq * 2.0 ** (detune * (k - (spec.voices - 1) / 2) / 1200), harmonics, n, sr, rng.random())
    out /= np.sqrt(np.mean(out**2)) + 1e-9
    breath = between(rng, spec.breath)
    if breath > -60.0:
        out += white(n, rng) * np.float32(gain(breath + 12.0))
    return moving_filter(out * level, _response(spec, line, n, sr, rng), 512)


def _harmonics(spec: Phrased, rng: np.random.Generator) -> np.ndarray:
    """Complex amplitudes (1023,) of partials: a slope, attenuated even ones, random deviations."""
    number = np.arange(1, 1024)
    db = between(rng, spec.slope) * np.log2(number) + np.where(number % 2 == 0, between(rng, spec.odd), 0.0)
    db += between(rng, (0.0, 4.0)) * rng.standard_normal(1023) * (spec.body > 0)
    phase = rng.uniform(0, 2 * np.pi, 1023) if spec.body else -np.pi / 2 * np.ones(1023)
    return gain(db) * np.exp(1j * phase)


def _response(spec: Phrased, line: Contours, n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Magnitudes (frames, 257) float32: a low-pass that depends on pitch, level and age of the note, times a body."""
    grid = np.minimum((frame_times(n, 512, sr) * sr / HOP).astype(int), len(line.age) - 1)
    freq = np.maximum(np.linspace(0.0, sr / 2, 257), 20.0)
    opening = between(rng, spec.sweep) * np.exp(-np.maximum(line.age[grid], 0) / log_between(rng, spec.sweep_time))
    dynamic = between(rng, (0.0, 1.5)) * np.log2(np.maximum(line.level[grid], 0.05))
    corner = log_between(rng, spec.corner) * midi_hz(line.pitch[grid]) * 2.0 ** (opening + dynamic)
    steep = float(rng.integers(1, 3))
    centre = np.exp(rng.uniform(np.log(250.0), np.log(7000.0), spec.body))
    body = resonances(freq, centre, rng.uniform(0.1, 0.5, spec.body), rng.uniform(-6.0, 10.0, spec.body))
    ratio = (freq[None] / corner[:, None]).astype(np.float32)
    return body.astype(np.float32) / (1 + ratio**2) ** np.float32(steep)
