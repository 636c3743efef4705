"""Translates configuration files of the published DiffVox release into ours; class paths are looked up, never imported.

Every setting is translated or refused, none is ignored silently; an absent setting has the release's default.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from reknob.afx.param import Linear, Param
from reknob.afx.registry import EFFECTS, lookup
from reknob.runtime.errors import UsageError
from reknob.runtime.trees import interpolated

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Class:
    """How a class of the release is configured here."""

    effect: str  # our key
    defaults: dict[str, Any] = field(default_factory=dict)  # options and overrides where the release's default differs
    renamed: dict[str, str] = field(default_factory=dict)  # their names of options and parameters to ours


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
_DELAY = {"delay": {"default": 200}, "recursive_eq": False}
_SURROGATE = {"surrogate": True, "straight_through": False}
_NETWORK = {"ir_duration": 1, "bands": 1, "shared_decay": False}

_CLASSES: dict[str, _Class] = {
    "Sequential": _Class("serial"),
    "SendFXsAndSum": _Class("sends", {"pan_direct": False}),
    "Peak": _Class("peak"),
    "LowShelf": _Class("low_shelf", renamed={"Q": "steepness"}),
    "HighShelf": _Class("high_shelf", {"freq": {"default": 4525}}, {"Q": "steepness"}),
    "LowPass": _Class("low_pass"),
    "HighPass": _Class("high_pass"),
    "CompressorExpander": _Class("compressor_expander", {"lookahead": False, "exp_threshold": {"default": -54}}, _COMP),
    "Panning": _Class("panning"),
    "StereoWidth": _Class("stereo_width"),
    "Delay": _Class("ping_pong_delay", _DELAY | {"ir_duration": 2}),
    "SurrogateDelay": _Class("ping_pong_delay", _DELAY | _SURROGATE | {"ir_duration": 2}),
    "FSDelay": _Class("ping_pong_delay", _DELAY | {"render": "fs", "ir_duration": 6}),
    "FSSurrogateDelay": _Class(
        "ping_pong_delay", _DELAY | _SURROGATE | {"render": "fs", "ir_duration": 6, "damping": {"default": -0.0001}}
    ),
    "RealTimeDelay": _Class("ping_pong_delay", _DELAY | {"render": "realtime", "ir_duration": 2}),
    "FDN": _Class("fdn", _NETWORK, _FDN),
    "RealTimeFDN": _Class("fdn", _NETWORK | {"render": "realtime"}, _FDN),
    "Reverb": _Class("noise_reverb", renamed={"ir_len": "ir_length", "hop_length": "hop"}),
}
# Names of effects in a chain where they differ from the effect's key.
_NAMES = {"compressor_expander": "comp", "ping_pong_delay": "delay", "fdn": "reverb", "noise_reverb": "reverb"}
# Hydra's own keys; the sample rate is a setting beside the chain.
_SILENT = {"_target_", "_args_", "_convert_", "_recursive_", "sr"}
# Settings of the release that are not implemented, and the one value of each that is accepted: its default there.
_ONLY = {"dropout": 0, "delay": 0}


def is_published(config: object) -> bool:
    """Whether a chain's configuration is one of the release."""
    return isinstance(config, dict) and "_target_" in config


def from_published_config(config: dict, sr: int | None = None) -> dict:
    """Our configuration of a chain from the release's, whose references are already replaced.

    UsageError for a class or setting without counterpart, and for a sample rate that differs from `sr`.
    """
    target = str(config["_target_"])
    kind = lookup(_CLASSES, target.split(".")[-1], "published effect", target)
    assert isinstance(kind, _Class)
    rate = config.get("sr")
    if sr is not None and isinstance(rate, (int, float)) and rate != sr:
        raise UsageError(f"{target}: sr={rate}, beside a sample rate of {sr} Hz; give one, as in sr: ${{sr}}")
    ours: dict = {"effect": kind.effect, **{k: dict(v) if isinstance(v, dict) else v for k, v in kind.defaults.items()}}
    for key, value in config.items():
        if key in _SILENT or _is_only_value(kind.effect, target, str(key), value):
            continue
        if is_published(value):
            part = "direct" if key == "pan" and kind.effect == "sends" else key
            ours[part] = from_published_config(value, sr)
        elif isinstance(value, list) and any(map(is_published, value)):
            ours |= _named(value, target, sr)
        else:
            _set(ours, kind, str(key), value)
    return ours | _named(config.get("_args_", []), target, sr)


