"""How certain an estimate is: a distribution of every control, its calibration, and how usual the recording is.

Each control in [0, 1] has a Beta distribution, whose parameters exceed those of the uniform distribution, from which
controls of training excerpts are drawn, by a nonnegative amount: the information in the recording. Products of such
densities are such densities, so that the windows of a recording are pooled by their information: its mean, as windows
of one piece hold no more together than one (the sum of independent ones would).
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor, nn

LEVELS = (0.2, 0.4, 0.6, 0.68, 0.8, 0.9, 0.95)  # of intervals
DROPOUT = 0.5
SMALLEST = 0.01  # Mel of an effect, below which smaller ones are alike
CLIP = 6.0  # standard deviations to which a feature is limited before its distance is measured


class Certainty(nn.Module):
    """The Beta distribution of every control, and whether the recording was processed at all, from a hidden layer.

    Linear, and begun near the uniform distribution: of 400 excerpts a perceptron learns their pieces by heart.

    Args:
        width: of the hidden layer, the last one of the estimator's perceptron.
        n_controls: number of controls.
    """

    def __init__(self, width: int, n_controls: int) -> None:
        super().__init__()
        self.n_controls = n_controls
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        last = nn.Linear(width, 2 * n_controls + 1)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.fill_(-1.5)
        self.layers = nn.Sequential(nn.Dropout(DROPOUT), last)

    def standardise(self, hidden: Tensor) -> None:
        """Sets the means and deviations by which hidden values are standardised to those of (B, width)."""
        self.centre, self.spread = hidden.mean(0), hidden.std(0) + 1e-3

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Information (B, P, 2) of hidden values (B, width), and the logit (B,) that the audio was processed."""
        out = self.layers((hidden - self.centre) / self.spread)
        return F.softplus(out[:, :-1]).unflatten(1, (self.n_controls, 2)), out[:, -1]


def log_density(information: Tensor, q: Tensor) -> Tensor:
    """Log density (B, P) of controls q (B, P): of Beta(1 + a, 1 + b) for information (a, b), (B, P, 2)."""
    q = q.clamp(1e-3, 1 - 1e-3)
    a, b = (1 + information).unbind(-1)
    scale = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
    return scale + information[..., 0] * q.log() + information[..., 1] * (1 - q).log()


def position(information: Tensor, q: Tensor) -> Tensor:
    """The cumulative probability (..., P) of controls q."""
    a, b = (1 + information).double().numpy().transpose(-1, *range(information.dim() - 1))
    return torch.from_numpy(special.betainc(a, b, q.double().numpy())).float()


def divergence(information: Tensor) -> Tensor:
    """Kullback-Leibler divergence (..., P) in nats of the distributions from the uniform one: 0 if nothing is known."""
    a, b = (1 + information).unbind(-1)
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    total = torch.digamma(a + b)
    return -log_beta + (a - 1) * (torch.digamma(a) - total) + (b - 1) * (torch.digamma(b) - total)


@dataclass(frozen=True)
class Calibration:
    """What is measured on held-out recordings, as tensors, so that an estimator's file holds it.

    Args:
        scale: () of the information, for which a model that is too sure of itself is corrected.
        reach: (7, P): an interval of level `LEVELS[i]` has the cumulative probabilities 0.5 ± reach[i].
        centre, axes, spread: of `strangeness`: (F,), (F, K) and (K + 1,).
        strange: () strangeness above which a recording is unlike all music of the training.
        weights: (3,) of the `evidence` in `certainty`.
        edge: () certainty up to which an estimate is left out.
    """

    scale: Tensor
    reach: Tensor
    centre: Tensor
    axes: Tensor
    spread: Tensor
    strange: Tensor
    weights: Tensor
    edge: Tensor

    def interval(self, information: Tensor) -> Tensor:
        """Ends (7, 2, P) of the intervals by level, end and control of pooled information (P, 2).

        Split conformal prediction with the distance of the cumulative probability from 0.5 as score (Chernozhukov,
        Wuthrich and Zhu, Distributional conformal prediction, PNAS 118 (2021), algorithm 1).
        """
        a, b = (1 + information).double().unbind(-1)
        shares = torch.stack([0.5 - self.reach, 0.5 + self.reach], 1).clamp(0, 1).double()
        return torch.from_numpy(special.betaincinv(a.numpy(), b.numpy(), shares.numpy())).float()

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

    The logit that it was processed, its strangeness, and the logarithm of the Mel by which the effect changes it.
    """
    return torch.stack([processed, strangeness, size.clamp(min=SMALLEST).log()], -1)


def fit_subspace(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (F,), axes (F, K) and spreads (K + 1,) of features (B, F) for `Calibration.strangeness`."""
    features = features.clamp(-CLIP, CLIP)
    count = min(count, len(features) // 2)  # of fewer, nothing would be left beside the axes
    centre = features.mean(0)
    _, values, axes = torch.linalg.svd(features - centre, full_matrices=False)
    variance = values.square() / len(features)
    beside = variance[count:].sum() / (features.shape[1] - count)
    return centre, axes[:count].T.contiguous(), torch.cat([variance[:count], beside[None]]).sqrt()
