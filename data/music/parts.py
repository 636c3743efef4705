"""Notes of the pitched parts: bass lines, chords, arpeggios, held tones, melodies and sung phrases."""

from collections.abc import Callable

import numpy as np

from .draws import between, chance, one_of
from .score import Chord, Note, Score

Part = Callable[[Score, np.random.Generator, float, float], list[Note]]


def rhythm(score: Score, rng: np.random.Generator, density: float) -> np.ndarray:
    """Random steps of a bar with an onset, more likely on strong beats; density in 0..1 is about their share."""
    step = np.arange(score.steps)
    strength = np.where(step == 0, 2.5, np.where(step % score.division == 0, 1.3, np.where(step % 2 == 0, 0.9, 0.5)))
    hits = np.flatnonzero(rng.random(score.steps) < density * strength)
    return hits if len(hits) else np.array([0])


def nearest(tone: int, around: float) -> float:
    """Pitch of the given class that is closest to `around`."""
    return around + (tone - around + 6) % 12 - 6


def voicing(chord: Chord, rng: np.random.Generator, low: float, high: float, least: int = 0) -> list[float]:
    """Pitches of a chord upwards from about `low`, none above `high`; octaves are added until there are `least`."""
    bottom = between(rng, (low, max(low, min(low + 12, high - 14))))
    pitches = [bottom + (tone - bottom) % 12 for tone in chord.tones]
    if chance(rng, 0.5):
        pitches.append(pitches[0] + 12)
    if chance(rng, 0.3):
        pitches = [pitch + 12 * int(rng.integers(0, 2)) for pitch in pitches]
    pitches = sorted(pitches)
    while len(pitches) < least:
        pitches.append(pitches[-len(chord.tones)] + 12)
    return sorted({round(min(pitch, high)) for pitch in pitches})


