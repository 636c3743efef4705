"""The tables of effects by key, and chains built from configurations that name effects by key only."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from runtime.errors import UsageError

from .chain import Normalised, Sends, Serial
from .clipper import Chebyshev, Clipper, Taylor
from .deesser import DeEsser
from .delay import PingPongDelay
from .dynamics import Compressor, CompressorExpander, SimpleCompressor
from .effect import Effect
from .eq import HighPass, HighShelf, LowPass, LowShelf, Peak
from .equaliser import graphic_equaliser, parametric_equaliser
from .proxy import ProxyCompressor
from .reverb import FDN, FIR, NoiseReverb
from .stereo import Panning, StereoWidth

EFFECTS: dict[str, type[Effect]] = {
    "peak": Peak,
    "low_shelf": LowShelf,
    "high_shelf": HighShelf,
    "low_pass": LowPass,
    "high_pass": HighPass,
    "compressor_expander": CompressorExpander,
    "de_esser": DeEsser,
    "panning": Panning,
    "stereo_width": StereoWidth,
    "ping_pong_delay": PingPongDelay,
    "fdn": FDN,
    "noise_reverb": NoiseReverb,
    "fir": FIR,
    "serial": Serial,
    "sends": Sends,
}


@dataclass(frozen=True)
class Key:
    """What a word of a blind-estimation chain stands for: the part's name, and how each side makes it.

    The synthesis side processes recordings; the analysis side, whose settings are estimated, needs gradients.
    """

    part: str
    analysis: Callable[[int], Effect]
    synthesis: Callable[[int], Effect] | None = None


#: In the order in which the effects run.
KEYS = {
    "geq": Key("geq", graphic_equaliser, graphic_equaliser),
    "peq": Key("peq", parametric_equaliser, parametric_equaliser),
    "compfull": Key("comp", ProxyCompressor, Compressor),
    "comphalf": Key("comp", partial(ProxyCompressor, hybrid=True), Compressor),
    "comp": Key("comp", Compressor, Compressor),
    "compsimple": Key("compsimple", SimpleCompressor),
    "taylor": Key("taylor", Taylor),
    "chebyshev": Key("chebyshev", Chebyshev),
    "dist": Key("dist", Clipper, Clipper),
}


def parse_chain(keys: str, sr: int, side: str) -> Normalised:
    """The chain of "peq_comphalf_dist", whatever the order of its words.

    Args:
        side: "analysis" or "synthesis".

    Raises UsageError for a word that is unknown, that this side does not have, or whose effect is there already.
    """
    words = keys.split("_")
    for word in words:
        if getattr(lookup(KEYS, word, "effect", keys), side) is None:
            known = ", ".join(name for name, key in KEYS.items() if getattr(key, side))
            raise UsageError(f"{word!r} in {keys!r} has no {side} form; those that have: {known}")
    parts = [KEYS[word].part for word in words]
    for part in parts:
        if parts.count(part) > 1:
            raise UsageError(f"{keys!r} holds {part!r} twice; give each effect once")
    return Normalised(sr, **{key.part: getattr(key, side)(sr) for word, key in KEYS.items() if word in words})


def lookup(table: dict, key: str, noun: str, place: str = "") -> object:
    """The entry of a table; UsageError that names what was given and what is known."""
    if key in table:
        return table[key]
    close = get_close_matches(str(key), table, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"unknown {noun} {key!r}{f' in {place!r}' if place else ''}; known: {', '.join(table)}{hint}")


def build(config: dict, sr: int, place: str = "chain") -> Effect:
    """An effect from its configuration.

    A configuration is a dict with the effect's key under `effect` ("serial" if absent) and, by name, its options, its
    parameters' overrides (`default`, `range`) and the effects inside it.

    Args:
        sr: sample rate in Hz.
        place: where the configuration stands, for messages.

    Raises UsageError, naming the place, for an unknown effect, option or parameter and for an impossible range.
    """
    if not isinstance(config, dict):
        raise UsageError(f"{place}: expected an effect's settings (effect: …), got {config!r}")
    kind = lookup(EFFECTS, config.get("effect", "serial"), "effect", place)
    options = inspect.signature(kind.__init__).parameters
    settings = {}
    for name, value in config.items():
        if name == "effect":
            continue
        inner = isinstance(value, dict) and ("effect" in value or _holds_effects(value))
        settings[name] = build(value, sr, f"{place}.{name}") if inner else value
        if not inner and not isinstance(value, dict) and name not in options:
            known = ", ".join(_known(kind))
            raise UsageError(
                f"{place}: {kind.__name__} has no option {name!r}; known: {known}; "
                "a parameter takes {default: …, range: …}"
            )
    try:
        return kind(sr, **settings)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise UsageError(f"{place}: {error}") from error


def _holds_effects(config: dict) -> bool:
    return any(isinstance(value, dict) and "effect" in value for value in config.values())


def _known(kind: type[Effect]) -> list[str]:
    """Options and parameters of an effect."""
    options = [n for n, p in inspect.signature(kind.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return options + [p.name for p in kind.params]
