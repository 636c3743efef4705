"""The tables of effects by key, and chains from configurations, which name effects by these keys only."""

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, partial
from typing import Any, TypeVar

import torch

from reknob.runtime.errors import UsageError
from reknob.runtime.trees import is_off

from .chain import Normalised, Parallel, Sends, Serial
from .clipper import Chebyshev, Clipper, Taylor
from .compressor import SoftKneeCompressor
from .deesser import DeEsser
from .delay import PingPongDelay
from .dynamics import Compressor, CompressorExpander, SimpleCompressor
from .effect import Effect, Knobs, Part
from .eq import HighPass, HighShelf, LowPass, LowShelf, Peak
from .equaliser import graphic_equaliser, parametric_equaliser
from .limiter import Limiter
from .options import Choice, Flag
from .param import Bounded, Linear, Log
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
    "compressor": SoftKneeCompressor,
    "de_esser": DeEsser,
    "limiter": Limiter,
    "clipper": Clipper,
    "panning": Panning,
    "stereo_width": StereoWidth,
    "ping_pong_delay": PingPongDelay,
    "fdn": FDN,
    "noise_reverb": NoiseReverb,
    "fir": FIR,
    "serial": Serial,
    "parallel": Parallel,
    "sends": Sends,
}

T = TypeVar("T")

#: Keys of a parameter's overrides in a configuration.
OVERRIDES = {"default", "range"}
# Of one chain, effects and overrides of their parameters together; and of all its responses: 52 s at 192 kHz thrice.
MOST_EFFECTS, MOST_SAMPLES = 2000, 30_000_000
MOST_WORDS = 16  # of a chain of blind estimation


@dataclass(frozen=True)
class Key:
    """An effect of blind-estimation chains: its name in the chain, and its constructors for the two sides.

    The synthesis side processes recordings; the analysis side, whose controls are estimated, has to be differentiable.
    """

    part: str
    analysis: Callable[[int], Effect]
    synthesis: Callable[[int], Effect] | None = None


def _ranged(kind: type[Effect], sr: int, **ranges: Bounded) -> Effect:
    """An effect with a range for its parameters of these names, which need none in a fit."""
    effect = kind(sr)
    effect.params = tuple(replace(p, mapping=ranges.get(p.name, p.mapping)).checked() for p in effect.params)
    return effect


# Their parameters without a range, and those that a fit keeps off an end, with ranges for a network.
_compressor = partial(_ranged, SoftKneeCompressor, threshold=Linear(-50, 0), makeup=Linear(-10, 20))
_compressor_expander = partial(
    _ranged,
    CompressorExpander,
    cmp_threshold=Linear(-40, 0),
    exp_threshold=Linear(-70, -30),
    makeup=Linear(-10, 20),
    lookahead=Linear(0, 15),
    attack=Log(1, 200),
    release=Log(5, 1000),
    # From above 0, where the detector would stop and the expander's slope would be infinite.
    avg_coef=Log(0.01, 1),
    exp_ratio=Linear(0.1, 1),
)
_de_esser = partial(_ranged, DeEsser, threshold=Linear(-60, 0), attack=Log(0.1, 20), release=Log(5, 500))

#: In the order in which the effects of words joined by _ run.
KEYS = {
    "geq": Key("geq", graphic_equaliser, graphic_equaliser),
    "peq": Key("peq", parametric_equaliser, parametric_equaliser),
    "high_pass": Key("high_pass", HighPass, HighPass),
    "low_pass": Key("low_pass", LowPass, LowPass),
    "compfull": Key("comp", ProxyCompressor, Compressor),
    "comphalf": Key("comp", partial(ProxyCompressor, hybrid=True), Compressor),
    "comp": Key("comp", Compressor, Compressor),
    "compsimple": Key("compsimple", SimpleCompressor),
    "compressor": Key("compressor", _compressor, _compressor),
    "compressor_expander": Key("compressor_expander", _compressor_expander, _compressor_expander),
    "de_esser": Key("de_esser", _de_esser, _de_esser),
    "limiter": Key("limiter", Limiter, Limiter),
    "taylor": Key("taylor", Taylor),
    "chebyshev": Key("chebyshev", Chebyshev),
    "dist": Key("dist", Clipper, Clipper),
}


