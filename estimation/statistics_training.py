"""Training on cached statistics of excerpts: thousands of steps in the time that a few take on audio."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reknob.encoders.cqt import bins
from reknob.encoders.percentiles import N_CHANGES, Percentiles
from reknob.estimation.estimator import Estimator
from reknob.estimation.responses import equalisers, other_controls
from reknob.losses import MelLoss, ParameterLoss
from reknob.runtime.errors import UsageError


class StatisticsSet(NamedTuple):
    """Statistics of M excerpts, as `Percentiles.statistics` computes them, and the controls that they depend on."""

    spectral: Tensor  # (M, 18, 113), in nepers, by semitone
    wave: Tensor  # (M, 93), of the waveforms
    q: Tensor  # (M, P), of the effects that processed the excerpts; P = 0 of untouched ones

    def draw(self, count: int, generator: torch.Generator) -> "StatisticsSet":
        """`count` random excerpts, with replacement."""
        return self.take(torch.randint(len(self.q), (count,), generator=generator))

    def take(self, chosen: Tensor) -> "StatisticsSet":
        """The excerpts with the indices `chosen`, or those where it is true."""
        return StatisticsSet(self.spectral[chosen], self.wave[chosen], self.q[chosen])

    @staticmethod
    def join(sets: Iterable["StatisticsSet"]) -> "StatisticsSet":
        """All excerpts of all sets."""
        return StatisticsSet(*(torch.cat(column) for column in zip(*sets, strict=True)))


class Objective(nn.Module, ABC):
    """An estimator with its loss on statistics.

    Raises UsageError for an encoder other than `Percentiles`.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__()
        self.estimator, self.encoder = estimator, percentile_encoder(estimator)

    @abstractmethod
    def forward(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        """Mean loss over a batch; what is random in it is drawn from `generator`."""


def semitones(sr: int) -> Tensor:
    """Frequencies in Hz of the bins of spectral statistics, (113,)."""
    return torch.tensor([b.freq for b in bins(sr)])


def mel_centres(sr: int) -> Tensor:
    """Frequencies in Hz that represent the mel bands, their centres of mass: (128,)."""
    bank = MelLoss(sr).bank
    return torch.linspace(0, sr / 2, len(bank)) @ bank / bank.sum(0)


class ParameterObjective(Objective):
    """Parameter-domain loss of any chain, against the controls that processed the excerpts.

    An equaliser's controls are compared by magnitude response: the mean absolute difference in nepers at the mel bands
    of both responses, each less its mean, since the statistics do not depend on overall gain. All other controls are
    compared by `ParameterLoss`; the loss is the sum of both.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__(estimator)
        self.compare = ParameterLoss()
        chain, sr = estimator.synthesis, estimator.settings["sr"]
        self.equalisers, self.freqs = equalisers(chain, sr), mel_centres(sr)
        self.others = other_controls(chain, self.equalisers)

    def forward(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        q = self.estimator.controller.mlp(self.encoder.describe(batch.spectral, batch.wave))
        losses = []
        for equaliser in self.equalisers:
            difference = equaliser.gains(q, self.freqs) - equaliser.gains(batch.q, self.freqs)
            losses.append((difference - difference.mean(1, keepdim=True)).abs().mean())
        if self.others.any():
            losses.append(self.compare(q[:, self.others], batch.q[:, self.others]))
        return torch.stack(losses).sum()


class EqualiserObjective(Objective):
    """Audio-domain loss of an equaliser without rendering any audio: its gains are added to the cached levels.

    Parameters are drawn anew for every batch. The loss is `MelLoss` of the rendered audio with every mel band
    represented by its centre: the mean absolute difference of two responses in nepers, each less the gain by which the
    normalisation to equal RMS scales it. The waveform's statistics are those of untouched music and do not depend on
    the parameters: their weights are kept at zero.

    Raises UsageError for a chain that is not a single equaliser.
    """

    def __init__(self, estimator: Estimator) -> None:
        super().__init__(estimator)
        sr = estimator.settings["sr"]
        found = equalisers(estimator.synthesis, sr)
        if len(found) != 1 or not found[0].mask.all() or not estimator.same_controls:
            raise UsageError(f"{estimator.settings['sfx']}: not an equaliser alone, as peq and geq are")
        self.equaliser, self.bins, self.bands = found[0], semitones(sr), mel_centres(sr)
        layer = estimator.controller.mlp[0]
        assert isinstance(layer, nn.Linear)
        mask = torch.ones_like(layer.weight)
        # The columns of the waveform's statistics are the last ones of `Percentiles.describe`.
        mask[:, -self.encoder.n_wave :] = 0
        with torch.no_grad():
            layer.weight.mul_(mask)
        # Without a gradient AdamW leaves a zero at zero, as its decay only scales weights.
        layer.weight.register_hook(lambda gradient: gradient * mask)

    def forward(self, batch: StatisticsSet, generator: torch.Generator) -> Tensor:
        q = torch.rand((len(batch.q), len(self.equaliser.mask)), generator=generator)
        with torch.no_grad():
            true = self.gains(q)
        estimated = self.gains(self.estimate(batch, true[0]))
        # A semitone's power: its power density times its bandwidth, which is proportional to frequency.
        power = 2 * batch.spectral[:, -1] + self.bins.log()
        return (band_levels(*estimated, power) - band_levels(*true, power)).abs().mean()

    def gains(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Gains in nepers at controls q (B, P): at semitones (B, 113) and at mel bands (B, 128)."""
        both = self.equaliser.gains(q, torch.cat([self.bins, self.bands]))
        return both[:, : len(self.bins)], both[:, len(self.bins) :]

    def estimate(self, untouched: StatisticsSet, at_bins: Tensor) -> Tensor:
        """Controls (B, P) estimated from excerpts processed with gains (B, 113) at semitones, in nepers."""
        spectral = untouched.spectral.clone()
        # The first rows describe changes of level, which a constant gain leaves alone.
        spectral[:, N_CHANGES:] += at_bins[:, None]
        return self.estimator.controller.mlp(self.encoder.describe(spectral, untouched.wave))


def band_levels(at_bins: Tensor, at_bands: Tensor, power: Tensor) -> Tensor:
    """Changes of level (B, 128) at mel bands, in nepers, by gains in audio that is scaled back to its RMS.

    Gains (B, 113) at semitones weigh `power`, the audio's log power (B, 113); gains (B, 128) are at the mel bands.
    """
    loudness = (power + 2 * at_bins).logsumexp(1, keepdim=True) - power.logsumexp(1, keepdim=True)
    return at_bands - loudness / 2


def percentile_encoder(estimator: Estimator) -> Percentiles:
    """An estimator's encoder; UsageError where it does not compute statistics."""
    encoder = estimator.controller.encoder
    if not isinstance(encoder, Percentiles):
        raise UsageError(f"--encoder {estimator.settings['encoder']}: only percentiles is trained on statistics")
    return encoder
