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
from reknob.afx.param import Bounded

WINDOW_MS, HOP_MS = 10, 2.5  # of levels: a shorter window follows the waveform of a bass
RANGE_DB = 55  # below the loudest frame, levels are left out: noise, and the tail of a reverb
LONGEST_S = 20  # of the recordings: the loudest part
THRESHOLDS, SLOPE = 24, 0.02  # how many are tried; the least slope (1 - 1 / ratio) that is a compressor
KNEES_DB = (0.0, 6.0, 12.0, 24.0)
ATTACKS_MS, RELEASES_MS = (1.0, 5.0, 20.0, 80.0), (10.0, 40.0, 150.0, 600.0, 2500.0)


@dataclass(frozen=True)
class CompressorStart:
    """Settings of a compressor whose gain in dB, over the RMS level of 10 ms, is `makeup` less the smoothed reduction
    of a static curve (`afx.compressor.reduction`).
    """

    threshold: float  # dB, of the RMS level; a sine peaks 3 dB above it
    ratio: float
    knee: float  # dB
    makeup: float  # dB
    attack: float  # ms, to 63 % of a step of the gain in dB
    release: float  # ms
    error: float  # dB, RMS between the gain of the recordings and this one's
    explained: float  # share of the variance of the recordings' gain, 0 … 1; near 0 nothing was compressed

    def values(self, effect: Effect) -> Tensors:
        """The values of the parameters of a compressor, by name; empty for other effects. They lie inside its ranges.

        An attack or release of `CompressorExpander` is a 10 to 90 % rise time, 2.2 time constants.
        """
        if isinstance(effect, CompressorExpander):
            given = {"cmp_threshold": self.threshold, "cmp_ratio": self.ratio, "makeup": self.makeup}
            given |= {"attack": 2.2 * self.attack, "release": 2.2 * self.release}
        elif isinstance(effect, SoftKneeCompressor):
            names = ("threshold", "ratio", "knee", "makeup", "attack", "release")
            given = {name: getattr(self, name) for name in names} | {"average": WINDOW_MS / 2}
        else:
            return {}
        return {p.name: _inside(p.mapping, given[p.name]) for p in effect.params if p.name in given}


def compressor_start(dry: Tensor, wet: Tensor, sr: int) -> CompressorStart | None:
    """The compressor that explains the levels of wet best; None for recordings without 50 frames that vary in level.

    With a threshold, a knee and two time constants given, the gain is linear in make-up and slope (1 - 1 / ratio), as
    smoothing by attack and release is homogeneous. A grid of the four, with the two by least squares, gives a start,
    which a robust least-squares search then refines.

    Args:
        dry: (1, T), or (C, T), of which the power is averaged; after an equaliser, if there is one.
        wet: (C, T), aligned.
        sr: sample rate in Hz.

    Source: the static curve and detector of Giannoulis, Massberg and Reiss, Digital Dynamic Range Compressor Design,
    JAES 60 (2012).
    """
    levels, gains, used = level_and_gain(dry, wet, sr)
    if used.sum() < 50 or np.ptp(levels[used]) < 1:
        return None
    start = _search(levels, gains, used)

    def error(x: np.ndarray) -> np.ndarray:
        return (model(levels, _from_vector(x)) - gains)[used]

    lower = [levels[used].min() - 30, 0.0, 0.0, -60.0, np.log(0.3), np.log(2.0)]
    upper = [0.0 + max(levels.max(), 0.0), 0.99, 40.0, 60.0, np.log(500.0), np.log(10000.0)]
    begin = np.clip(_to_vector(start), np.add(lower, 1e-3), np.subtract(upper, 1e-3))
    # The tolerance of a frame, in dB, beyond which its error counts linearly: echoes and words that differ.
    solution = least_squares(error, begin, bounds=(lower, upper), loss="soft_l1", f_scale=1.0, diff_step=1e-3)
    found = _from_vector(solution.x)
    residual = error(solution.x)
    variance = max(float(gains[used].var()), 1e-12)
    explained = min(max(1 - float(residual.var()) / variance, 0.0), 1.0)
    return replace(found, error=float(np.sqrt(np.mean(residual**2))), explained=explained)


def chain_start(chain: Effect, dry: Tensor, wet: Tensor) -> Tensors:
    """Values of the first compressor of a chain, by full name ("comp.attack"), from its recordings.

    Empty for a chain without a compressor, and for recordings that show none.
    """
    for prefix, part in _compressors(chain):
        found = compressor_start(dry, wet, chain.sr)
        return {prefix + name: value for name, value in found.values(part).items()} if found else {}
    return {}


