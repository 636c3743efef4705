"""Ways of running an effect block by block: each builds a stage, which effects return from `Effect.stage`."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import kernels
from .functional.fft import fast_length, forward, inverse
from .kernels import spectral_product

if TYPE_CHECKING:
    from .effect import Effect, Values

#: Takes the next block (C, T) and whether it is the last; returns what is ready by now: possibly nothing, possibly
#: more than came in.
Stage = Callable[[Tensor, bool], Tensor]


def overlapping(effect: "Effect", values: "Values", memory: int = 0) -> Stage:
    """An effect whose output depends on the last `memory` samples: they are fed again before each block."""
    past = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal past
        x = torch.cat([x.new_zeros(len(x), memory) if past is None else past, x], -1)
        past = x[:, x.shape[-1] - memory :]
        return effect(x.unsqueeze(0), **values).squeeze(0)[:, memory:]

    return process


def at_once(effect: "Effect", values: "Values") -> Stage:
    """An effect that needs the whole sound (its mean, its peak, transforms across blocks): one call at the end."""
    blocks = []

    def process(x: Tensor, last: bool) -> Tensor:
        blocks.append(x)
        if last:
            return effect(torch.cat(blocks, -1).unsqueeze(0), **values).squeeze(0)
        return x.new_zeros(effect.channels(len(x)), 0)

    return process


def cascade(coefs: Tensor) -> Stage:
    """Biquads in series, coefficients (K, 5), with the filters' states carried from block to block."""
    state = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal state
        if state is None:
            state = torch.zeros(len(x), len(coefs), 2, dtype=torch.float64)
        return kernels.biquad_cascade(x, coefs.unsqueeze(0), state)

    return process


def convolution(h: Tensor) -> Stage:
    """Overlap-add with an impulse response h (outputs, inputs, samples); its spectrum is kept while blocks have one
    size."""
    reach = h.shape[-1] - 1
    n, spectrum, tail = 0, None, h.new_zeros(h.shape[-3], reach)

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal n, spectrum, tail
        T = x.shape[-1]
        if n != fast_length(max(T, 1) + reach):
            n = fast_length(max(T, 1) + reach)
            spectrum = forward(h, n).unsqueeze(0)
        product = spectral_product.outputs(spectrum, forward(x.expand(h.shape[-2], -1), n).unsqueeze(0))
        y = inverse(product, n)[0, :, : T + reach]
        y[:, :reach] += tail
        tail = y[:, T:].clone()
        return y[:, :T]

    return process


def in_series(stages: Iterable[Stage]) -> Stage:
    """Stages one after another."""
    stages = list(stages)

    def process(x: Tensor, last: bool) -> Tensor:
        for stage in stages:
            x = stage(x, last)
        return x

    return process
