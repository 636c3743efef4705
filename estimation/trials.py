"""Trials of an estimator on held-out excerpts: its features, and how close amounts of its estimate come to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.estimation.controls import less
from reknob.estimation.estimator import Estimator
from reknob.estimation.statistics_cache import Processed, Trials
from reknob.losses import MelLoss
from reknob.runtime.seeds import stream

AMOUNTS = (0.5, 1.0)
PART = 10  # excerpts in a file
PARTS = 3  # overlapping halves of an excerpt


@dataclass(frozen=True)
class Tried:
    """What an estimator makes of processed excerpts, `PART` in a part."""

    processed: Processed
    checkpoint: str  # what identifies the estimator's weights

    def __len__(self) -> int:
        return -(-len(self.processed.excerpts) // PART)

    @torch.no_grad()
    def __getitem__(self, number: int) -> Trials:
        source = self.processed
        estimator, sr = source.estimator, source.estimator.settings["sr"]
        first = PART * number
        items = [source.excerpts[index] for index in range(first, first + PART)]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        wet = source.wet(batch, stream(source.excerpts.seed, "tried", number))
        half = wet.shape[-1] // 2
        parts = [wet[..., start : start + half] for start in range(0, half + 1, half // 2)][:PARTS]
        features = estimator.controller.encoder(wet)
        return Trials(
            features,
            torch.stack([estimator.controller.encoder(part) for part in parts], 1),
            batch["q"],
            distances(estimator, batch["dry"], wet, estimator.from_features(features)[0], sr),
        )

    def key(self) -> list:
        return [self.checkpoint, *self.processed.key()]


def distances(estimator: Estimator, dry: Tensor, wet: Tensor, q: Tensor, sr: int) -> Tensor:
    """Mel (B, 1 + len(AMOUNTS)) of dry audio (B, 1, N), and of it with each amount of an estimate, to the wet audio."""
    mel = MelLoss(sr)
    target = mel.prepare(wet)
    sounds = [dry, *(estimator.render(dry, less(estimator.analysis, q, amount)) for amount in AMOUNTS)]
    return torch.stack([mel.distances(sound, target) for sound in sounds], 1)
