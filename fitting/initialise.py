"""Starts of a fit that are read from the two recordings: echoes, positions, reverberation, spectrum, levels.

The processed recording is taken as the dry one through an impulse response, which regularised deconvolution over the
whole song estimates: compression only scales it. Its first milliseconds are the equaliser, its peaks the echoes, its
decay the reverb. Gradient descent then refines what the signals already show; it would not find an echo from afar.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, optimize, signal, stats
from torch import Tensor

from reknob.afx.chain import Sends, Serial
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Knobs
from reknob.afx.eq import Biquad
from reknob.afx.functional import biquad
from reknob.afx.functional.units import gain_to_db
from reknob.afx.param import Param
from reknob.afx.reverb import FDN
from reknob.afx.stream import render

RESPONSE_S, NOISE_S = 3.0, 1.0  # lengths of the estimated response and of its noise
REGULARISATION = 0.05  # of the deconvolution, as a share of the power of dry around each frequency
SMOOTH_HZ = 200  # width of that power's average
DIRECT_MS = 20  # of the response that hold the equaliser; echoes and reverb begin later
ECHO_BAND_HZ = (150, 9000)  # where echoes are searched: outside, speech and singing leave too little
ECHO_EDGES_HZ = np.array([150, 300, 600, 1200, 2400, 4800, 9600])
LEAST_BANDS = 5  # in which a reverb must be seen to decay
LEVEL_S = 30.0  # of the recording, its loudest, over which the level is matched
DECAY_EDGES_HZ = np.array([125, 250, 500, 1000, 2000, 4000, 8000, 16000])
EQ_GRID_HZ = np.geomspace(60, 16000, 60)

Values = dict[str, Tensor]  # by full name, "sends.delay.delay", in declared units


@dataclass(frozen=True)
class Response:
    """An estimated impulse response from mono to stereo.

    `causal` (2, samples) begins at the direct sound; `noise` (2, samples) is what the estimate shows before it, where
    nothing but its error can be.
    """

    causal: np.ndarray
    noise: np.ndarray
    sr: int


def deconvolve(dry: Tensor, wet: Tensor, sr: int, band_hz: tuple[float, float] | None = None) -> Response:
    """Impulse response from dry (1, T) to wet (2, T): H = Y X* / (|X|² + ε), ε a share of |X|² around each frequency.

    `band_hz` leaves only what lies between two frequencies.
    """
    n = 2 ** math.ceil(math.log2(dry.shape[-1] + (RESPONSE_S + NOISE_S) * sr))
    X, Y = (np.fft.rfft(x.double().numpy(), n) for x in (dry, wet))
    power = np.abs(X[0]) ** 2
    width = max(round(SMOOTH_HZ * n / sr), 1)
    H = Y * X.conj() / (power + REGULARISATION * ndimage.uniform_filter1d(power, width) + np.finfo(float).tiny)
    if band_hz is not None:
        low, high = band_hz
        f = np.fft.rfftfreq(n, 1 / sr)
        H *= np.clip((f / low - 0.7) / 0.3, 0, 1) * np.clip((1.2 - f / high) / 0.2, 0, 1)
    h = np.fft.irfft(H, n)
    return Response(h[:, : round(RESPONSE_S * sr)], h[:, -round(NOISE_S * sr) : -round(DIRECT_MS / 1000 * sr)], sr)


def echo_times(response: Response, low_ms: float, high_ms: float, count: int) -> list[float]:
    """Times in ms, at most `count`, at which the response stands out most from its surroundings; best first.

    The measure of a time is the energy within a third of a ms over the median of the 60 ms around it, and its
    logarithm is added to half that of twice the time, where a repeating echo returns.
    """
    sr, step = response.sr, 8
    energy = ndimage.gaussian_filter1d((response.causal**2).sum(0), 0.0003 * sr)
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


def echo(response: Response, delay_ms: float) -> Echo:
    """Level, repetition, filter and positions of an echo, by the energies of its first two returns in octave bands."""
    freqs, (direct, first, second) = _echo_spectra(response, delay_ms)
    bands = [(freqs >= low) & (freqs < high) for low, high in zip(ECHO_EDGES_HZ, ECHO_EDGES_HZ[1:], strict=False)]

    def by_band(power: np.ndarray) -> np.ndarray:
        return np.array([power[:, band].sum() for band in bands])

    direct = np.maximum(by_band(direct), np.finfo(float).tiny)
    once, twice = by_band(first) / direct, by_band(second) / direct
    top = int(np.flatnonzero(once >= once[:3].max() / 2)[-1])
    passed = slice(0, top + 1)
    cutoff = float(ECHO_EDGES_HZ[top + 1])
    heard = (freqs > ECHO_EDGES_HZ[0]) & (freqs < cutoff)
    feedback = math.sqrt(twice[passed].sum() / max(once[passed].sum(), np.finfo(float).tiny))
    positions = [pan_position(*power[:, heard].sum(1)) for power in (first, second)]
    return Echo(delay_ms, math.sqrt(once[:3].max()), feedback, cutoff, *positions)


def _echo_spectra(response: Response, delay_ms: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Frequencies, and power spectra (2, frequencies) of direct sound, first and second echo, less what surrounds
    them."""
    sr, n = response.sr, 2048
    before, length = round(0.001 * sr), round(0.007 * sr)
    padded = np.pad(response.causal, ((0, 0), (before, n)))
    window = signal.windows.tukey(length, 0.25)

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


