"""Encoders: a waveform in, a vector that describes its sound out; and the controller that reads settings from it."""

from torch import nn

from .blocks import init_convolutions
from .compact import Compact
from .controller import Controller
from .timbre import MultiTimbre
from .time_frequency import Equaliser, Frequency, Time, TimeFrequency
from .waveform import MusicalEffects

ENCODERS = {
    "multitimbre_cqt": MultiTimbre,
    "time_frequency": TimeFrequency,
    "mee": MusicalEffects,
    "time": Time,
    "frequency": Frequency,
    "equaliser": Equaliser,
    "compact": Compact,
}


def build_encoder(name: str, sr: int = 44100, **options: object) -> nn.Module:
    """Return a freshly initialised encoder, (B, 1, N) -> (B, out_dim), for audio at a sample rate of sr Hz.

    `options` go to the encoder's class. Raises ValueError for a name that `ENCODERS` does not hold and, for the
    encoders on a constant-Q transform, for a sample rate below 42189 Hz.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(ENCODERS)}")
    encoder = ENCODERS[name](sr, **options)
    init_convolutions(encoder)
    return encoder


__all__ = ["ENCODERS", "Controller", "build_encoder"]