def _is_only_value(effect: str, target: str, key: str, value: object) -> bool:
    """Whether a setting is one of `_ONLY` with the accepted value; UsageError for another value of it."""
    # A delay effect has a parameter `delay`.
    if key not in _ONLY or (key == "delay" and effect != "compressor_expander"):
        return False
    if value != _ONLY[key]:
        raise UsageError(f"{target}: {key}={str(value)[:80]} has no counterpart here; give {_ONLY[key]}")
    return True


def _named(configs: object, target: str, sr: int | None) -> dict[str, dict]:
    """The effects of a list by name: `_NAMES` or the key, numbered where several effects share it."""
    if not isinstance(configs, list) or not all(map(is_published, configs)):
        raise UsageError(f"{target}: holds {str(configs)[:80]}; expected a list of effects, each with its _target_")
    effects = [from_published_config(config, sr) for config in configs]
    stems = [_NAMES.get(effect["effect"], effect["effect"]) for effect in effects]
    totals, counts, named = Counter(stems), Counter(), {}
    for stem, effect in zip(stems, effects, strict=True):
        counts[stem] += 1
        named[f"{stem}{counts[stem]}" if totals[stem] > 1 else stem] = effect
    return named


@cache
def _declared(effect: str) -> dict[str, Param]:
    """The parameters of an effect by name, those of the delay's surrogate included."""
    options: dict[str, Any] = {"surrogate": True} if effect == "ping_pong_delay" else {}
    return {p.name: p for p in EFFECTS[effect](44100, **options).params}


def _set(ours: dict, kind: _Class, key: str, value: object) -> None:
    """Sets one option, default (`freq`) or end of a range (`min_freq`, `max_freq`)."""
    bound, _, name = key.partition("_")
    is_end = bound in ("min", "max")
    name = kind.renamed.get(name, name) if is_end else kind.renamed.get(key, key)
    declared = _declared(kind.effect)
    options = EFFECTS[kind.effect].options
    if key in options:
        is_end, name = False, key
    if name not in declared or (name in options and not is_end):
        ours[name] = value
        return
    override = ours.setdefault(name, {})
    mapping = declared[name].mapping
    if is_end and isinstance(mapping, Linear):
        ends = override.setdefault("range", [mapping.lo, mapping.hi])
        ends[bound == "max"] = value
    elif is_end:
        override["range"] = value  # which the parameter, having no range, refuses with a message
    elif name == "pan":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"pan={str(value)[:80]}: give -100 to 100")
        override["default"] = (value + 100) / 200  # ours is 0 to 1
    else:
        override["default"] = value


_SAME = "dataset data_dir log_dir sr lufs chunk_duration chunk_overlap batch_size epochs device".split()
_HYDRAS = {"defaults", "hydra"}
# The other settings of the release; `enable_progress_bar` has no effect here, where the bar is always shown.
_OTHERS = {"model", "optimiser", "loss_fn", "mss", "mldr", "regularise_delay", "enable_progress_bar"}
_STFT = {"fft_sizes": [128, 512, 2048], "hop_sizes": [32, 128, 512], "win_lengths": [128, 512, 2048]}
_STFT |= {"perceptual_weighting": True}
_MLDR = {"s_taus": [50, 100], "l_taus": [1000, 2000], "mid_side": False}
# The terms of the loss in the order of its weights.
_TERMS = (
    ("MultiResolutionSTFTLoss", _STFT),
    ("SumAndDifferenceSTFTLoss", _STFT),
    ("MLDRLoss", _MLDR),
    ("MLDRLoss", _MLDR | {"mid_side": True}),
)