def decay_times(response: Response, delay_ms: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reverberation time (60 dB) in s in octave bands, NaN where the decay is not seen above the noise; and the energy
    of the reverb relative to the direct sound.

    Robust lines (Theil-Sen) through the level of the response from 35 ms on until it meets twice its noise. What lies
    around the multiples of `delay_ms` is an echo, and left out.
    """
    sr, size, hop = response.sr, 1024, 512

    def spectrogram(h: np.ndarray) -> np.ndarray:
        centred = np.pad(h, ((0, 0), (size // 2, 0)))  # the first frame on the direct sound
        frames = signal.stft(centred, sr, nperseg=size, noverlap=size - hop, boundary=None, padded=False)[2]
        return (np.abs(frames) ** 2).sum(0)

    spectra = [spectrogram(h) for h in (response.causal, response.noise)]
    freqs = np.fft.rfftfreq(size, 1 / sr)
    times = np.arange(spectra[0].shape[1]) * hop / sr
    later = times > 0.035
    if delay_ms is not None:
        after = times * 1000 % delay_ms
        later &= (after > 45) & (after < delay_ms - 15)
    seconds, energies = [], []
    for low, high in zip(DECAY_EDGES_HZ, DECAY_EDGES_HZ[1:], strict=False):
        band = (freqs >= low) & (freqs < high)
        level, noise = (x[band].sum(0) for x in spectra)
        floor = float(np.median(noise))
        clear = later & (level > 2 * floor)
        ends = times[later & ~clear]
        clear &= times < (ends[0] if len(ends) else np.inf)
        excess = np.maximum(level - floor, 1e-3 * floor)
        slope = stats.theilslopes(10 * np.log10(excess[clear]), times[clear])[0] if clear.sum() >= 5 else 0.0
        seconds.append(-60 / slope if slope < 0 else np.nan)
        # The frames without echoes stand for all.
        whole = excess[later].sum() * (times > 0.035).sum() / max(later.sum(), 1)
        energies.append(whole / max(level[times < 0.02].sum(), np.finfo(float).tiny))
    return np.array(seconds), np.array(energies)


def transfer_db(dry: Tensor, wet: Tensor, sr: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain in dB from dry to the mean of wet at EQ_GRID_HZ by cross spectra (H1), and how much dry weighs there, 0 … 1.

    Windows are short, so that echoes and reverb, which come later, hardly correlate.
    """
    x, y = dry[0].double().numpy(), wet.double().numpy()
    freqs, power = signal.welch(x, sr, nperseg=4096)
    H = np.stack([signal.csd(x, channel, sr, nperseg=4096)[1] for channel in y]) / (power + np.finfo(float).tiny)
    squared = (np.abs(H) ** 2).mean(0)
    gains, weights = [], []
    for f in EQ_GRID_HZ:
        near = (freqs > f * 2 ** (-1 / 6)) & (freqs < f * 2 ** (1 / 6))
        near[np.argmin(np.abs(freqs - f))] = True
        weights.append(power[near].mean())
        gains.append(10 * np.log10(max(np.average(squared[near], weights=power[near] + 1e-30), 1e-8)))
    weights = np.array(weights)
    return np.array(gains), np.clip(np.sqrt(weights / max(np.median(weights), np.finfo(float).tiny)), 0.1, 1)


def equaliser_values(bands: dict[str, Biquad], gains_db: np.ndarray, weights: np.ndarray) -> Values:
    """Values of bands whose response is nearest to gains at EQ_GRID_HZ, but for one gain of all frequencies.

    Least squares on the raw parameters, which a weak prior keeps near their defaults where the gains say nothing.
    """
    declared = [(f"{name}.{p.name}", p) for name, band in bands.items() for p in band.params]
    begin = torch.stack([p.initial_raw(None).double().reshape(()) for _, p in declared])
    freqs, sr = torch.from_numpy(EQ_GRID_HZ), next(iter(bands.values())).sr
    target, weight = torch.from_numpy(gains_db), torch.from_numpy(weights)

    def values(z: Tensor) -> Values:
        return {name: p.mapping.value(raw) for (name, p), raw in zip(declared, z.unbind(), strict=False)}

    def residuals(z: Tensor) -> Tensor:
        at = values(z[:-1])
        coefs = [
            band.coefs(**{p.name: at[f"{name}.{p.name}"] for p in band.params}).double() for name, band in bands.items()
        ]
        total = gain_to_db(biquad.response(torch.stack(coefs), freqs, sr).abs())
        return torch.cat([(total + 10 * z[-1] - target) * weight, 0.1 * (z[:-1] - begin)])

    start = torch.cat([begin, (target.mean() / 10).reshape(1)]).numpy()
    found = optimize.least_squares(
        lambda z: residuals(torch.from_numpy(z)).numpy(),
        start,
        lambda z: torch.func.jacfwd(residuals)(torch.from_numpy(z)).numpy(),
        loss="soft_l1",
        max_nfev=100,
    )
    return {name: value.detach() for name, value in values(torch.from_numpy(found.x[:-1])).items()}


def reverb_values(reverb: FDN, seconds: np.ndarray, energies: np.ndarray) -> Values:
    """Decay and level of a feedback delay network with reverberation times, and with energies relative to the direct
    sound, in octave bands; nothing where a decay is seen in few of them: what is measured there is an echo or noise."""
    seen = np.isfinite(seconds)
    if seen.sum() < LEAST_BANDS:
        return {}
    declared = {p.name: p for p in reverb.params}
    centres = np.sqrt(DECAY_EDGES_HZ[:-1] * DECAY_EDGES_HZ[1:])
    gamma = declared["gamma"]
    freqs = np.linspace(0, reverb.sr / 2, gamma.shape[0])
    times = np.exp(np.interp(freqs, centres[seen], np.log(seconds[seen])))
    lines = reverb.lines.double()[: gamma.shape[1]] if gamma.shape[1] > 1 else reverb.lines.min().double()[None]
    decay = 10 ** (-3 * lines / (reverb.sr * torch.from_numpy(times)[:, None]))
    limits = gamma.mapping.value(torch.tensor([-6.0, 6.0], dtype=torch.float64)[:, None, None].expand(2, *gamma.shape))
    count = len(reverb.lines)
    signs = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).repeat(1, count)[:, :count]
    network = {
        "gamma": decay.clamp(*limits).float(),
        "c": signs,
        "b": declared["b"].mapping.value(declared["b"].initial_raw(None)),
        "U": declared["U"].mapping.value(declared["U"].initial_raw(torch.Generator().manual_seed(0))),
    }
    with torch.no_grad():
        energy = reverb.network(**network).sum(-2).square().sum().item()
    level = math.sqrt(2 * float(np.median(energies[seen])) / max(energy, 1e-12))
    return {"gamma": network["gamma"], "c": min(level, 1.0) * signs}


