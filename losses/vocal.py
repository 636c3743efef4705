"""The loss of the vocal-chain fit: spectra and loudness dynamic range of left/right and mid/side."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from reknob.losses.mldr import MLDR, LoudnessTarget
from reknob.losses.stft import MultiResolutionSTFT, StftTarget, all_together, batch_sums, each_alone
from reknob.runtime.errors import UsageError

TERMS = ("mss_lr", "mss_ms", "mldr_lr", "mldr_ms")
FFT_SIZES = (128, 512, 2048)


@dataclasses.dataclass(frozen=True)
class VocalTarget:
    """Everything that the loss needs of a batch of target chunks, computed once."""

    stft: StftTarget
    loudness: LoudnessTarget

    def __len__(self) -> int:
        return len(self.stft)

    def select(self, index: Tensor) -> "VocalTarget":
        """Return the chunks `index`, integers, in that order, without copying."""
        return VocalTarget(self.stft.select(index), self.loudness.select(index))


class MSS(MultiResolutionSTFT):
    """Multi-scale STFT distance of stereo audio, A-weighted: mean over left/right, mid and side.

    Windows of 128, 512 and 2048 samples, hops of a quarter. `MSS(sr=44100)(pred, target)` of (B, 2, T) twice is a
    scalar with a gradient to pred; `prepare(target)` computes once what many calls with one target need.

    Args:
        sr: sample rate in Hz.

    Raises UsageError for audio that is not stereo.

    Source: Yu et al., DiffVox, arXiv 2504.14735, section 3.
    """

    def __init__(self, sr: int) -> None:
        hops = [n // 4 for n in FFT_SIZES]
        super().__init__(sr, FFT_SIZES, hops, FFT_SIZES, perceptual_weighting=True, stereo="both")


class VocalLoss:
    """Weighted sum of four terms between stereo signals (B, 2, T): mss_lr, mss_ms, mldr_lr, mldr_ms.

    mss is the A-weighted multi-resolution STFT distance (FFT 128, 512, 2048, hop a quarter) of L and R, and the mean of
    those of L + R and L - R; mldr is the loudness dynamic range distance, once of L and R, once of (L ± R)/√2.
    `weights` holds four numbers in this order, or some of them by name (the others are then 0); `mldr_rows` is
    explained in `MLDR`. Source: Yu et al., DiffVox, arXiv 2504.14735, section 3.
    """

    channels: ClassVar[tuple[int, ...]] = (2,)
    term_names = TERMS

    def __init__(
        self,
        sr: int,
        # As published: mid and side weigh half as much as left and right, and loudness half as much as spectra.
        weights: Mapping[str, float] | Sequence[float] = (1.0, 0.5, 0.5, 0.25),
        mldr_rows: str = "separate",
    ) -> None:
        self.weights = _weights(weights)
        self.stft = MSS(sr)
        self.mldr = MLDR(sr, rows=mldr_rows, mid_side=True)

    @property
    def joins_tracks(self) -> bool:
        """Whether one call compares several batches: not with rolled rows, whose batches would mix."""
        return not self.mldr.rolled

    @property
    def least_samples(self) -> int:
        """The shortest signals that it compares."""
        return max(self.mldr.least_samples, self.stft.least_samples)

    def to(self, device: torch.device) -> "VocalLoss":
        """The same with its windows and its filter on a device."""
        moved = copy.copy(self)
        # MLDR stays: its shifts are used as Python numbers, and reading them from a device would synchronise with it.
        moved.stft = self.stft.to(device)
        return moved

    def prepare(self, target: Tensor) -> VocalTarget:
        """Compute everything of the target (B, 2, T) once: weighted magnitudes and loudness ratios."""
        if target.ndim != 3 or target.shape[1] != 2:
            raise UsageError(f"the vocal loss compares stereo (B, 2, T); got {tuple(target.shape)}")
        return VocalTarget(self.stft.prepare(target), self.mldr.prepare(target))

    def __call__(self, pred: Tensor, target: Tensor | VocalTarget) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare pred (B, 2, T) with the target: the total, with a gradient to pred, and the four terms without."""
        terms = self.terms(pred, target, all_together(pred))[0]
        return self.weigh(terms).to(pred.dtype), dict(zip(TERMS, terms.detach().unbind(), strict=True))

    def terms(self, pred: Tensor, target: Tensor | VocalTarget, shares: Tensor) -> Tensor:
        """The four terms (N, 4), float64, of N batches, consecutive in pred (B, 2, T).

        shares (N, n), N n = B, as in `losses.stft.batch_sums`.
        """
        if self.mldr.rolled and len(shares) > 1 and shares.shape[1] > 1:
            raise UsageError("mldr_rows=rolled compares one batch at a time: its rows run into each other")
        target = target if isinstance(target, VocalTarget) else self.prepare(target)
        # The three groups come from one call, because the spectra of L and R also give those of L + R and L - R.
        left_right, mid, side = self.stft.distances(pred, target.stft, shares).unbind(1)
        # A mean over the items that count: padding has a share of 0.
        loudness = batch_sums(self.mldr.distances(pred, target.loudness), shares) / shares.sum(1, keepdim=True)
        # The columns of loudness are L, R, mid and side.
        return torch.stack([left_right, (mid + side) / 2, loudness[:, :2].mean(1), loudness[:, 2:].mean(1)], 1)

    def weigh(self, terms: Tensor) -> Tensor:
        """The weighted sums (…) of terms (…, 4)."""
        weighted = [weight * term for weight, term in zip(self.weights, terms.unbind(-1), strict=True)]
        return functools.reduce(torch.add, weighted)

    @torch.no_grad()
    def per_item(self, pred: Tensor, target: Tensor | VocalTarget) -> dict[str, Tensor]:
        """Compute the four terms of every item by itself, (B,) each."""
        return dict(zip(TERMS, self.terms(pred, target, each_alone(pred)).unbind(1), strict=True))


def _weights(weights: Mapping[str, float] | Sequence[float]) -> list[float]:
    """Four weights in the order of the terms."""
    if isinstance(weights, Mapping):
        unknown = set(weights) - set(TERMS)
        if unknown:
            raise UsageError(f"unknown loss terms {sorted(unknown)}; known: {', '.join(TERMS)}")
        return [float(weights.get(name, 0.0)) for name in TERMS]
    if len(weights) != len(TERMS):
        raise UsageError(f"{len(weights)} loss weights given; give {len(TERMS)}: {', '.join(TERMS)}")
    return [float(weight) for weight in weights]
