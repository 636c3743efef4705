"""How far an estimate is trusted: intervals, how unlike the training music a recording is, what is kept."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from reknob.estimation.posterior import Likelihood, Posterior, Prior

LEVELS = (0.2, 0.4, 0.6, 0.68, 0.8, 0.9, 0.95)  # of intervals
SMALLEST = 0.01  # Mel of an effect, below which smaller ones are alike
CLIP = 6.0  # standard deviations to which a feature is limited before its distance is measured


@dataclass(frozen=True)
class Calibration:
    """What is measured on recordings whose settings are known, as tensors, so that an estimator's file holds it.

    Args:
        mean, root: of the `Likelihood`.
        reach: (7, P): an interval of level `LEVELS[i]` has the cumulative probabilities 0.5 ± reach[i].
        centre, axes, spread: of `strangeness`: (F,), (F, K) and (K + 1,).
        strange: () strangeness above which a recording is unlike all music of the training.
        weights: (3,) of the `evidence` in `certainty`.
        edge: () certainty up to which an estimate is left out.
    """

    mean: Tensor
    root: Tensor
    reach: Tensor
    centre: Tensor
    axes: Tensor
    spread: Tensor
    strange: Tensor
    weights: Tensor
    edge: Tensor

    def fits(self, prior: Prior, n_features: int) -> bool:
        """Whether the sizes are those for the controls of a prior and so many features."""
        (size, n_controls), axes = (prior.coordinates.shape[1], prior.draws.shape[1]), self.spread.numel() - 1
        shapes = {
            "mean": (size + 1, size),
            "root": (size, size),
            "reach": (len(LEVELS), n_controls),
            "centre": (n_features,),
            "axes": (n_features, axes),
            "spread": (axes + 1,),
            "strange": (),
            "weights": (3,),
            "edge": (),
        }
        return {name: tuple(x.shape) for name, x in self.as_dict().items()} == shapes

    @property
    def likelihood(self) -> Likelihood:
        """The likelihood of estimates."""
        return Likelihood(self.mean, self.root)

    def interval(self, posterior: Posterior) -> Tensor:
        """Ends (7, 2, P) of the intervals by level, end and control.

        Split conformal prediction with the distance of the cumulative probability from 0.5 as score (Chernozhukov,
        Wuthrich and Zhu, Distributional conformal prediction, PNAS 118 (2021), algorithm 1).
        """
        shares = torch.stack([0.5 - self.reach, 0.5 + self.reach], 1).clamp(0, 1)
        return posterior.quantiles(shares.flatten(0, 1)).unflatten(0, shares.shape[:2])

    def strangeness(self, features: Tensor) -> Tensor:
        """How unlike the training music features (B, F) are, (B,): 1 for its mean.

        The mean squared distance per dimension under probabilistic principal components (Tipping and Bishop, JRSS B 61
        (1999), eq. 8): along each axis in its own standard deviations, beside all axes in theirs.
        """
        deviation = features.clamp(-CLIP, CLIP) - self.centre
        along = deviation @ self.axes
        beside = deviation.square().sum(1) - along.square().sum(1)
        axes = (along / self.spread[:-1]).square().mean(1)
        return (axes + beside / (self.spread[-1] ** 2 * (len(self.centre) - self.axes.shape[1]))) / 2

    def certainty(self, evidence: Tensor) -> Tensor:
        """How certain it is that estimated effects help, (…,), from the `evidence` (…, 3)."""
        return evidence @ self.weights

    def as_dict(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def evidence(processed: Tensor, strangeness: Tensor, size: Tensor) -> Tensor:
    """What tells whether an estimated effect helps, (…, 3), from three numbers of each recording, (…,).

    The logarithm of how much likelier it is processed than unprocessed, of which large values count by their logarithm;
    its strangeness; and the logarithm of the Mel by which the effect changes it.
    """
    return torch.stack([processed.asinh(), strangeness, size.clamp(min=SMALLEST).log()], -1)


def fit_subspace(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (F,), axes (F, K) and spreads (K + 1,) of features (B, F) for `Calibration.strangeness`."""
    features = features.clamp(-CLIP, CLIP)
    count = min(count, len(features) // 2)  # of fewer, nothing would be left beside the axes
    centre = features.mean(0)
    _, values, axes = torch.linalg.svd(features - centre, full_matrices=False)
    variance = values.square() / len(features)
    beside = variance[count:].sum() / (features.shape[1] - count)
    return centre, axes[:count].T.contiguous(), torch.cat([variance[:count], beside[None]]).sqrt()
