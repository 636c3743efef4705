"""Multi-resolution distance of magnitude spectra: spectral convergence and log magnitude."""

import copy
import dataclasses
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.afx.kernels import spectral
from reknob.losses.weighting import a_weighting_fir
from reknob.runtime.errors import UsageError

# Signals that share one loss, of L, R, L + R and L - R; the loss is the mean over such groups.
GROUPS = {
    "channels": (slice(None),),
    "sum_difference": (slice(2, 3), slice(3, 4)),
    "both": (slice(0, 2), slice(2, 3), slice(3, 4)),
}


@dataclasses.dataclass(frozen=True)
class StftTarget:
    """What the distance needs of N targets, computed once; `index` (n,) selects n of them, in order."""

    magnitudes: tuple[Tensor, ...]  # one for each resolution: (N, signals, frames, bins)
    energies: tuple[Tensor, ...]  # the sums of their squares: (N, signals), float64
    index: Tensor

    def __len__(self) -> int:
        return self.index.shape[0]

    def select(self, index: Tensor) -> "StftTarget":
        """Return the items `index`, integers, without copying spectra."""
        return dataclasses.replace(self, index=self.index[index])


class MultiResolutionSTFT:
    """Mean over resolutions of w_sc · spectral convergence + w_log_mag · log magnitude distance.

        sc = ‖|Y| - |X|‖ / ‖|Y|‖,   log = mean |log |X| - log |Y||,   |X| = sqrt(max(re² + im², 1e-8))

    X is the prediction and Y the target, (B, C, T) both. The Frobenius norms run over the whole batch.
    `stereo` = "sum_difference" is the mean of the distance between L + R and of that between L - R, with norms of
    their own; "both" joins the distance over the channels and these two. With `perceptual_weighting` both signals
    first pass a 101-tap A-weighting filter. The values are those of auraloss 0.4.0 with the same arguments.
    Sources: Arik et al., arXiv 1808.06719; Yamamoto et al., arXiv 1910.11480; Steinmetz et al., arXiv 2010.10291.
    """

    def __init__(
        self,
        sr: int,
        fft_sizes: Sequence[int] = (1024, 2048, 512),
        hop_sizes: Sequence[int] = (120, 240, 50),
        win_lengths: Sequence[int] = (600, 1200, 240),
        *,
        w_sc: float = 1.0,
        w_log_mag: float = 1.0,
        perceptual_weighting: bool = False,
        stereo: str = "channels",
    ) -> None:
        if not len(fft_sizes) == len(hop_sizes) == len(win_lengths):
            raise UsageError(
                f"fft_sizes, hop_sizes and win_lengths hold {len(fft_sizes)}, {len(hop_sizes)} and {len(win_lengths)} "
                "numbers; give as many of each"
            )
        if stereo not in GROUPS:
            raise UsageError(f"unknown stereo mode '{stereo}'; known: {', '.join(GROUPS)}")
        self.windows = [_window(*lengths) for lengths in zip(fft_sizes, win_lengths, strict=True)]
        self.hops = list(hop_sizes)
        self.w_sc, self.w_log_mag = w_sc, w_log_mag
        self.taps = a_weighting_fir(sr) if perceptual_weighting else None
        self.groups, self.mid_side = GROUPS[stereo], stereo != "channels"
        self.channels = (2,) if self.mid_side else (1, 2)

    @property
    def least_samples(self) -> int:
        """The shortest signals that it compares: the transforms are padded by reflection."""
        return max(len(window) for window in self.windows) // 2 + 1

    def to(self, device: torch.device) -> "MultiResolutionSTFT":
        """The same with its windows and its filter on a device, which saves a copy at every call there."""
        # A copy, so that one loss can serve several devices.
        moved = copy.copy(self)
        moved.windows = [window.to(device) for window in self.windows]
        moved.taps = None if self.taps is None else self.taps.to(device)
        return moved

    @torch.no_grad()
    def prepare(self, target: Tensor) -> StftTarget:
        """Compute everything of the target (B, C, T) once; UsageError for mono where mid and side are compared."""
        if self.mid_side and target.shape[1] != 2:
            raise UsageError(f"mid and side are compared of stereo (B, 2, T); got {tuple(target.shape)}")
        # Once for all resolutions. The filter is linear, so L ± R of the filtered channels are the filtered L ± R.
        weighted = self._weight(target)
        magnitudes = tuple(
            spectral.stft_magnitude(weighted, window, hop, self.mid_side)
            for window, hop in zip(self.windows, self.hops, strict=True)
        )
        energies = tuple(y.square().sum((2, 3), dtype=torch.float64) for y in magnitudes)
        return StftTarget(magnitudes, energies, torch.arange(len(target), device=target.device))

    def distances(self, pred: Tensor, target: Tensor | StftTarget, shares: Tensor) -> Tensor:
        """Distance of each batch and each group of signals, (N, G), in float64; `shares` (N, n) as in `batch_sums`."""
        target = target if isinstance(target, StftTarget) else self.prepare(target)
        if len(target) != len(pred):
            raise UsageError(f"{len(pred)} predictions beside {len(target)} targets; give as many of each")
        weighted = self._weight(pred)
        resolutions = zip(self.windows, self.hops, target.magnitudes, target.energies, strict=True)
        distances = []
        for window, hop, magnitude, energy in resolutions:
            sums = spectral.stft_deviation(weighted, magnitude, target.index, window, hop, self.mid_side)
            # The energies follow the index as the magnitudes do, so that a selection of chunks needs no new target.
            distances.append(self._combine(sums, energy[target.index], magnitude[0, 0].numel(), shares))
        return functools.reduce(torch.add, distances) / len(self.hops)

    def __call__(self, pred: Tensor, target: Tensor | StftTarget, *, per_item: bool = False) -> Tensor:
        """Distance between pred and target, (B, C, T) both: a scalar, or (B,) with every item by itself."""
        shares = each_alone(pred) if per_item else all_together(pred)
        distances = self.distances(pred, target, shares).mean(-1).to(pred.dtype)
        return distances if per_item else distances[0]

    def _weight(self, x: Tensor) -> Tensor:
        return x if self.taps is None else spectral.fir(x.flatten(0, 1), self.taps).view(x.shape)

    def _combine(self, sums: Tensor, energy: Tensor, points: int, shares: Tensor) -> Tensor:
        """Turn sums (B, S, 2) over time and frequency, and the target's (B, S), into distances (N, G)."""
        sums, energy, count = batch_sums(sums, shares), batch_sums(energy, shares), shares.sum(1)
        distances = []
        for group in self.groups:
            square, log = sums[:, group].unbind(2)
            # A ratio of sums, not a mean of ratios: the norms run over all items and signals. The denominator is the
            # same in all steps of a fit, so `prepare` computes its parts.
            convergence = _root(square.sum(1) / energy[:, group].sum(1))
            distances.append(self.w_sc * convergence + self.w_log_mag * log.mean(1) / (points * count))
        return torch.stack(distances, -1)