def starts(chain: Effect, dry: Tensor, wet: Tensor, count: int = 4) -> list[Values]:
    """Values to begin a fit with, by full name; several where several echo times stand out, the clearest first.

    Args:
        chain: whose effects are looked for: equaliser bands in series, and a delay, a reverb and a position in sends.
        dry: (1, T) at the chain's sample rate, aligned; the whole recording.
        wet: (2, T).
        count: at most so many.

    What the chain does not hold, or the signals do not show, is left out.
    """
    common: Values = {}
    parts = chain.parts() if isinstance(chain, Serial) else ()
    bands = {name: part for name, part in parts if isinstance(part, Biquad)}
    if bands:
        common |= equaliser_values(bands, *transfer_db(dry, wet, chain.sr))
    whole = deconvolve(dry, wet, chain.sr)
    candidates: list[Values] = [{}]
    for prefix, sends in _sends(chain):
        common |= _position(prefix, sends, whole)
        parts = dict(sends.parts())
        for name, part in parts.items():
            if isinstance(part, PingPongDelay):
                candidates = _echoes(f"{prefix}{name}.", part, dry, wet, whole, count) or candidates
        for name, part in parts.items():
            if isinstance(part, FDN):
                candidates = [values | _reverb(f"{prefix}{name}.", part, whole, values) for values in candidates]
    return [_matched_level(chain, common | values, dry, wet) for values in candidates]


