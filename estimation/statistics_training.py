"""Training on statistics of excerpts: thousands of steps in the time of a few on sounds."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from reknob.afx.chain import cascade_coefs, is_biquad
from reknob.afx.functional.biquad import response
from reknob.encoders.cqt import bins
from reknob.encoders.percentiles import N_CHANGES, Percentiles
from reknob.estimation.estimator import Estimator
from reknob.losses import MelLoss, ParameterLoss
from reknob.runtime.errors import UsageError

WARM_UP = 200  # steps


class StatisticsSet(NamedTuple):
    """Statistics of M excerpts: spectral (M, 18, 113), of their waveforms (M, 93), and the controls (M, P) of what
    processed them, P = 0 where nothing did."""

    spectral: Tensor
    wave: Tensor
    q: Tensor

    def draw(self, count: int, generator: torch.Generator) -> "StatisticsSet":
        """`count` of them at random."""
        return self.take(torch.randint(len(self.q), (count,), generator=generator))

    def take(self, chosen: Tensor) -> "StatisticsSet":
        """Those of these numbers, or where this is true."""
        return StatisticsSet(*(column[chosen] for column in self))

    @staticmethod
    def join(pools: Iterable["StatisticsSet"]) -> "StatisticsSet":
        """All of all pools."""
        return StatisticsSet(*(torch.cat(column) for column in zip(*pools, strict=True)))


class Objective(Protocol):
    """A loss of an estimator on statistics."""

    estimator: Estimator

    def __call__(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        """Mean loss over a batch."""


class Equaliser:
    """The response of an estimator's equaliser: of its chain's first effect, where all of that is biquads.

    Raises UsageError for another chain.
    """

    def __init__(self, estimator: Estimator):
        name, effect = next(iter(estimator.synthesis.parts()))
        self.bands = list(effect.parts())
        if not self.bands or not all(map(is_biquad, self.bands)):
            raise UsageError(f"{estimator.settings['sfx']}: does not begin with an equaliser, as peq and geq are")
        self.chain, self.name, self.sr = estimator.synthesis, name, estimator.settings["sr"]
        bank = MelLoss(self.sr).bank
        centres = torch.linspace(0, self.sr / 2, len(bank)) @ bank / bank.sum(0)
        self.bins = torch.tensor([b.freq for b in bins(self.sr)])
        self.freqs = torch.cat([self.bins, centres])
        self.is_own = torch.tensor([control.startswith(f"{name}.") for control in self.chain.controls()])

    def gains(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Gains in nepers at controls q (B, P) of the chain: at semitones (B, 113) and at mel bands (B, 128)."""
        coefs = cascade_coefs(self.bands, self.chain.from_unit(q)[self.name])
        gains = response(coefs, self.freqs, self.sr).abs().log()
        return gains[:, : len(self.bins)], gains[:, len(self.bins) :]


class SettingsObjective:
    """Distance of settings of any chain from those of processed excerpts.

    An equaliser's are compared by what they do, the mean absolute difference in nepers at the mel bands, each response
    less its mean, as loudness is not heard; all others by `ParameterLoss`. The loss is the sum of both.
    """

    def __init__(self, estimator: Estimator):
        check_encoder(estimator)
        self.estimator, self.parameters = estimator, ParameterLoss()
        try:
            self.equaliser = Equaliser(estimator)
        except ValueError:
            self.equaliser = None

    def __call__(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        controller = self.estimator.controller
        q = controller.mlp(controller.encoder.describe(batch.spectral, batch.wave))
        if not self.equaliser:
            return self.parameters(q, batch.q)
        others = ~self.equaliser.is_own
        difference = self.equaliser.gains(q)[1] - self.equaliser.gains(batch.q)[1]
        shape = (difference - difference.mean(1, keepdim=True)).abs().mean()
        return shape + self.parameters(q[:, others], batch.q[:, others]) if others.any() else shape


class EqualiserObjective:
    """Audio loss of an equaliser without any sound: it adds its gains to levels, and settings never repeat.

    The loss is that of the rendered sounds' `MelLoss` with every mel band taken at its centre: the mean absolute
    difference of two responses in nepers, each less what the normalisation to one RMS takes from it. The waveform's
    statistics are those of the untouched sound, so nothing is learned from them: their weights are zero.

    Raises UsageError for a chain that is not an equaliser, or an encoder of another kind.
    """

    def __init__(self, estimator: Estimator):
        check_encoder(estimator)
        self.estimator, self.equaliser = estimator, Equaliser(estimator)
        if not self.equaliser.is_own.all() or not estimator.same_controls:
            raise UsageError(f"{estimator.settings['sfx']}: not an equaliser alone, as peq and geq are")
        first = estimator.controller.mlp[0].weight
        learned = torch.ones_like(first)
        learned[:, -estimator.controller.encoder.n_wave :] = 0
        with torch.no_grad():
            first.mul_(learned)
        first.register_hook(lambda gradient: gradient * learned)

    def __call__(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        q = torch.rand((len(batch.q), len(self.equaliser.is_own)), generator=generator)
        with torch.no_grad():
            true = self.equaliser.gains(q)
        estimated = self.equaliser.gains(self.estimate(batch, true[0]))
        # Per hertz a semitone's level holds as much power as its width, in proportion to frequency.
        power = 2 * batch.spectral[:, -1] + self.equaliser.bins.log()
        return (band_levels(*estimated, power) - band_levels(*true, power)).abs().mean()

    def estimate(self, untouched: StatisticsSet, at_bins: Tensor) -> Tensor:
        """Controls (B, P) heard in windows processed with gains (B, 113) at semitones, in nepers."""
        spectral = untouched.spectral.clone()
        spectral[:, N_CHANGES:] += at_bins[:, None]
        controller = self.estimator.controller
        return controller.mlp(controller.encoder.describe(spectral, untouched.wave))


def band_levels(at_bins: Tensor, at_bands: Tensor, power: Tensor) -> Tensor:
    """What gains (B, 113) and (B, 128) change at mel bands in a sound of log power (B, 113), scaled to the same RMS."""
    loudness = (power + 2 * at_bins).logsumexp(1, keepdim=True) - power.logsumexp(1, keepdim=True)
    return at_bands - loudness / 2


def check_encoder(estimator: Estimator) -> None:
    """ValueError for an estimator that does not hear by statistics."""
    if not isinstance(estimator.controller.encoder, Percentiles):
        raise UsageError(f"--encoder {estimator.settings['encoder']}: statistics are heard by percentiles alone")


def learn(
    objective: Objective, sources: Sequence[StatisticsSet], *, steps: int, batch_size: int, lr: float, seed: int
) -> Iterator[float]:
    """Trains with AdamW, each source heard equally often, the rate falling along half a cosine: the loss by step."""
    generator = torch.Generator().manual_seed(seed)
    controller = objective.estimator.controller.train()
    optimiser = torch.optim.AdamW(controller.parameters(), lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    share = -(-batch_size // len(sources))
    for _ in range(steps):
        loss = objective(StatisticsSet.join(source.draw(share, generator) for source in sources), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield loss.item()
    controller.eval()
