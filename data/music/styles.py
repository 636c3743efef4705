"""Styles of music: their players with parts and instruments, tempo and room."""

from dataclasses import dataclass

from .draws import Range
from .score import SCALES

_ALL = tuple(SCALES)
_DARK = ("minor", "dorian", "phrygian", "harmonic")
_BRIGHT = ("major", "mixolydian", "minor", "dorian")


@dataclass(frozen=True)
class Player:
    """One track of a band; part and instrument are drawn for every piece."""

    name: str
    probability: float  # of being present in a piece
    plays: tuple[str, ...]  # keys of PARTS or GROOVES
    on: tuple[str, ...]  # names of instruments or kits
    level: float = 0.0  # dB
    pitches: Range = (48, 76)  # MIDI note numbers


@dataclass(frozen=True)
class Style:
    """A kind of music; ranges are those from which the values of a piece are drawn."""

    weight: float  # its probability is proportional to it
    band: tuple[Player, ...]
    tempo: Range = (80, 140)  # beats per minute
    swing: float = 0.15  # probability of swing
    scales: tuple[str, ...] = _ALL
    depth: int = 4  # most tones of a chord
    room: Range = (0.3, 1.8)  # s, reverberation time
    send: Range = (-26, -10)  # dB, level of the reverb
    loud: float = 0.5  # probability of heavy bus processing

    @property
    def frame(self) -> tuple[Range, float, tuple[str, ...], int]:
        """The arguments of `draw_score`: tempo, swing, scales, depth."""
        return self.tempo, self.swing, self.scales, self.depth


def drums(
    *grooves: str, probability: float = 0.95, kits: tuple[str, ...] = ("acoustic",), level: float = 0.0
) -> Player:
    """Drums: one of the grooves on one of the kits."""
    return Player("drums", probability, grooves, kits, level)


def hands(probability: float, *kits: str) -> Player:
    """Hand percussion on one of the kits."""
    return Player("percussion", probability, ("percussion",), kits, -9.0)


def bass(*on: str, probability: float = 0.92, level: float = -2.0) -> Player:
    """A bass line on one of the instruments."""
    return Player("bass", probability, ("bass",), on, level, (28, 50))


def voice(probability: float, *plays: str, level: float = 0.0) -> Player:
    """A singing or speaking voice."""
    return Player("voice", probability, plays or ("song",), ("voice",), level, (41, 72))


def noise(probability: float, level: float = -22.0) -> Player:
    """A texture of noise."""
    return Player("texture", probability, ("texture",), ("texture",), level)


KITS = {
    "acoustic": ("kick", "snare", "hat"),
    "ride": ("kick", "snare", "ride"),
    "dry": ("thud", "snare", "hat"),
    "machine": ("boom", "clap", "hat"),
    "electro": ("boom", "snare", "hat"),
    "jazz": ("thud", "brush", "ride"),
    "rim": ("kick", "rim", "hat"),
    "chip": ("thud", "chip", "chip"),
    "industrial": ("boom", "clank", "hat"),
    "orchestral": ("timpani", "snare", "crash"),
    "shakers": ("shaker", "tambourine"),
    "latin": ("conga", "bongo", "shaker", "cowbell"),
    "wood": ("block", "shaker"),
    "taiko": ("taiko", "low tom", "block"),
    "congas": ("conga", "conga"),
}

_KEYS = ("piano", "upright", "epiano", "organ", "clavinet")
_GUITARS = ("steel guitar", "nylon guitar", "clean guitar", "twelve string")
_LOUD_GUITARS = ("crunch guitar", "fuzz guitar")
_PADS = ("saw pad", "soft pad", "square pad", "glass pad", "strings", "choir ah", "choir oo")
_SYNTHS = ("saw lead", "square lead", "soft lead")
_SYNTH_BASSES = ("sub bass", "saw bass", "square bass", "reese bass", "long boom", "acid")
_WINDS = ("saxophone", "trumpet", "trombone", "clarinet", "flute", "oboe")
_BOWED = ("violin", "cello")
_MALLETS = ("marimba", "vibraphone", "glockenspiel", "kalimba", "bells", "steel drum")
_OTHERS = ("organ", "church organ", "accordion", "harp", "harpsichord", "strings", "epiano", "whistle", "sitar")
_COMPING = ("chords", "chords", "arpeggio", "pads")

