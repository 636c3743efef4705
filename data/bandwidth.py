"""The highest frequency with content in a recording: the band edge that a low sample rate or a lossy codec leaves."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

FRAME = 4096  # samples of a spectrum
FRAMES = 500  # most spectra that are averaged, evenly spaced over the recording
PER_OCTAVE = 12  # bands in which the spectrum is smoothed
SPAN = 3  # bands: a quarter octave, within which the level falls at an edge
LOWEST = 1500.0  # Hz; below, single partials have steep edges
DROP = 30.0  # dB by which all bands above an edge lie below those under it; ten real voices fall by 25 at most
STEEPER = 20.0  # dB by which the fall exceeds that of the octave below, over the same width
SHOULDER = 12.0  # dB; the edge is where the level has fallen by this much
FLOOR = 1e-16  # power relative to the strongest bin: rounding of float32


def band_edge(x: Tensor, sr: int) -> float:
    """The highest frequency in Hz with content in `x` `(C, T)` at `sr` Hz; `sr / 2` where no edge is found.

    The mean power spectrum, in bands of a twelfth of an octave, has an edge where it falls by 30 dB within a quarter
    octave, stays low up to `sr / 2`, and falls far more steeply than in the octave below: the brick wall of a
    resampler, the low-pass of a lossy codec, a steep filter. A voice that fades into its noise has no edge. The last
    third of an octave below `sr / 2` is not searched, as every recording ends there.
    """
    power = mean_spectrum(x)
    if not power.any():
        return sr / 2
    freq = np.arange(len(power)) * sr / FRAME
    n_bands = int(PER_OCTAVE * max(1.0, np.log2(sr / 2 / LOWEST) + 1))
    bounds = sr / 2 * 2.0 ** (np.arange(-n_bands, 1) / PER_OCTAVE)
    level = _band_levels(power, freq, bounds)
    above = np.maximum.accumulate(level[::-1])[::-1]  # the highest level in each band and those above it
    for i in range(PER_OCTAVE, n_bands - SPAN - 1):  # between the bands i - 1 and i
        under = np.median(level[i - SPAN : i])
        fall = under - above[i + SPAN]
        fall_before = np.median(level[i - PER_OCTAVE : i - PER_OCTAVE + SPAN]) - under
        # Scaled to the same width: `fall` spans 5 bands and `fall_before` 9, from middle to middle.
        as_before = max(0.0, fall_before) * 5 / 9
        if bounds[i] >= LOWEST and fall > DROP and fall - as_before > STEEPER:
            return _shoulder(power, freq, bounds[i], under)
    return sr / 2


def band_limit(x: Tensor, sr: int, edge: float, slope: float = 0.02, stop: float = 100.0) -> Tensor:
    """`x` `(..., N)` at `sr` Hz without what lies above `edge` Hz, by a filter without phase.

    From `edge` on the level falls, linearly in dB over `slope` times `edge` Hz, by `stop` dB.
    """
    freq = torch.fft.rfftfreq(x.shape[-1], 1 / sr, device=x.device)
    db = -stop * ((freq / edge - 1) / slope).clamp(0, 1)
    return torch.fft.irfft(torch.fft.rfft(x) * 10 ** (db / 20), n=x.shape[-1])


def within_edges(x: Tensor, sr: int, edges: Sequence[float]) -> Tensor:
    """`x` `(B, C, N)` at `sr` Hz, each item without what lies above its band edge in Hz."""
    limited = [band_limit(each, sr, edge) if edge < sr / 2 else each for each, edge in zip(x, edges, strict=True)]
    return torch.stack(limited)


def mean_spectrum(x: Tensor) -> np.ndarray:
    """Power spectrum `(FRAME / 2 + 1,)` of Hann-windowed frames of `x` `(C, T)`, averaged over frames and channels."""
    samples = x.detach().cpu().float()
    if samples.shape[-1] < FRAME:
        samples = pad(samples, (0, FRAME - samples.shape[-1]))
    frames = samples.unfold(-1, FRAME, FRAME // 2)
    step = -(-frames.shape[1] // FRAMES)
    frames = frames[:, ::step].reshape(-1, FRAME).numpy()
    spectra = np.fft.rfft(frames * np.hanning(FRAME).astype(np.float32))
    return (np.abs(spectra) ** 2).mean(0)


def _band_levels(power: np.ndarray, freq: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Mean level `(K,)` in dB of the power `(F,)` at `freq` `(F,)` Hz between consecutive bounds `(K + 1,)` in Hz."""
    indices = np.searchsorted(freq, bounds)
    total = np.concatenate([[0.0], np.cumsum(power, dtype=float)])
    means = (total[indices[1:]] - total[indices[:-1]]) / np.maximum(indices[1:] - indices[:-1], 1)
    return 10 * np.log10(means + FLOOR * power.max())


def _shoulder(power: np.ndarray, freq: np.ndarray, start: float, under: float) -> float:
    """The highest frequency in Hz near `start` where the spectrum, smoothed over 200 Hz, exceeds `under` - 12 dB."""
    width = max(1, round(200 / (freq[1] - freq[0])))
    level = 10 * np.log10(np.convolve(power, np.ones(width) / width, "same") + FLOOR * power.max())
    near = (freq > start * 2 ** (-SPAN / PER_OCTAVE)) & (level > under - SHOULDER)
    return float(freq[near].max(initial=start))
