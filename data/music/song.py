"""Generates a piece of music from a seed: draws a style, a score and a band, renders every track and mixes them."""

from collections.abc import Iterator

import numpy as np

from reknob.runtime.errors import UsageError

from . import beats
from .draws import between, chance, gain, one_of
from .drums import play_drums
from .mixing import Desk, chorus, echoes, low_cut
from .parts import PARTS
from .phrased import PHRASED, Phrased, play_phrased
from .score import Note, Score, draw_score
from .shaping import saturate
from .struck import STRUCK, Struck, play_struck
from .styles import KITS, STYLES, Player, Style
from .sustained import SUSTAINED, Sustained, play_sustained
from .synthesis import HOP, upsample_contour
from .textures import play_texture
from .voice import play_voice

_LEAD_IN = 0.7  # s rendered before the excerpt and cut off, so that it may start within a note
_INSTRUMENTS: dict[str, Struck | Sustained | Phrased] = {**STRUCK, **SUSTAINED, **PHRASED}
_NEXT = 1_000_003  # from a seed whose players are all silent to another one
# Tone curve of a guitar loudspeaker.
_CABINET = {60.0: -14.0, 110.0: 0.0, 2500.0: 3.0, 4500.0: 0.0, 7000.0: -22.0, 16000.0: -50.0}


def generate_music(seed: int, duration: float = 10.0, sr: int = 44100, style: str | None = None) -> np.ndarray:
    """A mono excerpt (1, N) float32 of music, N = round(duration sr), peak 1, no DC; the same for the same arguments.

    `style` is a key of STYLES, drawn from the seed if None. UsageError for an unknown style or a length below 1 sample.
    """
    piece = _Piece(seed, duration, sr, style)
    loud = chance(piece.rng(2), piece.style.loud)
    total = np.zeros(piece.desk.bins, np.complex64)
    for _, spectrum in piece.tracks():
        total += spectrum
    x = piece.desk.master(total, loud, piece.rng(3))[piece.lead :]
    x = x - x.mean()
    return (x / np.abs(x).max()).astype(np.float32)[None]


def generate_tracks(
    seed: int, duration: float = 10.0, sr: int = 44100, style: str | None = None
) -> dict[str, np.ndarray]:
    """The tracks {name: (1, N) float32} of `generate_music` as they are in its mix, before the bus processing."""
    piece = _Piece(seed, duration, sr, style)
    return {name: piece.desk.samples(spectrum)[None, piece.lead :] for name, spectrum in piece.tracks()}


def generate_solo(seed: int, duration: float = 10.0, sr: int = 44100) -> np.ndarray:
    """One player of a piece alone, a voice in every second piece that has one: (1, N) float32, peak 1, no DC.

    Not mixed and not processed as a bus, as a recording of one source is. UsageError for a length below 1 sample.
    """
    piece = _Piece(seed, duration, sr, None)
    rng = piece.rng(4)
    voices = [player for player in piece.band if "voice" in player.on]
    order = [int(each) for each in rng.permutation(len(piece.band))]
    if voices and chance(rng, 0.5):
        order.insert(0, piece.band.index(voices[0]))
    for k in order:
        # As loud in every section: a soloist has no rests that others fill.
        x = piece._play(piece.band[k], np.maximum(piece.presence[k], 0.5), [], rng)[0][piece.lead :]
        if np.abs(x).max() > gain(-60.0):
            x = x - x.mean()
            return (x / np.abs(x).max()).astype(np.float32)[None]
    return generate_solo(seed + _NEXT, duration, sr)


