"""Optimisers of the raw parameters: Adam as published, and an annealed one that needs fewer steps to the same loss."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reknob.afx.effect import Effect

WARM_UP, LAST = 0.05, 0.05
EPSILON = 1e-8
# Rate of a multimodal parameter near its value: some tenths of a ms of an echo's time in 100 annealed steps. Three
# times as much moved one of five echoes by 1.2 ms.
REFINING = 0.001


class AdamState(NamedTuple):
    """The P raw parameters of each of G tracks, and Adam's moving averages of their gradients."""

    raws: Tensor  # (G, P)
    mean: Tensor  # (G, P), of the gradients
    square: Tensor  # (G, P), of their squares
    steps: Tensor  # (G,) float64, taken so far


@dataclass(frozen=True)
class Method:
    """Adam with a schedule of its learning rate.

    Args:
        betas: of Adam.
        peak: the highest rate, as a multiple of the learning rate.
        levels: the rate of levels in dB, as a multiple of that of the others: their raw parameter is the dB itself,
            whose range is wider than that of a parameter behind a logistic function.
        annealed: whether the rate rises linearly to its peak over the first twentieth of the epochs, and then falls
            to a twentieth of the peak by half a cosine.
    """

    betas: tuple[float, float]
    peak: float = 1.0
    levels: float = 1.0
    annealed: bool = False

    def highest(self, chain: Effect, lr: float, *, near: bool = False) -> Tensor:
        """The highest rate of every raw parameter (P,), in the order of `chain.walk()`.

        `near` is for a start near the right values: multimodal parameters are then refined only.
        """
        rates = []
        for _, p in chain.walk():
            factor = REFINING if near and p.multimodal else self.levels if p.is_level else 1.0
            rates += [lr * self.peak * factor] * math.prod(p.shape)
        return torch.tensor(rates)

    def rate(self, progress: Tensor) -> Tensor:
        """The factor on the highest rate at `progress`, the fraction of the epochs that is done (0 to 1)."""
        if not self.annealed:
            return torch.ones_like(progress)
        rising = LAST + (1 - LAST) * progress / WARM_UP
        fall = (progress.clamp(max=1) - WARM_UP) / (1 - WARM_UP)
        falling = LAST + (1 - LAST) * (1 + torch.cos(math.pi * fall)) / 2
        return torch.where(progress < WARM_UP, rising, falling)

    def move(self, state: AdamState, gradients: Tensor, rates: Tensor) -> AdamState:
        """One step of Adam along gradients (G, P) at rates (G, P), with bias correction by each track's own steps.

        Source: Kingma and Ba, Adam, arXiv 1412.6980, algorithm 1.
        """
        fast, slow = self.betas
        steps = state.steps + 1
        mean = state.mean.lerp(gradients, 1 - fast)
        square = state.square * slow + (1 - slow) * gradients.square()
        unbiased = (1 - slow**steps).sqrt().to(square)[:, None], (1 - fast**steps).to(mean)[:, None]
        raws = state.raws - rates / unbiased[1] * mean / (square.sqrt() / unbiased[0] + EPSILON)
        return AdamState(raws, mean, square, steps)


METHODS = {
    "adam": Method(betas=(0.9, 0.999)),
    "annealed": Method(betas=(0.9, 0.95), peak=10.0, levels=10.0, annealed=True),
}
