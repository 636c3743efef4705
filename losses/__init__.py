"""Losses to train and fit with (LOSSES), and metrics to report (METRICS)."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from reknob.losses.esr import ErrorToSignal
from reknob.losses.mel import MelLoss, norm_signal
from reknob.losses.metrics import BlindMetrics, VocalMetrics
from reknob.losses.mldr import MLDR
from reknob.losses.objective import FitLoss, ScalarLoss, channels_of
from reknob.losses.params import ParameterLoss
from reknob.losses.stft import MultiResolutionSTFT
from reknob.losses.vocal import MSS, VocalLoss, VocalTarget
from reknob.runtime.errors import UsageError

__all__ = [
    "LOSSES",
    "METRICS",
    "MLDR",
    "MSS",
    "ErrorToSignal",
    "FitLoss",
    "MelLoss",
    "MultiResolutionSTFT",
    "ParameterLoss",
    "ScalarLoss",
    "VocalLoss",
    "VocalTarget",
    "build_fit_loss",
    "build_loss",
    "build_metrics",
    "channels_of",
    "norm_signal",
]

#: Classes, which are constructed, with the sample rate where they take `sr`; or functions `loss(pred, target)`.
LOSSES: dict[str, Callable[..., Any]] = {
    "vocal": VocalLoss,
    "mel": MelLoss,
    "mrstft": MultiResolutionSTFT,
    "mldr": MLDR,
    "mss": MSS,
    "esr": ErrorToSignal,
    "params": ParameterLoss,
}
METRICS: dict[str, Callable[..., Any]] = {"vocal": VocalMetrics, "blind": BlindMetrics}


def build_loss(config: Mapping[str, Any], sr: int) -> Callable[..., Any]:
    """Build the loss that config["name"] names, with the other entries of config as its options.

    Args:
        config: e.g. {"name": "mrstft", "w_sc": 0.5}.
        sr: sample rate in Hz.

    Raises UsageError for a name or an option that is not known, and for options that the loss refuses.
    """
    return _build("loss", LOSSES, config, sr)


def build_fit_loss(config: Mapping[str, Any], sr: int) -> FitLoss:
    """Build a loss as `build_loss` does, as a fit takes it: with named terms, over stereo chunks.

    Raises UsageError as `build_loss` does, and for a loss that does not compare stereo audio.
    """
    loss = build_loss(config, sr)
    return loss if isinstance(loss, FitLoss) else ScalarLoss(loss, config["name"])


def build_metrics(config: Mapping[str, Any], sr: int) -> Callable[..., Any]:
    """Build the set of metrics that config["name"] names, with the other entries of config as its options.

    Raises UsageError for a name or an option that is not known.
    """
    return _build("metrics", METRICS, config, sr)


def _build(
    noun: str, table: Mapping[str, Callable[..., Any]], config: Mapping[str, Any], sr: int
) -> Callable[..., Any]:
    options = dict(config)
    name = options.pop("name", None)
    if name not in table:
        raise UsageError(f"unknown {noun} '{name}'; known: {', '.join(table)}")
    entry = table[name]
    declared = list(inspect.signature(entry).parameters.values())
    # The first two arguments of a function are the audio that it compares.
    is_class = inspect.isclass(entry)
    declared = declared if is_class else declared[2:]
    accepted = [p.name for p in declared if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    is_open = any(p.kind is p.VAR_KEYWORD for p in declared)
    # The sample rate is a fact of the audio and comes as an argument, so a configuration cannot set it.
    unknown = [key for key in options if (key not in accepted and not is_open) or key == "sr"]
    if unknown:
        known = ", ".join(key for key in accepted if key != "sr") or "none"
        raise UsageError(f"unknown options {unknown} of {noun} '{name}'; known: {known}")
    make = table[name]
    if not is_class:
        return functools.partial(make, **options) if options else make
    try:
        return make(sr, **options) if "sr" in accepted else make(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        # Without options the fault is not the user's, and its traceback stays.
        if isinstance(error, UsageError) or not options:
            raise
        raise UsageError(f"options {options} of {noun} '{name}': {error}") from error
