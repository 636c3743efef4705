"""Effects on sound of any length in bounded memory: block in, block out, with what must be remembered in between."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .effect import Effect, Values
from .plain import are_tensors, to_tensors

BLOCK = 2**20


def render(chain: Effect, values: Values, x: Tensor, block: int = BLOCK) -> Tensor:
    """A whole sound (C, T) through a chain, block by block: equal to one call, in memory that T hardly moves."""
    return torch.cat(list(stream(chain, values, x.split(block, -1))), -1)


def stream(chain: Effect, values: Values, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Blocks (C, T) of any size through a chain, in order; as many blocks and samples come out as went in."""
    running, held = Stream(chain, values), None
    for block in blocks:
        if held is not None:
            yield held
        held = running.process(block)
    if held is not None:
        yield torch.cat([held, running.flush()], -1)


class Stream:
    """One sound through a chain, block by block: what `process` and `flush` give, one after another, is one call's.

    Args:
        chain: any effect.
        values: one set of them, without a batch dimension; tensors, or plain numbers and lists.
    """

    def __init__(self, chain: Effect, values: Values):
        tensors = values if are_tensors(values) else to_tensors(chain, values, torch.empty(1))
        with torch.no_grad():
            self._chain, self._stage = chain, chain.stage(tensors)
        self._nothing: Tensor | None = None
        self._has_begun = self._has_ended = False

    @torch.no_grad()
    def process(self, x: Tensor) -> Tensor:
        """The next block (C, T), of any size, to what is ready by now: a lookahead holds some 15 ms back.

        Raises ValueError after `flush`.
        """
        self._check_open()
        self._nothing = x[:, :0]
        if not x.shape[-1]:
            return x.new_zeros(self._chain.channels(len(x)), 0)
        self._has_begun = True
        return self._stage(x, False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """What was held back, at the end of the sound; ValueError where none went in, or the second time."""
        self._check_open()
        if self._nothing is None:
            raise ValueError("nothing went in: give process() a block before flush()")
        self._has_ended = True
        if not self._has_begun:
            return self._nothing.new_zeros(self._chain.channels(len(self._nothing)), 0)
        return self._stage(self._nothing, True)

    def _check_open(self) -> None:
        if self._has_ended:
            raise ValueError("the sound ended with flush(): make a new Stream for another one")
