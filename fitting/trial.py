"""What parameters are compared on before a whole fit: the loss of a pair's loudest chunks."""

import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs
from reknob.data.chunks import Chunks
from reknob.losses import FitLoss

CHUNKS = 2  # so that the cost of a comparison does not grow with the length of the recording

Raws = dict[str, Tensor]


def loudest(chunks: Chunks, count: int) -> Chunks:
    """The `count` chunks of the highest power, or all where there are fewer."""
    power = chunks.wet[..., chunks.warm_up :].square().mean((1, 2))
    return chunks.select(power.topk(min(count, len(power))).indices)


class Losses:
    """The loss of raw parameters on some chunks, penalties included.

    Args:
        chain: the effects, on the device.
        chunks: dry and wet.
        loss: compares rendered and recorded chunks after their warm-up.
        device: where the work is done.
    """

    def __init__(self, chain: Effect, chunks: Chunks, loss: FitLoss, device: torch.device) -> None:
        self.chain, self.loss, self.warm_up = chain.train(), loss.to(device), chunks.warm_up
        self.knobs = Knobs(chain).requires_grad_(False).to(device)
        self.dry, self.wet = chunks.dry.to(device), chunks.wet[..., chunks.warm_up :].to(device)
        self.target = self.loss.prepare(self.wet)

    @torch.no_grad()
    def __call__(self, raws: Raws) -> float:
        self.knobs.load_state_dict(raws)
        values = self.knobs()
        items = self.chain.for_items(values, len(self.dry))
        wet = self.chain.render_after_warm_up(self.dry, self.warm_up, **items)
        return self._compared(wet) + float(self.chain.penalty(values))

    @torch.no_grad()
    def of_level(self, db: float) -> float:
        """The loss of the recording itself, `db` louder."""
        return self._compared(self.wet * 10 ** (db / 20))

    def _compared(self, wet: Tensor) -> float:
        shares = torch.ones(1, len(wet), device=wet.device)
        return self.loss.weigh(self.loss.terms(wet, self.target, shares)).item()


def better_parts(chain: Effect, losses: Losses, before: Raws, found: Raws) -> Raws:
    """`before` with those of the parameters `found` in place, by effect, that lower the loss.

    All of them are in place first. Each effect in turn then goes back to its parameters before where the loss is lower
    with them.

    Args:
        chain: the effects.
        losses: of raw parameters.
        before: raw parameters of the whole chain, by name.
        found: others for some effects.
    """
    raws = before | found
    lowest = losses(raws)
    for prefix, _ in chain.leaves():
        trial = raws | {name: before[name] for name in found if name.startswith(prefix)}
        reached = losses(trial)
        if reached < lowest:
            raws, lowest = trial, reached
    return raws if lowest < losses(before) else before
