"""The losses that an estimator is trained and validated by."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reknob.data.coding import random_lossy_round_trip
from reknob.data.excerpts import Share
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.losses import LOSSES, build_loss, channels_of
from reknob.runtime.processes import connected, rank
from reknob.runtime.seeds import stream

PARAMS = "params"
#: The published losses.
OBJECTIVES = ("mel", PARAMS)


class Training(nn.Module):
    """An estimator with the loss of a batch that it is trained by.

    Args:
        estimator: the estimator to train; its chains have no weights to train.
        loss: one of `objectives()`: "params", between true and estimated controls; or a loss of audio, as "mel",
            between the target and the dry audio rendered with the estimated controls.
        coded: share of the processed audio that is encoded and decoded by a lossy codec.
        seed: of the coding in validations; that in training is drawn from torch's global generator.

    Source: BE-AFX, arXiv 2310.11781.
    """

    def __init__(self, estimator: Estimator, loss: str, coded: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.estimator, self.loss, self.coded, self.seed = estimator, loss, coded, seed
        self.compare = build_loss({"name": loss}, estimator.settings["sr"])

    def compute_loss(self, batch: Batch, wet: Tensor, q: Tensor) -> Tensor:
        """The loss of estimated controls q (B, P), for the target `wet` (B, 1, T) that the batch was processed to."""
        q = q.float()
        if self.loss == PARAMS:
            return self.compare(q, batch["q"])
        # Mixed precision is for the networks only: filters and spectra need float32.
        with torch.autocast(wet.device.type, enabled=False):
            return self.compare(self.estimator.render(batch["dry"], q), wet)

    def estimate(self, wet: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Controls (B, P) estimated from processed audio (B, 1, T), a share of it through a lossy codec."""
        with torch.autocast(wet.device.type, enabled=False):
            share = Share(rank() if connected() > 1 else 0, connected())
            wet = random_lossy_round_trip(wet, self.estimator.settings["sr"], self.coded, generator, share)
        return self.estimator(wet)

    def forward(self, get_batch: Callable[[], Batch]) -> Tensor:
        """The loss in training of a batch, given as a function: Lightning rounds tensors to the networks' precision."""
        batch = get_batch()
        wet = synthesise(self.estimator, batch)
        return self.compute_loss(batch, wet, self.estimate(wet))

    def validate(self, batch: Batch, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of a batch of the validation, its processed audio and the estimated controls."""
        wet = synthesise(self.estimator, batch)
        # The same lossy coding in every epoch, so that their losses compare.
        q = self.estimate(wet, stream(self.seed, "validation", index))
        return self.compute_loss(batch, wet, q), wet, q


def objectives() -> list[str]:
    """The losses that an estimator can be trained with: the published ones, and all registered losses of mono audio."""
    return [*OBJECTIVES, *(name for name, loss in LOSSES.items() if 1 in channels_of(loss) and name not in OBJECTIVES)]
