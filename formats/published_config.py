"""Configuration files of the published DiffVox release, read as data: class paths are looked up, never run."""

from collections import Counter
from dataclasses import dataclass, field

from afx.param import Linear
from afx.registry import EFFECTS, lookup
from runtime.errors import UsageError


@dataclass(frozen=True)
class _Class:
    """How a class of the release is written here: effect key, fixed settings, and names that differ."""

    effect: str
    fixed: dict = field(default_factory=dict)
    renamed: dict = field(default_factory=dict)


_COMP = {
    "cmp_th": "cmp_threshold",
    "exp_th": "exp_threshold",
    "make_up": "makeup",
    "at_ms": "attack",
    "rt_ms": "release",
}
_FDN = {
    "num_decay_freq": "bands",
    "delay_independent_decay": "shared_decay",
    "trainable_delay": "trainable_delays",
}

_CLASSES = {
    "Sequential": _Class("serial"),
    "SendFXsAndSum": _Class("sends"),
    "Peak": _Class("peak"),
    "LowShelf": _Class("low_shelf", renamed={"Q": "steepness"}),
    "HighShelf": _Class("high_shelf", renamed={"Q": "steepness"}),
    "LowPass": _Class("low_pass"),
    "HighPass": _Class("high_pass"),
    "CompressorExpander": _Class("compressor_expander", {"lookahead": False}, _COMP),
    "Panning": _Class("panning"),
    "StereoWidth": _Class("stereo_width"),
    "Delay": _Class("ping_pong_delay"),
    "SurrogateDelay": _Class("ping_pong_delay", {"surrogate": True}),
    "FSDelay": _Class("ping_pong_delay", {"render": "fs"}),
    "FSSurrogateDelay": _Class("ping_pong_delay", {"render": "fs", "surrogate": True}),
    "RealTimeDelay": _Class("ping_pong_delay", {"render": "realtime"}),
    "FDN": _Class("fdn", renamed=_FDN),
    "RealTimeFDN": _Class("fdn", {"render": "realtime"}, _FDN),
    "Reverb": _Class("noise_reverb", renamed={"ir_len": "ir_length", "hop_length": "hop"}),
}
# What the effects are called in a chain, where it is not by their key.
_NAMES = {"compressor_expander": "comp", "ping_pong_delay": "delay", "fdn": "reverb", "noise_reverb": "reverb"}
# Settings that say nothing here: the sample rate is given once, and these have one value only.
_SILENT = {"_target_", "_args_", "_convert_", "sr", "max_lookahead", "dropout", "downsample_factor", "cross_send"}


def is_published(config: object) -> bool:
    """Whether a chain's configuration is one of the release."""
    return isinstance(config, dict) and "_target_" in config


def from_published_config(config: dict) -> dict:
    """Our configuration of a chain from the release's; UsageError for a class or setting that has no counterpart."""
    target = str(config["_target_"])
    kind = lookup(_CLASSES, target.split(".")[-1], "published effect", target)
    ours: dict = {"effect": kind.effect, **kind.fixed}
    for key, value in config.items():
        if key == "dropout" and value:
            raise UsageError(f"{target}: dropout={value} has no counterpart here; give 0")
        if key in _SILENT or (key == "pan_direct" and value):
            continue
        if is_published(value):
            ours["direct" if key == "pan" and kind.effect == "sends" else key] = from_published_config(value)
        elif isinstance(value, list) and any(map(is_published, value)):
            ours |= _named(value)
        else:
            _set(ours, kind, key, value)
    return ours | _named(config.get("_args_", []))


def _named(configs: list[dict]) -> dict[str, dict]:
    """Effects of a list by name: their key, numbered where it occurs more than once."""
    effects = [from_published_config(config) for config in configs if is_published(config)]
    stems = [_NAMES.get(effect["effect"], effect["effect"]) for effect in effects]
    many, seen, named = Counter(stems), Counter(), {}
    for stem, effect in zip(stems, effects, strict=True):
        seen[stem] += 1
        named[f"{stem}{seen[stem]}" if many[stem] > 1 else stem] = effect
    return named


def _set(ours: dict, kind: _Class, key: str, value: object) -> None:
    """Sets one option, default or end of a range."""
    bound, _, name = key.partition("_")
    name = kind.renamed.get(name, name) if bound in ("min", "max") else kind.renamed.get(key, key)
    declared = {p.name: p for p in EFFECTS[kind.effect].params}
    if kind.effect == "ping_pong_delay" and name in ("delay", "feedback", "gain"):
        declared = {name: None}
    elif kind.effect == "compressor_expander" and name not in ("lookahead",):
        declared = {name: None}
    if name not in declared:
        ours[name] = value
        return
    override = ours.setdefault(name, {})
    if bound in ("min", "max"):
        mapping = declared[name].mapping if declared[name] else Linear(float("nan"), float("nan"))
        ends = override.setdefault("range", [mapping.lo, mapping.hi])
        ends[bound == "max"] = value
    else:
        override["default"] = (value + 100) / 200 if name == "pan" else value


_SAME = "dataset data_dir log_dir sr lufs chunk_duration chunk_overlap batch_size epochs device".split()


def from_published_settings(tree: dict) -> dict:
    """Our settings of a configuration file, ours as it is or the release's; what is Hydra's own is left out."""
    if not is_published(tree.get("model")):
        return tree
    tree = {key: value for key, value in tree.items() if value != "???"}
    ours = {key: tree[key] for key in _SAME if key in tree and not str(tree[key]).startswith("${")}
    chain = from_published_config(tree["model"])
    ours |= {"model": None, "chain": _regularised(chain) if tree.get("regularise_delay") else chain}
    for theirs, name, mine in (("optimiser", "lr", "optimiser"), ("loss_fn", "weights", "loss")):
        if isinstance(tree.get(theirs), dict) and name in tree[theirs]:
            ours[mine] = {name: tree[theirs][name]}
    return ours


def _regularised(config: dict) -> dict:
    """The chain with the loss term of its surrogate delays."""
    config = {key: _regularised(value) if isinstance(value, dict) else value for key, value in config.items()}
    return config | ({"regularise": True} if config.get("surrogate") else {})
