"""Block-by-block rendering of recordings of any length in bounded memory, with state between the blocks."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .effect import Effect, Values

# 24 s at 44100 Hz: longer than a default response (12 s), so that transforms hold more audio than tail.
BLOCK = 2**20


def render(chain: Effect, values: Values, x: Tensor, block: int = BLOCK) -> Tensor:
    """Renders a recording (C, T) block by block: equal to one call of the chain, in memory independent of T."""
    return torch.cat(list(stream(chain, values, x.split(block, -1))), -1)


def stream(chain: Effect, values: Values, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Renders consecutive blocks (C, T) of any size; yields as many blocks, with as many samples in total."""
    running, previous = Stream(chain, values), None
    for block in blocks:
        # One block late, so that what `flush` returns can be appended to the last one.
        if previous is not None:
            yield previous
        previous = running.process(block)
    if previous is not None:
        yield torch.cat([previous, running.flush()], -1)


class Stream:
    """One recording rendered block by block: the outputs of `process` and `flush`, concatenated, equal one call.

    Args:
        chain: any effect.
        values: one set of values, without a batch dimension; tensors, or plain numbers and lists.
    """

    def __init__(self, chain: Effect, values: Values) -> None:
        with torch.no_grad():
            self._chain, self._stage = chain, chain.stage(chain.tensors(values, torch.empty(1)))
        # Zero samples in the channels, type and device of the input, known from its first block on.
        self._empty: Tensor | None = None
        self._has_begun = self._has_ended = False

    @torch.no_grad()
    def process(self, x: Tensor) -> Tensor:
        """Renders the next block (C, T), of any size, and returns the samples that are ready.

        A lookahead delays the output by up to 15 ms. Raises ValueError after `flush`.
        """
        self._check_open()
        self._empty = x[:, :0]
        if not x.shape[-1]:
            return x.new_zeros(self._chain.channels(len(x)), 0)
        self._has_begun = True
        return self._stage(x, False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Returns the remaining samples at the end of the recording; ValueError before any block, or a second time."""
        self._check_open()
        if self._empty is None:
            raise ValueError("no input yet: give process() a block before flush()")
        self._has_ended = True
        # A stage never runs before a first sample: that of a compressor continues its first gain backwards.
        if not self._has_begun:
            return self._empty.new_zeros(self._chain.channels(len(self._empty)), 0)
        return self._stage(self._empty, True)

    def _check_open(self) -> None:
        if self._has_ended:
            raise ValueError("the stream ended with flush(): make a new Stream for another recording")
