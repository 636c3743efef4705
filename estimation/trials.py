"""Trials of an estimator on held-out excerpts: how certain it is, and how close its estimate comes to them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reknob.data.bandwidth import band_edge
from reknob.estimation.judgement import distance, weigh, whole_estimates, without_unseen_bands
from reknob.estimation.statistics_cache import Processed, digest
from reknob.runtime.seeds import stream

PART = 10  # excerpts in a file


class Trials(NamedTuple):
    """What an estimator makes of M held-out excerpts."""

    q: Tensor  # (M, P), that they were processed with
    source: Tensor  # (M,), number of the data set that they come from
    signs: Tensor  # (M, 3), the `evidence` on whether its estimates help
    mel: Tensor  # (M, 2), distance to them of their dry recording without an effect and with the estimated one


@dataclass(frozen=True)
class Tried:
    """What an estimator with a calibration makes of excerpts, `PART` in a part; its edge may not be chosen yet."""

    processed: Processed

    def __len__(self) -> int:
        return -(-len(self.processed.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Trials:
        estimator, generator = self.processed.estimator, stream(self.processed.excerpts.seed, "tried", number)
        batch = self.processed.batch(range(PART * number, PART * (number + 1)), generator)
        wet = batch["wet"]
        features = estimator.controller.encoder(wet).split(1)
        estimated, posteriors = whole_estimates(estimator, features)
        edges = [band_edge(x, estimator.settings["sr"]) for x in wet]
        seen = zip(estimated.split(1), edges, strict=True)
        q = [without_unseen_bands(estimator, *each)[0] for each in seen]
        signs = [weigh(estimator, *each) for each in zip(features, q, posteriors, wet, edges, strict=True)]
        sounds = batch["dry"], estimator.render(batch["dry"], torch.cat(q))
        mel = [distance(estimator, sound, wet, edges) for sound in sounds]
        return Trials(batch["q"], batch["source"], torch.stack(signs), torch.stack(mel, 1))

    def key(self) -> list:
        estimator = self.processed.estimator
        assert estimator.calibration
        tensors = estimator.controller.state_dict(), estimator.calibration.as_dict()
        return [*map(digest, tensors), estimator.settings["afx"], *self.processed.key()]
