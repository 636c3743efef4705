"""Elementary random draws from an explicit numpy Generator, and conversions of dB and MIDI note numbers."""

from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np

Item = TypeVar("Item")
Range = tuple[float, float]


def between(rng: np.random.Generator, span: Range) -> float:
    """Uniform number in span = (low, high)."""
    return float(rng.uniform(*span))


def log_between(rng: np.random.Generator, span: Range) -> float:
    """Number in span = (low, high), both > 0, uniform on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(span[0]), np.log(span[1]))))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def one_of(rng: np.random.Generator, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
    """One of the items, equally likely or in proportion to weights."""
    probabilities = None if weights is None else np.asarray(weights, float) / np.sum(weights)
    return items[int(rng.choice(len(items), p=probabilities))]


@overload
def gain(db: float) -> float: ...
@overload
def gain(db: np.ndarray) -> np.ndarray: ...
def gain(db: float | np.ndarray) -> float | np.ndarray:
    """Linear amplitude of a level in dB."""
    return 10.0 ** (db / 20.0)


@overload
def midi_hz(pitch: float) -> float: ...
@overload
def midi_hz(pitch: np.ndarray) -> np.ndarray: ...
def midi_hz(pitch: float | np.ndarray) -> float | np.ndarray:
    """Frequency in Hz of a MIDI note number."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)