def from_published_settings(tree: dict) -> dict:
    """Our settings from the tree of a configuration file: unchanged if it is ours, translated if it is the release's.

    Hydra's own keys are dropped. UsageError for a setting without counterpart.
    """
    if not is_published(tree.get("model")):
        return tree
    # "???" is Hydra's mark of a mandatory setting, which the command line sets.
    tree = {key: value for key, value in tree.items() if value != "???" and key not in _HYDRAS}
    unknown = sorted(tree.keys() - {*_SAME, *_OTHERS})
    if unknown:
        raise UsageError(f"unknown published setting {unknown[0]!r}; known: {', '.join([*_SAME, *sorted(_OTHERS)])}")
    for key in ("log_dir", "data_dir"):
        if isinstance(tree.get(key), str) and "${" in tree[key] and ":" in tree[key]:
            log.warning("%s=%s is not read, as files do not read the environment; give %s=…", key, tree[key], key)
            del tree[key]
    tree = interpolated(tree, {"sr": 44100})
    ours = {key: tree[key] for key in _SAME if key in tree and not (key == "log_dir" and tree[key] is None)}
    if str(ours.get("device", "")).startswith("cuda"):
        ours["device"] = "auto"  # the release has no such value
    if isinstance(ours.get("batch_size"), int) and ours["batch_size"] <= 0:
        ours["batch_size"] = 1_000_000  # all chunks
    chain = from_published_config(tree["model"], tree.get("sr"))
    ours |= {"model": None, "chain": _regularised(chain) if tree.get("regularise_delay") else chain}
    if isinstance(tree.get("optimiser"), dict):
        ours["optimiser"] = _optimiser(tree["optimiser"])
    if isinstance(tree.get("loss_fn"), dict):
        ours["loss"] = _loss(tree["loss_fn"])
    return ours


def _optimiser(theirs: dict) -> dict:
    """The learning rate of Adam; UsageError for another optimiser, or other options than Adam's defaults."""
    plain = {"_target_": "torch.optim.Adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    for key, value in theirs.items():
        if key != "lr" and plain.get(key, value) != value or key not in {"lr", *plain}:
            raise UsageError(f"optimiser.{key}={str(value)[:80]} has no counterpart here; the optimiser is Adam")
    return {"lr": theirs["lr"]} if "lr" in theirs else {}


def _loss(theirs: dict) -> dict:
    """The weights of the published loss; UsageError for another loss or other options of its terms."""
    terms = theirs.get("loss_fns")
    if terms is not None and (not isinstance(terms, list) or len(terms) != len(_TERMS)):
        raise UsageError(f"loss_fn.loss_fns: expected the {len(_TERMS)} terms of the published loss")
    for i, (term, (name, settings)) in enumerate(zip(terms or [], _TERMS, strict=False)):
        given = term if isinstance(term, dict) else {}
        if str(given.get("_target_")).split(".")[-1] != name:
            raise UsageError(f"loss_fn.loss_fns.{i}: expected {name}, as in the published loss")
        for key, value in settings.items():
            if given.get(key, value if key != "mid_side" else False) != value:
                raise UsageError(f"loss_fn.loss_fns.{i}.{key}={str(given.get(key))[:80]}: this loss has {value}")
    return {"weights": theirs["weights"]} if "weights" in theirs else {}


def _regularised(config: dict) -> dict:
    """The chain with the regularisation of its surrogate delays switched on."""
    config = {key: _regularised(value) if isinstance(value, dict) else value for key, value in config.items()}
    return config | ({"regularise": True} if config.get("surrogate") else {})
