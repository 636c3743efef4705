"""Trials of an estimator on held-out excerpts: its features, and how close its estimate comes to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.data.bandwidth import band_edge
from reknob.estimation.estimator import Estimator
from reknob.estimation.judgement import effect_size, point, without_unseen_bands
from reknob.estimation.statistics_cache import Processed, Trials, digest
from reknob.losses import MelLoss
from reknob.runtime.seeds import stream

PART = 10  # excerpts in a file


@dataclass(frozen=True)
class Tried:
    """What an estimator makes of processed excerpts, `PART` in a part."""

    processed: Processed

    def __len__(self) -> int:
        return -(-len(self.processed.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Trials:
        estimator, excerpts = self.processed.estimator, self.processed.excerpts
        items = [excerpts[index] for index in range(PART * number, PART * (number + 1))]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        wet = self.processed.wet(batch, stream(excerpts.seed, "tried", number))
        features = estimator.controller.encoder(wet)
        q = torch.cat([whole_estimate(estimator, *each) for each in zip(features.split(1), wet, strict=True)])
        mel = distances(estimator, batch["dry"], wet, q)
        return Trials(batch["q"], batch["source"], features, effect_size(estimator, wet, q), mel)

    def key(self) -> list:
        return [digest(self.processed.estimator.controller), *self.processed.key()]


def whole_estimate(estimator: Estimator, features: Tensor, x: Tensor) -> Tensor:
    """The whole estimate (1, P) of an excerpt x (1, N) with features (1, F)."""
    return without_unseen_bands(estimator, point(estimator, features), band_edge(x, estimator.settings["sr"]))[0]


def distances(estimator: Estimator, dry: Tensor, wet: Tensor, q: Tensor) -> Tensor:
    """Mel (B, 2) of dry audio (B, 1, N), and of it with the effect at controls q (B, P), to the wet audio."""
    mel = MelLoss(estimator.settings["sr"])
    target = mel.prepare(wet)
    return torch.stack([mel.distances(sound, target) for sound in (dry, estimator.render(dry, q))], 1)