STYLES = {
    "rock": Style(3, tempo=(85, 165), band=(
        drums("rock", "backbeat", "halftime", "shuffle", kits=("acoustic", "ride", "dry")),
        bass("finger bass", "pick bass"),
        Player("rhythm guitar", 0.9, ("riff", "strums"),
            (*_LOUD_GUITARS, "crunch guitar", "clean guitar"), -3, (40, 66)),
        Player("second guitar", 0.5, ("strums", "arpeggio", "riff"), (*_LOUD_GUITARS, *_GUITARS), -6, (45, 74)),
        Player("keys", 0.3, _COMPING, _KEYS, -8),
        Player("lead", 0.3, ("melody",), (*_LOUD_GUITARS, "organ"), -2, (57, 81)),
        voice(0.65),
        Player("backing", 0.2, ("pads",), ("choir ah", "choir oo"), -10, (52, 74)),
    )),
    "metal": Style(1.2, tempo=(90, 200), swing=0.0, scales=_DARK, depth=2, room=(0.3, 1.2), send=(-28, -14),
        loud=0.9, band=(
        drums("double", "blast", "halftime", "rock", kits=("acoustic", "ride")),
        bass("pick bass", "fuzz bass"),
        Player("rhythm guitar", 1.0, ("riff",), ("fuzz guitar",), 0, (36, 60)),
        Player("second guitar", 0.6, ("riff",), ("fuzz guitar",), -2, (36, 60)),
        Player("lead", 0.35, ("melody", "arpeggio"), ("fuzz guitar",), -2, (60, 86)),
        voice(0.4, "song", "speech"),
    )),
    "pop": Style(3, tempo=(75, 130), swing=0.1, scales=_BRIGHT, depth=4, loud=0.8, band=(
        drums("backbeat", "four", "halftime", "rock", "ballad", kits=("acoustic", "machine", "electro", "dry")),
        bass("finger bass", *_SYNTH_BASSES),
        Player("keys", 0.7, _COMPING, (*_KEYS, "super saw"), -5),
        Player("guitar", 0.5, ("strums", "arpeggio", "chords"), _GUITARS, -7, (45, 74)),
        Player("pad", 0.5, ("pads",), _PADS, -9),
        Player("arp", 0.3, ("arpeggio",), ("synth pluck", *_MALLETS), -9, (60, 88)),
        hands(0.35, "shakers", "latin"),
        voice(0.75),
        Player("backing", 0.25, ("pads",), ("choir ah", "choir oo"), -9, (55, 76)),
        noise(0.1),
    )),
    "electronic": Style(2.5, tempo=(95, 178), swing=0.1, scales=_DARK, depth=5, loud=0.9, band=(
        drums("four", "house", "breakbeat", "twostep", "trap", kits=("machine", "electro", "industrial")),
        bass(*_SYNTH_BASSES),
        Player("chords", 0.6, ("chords", "pads"), ("super saw", "saw pad", "square pad", "epiano", "piano"), -4),
        Player("arp", 0.6, ("arpeggio",), ("synth pluck", "synth pluck", "bells", "kalimba"), -5, (55, 88)),
        Player("lead", 0.4, ("melody",), (*_SYNTHS, "acid"), -2, (55, 84)),
        Player("pad", 0.4, ("pads",), _PADS, -9),
        hands(0.3, "shakers", "latin", "wood"),
        voice(0.25),
        noise(0.4, -16),
    )),
    "hip-hop": Style(2, tempo=(65, 100), swing=0.5, scales=_DARK, depth=5, loud=0.8, band=(
        drums("boombap", "trap", "halftime", "backbeat", kits=("machine", "electro", "dry", "rim")),
        bass("sub bass", "long boom", "finger bass", "saw bass"),
        Player("loop", 0.8, ("chords", "arpeggio", "strums"), (*_KEYS, *_GUITARS, *_MALLETS, "strings"), -6),
        Player("pad", 0.3, ("pads",), _PADS, -10),
        Player("lead", 0.2, ("melody",), (*_SYNTHS, "flute"), -6, (60, 84)),
        voice(0.75, "speech", "speech", "song"),
        noise(0.3, -20),
    )),
    "funk": Style(1.2, tempo=(90, 125), swing=0.2, scales=_BRIGHT, depth=5, band=(
        drums("funk", "backbeat", "four", kits=("acoustic", "dry")),
        bass("slap bass", "finger bass", "saw bass"),
        hands(0.5, "latin", "shakers", "congas"),
        Player("keys", 0.7, ("chords",), ("clavinet", "epiano", "organ"), -5),
        Player("guitar", 0.7, ("chords", "strums"), ("clean guitar",), -6, (52, 76)),
        Player("brass", 0.4, ("chords",), ("brass",), -4, (55, 76)),
        voice(0.55),
    )),
    "folk": Style(2, tempo=(70, 150), swing=0.15, scales=_BRIGHT, depth=3, room=(0.2, 1.2), send=(-30, -14),
        loud=0.2, band=(
        Player("guitar", 0.95, ("strums", "arpeggio"),
            ("steel guitar", "nylon guitar", "twelve string", "mandolin", "banjo"), -2, (40, 72)),
        Player("second", 0.4, ("arpeggio", "strums", "melody"),
            ("mandolin", "banjo", "steel guitar", "accordion", "harp"), -6, (52, 80)),
        bass("double bass", "finger bass", probability=0.45),
        drums("train", "shuffle", "ballad", probability=0.25, kits=("jazz", "dry", "rim")),
        hands(0.25, "shakers", "wood"),
        Player("fiddle", 0.35, ("melody",), ("violin", "cello", "flute", "whistle"), -3, (57, 86)),
        voice(0.6),
    )),
    "jazz": Style(1.5, tempo=(70, 210), swing=0.85, scales=_BRIGHT, depth=5, room=(0.4, 1.5), send=(-26, -12),
        loud=0.1, band=(
        drums("swing", "shuffle", "latin", probability=0.8, kits=("jazz", "ride")),
        bass("double bass"),
        Player("keys", 0.8, ("chords", "arpeggio"), ("piano", "epiano", "organ"), -4),
        Player("guitar", 0.3, ("chords", "strums"), ("clean guitar", "nylon guitar"), -7, (48, 72)),
        Player("lead", 0.75, ("melody",), (*_WINDS, "vibraphone", "clean guitar"), 0, (52, 82)),
        Player("section", 0.2, ("chords",), ("brass",), -5),
        voice(0.2),
    )),
    "orchestral": Style(2.2, tempo=(60, 150), swing=0.0, scales=_ALL, depth=4, room=(1.2, 2.8), send=(-18, -5),
        loud=0.15, band=(
        Player("strings", 0.95, ("pads", "chords", "arpeggio"), ("strings", "quartet"), -1, (43, 82)),
        Player("low strings", 0.8, ("bass", "melody"), ("cello",), -3, (36, 55)),
        Player("brass", 0.5, ("chords", "pads"), ("brass",), -3, (45, 72)),
        Player("winds", 0.5, ("pads", "arpeggio"), ("woodwinds",), -6, (57, 84)),
        Player("solo", 0.6, ("melody",), (*_BOWED, *_WINDS), 0, (52, 88)),
        Player("harp", 0.3, ("arpeggio",), ("harp", "pizzicato", "glockenspiel"), -8, (55, 91)),
        Player("choir", 0.3, ("pads", "chords"), ("choir ah", "choir oo"), -5, (48, 76)),
        drums("march", "halftime", probability=0.35, kits=("orchestral",), level=-4),
        hands(0.2, "taiko"),
    )),
    "chamber": Style(1, tempo=(60, 140), swing=0.0, scales=_ALL, depth=4, room=(0.6, 2.5), send=(-20, -8), loud=0.05,
        band=(
        Player("first", 1.0, ("melody",), (*_BOWED, "flute", "clarinet", "oboe"), 0, (55, 88)),
        Player("second", 0.5, ("melody",), (*_BOWED, "clarinet"), -4, (50, 74)),
        Player("keys", 0.6, ("arpeggio", "chords"), ("piano", "harpsichord", "harp", "church organ"), -3, (45, 79)),
        Player("strings", 0.5, ("pads", "chords"), ("quartet", "pizzicato"), -4, (45, 76)),
        Player("low", 0.6, ("bass",), ("cello",), -3, (36, 55)),
    )),
    "chiptune": Style(1.5, tempo=(100, 180), swing=0.05, scales=_ALL, depth=3, room=(0.1, 0.4), send=(-60, -24),
        loud=0.3, band=(
        drums("rock", "four", "breakbeat", "march", probability=0.85, kits=("chip",), level=-3),
        bass("triangle bass", "square bass", level=1),
        Player("lead", 0.9, ("melody",), ("chip lead", "square lead"), -2, (60, 88)),
        Player("arp", 0.8, ("arpeggio",), ("chip chord",), -5, (55, 84)),
        Player("second", 0.4, ("melody", "arpeggio"), ("chip lead",), -7, (55, 79)),
    )),
    "ambient": Style(1.2, tempo=(50, 100), swing=0.0, scales=_ALL, depth=5, room=(1.5, 2.9), send=(-14, -3),
        loud=0.1, band=(
        Player("pad", 1.0, ("pads",), _PADS, 0, (40, 76)),
        Player("second pad", 0.5, ("pads",), _PADS, -4, (48, 84)),
        Player("bells", 0.5, ("arpeggio", "melody"), (*_MALLETS, "piano", "harp"), -4, (57, 88)),
        bass("sub bass", probability=0.4),
        hands(0.15, "taiko", "wood"),
        noise(0.6, -12),
    )),
    "reggae": Style(0.6, tempo=(65, 95), swing=0.4, scales=_BRIGHT, depth=3, band=(
        drums("reggae", "latin", kits=("rim", "acoustic")),
        bass("finger bass", "sub bass", level=1),
        Player("skank", 0.95, ("chords",), ("clean guitar", "piano", "organ"), -5, (55, 76)),
        hands(0.5, "latin", "congas"),
        voice(0.55),
        Player("brass", 0.25, ("melody",), ("trumpet", "trombone", "saxophone"), -3, (55, 76)),
    )),
    "latin": Style(0.8, tempo=(85, 130), swing=0.0, scales=_BRIGHT, depth=4, band=(
        hands(0.95, "latin", "congas"),
        drums("latin", "four", probability=0.4),
        bass("finger bass", "double bass"),
        Player("piano", 0.7, ("chords", "arpeggio"), ("piano", "nylon guitar"), -4),
        Player("brass", 0.5, ("chords", "melody"), ("brass", "trumpet", "trombone"), -2, (55, 79)),
        voice(0.5),
    )),
    "cinematic": Style(0.8, tempo=(80, 150), swing=0.0, scales=_DARK, depth=3, room=(1.2, 2.8), send=(-16, -5),
        loud=0.5, band=(
        hands(0.9, "taiko"),
        Player("ostinato", 0.8, ("riff", "arpeggio"), ("strings", "quartet", "cello"), -2, (40, 64)),
        Player("brass", 0.6, ("pads",), ("brass",), -2, (36, 64)),
        Player("choir", 0.4, ("pads",), ("choir ah",), -4, (48, 72)),
        bass("sub bass", "reese bass", probability=0.5),
        noise(0.5, -14),
    )),
    "lo-fi": Style(0.8, tempo=(65, 95), swing=0.8, scales=_BRIGHT, depth=5, band=(
        drums("boombap", "halftime", kits=("dry", "rim", "machine")),
        bass("finger bass", "double bass", "sub bass"),
        Player("keys", 1.0, ("chords", "arpeggio"), ("epiano", "upright", "nylon guitar"), -2),
        Player("lead", 0.4, ("melody",), ("flute", "vibraphone", "clean guitar", "saxophone"), -4, (57, 81)),
        noise(0.8, -20),
    )),
    "singer": Style(1.4, tempo=(60, 120), swing=0.1, scales=_BRIGHT, depth=4, room=(0.3, 2.2), send=(-24, -8),
        loud=0.3, band=(
        voice(1.0),
        Player("accompaniment", 1.0, ("arpeggio", "strums", "chords", "pads"),
            ("piano", "upright", "epiano", *_GUITARS, "harp", "organ", "strings"), -4, (43, 72)),
    )),
    "solo voice": Style(1.0, tempo=(60, 130), room=(0.2, 2.2), send=(-40, -8), loud=0.4, band=(
        voice(1.0, "song", "song", "speech"),
    )),
    "solo piano": Style(0.8, tempo=(55, 150), swing=0.2, room=(0.3, 2.0), send=(-30, -10), loud=0.1, band=(
        Player("right hand", 1.0, ("chords", "arpeggio", "melody"), ("piano",), 0, (55, 88)),
        Player("left hand", 0.85, ("arpeggio", "bass", "chords"), ("piano",), -2, (33, 60)),
    )),
    "solo drums": Style(0.8, tempo=(70, 180), swing=0.25, room=(0.2, 1.5), send=(-30, -10), band=(
        drums(*("rock", "backbeat", "funk", "breakbeat", "swing", "latin", "four", "trap", "boombap", "double"),
            probability=1.0, kits=("acoustic", "ride", "dry", "machine", "electro", "jazz", "industrial")),
        hands(0.25, "latin", "shakers", "congas", "taiko"),
    )),
    "solo guitar": Style(0.7, tempo=(60, 150), swing=0.15, room=(0.2, 1.8), send=(-36, -10), loud=0.2, band=(
        Player("guitar", 1.0, ("strums", "arpeggio", "riff", "melody"),
            (*_GUITARS, *_LOUD_GUITARS, "banjo", "sitar", "mandolin"), 0, (40, 76)),
    )),
    "solo instrument": Style(0.9, tempo=(60, 150), swing=0.1, room=(0.2, 2.8), send=(-36, -6), loud=0.1, band=(
        Player("solo", 1.0, ("melody", "arpeggio", "chords"),
            (*_WINDS, *_BOWED, *_MALLETS, *_SYNTHS, *_OTHERS), 0, (48, 84)),
    )),
    "solo percussion": Style(0.4, tempo=(80, 150), room=(0.2, 1.5), send=(-36, -10), band=(
        hands(1.0, "latin", "congas", "taiko", "wood", "shakers"),
        Player("shakers", 0.4, ("percussion",), ("shakers", "wood"), -9.0),
    )),
    "solo bass": Style(0.4, room=(0.1, 0.6), send=(-60, -20), loud=0.2, band=(
        Player("bass", 1.0, ("bass", "riff"), ("finger bass", "pick bass", "slap bass", "fuzz bass", "double bass",
            *_SYNTH_BASSES), 0, (28, 52)),
    )),
}  # fmt: skip
