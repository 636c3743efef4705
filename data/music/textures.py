"""Noises without pitch or beat: hiss, rumble, wind, rain, crackle, rising noise."""

import numpy as np

from .draws import between, chance, log_between, one_of
from .shaping import frame_times, moving_filter, toned
from .synthesis import white

_COLOURS = {
    "hiss": {100.0: -20.0, 1000.0: -6.0, 8000.0: 0.0, 20000.0: -4.0},
    "rumble": {20.0: 0.0, 80.0: 0.0, 1000.0: -40.0, 20000.0: -70.0},
    "room": {30.0: -6.0, 150.0: 0.0, 1000.0: -14.0, 20000.0: -38.0},
    "crowd": {80.0: -14.0, 400.0: 0.0, 1200.0: -3.0, 5000.0: -20.0, 20000.0: -40.0},
    "rain": {200.0: -24.0, 2000.0: -6.0, 6000.0: 0.0, 20000.0: -6.0},
}


def play_texture(n: int, sr: int, beat: float, rng: np.random.Generator) -> np.ndarray:
    """One texture (n,) float32: steady coloured noise, gusts of it, crackle, or noise that rises over several beats."""
    manner = one_of(rng, ("steady", "gusts", "crackle", "riser"), (3, 3, 1, 2))
    if manner == "crackle":
        clicks = np.where(rng.random(n) < between(rng, (5.0, 60.0)) / sr, rng.standard_normal(n) ** 3, 0.0)
        return toned(clicks.astype(np.float32), sr, {300.0: -20.0, 2500.0: 0.0, 20000.0: -12.0})
    noise = white(n, rng)
    if manner == "steady":
        return toned(noise, sr, _COLOURS[one_of(rng, tuple(_COLOURS))])
    times = frame_times(n, 1024, sr)[:, None]
    freq = np.maximum(np.linspace(0.0, sr / 2, 513), 20.0)[None]
    if manner == "riser":
        period = beat * one_of(rng, (4, 8, 16))
        phase = (times / period) % 1.0 if chance(rng, 0.8) else 1 - (times / period) % 1.0
        centre, level = 300.0 * 30.0**phase, phase**1.5
    else:
        slow = np.sin(2 * np.pi * times * rng.uniform(0.05, 0.6, 4) + rng.uniform(0, 6.28, 4)).sum(1, keepdims=True)
        centre, level = log_between(rng, (200.0, 4000.0)) * 2.0 ** (0.5 * slow), 10 ** (0.25 * slow)
    width = between(rng, (0.5, 2.0))
    return moving_filter(noise, level * np.exp(-0.5 * (np.log2(freq / centre) / width) ** 2), 1024)