def parse_chain(keys: str, sr: int, side: str) -> Normalised:
    """The chain of words of `KEYS`, or of `EFFECTS` where all parameters have a range.

    Words joined by _, as published, run in the order of `KEYS` whatever their own: "peq_comphalf_dist". Words joined
    by , run as they are written and may repeat: in "peq,comp,peq" the second equaliser is called "peq2".

    Args:
        side: "analysis" or "synthesis".

    Raises UsageError for a word that is unknown or has no form for this side, for an effect without ranges or with
    stereo output, and where words joined by _ repeat an effect.
    """
    parts: dict[str, Effect] = {}
    counts: Counter[str] = Counter()
    for word in _words(keys):
        is_other = word in EFFECTS and word not in KEYS and not EFFECTS[word].holds_effects
        advice = "; join all words by _ or all by ," * ("," in keys and "_" in word)
        key = Key(word, *[EFFECTS[word]] * 2) if is_other else lookup(KEYS, word, "effect", keys[:80], advice)
        make = getattr(key, side)
        if make is None:
            known = ", ".join(name for name, key in KEYS.items() if getattr(key, side))
            raise UsageError(f"{word!r} in {keys!r} has no {side} form; those that have: {known}")
        counts[key.part] += 1
        name = key.part + (str(counts[key.part]) if counts[key.part] > 1 else "")
        if name in parts:
            raise UsageError(f"{keys!r}: two effects would be called {name!r}; leave one out")
        _check_name(Normalised, name, keys)
        parts[name] = make(sr)
    chain = Normalised(sr, **parts)
    chain.from_unit(torch.zeros(1, len(chain.controls())))  # refuses parameters without a range
    if chain.channels(1) != 1:
        raise UsageError(f"{keys!r} ends in stereo, but estimators analyse mono; leave the stereo effect out")
    return chain


def _words(keys: str) -> list[str]:
    """The words of a chain in the order in which the effects run."""
    if "," in keys or "_" not in keys or keys in KEYS or keys in EFFECTS:
        words = keys.split(",")
        if len(words) > MOST_WORDS:
            raise UsageError(f"a chain of {len(words)} words; at most {MOST_WORDS} are allowed")
        return words
    words = keys.split("_")
    # By parts, not words: compfull, comphalf and comp are forms of one compressor.
    parts = [lookup(KEYS, word, "effect", keys).part for word in words]
    for part in parts:
        if parts.count(part) > 1:
            raise UsageError(f"{keys!r} holds {part!r} twice; words joined by , may repeat")
    return [word for word in KEYS if word in words]


def lookup(table: dict[str, T], key: str, noun: str, place: str = "", advice: str = "") -> T:
    """The entry of a table; UsageError with the given key, the most similar one and all known, `advice` at its end."""
    if key in table:
        return table[key]
    close = get_close_matches(str(key), table, 1)
    # Before the known ones, which may be a hundred.
    hint = f"did you mean {close[0]!r}? " if close else ""
    where = f" in {place!r}" if place else ""
    raise UsageError(f"unknown {noun} {key!r}{where}; {hint}known: {', '.join(table)}{advice}")


def build(config: dict, sr: int, place: str = "chain") -> Effect:
    """Builds an effect from its configuration.

    A configuration is a dict with the effect's key under `effect` ("serial" if absent) and, by name, its options, its
    parameters' overrides (`default`, `range`) and the effects inside it. An entry that is null or off is ignored: the
    effect is left out, the option or parameter has its default.

    Args:
        sr: sample rate in Hz.
        place: dotted path of the configuration, for messages.

    Raises UsageError, naming the place, for an unknown effect, option or parameter, for an option or default out of
    bounds and for an impossible range.
    """
    config = _checked(config, place)
    if "." not in place:
        _check_size(config, sr)
    key = config.get("effect", "serial")
    if not isinstance(key, str):
        raise UsageError(f"{place}.effect: expected the name of an effect, got {str(key)[:80]}; known: {_names()}")
    kind = lookup(EFFECTS, key, "effect", place, "; an effect of a plug-in needs --plugin MODULE")
    arguments: dict[str, Any] = {}
    for name, value in config.items():
        if name != "effect":
            arguments |= _entry(kind, name, value, sr, place, config)
    try:
        return kind(sr, **arguments)
    # An effect does not know its place in the configuration, so the message gets it here.
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise UsageError(f"{place}: {error}") from error


