"""What a render or a set of controls is judged by: LOSSES to train with, METRICS to report."""

import inspect
from collections.abc import Callable, Mapping

from reknob.losses.mel import MelLoss, norm_signal
from reknob.losses.metrics import BlindMetrics, VocalMetrics
from reknob.losses.mldr import MLDR
from reknob.losses.params import ParameterLoss
from reknob.losses.stft import MultiResolutionSTFT
from reknob.losses.vocal import MSS, VocalLoss, VocalTarget
from reknob.runtime.errors import UsageError

__all__ = [
    "LOSSES",
    "METRICS",
    "MLDR",
    "MSS",
    "MelLoss",
    "MultiResolutionSTFT",
    "ParameterLoss",
    "VocalLoss",
    "VocalTarget",
    "build_loss",
    "build_metrics",
    "norm_signal",
]

LOSSES = {
    "vocal": VocalLoss,
    "mel": MelLoss,
    "mrstft": MultiResolutionSTFT,
    "mldr": MLDR,
    "mss": MSS,
    "params": ParameterLoss,
}
METRICS = {"vocal": VocalMetrics, "blind": BlindMetrics}


def build_loss(config: Mapping, sr: int) -> Callable:
    """Build the loss that config["name"] names, with the other entries of config as its options.

    Raises UsageError on a name or an option that is not known.
    """
    return _build("loss", LOSSES, config, sr)


def build_metrics(config: Mapping, sr: int) -> Callable:
    """Build the set of metrics that config["name"] names, with the other entries of config as its options.

    Raises UsageError on a name or an option that is not known.
    """
    return _build("metrics", METRICS, config, sr)


def _build(noun: str, table: Mapping[str, type], config: Mapping, sr: int) -> Callable:
    options = dict(config)
    name = options.pop("name", None)
    if name not in table:
        raise UsageError(f"unknown {noun} '{name}'; known: {', '.join(table)}")
    accepted = inspect.signature(table[name]).parameters
    unknown = [key for key in options if key not in accepted or key == "sr"]
    if unknown:
        known = ", ".join(key for key in accepted if key != "sr") or "none"
        raise UsageError(f"unknown options {unknown} of {noun} '{name}'; known: {known}")
    return table[name](sr, **options) if "sr" in accepted else table[name](**options)
