"""Starts of a fit that are read from the two recordings: the echo of a delay, and the position of the direct sound.

Wet is taken as dry through an impulse response, which regularised deconvolution over the whole recording estimates; a
compressor only scales it. Its peaks are the echoes. Gradient descent refines an echo that it starts from; from another
delay time it does not find it, as the loss has a minimum at almost every time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, signal
from scipy.signal.windows import tukey
from torch import Tensor

from reknob.afx.chain import Sends
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Knobs, Tensors
from reknob.afx.param import Linear

RESPONSE_S = 3.0  # length of the estimated response
REGULARISATION = 0.05  # of the deconvolution, as a share of the power of dry around each frequency
SMOOTH_HZ = 200  # width of that power's average
DIRECT_MS = 5  # of the response, before any echo and the first reflection of the reverb
#: Where echoes are searched: most show where speech and singing have most energy; those of a resonant filter above.
ECHO_BANDS_HZ = ((150, 9000), (9000, 16000))
#: Octave bands in which echoes are compared with the direct sound.
ECHO_EDGES_HZ = np.array([150, 300, 600, 1200, 2400, 4800, 9600])


def deconvolve(dry: Tensor, wet: Tensor, sr: int, band_hz: tuple[float, float] | None = None) -> np.ndarray:
    """Impulse response (2, samples) from dry (1, T) to wet (2, T): H = Y X* / (|X|² + ε), ε a share of |X|² around each
    frequency.

    `band_hz` leaves only what lies between two frequencies.
    """
    n = 2 ** math.ceil(math.log2(dry.shape[-1] + RESPONSE_S * sr))
    X, Y = (np.fft.rfft(x.double().numpy(), n) for x in (dry, wet))
    power = np.abs(X[0]) ** 2
    width = max(round(SMOOTH_HZ * n / sr), 1)
    H = Y * X.conj() / (power + REGULARISATION * ndimage.uniform_filter1d(power, width) + np.finfo(float).tiny)
    if band_hz is not None:
        low, high = band_hz
        f = np.fft.rfftfreq(n, 1 / sr)
        H *= np.clip((f / low - 0.7) / 0.3, 0, 1) * np.clip((1.2 - f / high) / 0.2, 0, 1)
    # What is beyond the response has wrapped around to the end, and is left out.
    return np.fft.irfft(H, n)[:, : round(RESPONSE_S * sr)]


def echo_times(h: np.ndarray, sr: int, low_ms: float, high_ms: float, count: int) -> list[float]:
    """Times in ms, at most `count`, at which a response h (2, samples) stands out most; best first.

    The measure of a time is the energy within a third of a ms over the median of the 60 ms around it, and its
    logarithm is added to half that of twice the time, where a repeating echo returns.
    """
    step = 8  # samples of the coarse grid on which the median is taken
    energy = ndimage.gaussian_filter1d((h**2).sum(0), 0.0003 * sr)
    floor = np.repeat(ndimage.median_filter(energy[::step], round(0.06 * sr / step)), step)[: len(energy)]
    contrast = np.log(np.maximum(energy / np.maximum(floor, 1e-12 * energy.max() + np.finfo(float).tiny), 1))
    first, last = round(low_ms / 1000 * sr), min(round(high_ms / 1000 * sr), len(contrast))
    # Half a ms of play, as a filter in the loop delays the second echo more than the first.
    wide = ndimage.maximum_filter1d(contrast, round(0.001 * sr))
    again = np.zeros_like(contrast)
    half = np.arange((len(contrast) + 1) // 2)
    again[half] = wide[2 * half]
    score = (contrast + again / 2)[first:last]
    peaks, _ = signal.find_peaks(contrast[first:last], distance=round(0.004 * sr))
    best = peaks[np.argsort(-score[peaks])][:count]
    return [1000 * (first + int(i)) / sr for i in best]


@dataclass(frozen=True)
class Echo:
    """What the response shows of an echo that repeats every `delay_ms`."""

    delay_ms: float
    gain: float  # of the first echo, relative to the direct sound
    feedback: float
    cutoff_hz: float  # half power of the first echo, relative to the direct sound
    odd_pan: float  # 0 left … 1 right
    even_pan: float


def echo(h: np.ndarray, sr: int, delay_ms: float) -> Echo:
    """Level, repetition, filter and positions of an echo, by the energies of its first two returns in octave bands."""
    freqs, (direct, first, second) = _echo_spectra(h, sr, delay_ms)
    bands = [(freqs >= low) & (freqs < high) for low, high in zip(ECHO_EDGES_HZ, ECHO_EDGES_HZ[1:], strict=False)]

    def by_band(power: np.ndarray) -> np.ndarray:
        return np.array([power[:, band].sum() for band in bands])

    direct = np.maximum(by_band(direct), np.finfo(float).tiny)
    once, twice = by_band(first) / direct, by_band(second) / direct
    top = int(np.flatnonzero(once >= once[:3].max() / 2)[-1])
    passed = slice(0, top + 1)
    cutoff = float(ECHO_EDGES_HZ[top + 1])
    audible = (freqs > ECHO_EDGES_HZ[0]) & (freqs < cutoff)
    feedback = math.sqrt(twice[passed].sum() / max(once[passed].sum(), np.finfo(float).tiny))
    positions = [pan_position(*power[:, audible].sum(1)) for power in (first, second)]
    return Echo(delay_ms, math.sqrt(once[:3].max()), feedback, cutoff, *positions)


def _echo_spectra(h: np.ndarray, sr: int, delay_ms: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frequencies, and power spectra (2, frequencies) of direct sound, first and second echo, less what surrounds
    them."""
    n = 2048
    before, length = round(0.001 * sr), round(0.007 * sr)
    padded = np.pad(h, ((0, 0), (before, n)))
    window = tukey(length, 0.25)

    def power(time_ms: float) -> np.ndarray:
        start = max(round(time_ms / 1000 * sr), 0)
        part = padded[:, start : start + length]
        return np.abs(np.fft.rfft(part * window[: part.shape[1]], n)) ** 2

    def above_surroundings(time_ms: float) -> np.ndarray:
        around = np.mean([power(time_ms + offset) for offset in (-24, -16, 16, 24)], 0)
        return np.maximum(power(time_ms) - around, 0)

    spectra = [power(0), above_surroundings(delay_ms), above_surroundings(2 * delay_ms)]
    return np.fft.rfftfreq(n, 1 / sr), spectra