def _check_size(config: dict, sr: int) -> None:
    """Raises UsageError for a chain of too many effects, or whose responses would take too much memory."""
    effects, samples, parts = 0, 0.0, [config]
    while parts:
        part = parts.pop()
        effects += 1
        parts += [value for value in part.values() if isinstance(value, dict)]
        sizes = {name: part.get(name) for name in ("length", "ir_length", "ir_duration")}
        for name, size in sizes.items():
            size = size * (sr if name == "ir_duration" else 1) if isinstance(size, (int, float)) else 0
            # One beyond these its effect refuses itself, by name.
            samples += size if 0 < size <= MOST_SAMPLES else 0
    if effects > MOST_EFFECTS or samples > MOST_SAMPLES:
        raise UsageError(
            f"a chain of {effects} effects and parameters, with responses of {samples:g} samples together; at most "
            f"{MOST_EFFECTS} and {MOST_SAMPLES} are allowed"
        )


def _checked(config: object, place: str) -> dict:
    """A configuration, or an entry of one, that has to be a dict; UsageError."""
    if not isinstance(config, dict):
        raise UsageError(f"{place}: expected an effect (effect: …), got {str(config)[:80]!r}")
    return config


def _entry(kind: type[Effect], name: str, value: object, sr: int, place: str, config: dict) -> dict[str, object]:
    """The argument for the effect from one entry of a configuration; {} where the entry is null or off."""
    bound, here = kind.options.get(name), f"{place}.{name}"
    # "off" leaves out an effect, but is the value false of a flag.
    if is_off(value) and not (isinstance(bound, Flag) and value is not None):
        if bound is None and not kind.holds_effects and name not in _known(kind):
            raise _unknown(kind, name, place)
        return {}
    try:
        if isinstance(bound, Part):
            return {name: bound.read(name, build(_checked(value, here), sr, here))}
        # A dict overrides a parameter that shares its name with an option, as the lookahead of the compressor does.
        if bound is not None and not isinstance(value, dict):
            return {name: bound.read(name, value)}
    except UsageError as error:
        message = str(error)
        # Messages from effects further inside begin with their full place already.
        raise error if message.startswith(place) else UsageError(f"{place}: {message}") from error
    is_override = isinstance(value, dict) and value.keys() <= OVERRIDES and value
    # Beside their parts, sends and parallel effects have parameters of their own: the send levels, the mix.
    has_own = kind is Sends or name in {p.name for p in kind.params}
    if kind.holds_effects and not (is_override and has_own):
        _check_name(kind, name, place)
        return {name: _part(value, sr, here, config)}
    if not isinstance(value, dict):
        raise _unknown(kind, name, place)
    if not is_override and value:
        raise UsageError(f"{here}: a parameter takes default and range; given: {', '.join(map(str, value))}")
    return {name: value}


def _part(value: object, sr: int, place: str, config: dict) -> Effect:
    """An effect inside a chain; UsageError for an entry that names no effect, and for an empty chain."""
    tree = value if isinstance(value, dict) else {"effect": None}
    if "effect" not in tree and not any(isinstance(v, dict) and v.keys() - OVERRIDES for v in tree.values()):
        name = place.rpartition(".")[2]
        elsewhere = [path for path in _paths(config, name) if path != name]
        typo = get_close_matches("effect", tree, 1)
        hint = f"; did you mean {place.removesuffix(name)}{elsewhere[0]}?" if elsewhere else ""
        hint = f"; did you mean effect: {tree[typo[0]]}?" if typo else hint
        # Typical mistakes: a path without one of its levels, and a misspelt key.
        known = [key for key, entry in config.items() if isinstance(entry, dict) and "effect" in entry]
        usual = f", as in {{effect: peak}}; null leaves one out; in the chain are {', '.join(known) or 'none yet'}"
        raise UsageError(f"{place}: names no effect{hint or usual}")
    part = build(_checked(value, place), sr, place)
    if isinstance(part, (Serial, Parallel)) and not list(part.parts()):
        raise UsageError(f"{place}: an empty chain; put effects into it, or leave it out by null")
    return part


