"""Resampling by a windowed sinc, of whole recordings and block by block."""

import math

import torch
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

#: Parameters of resampy's filter "kaiser_best" for torchaudio; aliases are attenuated by 140 dB.
FILTER_WIDTH, ROLLOFF, BETA = 64, 0.9475937167399596, 14.769656459379492
#: Largest product of the two sides of a ratio of rates; the number of filter taps is proportional to it.
LARGEST_RATIO = 4_000_000


def resampling_ratio(sr_from: int, sr_to: int) -> tuple[int, int]:
    """Samples before and after resampling, in lowest terms.

    UsageError for rates without a small ratio (44056 : 44100 = 11014 : 11025), whose filters would take gigabytes.
    """
    common = math.gcd(sr_from, sr_to)
    ratio = sr_from // common, sr_to // common
    if ratio[0] * ratio[1] > LARGEST_RATIO:
        raise UsageError(
            f"sample rates {sr_from} and {sr_to} Hz have no small ratio ({ratio[0]} : {ratio[1]}): "
            f"resample the file first, for example sox in.wav -r {sr_to} out.wav"
        )
    return ratio


def resampling_reach(old: int, new: int) -> int:
    """Samples on either side of an output sample that the filter covers, where `old` samples become `new`."""
    return math.ceil(FILTER_WIDTH / ROLLOFF * max(old / new, 1.0))


def resample(x: Tensor, sr_from: int, sr_to: int) -> Tensor:
    """`x` `(C, T)` at `sr_from` Hz resampled to `sr_to` Hz, `(C, ceil(T sr_to / sr_from))`.

    UsageError for rates without a small ratio.
    """
    resampling_ratio(sr_from, sr_to)
    return torchaudio.functional.resample(
        x,
        sr_from,
        sr_to,
        lowpass_filter_width=FILTER_WIDTH,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=BETA,
    )


class BlockResampler:
    """`resample` of audio `(C, T)` given in blocks of any size; the concatenated results equal that of one call.

    UsageError for rates without a small ratio.
    """

    def __init__(self, sr_from: int, sr_to: int) -> None:
        self.rates = sr_from, sr_to
        self.old, self.new = resampling_ratio(sr_from, sr_to)
        self._input: Tensor | None = None  # (C, T), from the first sample on that the filter still covers
        self._period = 0  # `_input` begins at this multiple of `old` samples
        self._done = 0  # samples returned

    def process(self, x: Tensor) -> Tensor:
        """The output `(C, n)` that the next block `(C, T)` completes."""
        held = x if self._input is None else torch.cat([self._input, x], dim=1)
        reach = resampling_reach(self.old, self.new)
        last = self._period + max(held.shape[1] - reach, 0) // self.old
        y = self._until(held, last * self.new)
        # The filters repeat every `old` samples: audio that begins at a multiple of `old` is resampled as within the
        # whole, except where the filter reaches beyond its start.
        first = max(last - math.ceil(reach / self.old), self._period)
        self._input = held[:, (first - self._period) * self.old :]
        self._period = first
        return y

    def flush(self) -> Tensor:
        """The rest of the output `(C, n)`, once there is no more input."""
        if self._input is None:
            return torch.zeros(0, 0)
        total = self._period * self.old + self._input.shape[1]
        return self._until(self._input, -(-total * self.new // self.old))

    def _until(self, held: Tensor, end: int) -> Tensor:
        """The output from the sample after the last one returned up to the sample `end`."""
        if end <= self._done:
            return held[:, :0]
        first = self._period * self.new
        y = resample(held, *self.rates)[:, self._done - first : end - first]
        self._done = end
        return y
