"""Time and harmony of a piece: notes, tempo, metre, swing, key, chords and sections."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .draws import Range, between, chance, log_between, one_of

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "harmonic": (0, 2, 3, 5, 7, 8, 11),
}
# Degrees of the scale, for scales with a major third and without.
_PROGRESSIONS = {
    True: ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (0, 3, 0, 4), (1, 4, 0, 0), (0, 2, 3, 4), (0, 4, 3, 3)),
    False: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 5, 3, 4), (0, 0, 5, 6), (0, 3, 6, 2), (0, 6, 3, 0)),
}  # fmt: skip


class Note(NamedTuple):
    """One note: start and length in seconds, pitch as a MIDI number, velocity in 0..1."""

    start: float
    length: float
    pitch: float
    velocity: float


class Chord(NamedTuple):
    """One chord: start and length in beats, its pitch classes with the root first."""

    start: float
    beats: float
    tones: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Time and harmony that all parts of a piece share.

    A beat lasts `beat` seconds and has `division` steps. The piece starts `offset` seconds into bar 0 and lasts
    `seconds`. `edges` are the bars at which a new section starts; `swing` is the delay of every second step in steps.
    """

    seconds: float
    beat: float
    metre: int
    division: int
    swing: float
    offset: float
    jitter: float
    scale: tuple[int, ...]
    chords: tuple[Chord, ...]
    edges: tuple[int, ...]

    @property
    def bars(self) -> int:
        """Number of bars, including those that are played in part."""
        return int(np.ceil((self.seconds + self.offset) / (self.beat * self.metre)))

    @property
    def steps(self) -> int:
        """Steps in a bar."""
        return self.metre * self.division

    def time(self, bar: int, step: float) -> float:
        """Seconds from the start of the piece to a step of a bar, swing included."""
        late = self.swing if self.division % 2 == 0 and step % 2 == 1 else 0.0
        return (bar * self.metre + (step + late) / self.division) * self.beat - self.offset

    def section(self, seconds: float) -> int:
        """Index of the section that a time belongs to."""
        bar = (seconds + self.offset + 1e-6) / (self.beat * self.metre)
        return sum(bar >= edge for edge in self.edges)

    def chord_at(self, bar: int, step: float) -> Chord:
        """Chord that sounds at a step of a bar."""
        beat = bar * self.metre + step / self.division
        return next((chord for chord in reversed(self.chords) if chord.start <= beat), self.chords[0])

    def span(self, bar: int, onsets: np.ndarray, i: int) -> tuple[float, float]:
        """Start of the i-th onset of a bar and the time until the next one or the end of the bar, in seconds."""
        start = self.time(bar, onsets[i])
        return start, self.time(bar, onsets[i + 1] if i + 1 < len(onsets) else self.steps) - start

    def humanised(self, note: Note, rng: np.random.Generator) -> Note:
        """The note with small random deviations of start and velocity."""
        late, louder = self.jitter * rng.standard_normal(2)
        velocity = float(np.clip(note.velocity * (1 + 0.25 * louder), 0.05, 1.0))
        return note._replace(start=note.start + 0.01 * float(late), velocity=velocity)


def draw_score(
    rng: np.random.Generator, seconds: float, tempo: Range, swing: float, scales: tuple[str, ...], depth: int
) -> Score:
    """Draw a score of the given length; tempo in beats per minute, chance of swing, chords of up to `depth` tones."""
    beat = 60.0 / log_between(rng, tempo)
    metre = one_of(rng, (4, 3, 6, 5), (0.8, 0.12, 0.06, 0.02))
    triplets = chance(rng, 0.1)
    scale = SCALES[one_of(rng, scales)]
    key = int(rng.integers(12))
    offset = between(rng, (0.0, beat * metre)) if chance(rng, 0.7) else 0.0
    bars = int(np.ceil((seconds + offset) / (beat * metre)))
    return Score(
        seconds=seconds,
        beat=beat,
        metre=metre,
        division=3 if triplets else 4,
        swing=between(rng, (0.15, 0.65)) if chance(rng, swing) else 0.0,
        offset=offset,
        jitter=between(rng, (0.0, 1.2)),
        scale=tuple((pc + key) % 12 for pc in scale),
        chords=_draw_chords(rng, bars, metre, scale, key, depth),
        edges=tuple(sorted(set(rng.integers(1, bars, int(rng.integers(0, 3))).tolist()))) if bars > 1 else (),
    )


def _draw_chords(
    rng: np.random.Generator, bars: int, metre: int, scale: tuple[int, ...], key: int, depth: int
) -> tuple[Chord, ...]:
    """Chords for all bars: a stock progression or a random walk, held one or two bars or changing twice a bar."""
    degrees = one_of(rng, _PROGRESSIONS[4 in scale])
    if chance(rng, 0.25):
        degrees = tuple(int(degree) for degree in np.cumsum(rng.choice((-2, -1, 1, 2, 3), 4)) % 7)
    beats = one_of(rng, (metre, 2 * metre, metre / 2), (0.6, 0.2, 0.2))
    size = int(rng.integers(3, depth + 1)) if depth > 2 else 2
    stack = {2: (0, 4), 3: (0, 2, 4), 4: (0, 2, 4, 6), 5: (0, 2, 4, 6, 8)}[size]
    first = int(rng.integers(4))
    chords = []
    for i in range(int(np.ceil(bars * metre / beats))):
        degree = degrees[(i + first) % len(degrees)]
        tones = tuple((scale[(degree + third) % 7] + key) % 12 for third in stack)
        if chance(rng, 0.06):
            tones = (tones[0], (tones[0] + 5) % 12, *tones[2:])
        chords.append(Chord(i * beats, beats, tones))
    return tuple(chords)