class _Piece:
    """One piece: its style, score, band and mix; every player has its own random stream."""

    def __init__(self, seed: int, duration: float, sr: int, style: str | None) -> None:
        if style is not None and style not in STYLES:
            raise UsageError(f"unknown style {style!r}; known: {', '.join(STYLES)}")
        if round(duration * sr) < 1:
            raise UsageError(f"duration {duration} s at {sr} Hz is below one sample; ask for more")
        self.seed, self.sr, self.lead = seed, sr, int(_LEAD_IN * sr)
        self.n = self.lead + round(duration * sr)
        rng = self.rng(0)
        drawn = one_of(rng, tuple(STYLES), [each.weight for each in STYLES.values()])
        self.style: Style = STYLES[style or drawn]
        self.score: Score = draw_score(rng, self.n / sr, *self.style.frame)
        band = [player for player in self.style.band if chance(rng, player.probability)]
        self.band: list[Player] = band or [self.style.band[0]]
        self.presence = _presence(rng, self.band, len(self.score.edges) + 1)
        self.swell = gain(between(rng, (-14.0, 14.0)) * np.linspace(-0.5, 0.5, 64)) if chance(rng, 0.2) else None
        self.pump = between(rng, (0.3, 0.9)) if self.style.loud > 0.8 and chance(rng, 0.4) else 0.0
        self.desk = Desk(self.style, self.n, sr, self.rng(1))

    def rng(self, *stream: int) -> np.random.Generator:
        """The random stream for one purpose, independent of what is drawn from others."""
        return np.random.default_rng([self.seed, *stream])

    def tracks(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, spectrum) of each player of the band."""
        kicks: list[float] = []
        for k, player in enumerate(self.band):
            rng = self.rng(9, k)
            x, curves = self._play(player, self.presence[k], kicks, rng)
            if not np.any(x):
                continue
            level = player.level + 2.5 * float(rng.standard_normal())
            if player.name not in ("drums", "bass") and chance(rng, 0.6):
                curves.append(low_cut(rng))
            yield player.name, self.desk.process_track(x, level, curves, rng)

    def _play(
        self, player: Player, presence: np.ndarray, kicks: list[float], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[dict[float, float]]]:
        """Samples (n,) of a player and its tone curves; times of the kicks of drums are appended to `kicks`."""
        plays, on = one_of(rng, player.plays), one_of(rng, player.on)
        if on == "texture":
            return self._moved(play_texture(self.n, self.sr, self.score.beat, rng), kicks), []
        if on in KITS:
            return self._beat(plays, KITS[on], presence, kicks, rng), []
        notes = [self.score.humanised(note, rng) for note in PARTS[plays](self.score, rng, *player.pitches)]
        notes = [self._weighted(note, presence) for note in notes if -note.length < note.start < self.n / self.sr]
        notes = [note for note in notes if note.velocity > 0]
        if not notes:
            return np.zeros(self.n, np.float32), []
        x, drive = self._sound(on, notes, rng)
        if drive is not None:
            x = saturate(x, drive, between(rng, (0.0, 0.3)))
        if chance(rng, 0.12):
            x = echoes(x, int(self.score.beat * self.sr * one_of(rng, (0.5, 0.75, 1.0))), between(rng, (0.15, 0.55)))
        if chance(rng, 0.15):
            x = chorus(x, self.sr, rng)
        return self._moved(x, kicks), [_CABINET] if "guitar" in on and drive is not None and drive > 5.0 else []

    def _sound(self, on: str, notes: list[Note], rng: np.random.Generator) -> tuple[np.ndarray, float | None]:
        """Notes rendered on an instrument (n,), and the drive of its amplifier in dB, None without an amplifier."""
        if on == "voice":
            return play_voice(notes, self.n, self.sr, rng), None
        spec = _INSTRUMENTS[on]
        if isinstance(spec, Struck):
            x = play_struck(spec, notes, self.n, self.sr, rng)
        elif isinstance(spec, Sustained):
            x = play_sustained(spec, notes, self.n, self.sr, rng)
        else:
            x = play_phrased(spec, notes, self.n, self.sr, rng)
        return x, between(rng, spec.drive) if spec.drive else None

    def _beat(
        self, plays: str, kit: tuple[str, ...], presence: np.ndarray, kicks: list[float], rng: np.random.Generator
    ) -> np.ndarray:
        """Samples (n,) of drums or percussion; times of kicks are appended to `kicks`."""
        if plays == "percussion":
            strokes = beats.percussion(self.score, rng, kit)
        else:
            strokes = beats.groove(self.score, rng, plays, kit)
            kicks += sorted(start for drum, start, _ in strokes if drum == kit[0])
        strokes = [(drum, start, loud * presence[self.score.section(start)]) for drum, start, loud in strokes]
        audible = [stroke for stroke in strokes if stroke[2] > 0 and stroke[1] > -1.0]
        return self._moved(play_drums(audible, self.n, self.sr, rng), [])  # drums are not ducked

    def _weighted(self, note: Note, presence: np.ndarray) -> Note:
        """The note with its velocity scaled by the presence of its section."""
        return note._replace(velocity=min(note.velocity * float(presence[self.score.section(note.start)]), 1.0))

    def _moved(self, x: np.ndarray, kicks: list[float]) -> np.ndarray:
        """x (n,) with the swell of the piece and, if the piece pumps, attenuated after each kick (sidechain)."""
        if self.swell is not None:
            x = x * np.interp(np.arange(self.n), np.linspace(0, self.n, 64), self.swell).astype(np.float32)
        if self.pump and kicks:
            t = np.arange(self.n // HOP + 2) * HOP / self.sr
            since = t - np.array(kicks)[np.maximum(np.searchsorted(kicks, t, side="right") - 1, 0)]
            duck = 1 - self.pump * np.exp(-np.maximum(since, 0) / (0.35 * self.score.beat)) * (since >= 0)
            x = x * upsample_contour(duck, self.n)
        return x


def _presence(rng: np.random.Generator, band: list[Player], sections: int) -> np.ndarray:
    """Velocity factor (players, sections), 0 where a player rests; one player always plays."""
    strength = rng.uniform(0.7, 1.0, (len(band), 1)) * rng.uniform(0.6, 1.1, (1, sections))
    rests = rng.random(strength.shape) < (0.25 if sections > 1 else 0.0)
    steady = [k for k, player in enumerate(band) if player.name not in ("voice", "lead", "solo", "texture")]
    rests[one_of(rng, steady or range(len(band)))] = False
    return np.where(rests, 0.0, strength)
