"""How the knobs move: Adam as published, and a shorter way to the same loss."""

import math
from dataclasses import dataclass

import torch

from afx.effect import Effect, Knobs
from afx.param import Free

WARM_UP, LAST = 0.05, 0.05


@dataclass(frozen=True)
class Method:
    """Adam and the size of its steps.

    Args:
        betas: of Adam.
        peak: the highest rate, times the learning rate.
        levels: times which a level in dB moves further: its raw number is the dB, and has a longer way to go than one
            behind a logistic function.
        annealed: whether the rate rises to its peak over the first twentieth of the epochs and then falls to a
            twentieth of it by half a cosine.
    """

    betas: tuple[float, float]
    peak: float = 1.0
    levels: float = 1.0
    annealed: bool = False

    def optimiser(self, chain: Effect, knobs: Knobs, lr: float) -> torch.optim.Adam:
        """Adam over the knobs, at the highest rate of each."""
        in_db = {name for name, p in chain.walk() if p.unit == "dB" and isinstance(p.mapping, Free)}
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, knob in knobs.named_parameters():
            groups.setdefault(lr * self.peak * (self.levels if name in in_db else 1.0), []).append(knob)
        return torch.optim.Adam([{"params": own, "lr": rate} for rate, own in groups.items()], betas=self.betas)

    def rate(self, progress: float) -> float:
        """The share of the highest rate after so much of the epochs, 0 … 1."""
        if not self.annealed:
            return 1.0
        if progress < WARM_UP:
            return LAST + (1 - LAST) * progress / WARM_UP
        fall = (min(progress, 1.0) - WARM_UP) / (1 - WARM_UP)
        return LAST + (1 - LAST) * (1 + math.cos(math.pi * fall)) / 2


METHODS = {
    "adam": Method(betas=(0.9, 0.999)),
    "annealed": Method(betas=(0.9, 0.95), peak=10.0, levels=10.0, annealed=True),
}
