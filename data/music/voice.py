"""Voice-like lines: a glottal source through the formants of vowels, and the noises of consonants."""

import numpy as np

from .draws import between, chance, gain, log_between, midi_hz
from .phrased import Contours, contours
from .score import Note
from .shaping import curve, frame_times, moving_filter
from .synthesis import HOP, oscillator, product, resonances, upsample_contour, white

# First four formants in Hz of an adult male voice (Peterson and Barney 1952), a closed nasal last.
_VOWELS = np.array([
    (730, 1090, 2440, 3400), (660, 1720, 2410, 3500), (530, 1840, 2480, 3500), (390, 1990, 2550, 3600),
    (270, 2290, 3010, 3700), (570, 840, 2410, 3300), (440, 1020, 2240, 3200), (300, 870, 2240, 3200),
    (640, 1190, 2390, 3300), (490, 1350, 1690, 3300), (250, 1100, 2200, 3100),
], float)  # fmt: skip
_NASAL = len(_VOWELS) - 1
# Centre in Hz, width in octaves, level in dB and length in seconds of consonant noises: s, sh, f, h, t, k, p.
_NOISES = np.array([
    (7000, 0.4, 0, 0.10), (3800, 0.5, 0, 0.10), (6000, 1.6, -12, 0.08), (1500, 1.0, -14, 0.06),
    (5000, 0.7, -2, 0.025), (2300, 0.5, -3, 0.03), (900, 1.0, -8, 0.015),
], float)  # fmt: skip
_FRAME = 1024