def _reverb(prefix: str, reverb: FDN, response: Response, values: Values) -> Values:
    """Values of a reverb beside the echo that other values hold, if any."""
    delay_ms = next((value.item() for name, value in values.items() if name.endswith("delay.delay")), None)
    return {prefix + name: value for name, value in reverb_values(reverb, *decay_times(response, delay_ms)).items()}


def _matched_level(chain: Effect, values: Values, dry: Tensor, wet: Tensor) -> Values:
    """The values, with the make-up gain of a compressor that brings the render to the power of wet."""
    name = next((name for name, p in chain.walk() if p.name == "makeup"), None)
    length = min(round(LEVEL_S * chain.sr), dry.shape[-1])
    starts = range(0, dry.shape[-1] - length + 1, length)
    first = max(starts, key=lambda start: wet[:, start : start + length].square().sum().item())
    dry, wet = (x[:, first : first + length] for x in (dry, wet))
    if name is None or not wet.any() or not dry.any():
        return values
    knobs = Knobs(chain).requires_grad_(False)
    knobs.load_state_dict(raws_from(chain, values))
    power = render(chain, knobs(), dry)[:, :length].square().mean()
    return values | {name: 10 * torch.log10(wet.square().mean() / power.clamp(min=1e-12))}


def _sends(chain: Effect, prefix: str = "") -> Iterator[tuple[str, Sends]]:
    if isinstance(chain, Sends):
        yield prefix, chain
    for name, part in chain.parts():
        yield from _sends(part, f"{prefix}{name}.")


def _position(prefix: str, sends: Sends, response: Response) -> Values:
    if sends.direct is None:
        return {}
    energies = (response.causal[:, : round(DIRECT_MS / 4000 * response.sr)] ** 2).sum(1)
    return {f"{prefix}direct.pan": torch.tensor(min(max(pan_position(*energies), 0.02), 0.98))}


def _echoes(
    prefix: str, delay: PingPongDelay, dry: Tensor, wet: Tensor, whole: Response, count: int
) -> list[Values]:
    """Values of a delay for each echo time that stands out."""
    times = next(p.mapping for p in delay.params if p.name == "delay")
    low, high = ECHO_BAND_HZ
    narrow = deconvolve(dry, wet, delay.sr, (low, min(high, 0.4 * delay.sr)))
    found = []
    for ms in echo_times(narrow, times.lo, times.hi, count):
        seen = echo(whole, ms)
        values = {"delay": ms, "gain": seen.gain, "feedback": seen.feedback}
        values |= {"odd_pan.pan": seen.odd_pan, "even_pan.pan": seen.even_pan, "eq.freq": seen.cutoff_hz}
        found.append({prefix + name: _inside(p, values[name]) for name, p in delay.walk() if name in values})
    return found


def _inside(p: Param, value: float) -> Tensor:
    """A value moved inside its range, away from its ends, where gradients vanish."""
    lo, hi = p.mapping.from_unit(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    return torch.tensor(min(max(value, lo), hi), dtype=torch.float64)


def raws_from(chain: Effect, values: Values, seed: int = 0) -> dict[str, Tensor]:
    """Raw parameters of a chain's defaults, with some values in their place."""
    raws = Knobs(chain, torch.Generator().manual_seed(seed)).state_dict()
    for name, p in chain.walk():
        if name in values:
            raws[name] = p.mapping.raw(values[name].double()).to(raws[name]).reshape(raws[name].shape)
    return raws