def _paths(config: dict, name: str, prefix: str = "") -> list[str]:
    """Dotted paths of the effects named `name` in a configuration."""
    paths = [prefix + name] if isinstance(config.get(name), dict) and prefix else []
    inside = [(key, value) for key, value in config.items() if isinstance(value, dict)]
    return paths + [path for key, value in inside for path in _paths(value, name, f"{prefix}{key}.")]


def _check_name(kind: type[Effect], name: str, place: str) -> None:
    """Raises UsageError for a name that an effect of a chain cannot have."""
    if not str(name).isidentifier() or name.startswith("_"):
        raise UsageError(f"{place}: an effect cannot be called {str(name)[:80]!r}; give letters, digits and _")
    if name in _reserved(kind):
        raise UsageError(f"{place}: an effect cannot be called {name!r}, a reserved name; give another one")


@cache
def _reserved(kind: type[Effect]) -> frozenset[str]:
    """Names of attributes of a chain and of its `Knobs`, and of arguments beside its parts' values."""
    # Parts become submodules and keyword arguments, so their names must not hide either. An instance, because
    # attributes set at construction count too.
    plain = kind(44100)
    arguments = {name for _, method in inspect.getmembers(kind, inspect.isfunction) for name in _arguments(method)}
    own = {p.name for p in kind.params}
    return frozenset(arguments | own | {*dir(plain), *dir(Knobs(plain))})


def _arguments(method: Callable) -> list[str]:
    """Arguments of a method that also takes values by the names of parts."""
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
    """Names of the options and parameters of an effect."""
    options = [n for n, p in inspect.signature(kind.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY]
    return options + [p.name for p in kind.params]


def _names() -> str:
    return ", ".join(EFFECTS)


def with_changes(config: dict, changes: dict, place: str = "chain") -> dict:
    """A chain's configuration with changes merged into it; null or off removes an entry, as in `build`.

    Raises UsageError, with the closest name, where there is no such entry to remove.
    """
    changed = dict(config)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(changed.get(name), dict):
            changed[name] = with_changes(changed[name], value, f"{place}.{name}")
        elif is_off(value) and isinstance(changed.get(name), dict):
            # Null, which `build` ignores, and not removed: leaving an effect out twice is no mistake.
            changed[name] = None
        elif value is None and name not in changed and any(isinstance(v, dict) for v in changed.values()):
            close = get_close_matches(name, changed, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has: {', '.join(changed)}"
            raise UsageError(f"{place}.{name}={value}: there is no {name!r} to leave out{hint}")
        else:
            changed[name] = value
    return changed


def check_fittable(chain: Effect, channels: int = 1) -> None:
    """Raises UsageError where a fit of this chain from dry of so many channels to stereo recordings is not possible."""
    if not list(chain.walk()):
        raise UsageError("the chain is empty: choose a model, or put effects into chain")
    for place, part in chain.named_modules(prefix="chain"):
        forms = part.options.get("render") if isinstance(part, Effect) else None
        if isinstance(forms, Choice) and part.render == "realtime":
            others = " or ".join(f"render={name}" for name in forms.known if name != "realtime")
            raise UsageError(
                f"{place}.render=realtime has no gradient, so its parameters cannot be fitted; fit with {others}, and "
                "apply the result with scripts/render.py --realtime"
            )
    if (given := chain.channels(channels)) != 2:
        raise UsageError(
            f"the chain ends in {given} channel, but wet is stereo; end it with {{effect: panning}}, as in "
            "chain.direct.effect=panning"
        )
