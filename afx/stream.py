"""Effects on sound of any length in bounded memory: block in, block out, with what must be remembered in between."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import torch
from torch import Tensor

from afx import kernels
from afx.kernels import bins
from runtime.errors import UsageError

from .chain import Normalised, Sends, Serial, cascade_coefs, is_biquad
from .clipper import Clipper
from .delay import PingPongDelay
from .dynamics import CompressorExpander
from .effect import Effect, Values
from .eq import Biquad
from .functional.fft import fast_length, forward, inverse
from .functional.units import db_to_gain
from .reverb import FDN, FIR, NoiseReverb
from .stereo import Panning, StereoWidth

BLOCK = 2**20

# A stage takes the next block (C, T) and whether it is the last, and gives what is ready by now: possibly nothing,
# possibly more than came in.
Stage = Callable[[Tensor, bool], Tensor]


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
        values: one set of them, without a batch dimension.
    """

    def __init__(self, chain: Effect, values: Values):
        with torch.no_grad():
            self._stage = open_stage(chain, values)
        self._nothing: Tensor | None = None
        self._has_ended = False

    @torch.no_grad()
    def process(self, x: Tensor) -> Tensor:
        """The next block (C, T), of any size, to what is ready by now: a lookahead holds some 15 ms back.

        Raises UsageError after `flush`.
        """
        self._check_open()
        self._nothing = x[:, :0]
        return self._stage(x, False)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """What was held back, at the end of the sound; UsageError where none went in, or the second time."""
        self._check_open()
        if self._nothing is None:
            raise UsageError("nothing went in: give process() a block before flush()")
        self._has_ended = True
        return self._stage(self._nothing, True)

    def _check_open(self) -> None:
        if self._has_ended:
            raise UsageError("the sound ended with flush(): make a new Stream for another one")


def open_stage(effect: Effect, values: Values) -> Stage:
    """A fresh stage of an effect that is to be run with these values (one set, no batch)."""
    if isinstance(effect, Serial) and not isinstance(effect, Normalised):
        return _serial(effect, values)
    if isinstance(effect, Biquad):
        return _cascade(effect.coefs(**values).unsqueeze(-2))
    if isinstance(effect, CompressorExpander):
        return _compressor(effect, **values)
    if isinstance(effect, Sends) and effect.realtime:
        return _sends(effect, values)
    if getattr(effect, "render", "") == "realtime":
        return _realtime(effect, values)
    if isinstance(effect, (PingPongDelay, FDN, Sends)):
        return _convolution(effect, values)
    if isinstance(effect, FIR):
        return _overlapping(effect, values, values["taps"].shape[-1] - 1)
    if isinstance(effect, (Panning, StereoWidth, Clipper)):
        return _overlapping(effect, values, 0)
    return _at_the_end(effect, values)


def _overlapping(effect: Effect, values: Values, reach: int) -> Stage:
    """An effect that remembers `reach` samples: they go in again before each block."""
    past = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal past
        x = torch.cat([x.new_zeros(len(x), reach) if past is None else past, x], -1)
        past = x[:, x.shape[-1] - reach :]
        return effect(x.unsqueeze(0), **values).squeeze(0)[:, reach:]

    return process


def _at_the_end(effect: Effect, values: Values) -> Stage:
    """The whole sound in one call, where the effect needs it: its mean, its peak, or transforms across blocks."""
    blocks = []

    def process(x: Tensor, last: bool) -> Tensor:
        blocks.append(x)
        if last and any(block.shape[-1] for block in blocks):
            return effect(torch.cat(blocks, -1).unsqueeze(0), **values).squeeze(0)
        return x.new_zeros(2 if isinstance(effect, NoiseReverb) else len(x), 0)

    return process


def _serial(chain: Serial, values: Values) -> Stage:
    stages = []
    for are_biquads, group in groupby(chain.parts(), key=is_biquad):
        if are_biquads:
            stages.append(_cascade(cascade_coefs(group, values)))
        else:
            stages += [open_stage(effect, values[name]) for name, effect in group]

    def process(x: Tensor, last: bool) -> Tensor:
        for stage in stages:
            x = stage(x, last)
        return x

    return process


def _cascade(coefs: Tensor) -> Stage:
    state = None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal state
        if state is None:
            state = torch.zeros(len(x), len(coefs), 2, dtype=torch.float64)
        return kernels.biquad_cascade(x, coefs.unsqueeze(0), state)

    return process


def _compressor(
    effect: CompressorExpander, *, makeup: Tensor, lookahead: Tensor | None = None, **curve: Tensor
) -> Stage:
    """Waits for the future that the lookahead needs; the sound's ends are repeated in the gain, as in one call."""
    before, after = effect.reach if lookahead is not None else (0, 0)
    state, waiting, gains = None, None, None

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal state, waiting, gains
        if state is None and not x.shape[-1]:
            return x
        if state is None:
            state = x.new_tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(x), 1)
        new = effect.gain(x.unsqueeze(0), state=state, **curve).squeeze(0)
        gains = torch.cat([new[:, :1].expand(-1, before) if gains is None else gains, new], -1)
        waiting = x if waiting is None else torch.cat([waiting, x], -1)
        if last:
            gains = torch.cat([gains, gains[:, -1:].expand(-1, after)], -1)
        ready = max(gains.shape[-1] - before - after, 0)
        gain = gains[:, :ready]
        if lookahead is not None and ready:
            gain = effect.advance(gains.unsqueeze(0), lookahead).squeeze(0)[:, before : before + ready]
        y = waiting[:, :ready] * gain * db_to_gain(makeup)
        gains, waiting = gains[:, ready:], waiting[:, ready:]
        return y

    return process


def _convolution(effect: Effect, values: Values) -> Stage:
    """Overlap-add with the effect's impulse response, whose spectrum is kept while blocks have one size."""
    h = effect.response(**values)
    reach = h.shape[-1] - 1
    n, spectrum, tail = 0, None, h.new_zeros(h.shape[-3], reach)

    def process(x: Tensor, last: bool) -> Tensor:
        nonlocal n, spectrum, tail
        T = x.shape[-1]
        if n != fast_length(max(T, 1) + reach):
            n = fast_length(max(T, 1) + reach)
            spectrum = forward(h, n).unsqueeze(0)
        y = inverse(bins.outputs(spectrum, forward(x.expand(h.shape[-2], -1), n).unsqueeze(0)), n)[0, :, : T + reach]
        y[:, :reach] += tail
        tail = y[:, T:].clone()
        return y[:, :T]

    return process


def _realtime(effect: PingPongDelay | FDN, values: Values) -> Stage:
    """A delay or a reverb sample by sample; its equaliser, if that comes after it, is a stage of its own."""
    state = effect.state(1, **values)
    stereo = isinstance(effect, FDN)
    after = open_stage(effect.eq, values["eq"]) if stereo and "eq" in values else None

    def process(x: Tensor, last: bool) -> Tensor:
        x = x.expand(2, -1) if stereo else x
        y = effect.realtime(x.unsqueeze(0), state=state, **values).squeeze(0)
        return after(y, last) if after else y

    return process


def _sends(effect: Sends, values: Values) -> Stage:
    """The paths one after another, as sends feed forward; none of them waits."""
    stages = {name: open_stage(part, values[name]) for name, part in effect.parts()}

    def process(x: Tensor, last: bool) -> Tensor:
        return effect.mix(x, values, lambda name, fed: stages[name](fed, last))

    return process
