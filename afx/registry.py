"""The tables of effects by key, and chains built from configurations that name effects by key only."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial

from reknob.runtime.errors import UsageError
from reknob.runtime.trees import is_off

from .chain import Normalised, Sends, Serial
from .clipper import Chebyshev, Clipper, Taylor
from .deesser import DeEsser
from .delay import PingPongDelay
from .dynamics import Compressor, CompressorExpander, SimpleCompressor
from .effect import Effect, Knobs
from .eq import HighPass, HighShelf, LowPass, LowShelf, Peak
from .equaliser import graphic_equaliser, parametric_equaliser
from .options import Flag, Part
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

#: What may be said of a parameter.
OVERRIDES = {"default", "range"}


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


def lookup(table: dict, key: str, noun: str, place: str = "", hint: str = "") -> object:
    """The entry of a table; UsageError that names what was given and what is known, and gives a hint."""
    if key in table:
        return table[key]
    close = get_close_matches(str(key), table, 1)
    hint = f"; did you mean {close[0]!r}?" if close else hint
    raise UsageError(f"unknown {noun} {key!r}{f' in {place!r}' if place else ''}; known: {', '.join(table)}{hint}")


def build(config: dict, sr: int, place: str = "chain") -> Effect:
    """An effect from its configuration.

    A configuration is a dict with the effect's key under `effect` ("serial" if absent) and, by name, its options, its
    parameters' overrides (`default`, `range`) and the effects inside it. What is null or off is left out: an effect, or
    a change of an option or parameter.

    Args:
        sr: sample rate in Hz.
        place: where the configuration stands, for messages.

    Raises UsageError, naming the place, for an unknown effect, option or parameter, for an option or default out of
    bounds and for an impossible range.
    """
    if not isinstance(config, dict):
        raise UsageError(f"{place}: expected an effect's settings (effect: …), got {str(config)[:80]!r}")
    key = config.get("effect", "serial")
    if not isinstance(key, str):
        raise UsageError(f"{place}.effect: expected the name of an effect, got {str(key)[:80]}; known: {_names()}")
    kind = lookup(EFFECTS, key, "effect", place, "; an effect of a plug-in needs --plugin MODULE")
    settings = {}
    for name, value in config.items():
        if name != "effect":
            settings |= _entry(kind, name, value, sr, place, config)
    try:
        return kind(sr, **settings)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise UsageError(f"{place}: {error}") from error


def _entry(kind: type[Effect], name: str, value: object, sr: int, place: str, config: dict) -> dict[str, object]:
    """What one entry of a configuration gives the effect; nothing where it is left out."""
    bound, here = kind.options.get(name), f"{place}.{name}"
    if is_off(value) and not (isinstance(bound, Flag) and value is not None):
        if bound is None and not kind.holds_effects and name not in _known(kind):
            raise _unknown(kind, name, place)
        return {}
    try:
        if isinstance(bound, Part):
            return {name: bound.read(name, build(value, sr, here))}
        if bound is not None and not isinstance(value, dict):
            return {name: bound.read(name, value)}
    except UsageError as error:
        message = str(error)
        raise error if message.startswith(place) else UsageError(f"{place}: {message}") from error
    is_override = isinstance(value, dict) and value.keys() <= OVERRIDES and value
    if kind.holds_effects and not (is_override and kind is Sends):
        _check_name(kind, name, place)
        return {name: _part(value, sr, here, config)}
    if not isinstance(value, dict):
        raise _unknown(kind, name, place)
    if not is_override and value:
        raise UsageError(f"{here}: a parameter takes default and range; given: {', '.join(map(str, value))}")
    return {name: value}


def _part(value: object, sr: int, place: str, config: dict) -> Effect:
    """An effect of a chain."""
    if isinstance(value, dict) and "effect" not in value and not any(isinstance(v, dict) for v in value.values()):
        name = place.rpartition(".")[2]
        elsewhere = [path for path in _paths(config, name) if path != name]
        typo = get_close_matches("effect", value, 1)
        hint = f"; did you mean {place.removesuffix(name)}{elsewhere[0]}?" if elsewhere else ""
        hint = f"; did you mean effect: {value[typo[0]]}?" if typo else hint
        raise UsageError(f"{place}: says no effect{hint or ', as in {effect: peak}; null leaves one out'}")
    part = build(value, sr, place)
    if isinstance(part, Serial) and not list(part.parts()):
        raise UsageError(f"{place}: an empty chain; put effects into it, or leave it out by null")
    return part


def _paths(config: dict, name: str, prefix: str = "") -> list[str]:
    """Where effects of a name stand in a configuration."""
    found = [prefix + name] if isinstance(config.get(name), dict) and prefix else []
    inside = [(key, value) for key, value in config.items() if isinstance(value, dict)]
    return found + [path for key, value in inside for path in _paths(value, name, f"{prefix}{key}.")]


def _check_name(kind: type[Effect], name: str, place: str) -> None:
    """Refuses names that an effect of a chain cannot have; UsageError."""
    if not str(name).isidentifier() or name.startswith("_"):
        raise UsageError(f"{place}: an effect cannot be called {str(name)[:80]!r}; give letters, digits and _")
    if name in _taken(kind):
        raise UsageError(f"{place}: an effect cannot be called {name!r}, which means something else; give another name")


@cache
def _taken(kind: type[Effect]) -> frozenset[str]:
    """Names that mean something else to a chain, to what holds its parameters, or to the functions that run it."""
    plain = kind(44100)
    arguments = {name for _, method in inspect.getmembers(kind, inspect.isfunction) for name in _arguments(method)}
    return frozenset(arguments | {*dir(plain), *dir(Knobs(plain))})


def _arguments(method: Callable) -> list[str]:
    """Arguments that stand beside the parts' values."""
    declared = inspect.signature(method).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in declared):
        return []
    return [p.name for p in declared if p.kind is not p.VAR_KEYWORD]