def batch_sums(values: Tensor, shares: Tensor) -> Tensor:
    """Sums (N, …) over the n items of each of N batches, consecutive in values (B, …), B = N n.

    shares (N, n) holds the factor of each item: 1, or 0 for padding that brings a batch to n items.
    """
    shares = shares.to(values).reshape(*shares.shape, *[1] * (values.ndim - 1))
    return (values.unflatten(0, shares.shape[:2]) * shares).sum(1)


def all_together(pred: Tensor) -> Tensor:
    """Shares of the items of pred (B, C, T) in one batch."""
    return pred.new_ones(1, len(pred))


def each_alone(pred: Tensor) -> Tensor:
    """Shares of the items of pred (B, C, T) in batches of their own."""
    return pred.new_ones(len(pred), 1)


def _window(size: int, length: int) -> Tensor:
    """A periodic Hann window of `length` in the middle of `size` samples, float32 for any audio as in auraloss."""
    if length > size:
        raise UsageError(f"a window of {length} samples does not fit a transform of {size}; give at most {size}")
    left = (size - length) // 2
    return F.pad(torch.hann_window(length), (left, size - length - left))


def _root(x: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0, where prediction and target are equal."""
    positive = x > 0
    # The root of 1 in place of 0: the infinite slope at 0, times the factor 0, would be NaN.
    return torch.where(positive, x, 1.0).sqrt() * positive
