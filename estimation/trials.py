"""Trials of an estimator on held-out excerpts: how certain it is, and how close its estimate comes to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.data.bandwidth import band_edge
from reknob.estimation.estimator import Estimator
from reknob.estimation.judgement import point, weigh, without_unseen_bands
from reknob.estimation.statistics_cache import Processed, Trials, digest
from reknob.losses import MelLoss
from reknob.runtime.seeds import stream

PART = 10  # excerpts in a file


@dataclass(frozen=True)
class Tried:
    """What an estimator with a calibration makes of excerpts, `PART` in a part; its edge may not be chosen yet."""

    processed: Processed

    def __len__(self) -> int:
        return -(-len(self.processed.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Trials:
        estimator, excerpts = self.processed.estimator, self.processed.excerpts
        items = [excerpts[index] for index in range(PART * number, PART * (number + 1))]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        wet = self.processed.wet(batch, stream(excerpts.seed, "tried", number))
        features = estimator.controller.encoder(wet).split(1)
        q = whole_estimates(estimator, features, wet).split(1)
        signs = torch.stack([weigh(estimator, *each) for each in zip(features, q, wet, strict=True)])
        return Trials(batch["q"], batch["source"], signs, distances(estimator, batch["dry"], wet, torch.cat(q)))

    def key(self) -> list:
        estimator = self.processed.estimator
        assert estimator.calibration
        tensors = estimator.controller.state_dict(), estimator.calibration.as_dict()
        return [*map(digest, tensors), *self.processed.key()]


def whole_estimates(estimator: Estimator, features: Sequence[Tensor], x: Tensor) -> Tensor:
    """The whole estimates (B, P) of excerpts x (B, 1, N) with features (1, F) each."""
    edges = [band_edge(each, estimator.settings["sr"]) for each in x]
    points = zip(point(estimator, features).split(1), edges, strict=True)
    return torch.cat([without_unseen_bands(estimator, *each)[0] for each in points])


def distances(estimator: Estimator, dry: Tensor, wet: Tensor, q: Tensor) -> Tensor:
    """Mel (B, 2) of dry audio (B, 1, N), and of it with the effect at controls q (B, P), to the wet audio."""
    mel = MelLoss(estimator.settings["sr"])
    target = mel.prepare(wet)
    return torch.stack([mel.distances(sound, target) for sound in (dry, estimator.render(dry, q))], 1)
