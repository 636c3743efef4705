"""The start of a compressor, read from the levels of two recordings: static curve, make-up gain and time constants."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from reknob.afx import kernels
from reknob.afx.compressor import SoftKneeCompressor, reduction
from reknob.afx.dynamics import CompressorExpander
from reknob.afx.effect import Effect, Tensors
from reknob.afx.functional.level import tau_to_coef

BLOCK_MS, FRAME, HOP = 1, 10, 5  # of power; blocks of a frame, whose gain is compared, and between frames
RANGE_DB = 55  # below the loudest frame, levels are left out: noise, and the tail of a reverb
LEAST_FRAMES, LONGEST_S = 50, 20  # of the recordings: the loudest part
THRESHOLDS = 24  # how many are tried
KNEES_DB = (0.0, 6.0, 12.0, 24.0)
ATTACKS_MS, RELEASES_MS = (1.0, 5.0, 20.0, 80.0), (10.0, 40.0, 150.0, 600.0, 2500.0)
#: Of the refined settings, in the order of `_to_vector`.
LOWEST = np.array([-90.0, 0.0, 0.0, -60.0, *np.log([0.1, 2, 0.3])])
HIGHEST = np.array([0.0, 0.98, 40.0, 60.0, *np.log([500, 10000, 100])])


@dataclass(frozen=True)
class CompressorStart:
    """Settings of `afx.compressor.SoftKneeCompressor`, and how well they explain the gain from dry to wet."""

    threshold: float  # dB, of the RMS level; a sine peaks 3 dB above it
    ratio: float
    knee: float  # dB
    attack: float  # ms, to 63 % of a step, as all times
    release: float  # ms
    average: float  # ms, of the power
    makeup: float  # dB
    error: float = 0.0  # dB, RMS between the gain of the recordings and this one's
    explained: float = 0.0  # share of the variance of the recordings' gain, 0 … 1; near 0 nothing was compressed

    def values(self, effect: Effect) -> Tensors:
        """The values of the parameters of a compressor, by name, moved inside its ranges; empty for other effects."""
        if isinstance(effect, CompressorExpander):
            given = {"cmp_threshold": self.threshold, "cmp_ratio": self.ratio, "makeup": self.makeup}
            # Its times are those from 10 to 90 %: 2.2 time constants.
            given |= {"attack": 2.2 * self.attack, "release": 2.2 * self.release}
            given |= {"avg_coef": 1 - tau_to_coef(torch.tensor(self.average), effect.sr).item()}
        else:
            given = vars(self) if isinstance(effect, SoftKneeCompressor) else {}
        return {
            p.name: p.mapping.inside(torch.tensor(given[p.name], dtype=torch.float64))
            for p in effect.params
            if p.name in given
        }


def compressor_start(dry: Tensor, wet: Tensor, sr: int) -> CompressorStart | None:
    """The compressor that explains the gain from dry to wet best; None for short recordings, or of one level.

    The gain of a frame is <dry, wet> / <dry, dry>, which an echo or a reverb, being unlike dry, changes little. With
    threshold, knee, attack and release given, the gain in dB is linear in make-up and slope (1 - 1 / ratio), as
    smoothing is homogeneous. A grid of the four, with the two by least squares, gives a start. A robust least-squares
    search then refines it, from the power in blocks of 1 ms.

    Args:
        dry: (1, T), or (C, T), of which the power is averaged; after the equaliser, where there is one.
        wet: (C, T), aligned.
        sr: sample rate in Hz.

    Source: the detector of Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design, JAES 60 (2012).
    """
    power, product = block_products(dry, wet, sr)
    if len(power) < FRAME + HOP * LEAST_FRAMES:
        return None
    x = np.maximum(frames(power), 1e-12)
    shares, levels = frames(product) / x, 10 * np.log10(x)
    used = (levels > max(levels.max() - RANGE_DB, -100)) & (shares > 1e-5)
    if used.sum() < LEAST_FRAMES or np.ptp(levels[used]) < 1:
        return None
    gains = 20 * np.log10(shares[used])
    if gains.std() < 0.01:  # dB: rounding, which a search would take for a compressor
        return CompressorStart(float(levels.max()), 1.0, 6.0, 10.0, 100.0, FRAME / 2, float(gains.mean()))

    def errors(vector: np.ndarray) -> np.ndarray:
        shaped = frames(power * 10 ** (model(power, _from_vector(vector)) / 20))[used]
        return 20 * np.log10(np.maximum(shaped / x[used], 1e-15)) - gains

    begin = np.clip(_to_vector(_search(levels, gains, used)), LOWEST + 1e-3, HIGHEST - 1e-3)
    # Beyond 1 dB the error of a frame counts linearly: echoes, words that differ.
    bounds, scale = (LOWEST, HIGHEST), HIGHEST - LOWEST
    solution = least_squares(errors, begin, bounds=bounds, loss="soft_l1", diff_step=1e-3, x_scale=scale, max_nfev=60)
    residual = errors(solution.x)
    explained = 1 - float(residual.var() / gains.var())
    rms = float(np.sqrt(np.mean(residual**2)))
    return replace(_from_vector(solution.x), error=rms, explained=min(max(explained, 0.0), 1.0))


def chain_start(chain: Effect, dry: Tensor, wet: Tensor) -> Tensors:
    """Values of the first compressor of a chain, by full name ("comp.attack"), from its recordings.

    Empty for a chain without a compressor, and for recordings that show none.
    """
    prefix, part = next(_compressors(chain), ("", None))
    start = compressor_start(dry, wet, chain.sr) if part is not None else None
    return {prefix + name: value for name, value in start.values(part).items()} if start and part else {}


def _compressors(chain: Effect, prefix: str = "") -> Iterator[tuple[str, Effect]]:
    """The compressors of a chain at any depth, behind the beginning of their parameters' names."""
    if isinstance(chain, (CompressorExpander, SoftKneeCompressor)):
        yield prefix, chain
    for name, part in chain.parts():
        yield from _compressors(part, f"{prefix}{name}.")


