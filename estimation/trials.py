"""Trials of an estimator on held-out excerpts: its features, and how close amounts of its estimate come to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.data.bandwidth import band_edge
from reknob.estimation.controls import less
from reknob.estimation.estimator import Batch, Estimator
from reknob.estimation.judgement import effect_size, point, without_unseen_bands
from reknob.estimation.statistics_cache import Features, Processed, Trials, digest
from reknob.losses import MelLoss
from reknob.runtime.seeds import stream

AMOUNTS = (0.5, 1.0)
PART = 10  # excerpts in a file


@dataclass(frozen=True)
class Described:
    """The encoder's features of processed excerpts, `PART` in a part: they do not change with the perceptron."""

    processed: Processed

    def __len__(self) -> int:
        return -(-len(self.processed.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Features:
        return Features(self.processed.estimator.controller.encoder(self.batch(number)[1]))

    def batch(self, number: int) -> tuple[Batch, Tensor]:
        """The excerpts of a part and the audio (B, 1, N) that they become."""
        excerpts = self.processed.excerpts
        items = [excerpts[index] for index in range(PART * number, PART * (number + 1))]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return batch, self.processed.wet(batch, stream(excerpts.seed, "tried", number))

    def key(self) -> list:
        return [digest(self.processed.estimator.controller.encoder), *self.processed.key()]


@dataclass(frozen=True)
class Tried:
    """What an estimator makes of processed excerpts with their `features` (M, F), `PART` in a part."""

    described: Described
    features: Tensor

    def __len__(self) -> int:
        return len(self.described)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Trials:
        estimator = self.described.processed.estimator
        batch, wet = self.described.batch(number)
        features = self.features[PART * number : PART * (number + 1)]
        q = torch.cat([self.estimate(each, x) for each, x in zip(features.split(1), wet, strict=True)])
        mel = distances(estimator, batch["dry"], wet, q)
        return Trials(batch["q"], batch["source"], effect_size(estimator, wet, q), mel)

    def estimate(self, features: Tensor, x: Tensor) -> Tensor:
        """The whole estimate (1, P) of an excerpt x (1, N) with features (1, F)."""
        estimator = self.described.processed.estimator
        return without_unseen_bands(estimator, point(estimator, features), band_edge(x, estimator.settings["sr"]))[0]

    def key(self) -> list:
        return [digest(self.described.processed.estimator.controller), *self.described.key()]


def distances(estimator: Estimator, dry: Tensor, wet: Tensor, q: Tensor) -> Tensor:
    """Mel (B, 1 + len(AMOUNTS)) of dry audio (B, 1, N), and of it with each amount of an estimate, to the wet audio."""
    mel = MelLoss(estimator.settings["sr"])
    target = mel.prepare(wet)
    sounds = [dry, *(estimator.render(dry, less(estimator.analysis, q, amount)) for amount in AMOUNTS)]
    return torch.stack([mel.distances(sound, target) for sound in sounds], 1)
