"""Sample rates: resampling by a windowed sinc, of whole sounds and block by block."""

import math

import torch
from torch import Tensor

from reknob.afx.functional.torchaudio_import import torchaudio
from reknob.runtime.errors import UsageError

#: The filter that resampy calls "kaiser_best", in torchaudio's terms: aliases stay 140 dB down.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
#: Largest product of the two sides of a ratio of rates: the filter bank has about that many taps.
LARGEST_RATIO = 4_000_000


def resampling_ratio(sr_from: int, sr_to: int) -> tuple[int, int]:
    """Samples before and after resampling, in lowest terms.

    UsageError for rates without a small ratio (44056 : 44100 = 11014 : 11025): the filters would take gigabytes.
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
    """Samples on either side that the filter takes into account, where `old` samples become `new`."""
    return math.ceil(KAISER_BEST["lowpass_filter_width"] / KAISER_BEST["rolloff"] * max(old / new, 1.0))


def resample(x: Tensor, sr_from: int, sr_to: int) -> Tensor:
    """`x` `(C, T)` at `sr_from` Hz brought to `sr_to` Hz, `(C, ceil(T sr_to / sr_from))`; see `resampling_ratio`."""
    resampling_ratio(sr_from, sr_to)
    return torchaudio.functional.resample(x, sr_from, sr_to, **KAISER_BEST)


class BlockResampler:
    """`resample` of a sound `(C, T)` that comes in blocks of any size; all that it returns, in a row, is the same.

    UsageError for rates without a small ratio.
    """

    def __init__(self, sr_from: int, sr_to: int):
        self.rates = sr_from, sr_to
        self.old, self.new = resampling_ratio(sr_from, sr_to)
        self._held: Tensor | None = None  # what the filter still reaches
        self._block = 0  # `old` samples are a block; the first one held
        self._done = 0  # samples given out

    def process(self, x: Tensor) -> Tensor:
        """What can be computed so far, with the next block."""
        self._held = x if self._held is None else torch.cat([self._held, x], dim=1)
        reach = resampling_reach(self.old, self.new)
        last = self._block + max(self._held.shape[1] - reach, 0) // self.old
        y = self._until(last * self.new)
        # From a multiple of `old` samples on, a part is resampled as within the whole.
        first = max(last - math.ceil(reach / self.old), self._block)
        self._held = self._held[:, (first - self._block) * self.old :]
        self._block = first
        return y

    def flush(self) -> Tensor:
        """The rest; nothing can follow."""
        if self._held is None:
            return torch.zeros(0, 0)
        total = self._block * self.old + self._held.shape[1]
        return self._until(-(-total * self.new // self.old))

    def _until(self, end: int) -> Tensor:
        if end <= self._done:
            return self._held[:, :0]
        first = self._block * self.new
        y = resample(self._held, *self.rates)[:, self._done - first : end - first]
        self._done = end
        return y