def bass_line(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Roots, fifths, octaves or a walking bass, on a rhythm that repeats every bar."""
    manner = one_of(rng, ("root", "eighths", "octaves", "walking", "groove", "long"), (2, 3, 1.5, 1, 4, 2))
    half = score.division // 2 or 1
    onsets = {
        "root": np.arange(0, score.steps, score.division * 2),
        "eighths": np.arange(0, score.steps, half),
        "octaves": np.arange(0, score.steps, half),
        "walking": np.arange(0, score.steps, score.division),
        "groove": rhythm(score, rng, between(rng, (0.25, 0.6))),
        "long": np.array([0]),
    }[manner]
    centre, held = between(rng, (low, low + 8)), between(rng, (0.45, 1.0))
    notes = []
    for bar in range(score.bars):
        for i, step in enumerate(onsets.tolist()):
            chord = score.chord_at(bar, step)
            pitch = nearest(chord.tones[0], centre)
            if manner == "octaves" and i % 2:
                pitch += 12
            elif manner == "walking" and i % score.metre:
                pitch = nearest(score.scale[int(rng.integers(7))], pitch + int(rng.integers(-3, 8)))
            elif manner == "groove" and i and chance(rng, 0.35):
                pitch = nearest(one_of(rng, (*chord.tones, chord.tones[0])), pitch + one_of(rng, (0, 7, 12)))
            start, room = score.span(bar, onsets, i)
            accent = 0.9 if step % score.division == 0 else 0.7
            notes.append(Note(start, held * room, min(max(pitch, low), high), accent))
    return notes


def chords(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Block chords on a repeating rhythm: held, struck or short, rolled by a few milliseconds."""
    pattern = [rhythm(score, rng, between(rng, (0.05, 0.5))) for _ in range(int(rng.integers(1, 3)))]
    held, roll = one_of(rng, (1.0, 0.9, 0.35, 0.2)), one_of(rng, (0.0, 0.004, 0.015, 0.04))
    return _struck(score, rng, low, high, pattern, held, roll)


def strums(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Strummed chords of five or six strings, eighths or sixteenths with accents, down and up strokes."""
    pattern = [rhythm(score, rng, between(rng, (0.3, 0.8)))]
    return _struck(score, rng, low, high, pattern, between(rng, (0.7, 1.1)), between(rng, (0.004, 0.018)), least=5)


def riff(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Power chords in driving eighths or sixteenths, some muted."""
    step = one_of(rng, (score.division // 2 or 1, 1, score.division))
    grid = np.arange(0, score.steps, step)
    hits = grid[rng.random(len(grid)) < between(rng, (0.5, 1.0))]
    centre, muted = between(rng, (low, low + 7)), between(rng, (0.0, 0.8))
    notes = []
    for bar in range(score.bars):
        for hit in (hits if len(hits) else grid).tolist():
            root = nearest(score.chord_at(bar, hit).tones[0], centre)
            length = score.beat * step / score.division
            strong = hit % score.division == 0
            length = length if strong or not chance(rng, muted) else min(0.07, length)
            start = score.time(bar, hit)
            notes += [Note(start, length, root + up, 0.95 if strong else 0.7) for up in (0, 7, 12)]
    return notes


def _struck(
    score: Score,
    rng: np.random.Generator,
    low: float,
    high: float,
    pattern: list[np.ndarray],
    held: float,
    roll: float,
    least: int = 0,
) -> list[Note]:
    """Chords on the steps of a pattern, of at least `least` tones that start `roll` seconds apart; a voicing each."""
    notes: list[Note] = []
    voicings: dict[tuple[int, ...], list[float]] = {}
    for bar in range(score.bars):
        onsets = pattern[bar % len(pattern)]
        for i, step in enumerate(onsets.tolist()):
            chord = score.chord_at(bar, step)
            if chord.tones not in voicings:
                voicings[chord.tones] = voicing(chord, rng, low, high, least)
            pitches = voicings[chord.tones]
            start, room = score.span(bar, onsets, i)
            order = pitches if step % score.division == 0 else pitches[::-1]
            accent = 0.85 if step % score.division == 0 else 0.6
            for k, pitch in enumerate(order):
                notes.append(Note(start + k * roll, held * room, pitch, accent))
    return notes


def arpeggio(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Broken chords in an up, down, up-down or random order on a fixed grid."""
    step = one_of(rng, (1, max(score.division // 2, 1), score.division), (0.35, 0.5, 0.15))
    order = one_of(rng, ("up", "down", "both", "random"))
    held, skip = between(rng, (0.4, 2.5)), between(rng, (0.0, 0.25))
    octave = one_of(rng, (0, 12))
    base = between(rng, (low, max(low, high - 24)))
    notes, i = [], 0
    for bar in range(score.bars):
        for at in range(0, score.steps, step):
            chord = score.chord_at(bar, at)
            tones = sorted(base + (tone - base) % 12 + up for tone in chord.tones for up in {0, octave})
            cycle = {"up": tones, "down": tones[::-1], "both": tones + tones[-2:0:-1], "random": tones}[order]
            pitch = one_of(rng, tones) if order == "random" else cycle[i % len(cycle)]
            i += 1
            if not chance(rng, skip):
                accent = 0.85 if at % score.division == 0 else 0.65
                length = held * score.beat * step / score.division
                notes.append(Note(score.time(bar, at), length, min(round(pitch), high), accent))
    return notes


def pads(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """All tones of each chord, held for its length."""
    notes = []
    for chord in score.chords:
        start = chord.start * score.beat - score.offset
        velocity = between(rng, (0.6, 0.9))
        for pitch in voicing(chord, rng, low, high):
            notes.append(Note(start, chord.beats * score.beat * 1.02, pitch, velocity))
    return notes


def melody(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """A tune: the repeated rhythm of one or two bars; pitches are a random walk on the scale, often on chord tones."""
    return _tune(score, rng, low, high, between(rng, (0.15, 0.6)), between(rng, (0.6, 1.05)), between(rng, (0.0, 0.4)))


def song(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """A sung line: a tune in a narrower range, one syllable a note, with breathing spaces between phrases."""
    middle = between(rng, (low + 5, max(low + 5, high - 7)))
    density = float(np.clip(between(rng, (0.9, 3.2)) * score.beat / score.division, 0.08, 0.6))
    return _tune(score, rng, middle - 6, middle + 8, density, between(rng, (0.75, 1.0)), between(rng, (0.1, 0.6)))


def speech(score: Score, rng: np.random.Generator, low: float, high: float) -> list[Note]:
    """Rap or speech: quick syllables in words, pitch gliding a few semitones about a low centre."""
    centre = between(rng, (low, low + 8))
    rate = between(rng, (3.5, 7.0))
    on_grid = chance(rng, 0.6)
    grid = score.beat / score.division
    notes, start = [], -score.offset
    while start < score.seconds:
        for i in range(int(rng.integers(2, 12))):
            length = between(rng, (0.6, 1.5)) / rate
            at = round((start + score.offset) / grid) * grid - score.offset if on_grid else start
            pitch = centre + 2.5 * float(rng.standard_normal()) - 0.3 * i
            notes.append(Note(at, 0.9 * length, pitch, between(rng, (0.5, 1.0))))
            start = max(at, start) + length
        start += between(rng, (0.1, 0.7))
    return notes


def _tune(
    score: Score, rng: np.random.Generator, low: float, high: float, density: float, legato: float, rests: float
) -> list[Note]:
    """Notes of a melody on a motif that repeats with changes; `rests` is the probability that a bar ends early.

    No rest before the first note of a bar or after its last is longer than about a second.
    """
    motif = [rhythm(score, rng, density) for _ in range(int(rng.integers(1, 3)))]
    leaps = rng.choice((-4, -2, -1, -1, 0, 1, 1, 2, 3), (len(motif), score.steps))
    ladder = np.array([pitch for pitch in range(int(low), int(high) + 1) if pitch % 12 in score.scale])
    index, second = len(ladder) // 2, score.division / score.beat  # second: in steps
    notes = []
    for bar in range(score.bars):
        onsets = motif[bar % len(motif)] if not chance(rng, 0.2) else rhythm(score, rng, density)
        if onsets[0] > second:
            onsets = np.insert(onsets, 0, 0)
        if chance(rng, rests):
            onsets = onsets[onsets <= max(score.steps - second * between(rng, (0.3, 1.3)), onsets[0])]
        for i, step in enumerate(onsets.tolist()):
            index = int(np.clip(index + leaps[bar % len(motif), i], 0, len(ladder) - 1))
            pitch = float(ladder[index])
            if step % score.division == 0 and chance(rng, 0.6):
                pitch = nearest(one_of(rng, score.chord_at(bar, step).tones), pitch)
            start, room = score.span(bar, onsets, i)
            notes.append(Note(start, legato * room, pitch, between(rng, (0.55, 1.0))))
    return notes


PARTS: dict[str, Part] = {
    "bass": bass_line,
    "chords": chords,
    "strums": strums,
    "riff": riff,
    "arpeggio": arpeggio,
    "pads": pads,
    "melody": melody,
    "song": song,
    "speech": speech,
}
