"""Block-by-block rendering: functions that build the stages which effects return from `Effect.stage`.

A stage is a closure over its state (past samples, filter states), so one stage serves one recording.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from . import kernels
from .functional.fft import fast_length, forward, inverse
from .kernels import spectral_product

#: From the next block (C, T), and whether it is the last, to the output samples that are ready, (C', T'): T' < T while
#: a lookahead delays the output, and T' > T when it is flushed with the last block.
Stage = Callable[[Tensor, bool], Tensor]


class Renders(Protocol):
    """What an effect is to its stages: a function of audio (B, C, T) and values, with a number of output channels."""

    def __call__(self, x: Tensor, **values: Any) -> Tensor: ...  # noqa: ANN401 - a tree of tensors

    def channels(self, given: int) -> int: ...


def overlapping(effect: Renders, values: Mapping[str, Any], memory: int = 0) -> Stage:
    """A stage for an effect with a memory of `memory` samples, which are prepended to each block."""
    past = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal past
        x = torch.cat([x.new_zeros(len(x), memory) if past is None else past, x], -1)
        past = x[:, x.shape[-1] - memory :]
        return effect(x.unsqueeze(0), **values).squeeze(0)[:, memory:]

    return process


def at_once(effect: Renders, values: Mapping[str, Any]) -> Stage:
    """A stage for an effect that needs the complete input (mean, peak, STFT): one call, with the last block."""
    blocks: list[Tensor] = []

    def process(x: Tensor, last: bool) -> Tensor:
        blocks.append(x)
        if last:
            return effect(torch.cat(blocks, -1).unsqueeze(0), **values).squeeze(0)
        # No samples, but in the channels of the output, which the next stage in series may expect.
        return x.new_zeros(effect.channels(len(x)), 0)

    return process


def cascade(coefs: Tensor) -> Stage:
    """A stage of biquads in series, coefficients (K, 5), whose filter states persist between blocks."""
    state = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal state
        if state is None:
            state = torch.zeros(len(x), len(coefs), 2, dtype=torch.float64)
        return kernels.biquad_cascade(x, coefs.unsqueeze(0), state)

    return process


def convolution(h: Tensor) -> Stage:
    """A stage of overlap-add with an impulse response h (outputs, inputs, samples)."""
    reach = h.shape[-1] - 1
    # The spectrum of h is computed again only when the size of the transform changes.
    n, spectrum, tail = 0, h.new_empty(0), h.new_zeros(h.shape[-3], reach)

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal n, spectrum, tail
        T = x.shape[-1]
        if n != fast_length(max(T, 1) + reach):
            n = fast_length(max(T, 1) + reach)
            spectrum = forward(h, n).unsqueeze(0)
        product = spectral_product.outputs(spectrum, forward(x.expand(h.shape[-2], -1), n).unsqueeze(0))
        y = inverse(product, n)[0, :, : T + reach]
        # y has T + reach samples; a block shorter than the response leaves part of the old tail in the new one.
        y[:, :reach] += tail
        tail = y[:, T:].clone()
        return y[:, :T]

    return process


def in_series(stages: Iterable[Stage]) -> Stage:
    """A stage of several stages in series."""
    # An iterator would be exhausted after the first block.
    stages = list(stages)

    def process(x: Tensor, last: bool) -> Tensor:
        for stage in stages:
            x = stage(x, last)
        return x

    return process
