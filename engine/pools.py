"""Training on statistics of music that are taken once: thousands of steps in the time of a few on sounds."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from afx.chain import cascade_coefs, is_biquad
from afx.functional.biquad import response
from data.coding import coded
from data.recordings import SILENT, Recording
from encoders.cqt import bins
from encoders.percentiles import N_CHANGES, Percentiles
from losses import MelLoss, ParameterLoss

from .estimator import Estimator
from .train import Batch, synthesise

WARM_UP = 200  # steps


class Pool(NamedTuple):
    """Statistics of M excerpts: spectral (M, 18, 113), of their waveforms (M, 93), and the controls (M, P) of what
    processed them, P = 0 where nothing did."""

    spectral: Tensor
    wave: Tensor
    q: Tensor

    def draw(self, count: int, generator: torch.Generator) -> "Pool":
        """`count` of them at random."""
        chosen = torch.randint(len(self.q), (count,), generator=generator)
        return Pool(*(column[chosen] for column in self))

    @staticmethod
    def join(pools: Iterable["Pool"]) -> "Pool":
        """All of all pools."""
        return Pool(*(torch.cat(column) for column in zip(*pools, strict=True)))


class Objective(Protocol):
    """A loss of an estimator on statistics."""

    estimator: Estimator

    def __call__(self, batch: Pool, generator: torch.Generator) -> Tensor:
        """Mean loss over a batch."""


@torch.no_grad()
def untouched(recordings: Iterable[Recording], estimator: Estimator, seconds: float, most: int) -> Iterator[Pool]:
    """Windows of `seconds` s spread over each recording, `most` or as many as fit; none of silent ones."""
    encoder = estimator.controller.encoder
    for recording in recordings:
        last = recording.duration - seconds
        count = min(most, int(last // seconds) + 1)
        for number in range(count):
            x = recording.read(last * number / max(count - 1, 1), seconds, estimator.settings["sr"])[None, None]
            if x.abs().max() > SILENT:
                yield Pool(*encoder.statistics(x), torch.empty(1, 0))


@torch.no_grad()
def processed(batches: Iterable[Batch], estimator: Estimator, share: float, seed: int) -> Iterator[Pool]:
    """Excerpts processed with their controls, a share of them `coded`."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        wet = coded(synthesise(estimator, batch), estimator.settings["sr"], share, generator)
        yield Pool(*estimator.controller.encoder.statistics(wet), batch["q"])


class ControlsObjective:
    """`ParameterLoss` of processed excerpts, for any chain."""

    def __init__(self, estimator: Estimator):
        check_encoder(estimator)
        self.estimator, self.loss = estimator, ParameterLoss()

    def __call__(self, batch: Pool, generator: torch.Generator) -> Tensor:
        controller = self.estimator.controller
        return self.loss(controller.mlp(controller.encoder.describe(batch.spectral, batch.wave)), batch.q)


class EqualiserObjective:
    """Audio loss of an equaliser without any sound: it adds its gains to levels, and settings never repeat.

    The loss is that of the rendered sounds' `MelLoss` with every mel band taken at its centre: the mean absolute
    difference of two responses in nepers, each less what the normalisation to one RMS takes from it. The waveform's
    statistics are those of the untouched sound, so nothing is learned from them: their weights are zero.

    Raises ValueError for a chain that is not an equaliser, or an encoder of another kind.
    """

    def __init__(self, estimator: Estimator):
        check_encoder(estimator)
        [(name, effect), *others] = estimator.synthesis.parts()
        self.bands = list(effect.parts())
        if others or not self.bands or not all(map(is_biquad, self.bands)) or not estimator.same_controls:
            raise ValueError(f"{estimator.settings['sfx']}: not an equaliser alone, as peq and geq are")
        self.estimator, self.name, self.sr = estimator, name, estimator.settings["sr"]
        bank = MelLoss(self.sr).bank
        centres = torch.linspace(0, self.sr / 2, len(bank)) @ bank / bank.sum(0)
        self.bins = torch.tensor([b.freq for b in bins(self.sr)])
        self.freqs = torch.cat([self.bins, centres])
        first = estimator.controller.mlp[0].weight
        learned = torch.ones_like(first)
        learned[:, -estimator.controller.encoder.n_wave :] = 0
        with torch.no_grad():
            first.mul_(learned)
        first.register_hook(lambda gradient: gradient * learned)

    def __call__(self, batch: Pool, generator: torch.Generator) -> Tensor:
        q = torch.rand((len(batch.q), len(self.estimator.synthesis.controls())), generator=generator)
        with torch.no_grad():
            true = self.gains(q)
        # Per hertz a semitone's level holds as much power as its width, in proportion to frequency.
        power = 2 * batch.spectral[:, -1] + self.bins.log()
        estimated = self.gains(self.estimate(batch, true))
        return (self._band_levels(estimated, power) - self._band_levels(true, power)).abs().mean()

    def gains(self, q: Tensor) -> Tensor:
        """Gains in nepers of equalisers at controls q (B, P) at semitones and mel bands: (B, 113 + 128)."""
        values = self.estimator.synthesis.from_unit(q)[self.name]
        return response(cascade_coefs(self.bands, values), self.freqs, self.sr).abs().log()

    def estimate(self, untouched: Pool, gains: Tensor) -> Tensor:
        """Controls (B, P) heard in windows processed with `gains`."""
        spectral = untouched.spectral.clone()
        spectral[:, N_CHANGES:] += gains[:, None, : len(self.bins)]
        controller = self.estimator.controller
        return controller.mlp(controller.encoder.describe(spectral, untouched.wave))

    def _band_levels(self, gains: Tensor, power: Tensor) -> Tensor:
        at_bins, at_bands = gains.split((len(self.bins), gains.shape[1] - len(self.bins)), dim=1)
        loudness = (power + 2 * at_bins).logsumexp(1, keepdim=True) - power.logsumexp(1, keepdim=True)
        return at_bands - loudness / 2


def check_encoder(estimator: Estimator) -> None:
    """ValueError for an estimator that does not hear by statistics."""
    if not isinstance(estimator.controller.encoder, Percentiles):
        raise ValueError(f"--encoder {estimator.settings['encoder']}: statistics are heard by percentiles alone")


def learn(
    objective: Objective, sources: Sequence[Pool], *, steps: int, batch_size: int, lr: float, seed: int
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
        loss = objective(Pool.join(source.draw(share, generator) for source in sources), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield loss.item()
    controller.eval()