def pan_position(left: float, right: float) -> float:
    """Position, 0 left … 1 right, by the constant-power law, of a sound with these energies."""
    return 2 / math.pi * math.atan2(math.sqrt(right), math.sqrt(left))


def starts(chain: Effect, dry: Tensor, wet: Tensor, count: int = 4) -> list[Tensors]:
    """Values to begin a fit with, by full name ("sends.delay.delay"), in declared units.

    One set for each echo time that stands out, the clearest first.

    Args:
        chain: whose sends may hold a delay, and a position of the direct sound.
        dry: (1, T) at the chain's sample rate, aligned; the whole recording.
        wet: (2, T).
        count: at most so many.

    What the chain does not hold, or the signals do not show, is left out.
    """
    h = deconvolve(dry, wet, chain.sr)
    candidates: list[Tensors] = [{}]
    for prefix, sends in _sends(chain):
        position = _position(prefix, sends, h)
        for name, part in sends.parts():
            if isinstance(part, PingPongDelay):
                candidates = _echoes(f"{prefix}{name}.", part, dry, wet, h, count) or candidates
        candidates = [values | position for values in candidates]
    return candidates


def _sends(chain: Effect, prefix: str = "") -> Iterator[tuple[str, Sends]]:
    """The sends of a chain at any depth, behind the beginning of their parameters' names."""
    if isinstance(chain, Sends):
        yield prefix, chain
    for name, part in chain.parts():
        yield from _sends(part, f"{prefix}{name}.")


def _position(prefix: str, sends: Sends, h: np.ndarray) -> Tensors:
    """The position of the direct sound, by the energies of the response's first milliseconds."""
    if sends.direct is None:
        return {}
    energies = (h[:, : round(DIRECT_MS / 1000 * sends.sr)] ** 2).sum(1)
    return {f"{prefix}direct.pan": torch.tensor(min(max(pan_position(*energies), 0.02), 0.98))}


def _echoes(prefix: str, delay: PingPongDelay, dry: Tensor, wet: Tensor, h: np.ndarray, count: int) -> list[Tensors]:
    """Values of a delay for each echo time that stands out."""
    times = next(p.mapping for p in delay.params if p.name == "delay")
    assert isinstance(times, Linear)
    bands = [(low, min(high, 0.4 * delay.sr)) for low, high in ECHO_BANDS_HZ if low < 0.4 * delay.sr]
    responses = [deconvolve(dry, wet, delay.sr, band) for band in bands]
    found, *others = [echo_times(narrow, delay.sr, times.lo, times.hi, count) for narrow in responses]
    ranked = [*found[:1], *(ms for other in others for ms in other[:1]), *found[1:]]
    distinct = [ms for i, ms in enumerate(ranked) if all(abs(ms - better) > 1 for better in ranked[:i])]
    candidates = []
    for ms in distinct[:count]:
        measured = echo(h, delay.sr, ms)
        values = {"delay": ms, "gain": measured.gain, "feedback": measured.feedback}
        values |= {"odd_pan.pan": measured.odd_pan, "even_pan.pan": measured.even_pan, "eq.freq": measured.cutoff_hz}
        found = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        candidates.append({prefix + name: p.mapping.inside(found[name]) for name, p in delay.walk() if name in found})
    return candidates


def to_raws(chain: Effect, values: Tensors) -> dict[str, Tensor]:
    """Raw parameters of values by full name, in declared units; names that the chain lacks are left out."""
    params = dict(chain.walk())
    return {
        name: params[name].mapping.raw(value.double()).float().reshape(params[name].shape)
        for name, value in values.items()
        if name in params
    }


def raws_from(chain: Effect, values: Tensors, seed: int = 0) -> dict[str, Tensor]:
    """Raw parameters of a chain's defaults, with some values in their place."""
    return Knobs(chain, torch.Generator().manual_seed(seed)).state_dict() | to_raws(chain, values)
