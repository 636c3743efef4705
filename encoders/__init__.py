"""Encoders, networks from a waveform to a vector of features, and the controller that predicts effect controls."""

from collections.abc import Callable
from typing import Any

from reknob.runtime.errors import UsageError

from .blocks import Encoder, init_convolutions
from .controller import Controller
from .percentiles import Percentiles
from .timbre import MultiTimbre
from .time_frequency import Equaliser, Frequency, Time, TimeFrequency
from .waveform import MusicalEffects

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "multitimbre_cqt": MultiTimbre,
    "time_frequency": TimeFrequency,
    "mee": MusicalEffects,
    "time": Time,
    "frequency": Frequency,
    "equaliser": Equaliser,
    "percentiles": Percentiles,
}

#: Options of the controller's perceptron by encoder; all others use the published perceptron.
PERCEPTRONS: dict[str, dict[str, Any]] = {"percentiles": {"hidden": (512, 256), "dropout": 0.2}}


def build_encoder(name: str, sr: int = 44100, **options: object) -> Encoder:
    """Return a freshly initialised encoder, (B, 1, N) -> (B, out_dim), for audio at a sample rate of sr Hz.

    `options` go to the encoder's class. Raises UsageError for a name that `ENCODERS` does not hold and, for the
    encoders on a constant-Q transform, for a sample rate below 42189 Hz.
    """
    if name not in ENCODERS:
        raise UsageError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    encoder = ENCODERS[name](sr, **options)
    init_convolutions(encoder)
    return encoder


def build_controller(name: str, n_controls: int, sr: int = 44100) -> Controller:
    """Return an encoder by name with its perceptron, freshly initialised: (B, 1, N) -> q (B, n_controls)."""
    return Controller(build_encoder(name, sr), n_controls, **PERCEPTRONS.get(name, {}))


__all__ = ["ENCODERS", "Controller", "build_controller", "build_encoder"]