def play_voice(notes: list[Note], n: int, sr: int, rng: np.random.Generator) -> np.ndarray:
    """Render notes as syllables of one singer or speaker to (n,) float32."""
    pitch = float(np.mean([note.pitch for note in notes]))
    # Ratio of formant frequencies: higher for high voices, whose vocal tracts are shorter, with a random deviation.
    size = float(np.clip(1.0 + 0.013 * (pitch - 50.0), 0.95, 1.3)) * (1 + 0.05 * float(rng.standard_normal()))
    vibrato = between(rng, (10.0, 80.0)) if chance(rng, 0.6) else 2.0
    attack, release = between(rng, (0.015, 0.06)), between(rng, (0.02, 0.09))
    glide, scoop = log_between(rng, (0.012, 0.06)), between(rng, (0.0, 2.5))
    line = contours(notes, n, sr, rng, attack, release, glide, vibrato, scoop)
    grid = np.minimum((frame_times(n, _FRAME, sr) * sr / HOP).astype(int), len(line.age) - 1)
    vowel, noise, closed = _articulation(notes, line, grid, rng)
    freq = np.maximum(np.linspace(0.0, sr / 2, _FRAME // 2 + 1), 30.0)
    mouth = product(vowel, _vowel_db(freq, size, rng))
    level = upsample_contour(line.level * (1 - closed), n)
    source = oscillator(midi_hz(line.pitch), _glottal(rng), n, sr, rng.random())
    source *= np.float32(1.0 / (np.sqrt(np.mean(source**2)) + 1e-9))
    hiss = white(n, rng)
    source += hiss * np.float32(gain(between(rng, (-34.0, -12.0))))
    # The filter changes the power: afterwards it is scaled back to that of the level contour.
    sung = moving_filter(source * level, gain(mouth), _FRAME)
    sung /= np.sqrt(np.mean(sung**2) / (np.mean(level**2) + 1e-9)) + 1e-9
    hissed = moving_filter(hiss, product(noise, _noise_response(freq, size)), _FRAME)
    return sung + hissed * np.float32(gain(between(rng, (-14.0, 1.0))))


def _glottal(rng: np.random.Generator) -> np.ndarray:
    """Complex amplitudes (699,) of the partials of a glottal pulse train, from breathy to pressed."""
    number = np.arange(1, 700)
    slope, knee = between(rng, (-10.0, -5.0)), between(rng, (1.0, 4.0))
    return gain(slope * np.log2(np.maximum(number / knee, 1.0))) * np.exp(1j * 0.3 * np.pi * rng.standard_normal(699))


def _vowel_db(freq: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Response in dB (vowels, bins) of all vowels of a voice whose formants are `size` times higher."""
    level = np.array([20.0, 16.0, 15.0, 13.0]) * between(rng, (0.7, 1.2)) + rng.uniform(-4, 4, 4)
    width = np.array([0.35, 0.22, 0.17, 0.15])
    centre, spans = np.array([700.0, 3000.0, 4700.0 * size, 8000.0]), np.array([1.0, 0.5, 0.25, 0.6])
    colour = resonances(freq, centre, spans, rng.uniform((-5, -5, 2, 0), (6, 6, 13, 12)))
    air = between(rng, (-5.0, 6.0))
    tone = curve(freq, {60.0: -14.0, 200.0: 0.0, 4500.0: 0.0, 10000.0: air, 18000.0: air - 14.0})
    rows = [20 * np.log10(resonances(freq, size * row, width, level)) for row in _VOWELS]
    rows[_NASAL] -= np.interp(np.log2(freq), [8.5, 10.0], [0.0, 14.0])
    return (np.array(rows) + 20 * np.log10(colour * tone)).astype(np.float32)


def _noise_response(freq: np.ndarray, size: float) -> np.ndarray:
    """Magnitudes (kinds, bins) of the consonant noises."""
    centre, width, level, _ = _NOISES.T[:, :, None]
    return gain(level - 12.0 * np.abs(np.log2(freq / (centre * size**0.5)) / width) ** 1.5).astype(np.float32)


def _articulation(
    notes: list[Note], line: Contours, grid: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of vowels (frames, vowels) and noises (frames, kinds), and the closure of the mouth in 0..1 as a contour.

    A note begins with one of: a consonant noise, a nasal, nothing. It moves from one vowel to another or stays on it.
    """
    count = len(notes)
    repertoire = rng.choice(_NASAL, int(rng.integers(3, _NASAL + 1)), replace=False)
    first, last = rng.choice(repertoire, (2, count))
    last = np.where(rng.random(count) < 0.6, first, last)
    kind = np.where(rng.random(count) < between(rng, (0.25, 0.85)), rng.integers(0, len(_NOISES), count), -1)
    nasal = (kind < 0) & (rng.random(count) < 0.4)
    age, note = line.age[grid], line.note[grid]
    length = np.array([item.length for item in sorted(notes)])[note]
    turn = np.clip((age / np.maximum(length, 0.05) - 0.3) / 0.5, 0.0, 1.0)
    opened = np.where(nasal[note], np.clip((age - 0.03) / 0.06, 0.0, 1.0), 1.0)
    shapes = np.eye(len(_VOWELS), dtype=np.float32)
    weights = shapes[first[note]] * (1 - turn)[:, None] + shapes[last[note]] * turn[:, None]
    weights = weights * opened[:, None] + shapes[np.full(len(note), _NASAL)] * (1 - opened)[:, None]
    span = np.where(kind >= 0, _NOISES[kind, 3], 1.0) * rng.uniform(0.6, 1.4, count)
    loud = (kind >= 0) * rng.uniform(0.3, 1.0, count)
    rise = np.minimum(np.maximum(age, 0) / 0.012, 1.0) * np.clip((span[note] - age) / 0.02 + 1.0, 0.0, 1.0)
    strength = rise * loud[note] * (line.level[grid] > 0.02)
    noises = np.eye(len(_NOISES), dtype=np.float32)[kind][note] * strength[:, None]
    shut = (kind[line.note] >= 0) * np.clip((span[line.note] - line.age) / 0.015 + 1, 0.0, 1.0) * (line.age >= 0)
    return weights.astype(np.float32), noises.astype(np.float32), shut