def _compressors(chain: Effect, prefix: str = "") -> Iterator[tuple[str, Effect]]:
    """The compressors of a chain at any depth, behind the beginning of their parameters' names."""
    if isinstance(chain, (CompressorExpander, SoftKneeCompressor)):
        yield prefix, chain
    for name, part in chain.parts():
        yield from _compressors(part, f"{prefix}{name}.")


def level_and_gain(dry: Tensor, wet: Tensor, sr: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels of dry in dB, gains of wet over dry in dB, and which frames are loud enough, (frames,) each."""
    window, hop = round(WINDOW_MS / 1000 * sr), round(HOP_MS / 1000 * sr)
    powers = [x.double().square().mean(0).unfold(-1, window, hop).mean(-1).numpy() for x in (dry, wet)]
    n, most = min(len(p) for p in powers), round(LONGEST_S * 1000 / HOP_MS)
    sums = np.cumsum(np.r_[0.0, powers[0][:n]])
    first = int(np.argmax(sums[most:] - sums[:-most])) if n > most else 0
    level, out = (10 * np.log10(np.maximum(p[:n][first : first + most], 1e-12)) for p in powers)
    used = (level > level.max() - RANGE_DB) & (level > -100) & (out > -100)
    return level, np.where(used, out - level, 0.0), used


def model(levels: np.ndarray, settings: CompressorStart) -> np.ndarray:
    """The gain in dB (frames,) that these settings give at levels in dB (frames,)."""
    shape = smoothed(levels, settings.threshold, settings.knee, [settings.attack], [settings.release])[0]
    return settings.makeup - (1 - 1 / settings.ratio) * shape


def smoothed(
    levels: np.ndarray, threshold: float, knee: float, attacks: list[float], releases: list[float]
) -> np.ndarray:
    """The reduction of an infinite ratio in dB after attack and release, (time constants, frames)."""
    level, T, W = (torch.as_tensor(v, dtype=torch.float64) for v in (levels, threshold, knee))
    gain = -reduction(level, T, torch.tensor(torch.inf), W)
    attack, release = (1 - torch.exp(-HOP_MS / torch.tensor(ms, dtype=torch.float64)) for ms in (attacks, releases))
    return -kernels.ballistics(gain.expand(len(attack), -1), attack, release, initial=float(gain[0])).numpy()


def _search(levels: np.ndarray, gains: np.ndarray, used: np.ndarray) -> CompressorStart:
    """The best settings of a grid, make-up and slope by least squares."""
    grid = [(a, r) for a in ATTACKS_MS for r in RELEASES_MS if a <= r]
    attacks, releases = ([pair[i] for pair in grid] for i in (0, 1))
    y = gains[used] - gains[used].mean()
    best, least = CompressorStart(0.0, 1.0, 0.0, float(gains[used].mean()), 10, 100, 0.0, 0.0), float(y @ y)
    for threshold in np.linspace(*np.quantile(levels[used], [0.0, 0.99]), THRESHOLDS):
        for knee in KNEES_DB:
            shapes = smoothed(levels, threshold, knee, attacks, releases)[:, used]
            means = shapes.mean(1)
            centred = shapes - means[:, None]
            slopes = np.clip(-(centred @ y) / np.maximum((centred**2).sum(1), 1e-9), 0.0, 0.98)
            errors = ((y + slopes[:, None] * centred) ** 2).sum(1)
            i = int(np.argmin(errors))
            if errors[i] < least:
                makeup = float(gains[used].mean() + slopes[i] * means[i])
                ratio = float(1 / (1 - slopes[i]))
                best, least = CompressorStart(threshold, ratio, knee, makeup, *grid[i], 0.0, 0.0), float(errors[i])
    return best


def _to_vector(s: CompressorStart) -> np.ndarray:
    slope = max(1 - 1 / s.ratio, SLOPE)
    return np.array([s.threshold, slope, s.knee, s.makeup, np.log(s.attack), np.log(s.release)])


def _from_vector(x: np.ndarray) -> CompressorStart:
    threshold, slope, knee, makeup = (float(v) for v in x[:4])
    return CompressorStart(threshold, 1 / (1 - slope), knee, makeup, *map(float, np.exp(x[4:])), 0.0, 0.0)


def _inside(mapping: object, value: float) -> Tensor:
    """A value moved inside the range of a mapping, away from its ends, where gradients vanish."""
    if isinstance(mapping, Bounded):
        lo, hi = mapping.from_unit(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
        value = min(max(value, lo), hi)
    return torch.tensor(value, dtype=torch.float64)