def block_products(dry: Tensor, wet: Tensor, sr: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of dry·dry and dry·wet in blocks, (blocks,) each, of the loudest stretch where the recordings are long.

    Channels of wet count as they correlate with dry, so that neither a pan nor an inverted polarity changes the sum.
    """
    T, size = min(dry.shape[-1], wet.shape[-1]), round(BLOCK_MS / 1000 * sr)
    y = wet[:, :T].double()
    x = dry[:, :T].double().expand_as(y)
    correlation = (x * y).mean(1) / x.square().mean(1).clamp(min=1e-12)
    weights = correlation / (correlation.norm() * len(y) ** 0.5).clamp(min=1e-12)
    products = x.square().mean(0), weights @ (x * y)
    power, product = (each.unfold(-1, size, size).mean(-1).numpy() for each in products)
    n, most = len(power), round(LONGEST_S * 1000 / BLOCK_MS)
    sums = np.cumsum(np.r_[0.0, power])
    first = int(np.argmax(sums[most:] - sums[:-most])) if n > most else 0
    return power[first : first + most], product[first : first + most]


def frames(power: np.ndarray) -> np.ndarray:
    """Mean power of overlapping frames, (frames,), of the power of blocks."""
    return np.lib.stride_tricks.sliding_window_view(power, FRAME)[::HOP].mean(1)


def model(power: np.ndarray, settings: CompressorStart) -> np.ndarray:
    """The gain in dB (blocks,) that settings give at a power (blocks,)."""
    average = 1 - tau_to_coef(torch.tensor([settings.average], dtype=torch.float64), 1000 // BLOCK_MS)
    level = 10 * kernels.one_pole(torch.from_numpy(power)[None].contiguous(), average).clamp(min=1e-10).log10()
    shape = smoothed(level, settings.threshold, settings.knee, [settings.attack], [settings.release], BLOCK_MS)
    return settings.makeup - (1 - 1 / settings.ratio) * shape[0]


def smoothed(
    level: Tensor, threshold: float, knee: float, attacks: list[float], releases: list[float], step_ms: float
) -> np.ndarray:
    """The reduction of an infinite ratio in dB after attack and release, (times, n), at levels (1, n)."""
    T, W, inf = (torch.tensor(value, dtype=torch.float64) for value in (threshold, knee, torch.inf))
    gain = -reduction(level, T, inf, W)
    times = (torch.tensor(ms, dtype=torch.float64) for ms in (attacks, releases))
    attack, release = (1 - torch.exp(-step_ms / ms) for ms in times)
    return -kernels.ballistics(gain.expand(len(attack), -1), attack, release, initial=float(gain[0, 0])).numpy()


def _search(levels: np.ndarray, gains: np.ndarray, used: np.ndarray) -> CompressorStart:
    """The best settings of a grid, make-up and slope by least squares, at the frames' levels."""
    grid = [(attack, release) for attack in ATTACKS_MS for release in RELEASES_MS if attack <= release]
    attacks, releases = ([pair[i] for pair in grid] for i in (0, 1))
    level, mean = torch.from_numpy(levels)[None], float(gains.mean())
    y = gains - mean
    best = CompressorStart(float(levels.max()), 1.0, 6.0, 10.0, 100.0, FRAME / 2, mean)
    least = float(y @ y)
    low, high = np.quantile(levels[used], [0.0, 0.99])
    for threshold in np.linspace(low, high, THRESHOLDS):
        for knee in KNEES_DB:
            shapes = smoothed(level, threshold, knee, attacks, releases, HOP * BLOCK_MS)[:, used]
            means = shapes.mean(1)
            centred = shapes - means[:, None]
            slopes = np.clip(-(centred @ y) / np.maximum((centred**2).sum(1), 1e-9), 0.0, 0.98)
            errors = ((y + slopes[:, None] * centred) ** 2).sum(1)
            i = int(np.argmin(errors))
            if errors[i] < least:
                makeup, ratio = mean + float(slopes[i] * means[i]), float(1 / (1 - slopes[i]))
                best = CompressorStart(float(threshold), ratio, knee, *grid[i], FRAME / 2, makeup)
                least = float(errors[i])
    return best


def _to_vector(s: CompressorStart) -> np.ndarray:
    return np.array([s.threshold, 1 - 1 / s.ratio, s.knee, s.makeup, *np.log([s.attack, s.release, s.average])])


def _from_vector(vector: np.ndarray) -> CompressorStart:
    threshold, slope, knee, makeup = map(float, vector[:4])
    attack, release, average = map(float, np.exp(vector[4:]))
    return CompressorStart(threshold, 1 / (1 - slope), knee, attack, release, average, makeup)
