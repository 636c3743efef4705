"""Curves for figures of an effect with one set of values: an equaliser's response, a compressor's gain."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .functional import biquad
from .functional.units import gain_to_db

FREQUENCIES = np.geomspace(20, 20000, 400)  # Hz
LEVELS = np.linspace(-80, 0, 321)  # dB
#: Smallest range in dB of the gain axis of a response, so that a small correction looks small.
LEAST_GAIN = (-6.0, 6.0)
RESPONSE = "Equaliser"


@dataclass(frozen=True)
class Curve:
    """A curve y over x with its labels.

    `note` holds in words what the curve cannot show (time constants). `least` is the smallest range of the y axis.
    """

    title: str
    x_label: str
    y_label: str
    x: np.ndarray
    y: np.ndarray
    log_x: bool = True
    note: str = ""
    least: tuple[float, float] | None = None


def scalars(values: dict[str, Tensor], *names: str) -> tuple[float, ...]:
    """Some values () as numbers."""
    return tuple(float(values[name].detach()) for name in names)


def response_curve(coefs: Tensor, sr: int) -> Curve:
    """Gain in dB over frequency of biquads in series, coefficients (K, 5) b0, b1, b2, a1, a2; NaN from sr / 2 on."""
    gain = gain_to_db(biquad.response(coefs.detach().cpu(), torch.from_numpy(FREQUENCIES), sr).abs()).numpy()
    gain = np.where(FREQUENCIES < sr / 2, gain, np.nan)
    return Curve(RESPONSE, "frequency (Hz)", "gain (dB)", FREQUENCIES, gain, least=LEAST_GAIN)


def in_series(curves: Iterable[Curve]) -> list[Curve]:
    """The curves of effects in series: the gains in dB of all equalisers add up to one curve."""
    drawn: list[Curve] = []
    for curve in curves:
        # Only these add up: the gain of a dynamics effect depends on the level, so its curve stands by itself.
        index = next((i for i, other in enumerate(drawn) if other.title == curve.title == RESPONSE), None)
        if index is None:
            drawn.append(curve)
        else:
            drawn[index] = replace(curve, y=drawn[index].y + curve.y)
    return drawn
