"""Recordings through a chain, as they come: their rate and level restored, their tail rendered, dry mixed in."""

import logging
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import pad

from reknob.afx.effect import Effect, Values
from reknob.afx.stream import BLOCK, Stream
from reknob.data.audio import LoudnessError, loudness, loudness_gain, resample
from reknob.runtime.errors import UsageError

log = logging.getLogger(__name__)

QUIET = 1e-3  # level at which a tail ends, relative to the peak of the output: -60 dB
# s of silence at a time, of which all is quiet after the end: longer than the pause between two echoes, at most 1 s.
SILENCE = 2.0
LONGEST_TAIL = 60.0  # s, where the echoes hardly decay
#: Words for the level of the output: the loudness of the input, or what the chain makes of it.
KEEP, CHAIN = "keep", "chain"
AUTO = "auto"


def render_recording(
    chain: Effect,
    values: Values,
    x: Tensor,
    sr: int,
    *,
    lufs: float | None,
    output: float | str = KEEP,
    tail: float | str = AUTO,
    mix: float = 1.0,
    stereo: bool | None = None,
    watched: Callable[[Iterable[Tensor]], Iterable[Tensor]] = iter,
) -> Tensor:
    """A recording through a chain, at the recording's sample rate.

    Args:
        chain: the effects, at their own sample rate.
        values: of the chain.
        x: (C, T), full scale 1.
        sr: sample rate of `x` in Hz.
        lufs: loudness that the input is brought to for the chain, in LUFS; None leaves its level.
        output: loudness of the output in LUFS; "keep" for that of `x`, "chain" for what the chain makes of its input.
            Where one of them is silent or shorter than 0.4 s, "keep" undoes the gain of the input.
        tail: s of silence that follow the recording through the chain; "auto" for as many as it takes the output to
            fall 60 dB below its peak, at most LONGEST_TAIL.
        mix: share of the chain's output, 0 to 1; the rest is its input, in stereo if `x` is.
        stereo: whether the chain gets both channels, mono copied to two; None: of a stereo recording, if it takes them.
        watched: is given the blocks of the input, and passes them on: a progress bar.

    Returns:
        (C', T + tail), of as many channels as the chain makes of its input, or as `x` has where that is mixed in.

    Raises:
        LoudnessError: an input or output whose loudness is to be set, and which is silent or under 0.4 s.
        UsageError: options out of range, `stereo` for a chain that takes mono, and an output that is not finite.
    """
    _check(output, tail, mix)
    # More than two channels have no loudness here, and no place in an output of two.
    x = x if len(x) <= 2 else x.mean(0, keepdim=True)
    dry = chain_input(chain, x, stereo)
    dry = dry if sr == chain.sr else resample(dry, sr, chain.sr)
    gain = 1.0 if lufs is None else loudness_gain(loudness(dry, chain.sr), lufs)
    y = _with_tail(chain, values, gain * dry, tail, watched)
    if sr != chain.sr:
        y = resample(y, chain.sr, sr)
    if not y.isfinite().all():
        raise UsageError(f"the output is not finite from {y.isfinite().all(0).int().argmin() / sr:.3f} s on")
    y = y[:, : _end(y, x.shape[1], sr, tail)]
    if mix < 1:
        y = mix * y + (1 - mix) * gain * pad(x, (0, y.shape[1] - x.shape[1]))
    return y * _output_gain(x, y, sr, output, gain)


def _check(output: float | str, tail: float | str, mix: float) -> None:
    """Raises UsageError for options that `render_recording` does not have."""
    if isinstance(output, str) and output not in (KEEP, CHAIN):
        raise UsageError(f"output loudness {output!r}: give a number of LUFS, {KEEP} or {CHAIN}")
    if tail != AUTO and (isinstance(tail, str) or not 0 <= tail <= LONGEST_TAIL):
        raise UsageError(f"tail={tail!r}: give 0 to {LONGEST_TAIL:g} s, or {AUTO}")
    if not 0 <= mix <= 1:
        raise UsageError(f"mix={mix:g}: give 0 to 1")


def chain_input(chain: Effect, x: Tensor, stereo: bool | None) -> Tensor:
    """The channels `(1|2, T)` of `x` `(C, T)` that a chain gets; `stereo` as in `render_recording`."""
    stereo = stereo or (stereo is None and len(x) == 2 and takes(chain, 2))
    x = x.expand(2, -1) if stereo and len(x) <= 2 else x.mean(0, keepdim=True)
    chain.channels(len(x))
    return x


def takes(chain: Effect, channels: int) -> bool:
    """Whether a chain takes an input of so many channels."""
    try:
        chain.channels(channels)
    except UsageError:
        return False
    return True


def _with_tail(
    chain: Effect,
    values: Values,
    x: Tensor,
    tail: float | str,
    watched: Callable[[Iterable[Tensor]], Iterable[Tensor]],
) -> Tensor:
    """`x` `(C, T)` and a tail of silence through a chain, at the chain's rate.

    With "auto" the silence ends with SILENCE s of quiet output.
    """
    # In training mode a hybrid compressor renders by its network, an approximation.
    stream = Stream(chain.eval(), values)
    blocks = [stream.process(block) for block in watched(x.split(BLOCK, -1))]
    if not isinstance(tail, str):
        # At least as long as the tail at the rate of the recording.
        blocks.append(stream.process(x.new_zeros(len(x), math.ceil(tail * chain.sr))))
        return torch.cat([*blocks, stream.flush()], -1)
    silence, left = x.new_zeros(len(x), round(SILENCE * chain.sr)), round(LONGEST_TAIL / SILENCE)
    peak, last = max(map(_peak, blocks)), math.inf
    while last > QUIET * peak and left:
        blocks.append(stream.process(silence))
        left, last = left - 1, _peak(blocks[-1])
        peak = max(peak, last)
    if last > QUIET * peak:
        log.warning("the tail is cut after %g s, before it has fallen by 60 dB", LONGEST_TAIL)
    return torch.cat([*blocks, stream.flush()], -1)


def _peak(x: Tensor) -> float:
    """The largest magnitude; 0 without samples."""
    return float(x.abs().max()) if x.numel() else 0.0


def _end(y: Tensor, length: int, sr: int, tail: float | str) -> int:
    """The number of samples of `y` `(C, T)` to keep, for a recording of `length` samples and a tail in s or "auto"."""
    if not isinstance(tail, str):
        return length + round(tail * sr)
    loud = (y.abs().amax(0) > QUIET * _peak(y)).nonzero()
    return max(length, int(loud[-1]) + 1 if len(loud) else 0)


def _output_gain(x: Tensor, y: Tensor, sr: int, output: float | str, gain: float) -> float:
    """The factor on an output `y`, where the input `x` had the factor `gain`; `output` as in `render_recording`."""
    if output == CHAIN:
        return 1.0
    if not isinstance(output, str):
        return loudness_gain(loudness(y, sr), output)
    levels = [_level(each, sr) for each in (x, y)]
    return 1 / gain if -math.inf in levels else loudness_gain(levels[1], levels[0])


def _level(x: Tensor, sr: int) -> float:
    """Loudness in LUFS; -inf where it cannot be measured."""
    try:
        return loudness(x, sr)
    except LoudnessError:
        return -math.inf
