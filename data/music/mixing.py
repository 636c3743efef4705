"""Mixing: tone, level and reverb of every track, and the processing of their sum."""

import numpy as np

from reknob.data.fourier import irfft, next_fast_len, rfft

from .draws import Range, between, chance, gain, log_between, one_of
from .shaping import add, bin_grid, compress, room, saturate, spectrum_curve
from .styles import Style

# Perceptual weighting, between A and K weighting, of the levels by which tracks are balanced.
_WEIGHTING = {20.0: -16.0, 60.0: -7.0, 120.0: -3.0, 300.0: 0.0, 1500.0: 0.0, 3500.0: 3.0, 9000.0: 0.0, 18000.0: -12.0}
# Brightness of instruments that are close to microphones, added to the sum.
_AIR = {2500.0: 0.0, 6000.0: 2.5, 11000.0: 4.5, 16000.0: 3.5, 20000.0: -2.0}
_OCTAVES = (31.0, 62.0, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16000.0)


class Desk:
    """A mix of tracks of n samples, kept as spectra (bins,) and returned one by one or summed and mastered."""

    def __init__(self, style: Style, n: int, sr: int, rng: np.random.Generator) -> None:
        self.n, self.sr = n, sr
        seconds = log_between(rng, style.room)
        # Without padding: tails wrap around to the beginning, as if the music before the excerpt rang there.
        self.size = next_fast_len(n)
        self.bins = self.size // 2 + 1
        self.grid = bin_grid(self.bins, sr)
        self.weighting = spectrum_curve(self.grid, _WEIGHTING) ** 2
        tail = room(rng, sr, seconds, between(rng, (0.1, 1.0)), between(rng, (0.0, 0.04)))
        self.room = rfft(tail, self.size)
        self.send = between(rng, style.send)

    def process_track(
        self, x: np.ndarray, level_db: float, curves: list[dict[float, float]], rng: np.random.Generator
    ) -> np.ndarray:
        """Spectrum (bins,) of a track x (n,) at a weighted level in dB, after tone curves, compression and reverb."""
        if chance(rng, 0.4):
            x = _squeezed(x, self.sr, (6.0, 22.0), (2.0, 6.0), rng)
        if chance(rng, 0.15):
            x = saturate(x, between(rng, (-8.0, 10.0)))
        spectrum = rfft(x, self.size)
        spectrum *= spectrum_curve(self.grid, _random_tone(rng, 1.9), *curves)
        power = float(np.sum(_power(spectrum) * self.weighting))
        # The RMS of the parts in which the track plays, so that one that seldom plays is not amplified.
        level = np.sqrt(2 * power / (self.size * max(_active(x), 0.02) * len(x))) + 1e-9
        send = gain(self.send + 3.0 * float(rng.standard_normal()))
        return spectrum * ((1.0 + np.float32(send) * self.room) * np.float32(gain(level_db) / level))

    def samples(self, spectrum: np.ndarray) -> np.ndarray:
        """Samples (n,) float32 of a spectrum (bins,)."""
        return irfft(spectrum, self.size)[: self.n]

    def master(self, spectrum: np.ndarray, loud: bool, rng: np.random.Generator) -> np.ndarray:
        """Samples (n,) float32 of the summed spectrum after tone and band limits, bus compression and soft clipping."""
        spectrum = spectrum + self._floor(spectrum, rng)
        spectrum *= spectrum_curve(self.grid, _random_tone(rng, 1.2), _AIR, _production(rng))
        x = self.samples(spectrum)
        if chance(rng, 0.75 if loud else 0.2):
            x = _squeezed(x, self.sr, (4.0, 16.0), (1.5, 5.0), rng)
        if chance(rng, 0.6 if loud else 0.1):
            x = saturate(x, between(rng, (-6.0, 8.0)))
        return x

    def _floor(self, spectrum: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Spectrum (bins,) of random hiss and rumble far below the music, sometimes inaudible."""
        level = -110.0 if chance(rng, 0.12) else between(rng, (-80.0, -46.0))
        size = (float(np.sqrt(np.mean(_power(spectrum)))) + 1e-6) * gain(level)
        rumble, hiss = between(rng, (10.0, 60.0)), between(rng, (-22.0, 4.0))
        colour = {20.0: rumble, 60.0: 0.8 * rumble, 500.0: 0.0, 4000.0: hiss, 20000.0: hiss - between(rng, (0.0, 12.0))}
        noise = rng.standard_normal(2 * len(spectrum), dtype=np.float32).view(np.complex64)
        return noise * (np.float32(size) * spectrum_curve(self.grid, colour))


def low_cut(rng: np.random.Generator) -> dict[float, float]:
    """Tone curve of a random high-pass, for tracks other than bass and drums."""
    hz = log_between(rng, (30.0, 220.0))
    return {hz / 8: -45.0, hz / 2: -15.0, hz: -3.0, 2 * hz: 0.0}


def echoes(x: np.ndarray, delay: int, feedback: float) -> np.ndarray:
    """x (n,) with up to four repeats, `delay` samples apart, each `feedback` times the one before."""
    out = x.copy()
    for k in range(1, 5):
        add(out, x * np.float32(feedback**k), k * delay)
    return out


def chorus(x: np.ndarray, sr: int, rng: np.random.Generator) -> np.ndarray:
    """x (n,) with a copy whose delay is modulated by a few milliseconds, as in doubled or chorused tracks."""
    at = np.arange(len(x), dtype=np.float64)
    swing = log_between(rng, (0.0005, 0.003)) * np.sin(2 * np.pi * log_between(rng, (0.2, 3.0)) / sr * at)
    moved = np.interp(at - sr * (between(rng, (0.006, 0.025)) + swing), at, x)
    return x + np.float32(between(rng, (0.3, 1.0))) * moved.astype(np.float32)


def _squeezed(x: np.ndarray, sr: int, below_peak_db: Range, ratio: Range, rng: np.random.Generator) -> np.ndarray:
    """x (n,) through a compressor whose parameters are drawn from ranges."""
    attack, release = log_between(rng, (0.002, 0.03)), log_between(rng, (0.05, 0.4))
    return compress(x, sr, between(rng, below_peak_db), between(rng, ratio), attack, release)


def _power(spectrum: np.ndarray) -> np.ndarray:
    """Squared magnitudes of a spectrum."""
    return np.real(spectrum) ** 2 + np.imag(spectrum) ** 2


def _active(x: np.ndarray) -> float:
    """Share of a track that is less than 30 dB below its loudest part."""
    blocks = np.square(x[: len(x) // 1024 * 1024].reshape(-1, 1024)).mean(1)
    return float(np.mean(blocks > 1e-3 * blocks.max(initial=1e-12)))


def _random_tone(rng: np.random.Generator, depth_db: float) -> dict[float, float]:
    """Smooth random tone curve: an equaliser of octave bands and a tilt."""
    bands = depth_db * rng.standard_normal(len(_OCTAVES))
    tilt = 0.25 * depth_db * float(rng.standard_normal())
    return {hz: float(db + tilt * (k - 4.5)) for k, (hz, db) in enumerate(zip(_OCTAVES, bands, strict=True))}


def _production(rng: np.random.Generator) -> dict[float, float]:
    """Tone curve of a production's band limits: low cut, a codec's low-pass, seldom the band of an old recording."""
    low, high = log_between(rng, (15.0, 60.0)), one_of(rng, (15500.0, 16500.0, 18500.0, 21000.0), (1, 2, 2, 3))
    steep = 60.0
    if chance(rng, 0.08):
        low, high, steep = log_between(rng, (60.0, 250.0)), log_between(rng, (4000.0, 10000.0)), 24.0
    return {low / 4: -36.0, low: -3.0, 2 * low: 0.0, high: 0.0, high * 1.08: -steep * 0.5, high * 2: -steep}
