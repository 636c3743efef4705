"""The error-to-signal ratio of waveforms, for pairs that agree sample by sample."""

import torch
from torch import Tensor

from reknob.losses.objective import TensorTarget
from reknob.losses.stft import all_together, batch_sums

SILENCE = 1e-8  # mean power of the target below which the error is not divided by it


class ErrorToSignal:
    """Σ (pred - target)² / Σ target², over all samples and channels: the error-to-signal ratio (ESR).

    It sees phase and level as they are, so that it suits a compressor or a clipper whose wet recording is aligned to
    the sample, and no echo or reverb. With `best_gain` pred is first scaled by the gain that makes the ratio least,
    <pred, target> / <pred, pred>, of which 1 - correlation² is left.

    Source: A. Wright and V. Välimäki, Perceptual loss function for neural modelling of audio systems, ICASSP 2020,
    equation 1, without pre-emphasis.
    """

    term_names = ("esr",)
    joins_tracks = True
    least_samples = 1

    def __init__(self, *, best_gain: bool = False) -> None:
        self.best_gain = best_gain

    def to(self, device: torch.device) -> "ErrorToSignal":
        """The same, as it has no buffers."""
        return self

    def prepare(self, target: Tensor) -> TensorTarget:
        """The target (B, C, T) itself."""
        return TensorTarget(target)

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """The ratio () of audio (B, C, T) twice."""
        return self.terms(pred, target, all_together(pred))[0, 0]

    def terms(self, pred: Tensor, target: Tensor | TensorTarget, shares: Tensor) -> Tensor:
        """The ratios (N, 1) of N batches, consecutive in pred (B, C, T); shares as in `losses.stft.batch_sums`."""
        target = target.data if isinstance(target, TensorTarget) else target

        def product(a: Tensor, b: Tensor) -> Tensor:
            # In float64: a small error is the difference of large energies, summed over many samples.
            return batch_sums((a.double() * b.double()).sum((1, 2)), shares)

        energy = product(target, target).clamp(min=SILENCE * target[0].numel())
        if self.best_gain:
            shared = product(pred, target).square() / product(pred, pred).clamp(min=SILENCE * target[0].numel())
            return (1 - shared / energy).unsqueeze(1)
        error = pred - target
        return (product(error, error) / energy).unsqueeze(1)

    def weigh(self, terms: Tensor) -> Tensor:
        """The only term (…), of terms (…, 1)."""
        return terms[..., 0]