def _unknown(kind: type[Effect], name: str, place: str) -> UsageError:
    known = ", ".join(_known(kind))
    return UsageError(
        f"{place}: {kind.__name__} has no option {str(name)[:80]!r}; known: {known}; "
        "a parameter takes {default: …, range: …}"
    )


def _known(kind: type[Effect]) -> list[str]:
    """Options and parameters of an effect."""
    options = [n for n, p in inspect.signature(kind.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return options + [p.name for p in kind.params]


def _names() -> str:
    return ", ".join(EFFECTS)


def with_changes(config: dict, changes: dict, place: str = "chain") -> dict:
    """A chain's configuration with changes laid over it; null or off leaves out what stands there, as `build` reads it.

    Raises UsageError, naming the nearest, where there is nothing to take away.
    """
    changed = dict(config)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(changed.get(name), dict):
            changed[name] = with_changes(changed[name], value, f"{place}.{name}")
        elif is_off(value) and isinstance(changed.get(name), dict):
            changed[name] = None
        elif value is None and name not in changed and any(isinstance(v, dict) for v in changed.values()):
            close = get_close_matches(name, changed, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has: {', '.join(changed)}"
            raise UsageError(f"{place}.{name}={value}: there is no {name!r} to leave out{hint}")
        else:
            changed[name] = value
    return changed


def check_fittable(chain: Effect) -> None:
    """Raises UsageError where a fit of this chain to stereo recordings is not possible."""
    if not list(chain.walk()):
        raise UsageError("the chain is empty: choose a model, or put effects into chain")
    for place, part in chain.named_modules(prefix="chain"):
        if getattr(part, "render", "") == "realtime":
            others = " or ".join(f"render={name}" for name in part.options["render"].known if name != "realtime")
            raise UsageError(
                f"{place}.render=realtime has no gradient, so its parameters cannot be fitted; fit with {others}, and "
                "apply the result with scripts/render.py --realtime"
            )
    if (given := chain.channels(1)) != 2:
        raise UsageError(
            f"the chain ends in {given} channel, but wet is stereo; end it with {{effect: panning}}, as in "
            "chain.direct.effect=panning"
        )
