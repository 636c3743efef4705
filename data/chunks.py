"""A pair cut into overlapping chunks of one length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.data.pairs import Pair
from reknob.runtime.errors import UsageError

SILENCE = 10 ** (-60 / 20)  # a chunk whose wet peak is at most this has nothing to fit
FRAME = 2048  # samples per level of `Chunks.weights`


@dataclass(frozen=True)
class Chunks:
    """The n chunks of a pair, each of N samples; a fit takes its batches from them."""

    dry: Tensor  # (n, 1, N), or (n, 2, N) of a stereo dry
    wet: Tensor  # (n, 2, N)
    warm_up: int  # samples at the start of each chunk that only fill delay lines and detectors
    starts: tuple[int, ...]  # first sample of each chunk within the pair

    def select(self, index: Tensor) -> "Chunks":
        """The chunks `index`, integers, in that order."""
        starts = tuple(self.starts[i] for i in index.tolist())
        return Chunks(self.dry[index], self.wet[index], self.warm_up, starts)

    def weights(self) -> Tensor:
        """Probabilities (n,) with which chunks are drawn: positive, with a sum of 1.

        Half of a probability is 1/(2 n), so that every chunk is drawn. The other half is proportional to the RMS of the
        wet chunk after its warm-up times the standard deviation, in dB, of its levels in frames of `FRAME` samples (at
        least -60 dBFS). It is largest for loud chunks with pauses, in which compressor, echoes and reverb are audible.

        Source: Hesterberg, Weighted Average Importance Sampling and Defensive Mixture Distributions, Technometrics 37,
        1995, for the mixture with a uniform distribution.
        """
        power = self.wet[..., self.warm_up :].square().mean(1)
        frames = power.unfold(-1, min(FRAME, power.shape[-1]), FRAME).mean(-1)
        spread = (10 * frames.clamp_min(SILENCE**2).log10()).std(1, correction=0)
        says = power.mean(1).sqrt() * spread
        equal = torch.full_like(says, 1 / len(says))
        return (equal + says / says.sum()) / 2 if says.any() else equal

    @property
    def bytes_each(self) -> int:
        """Bytes of one chunk's audio."""
        return (self.dry.nbytes + self.wet.nbytes) // len(self.dry)


def cut_chunks(pair: Pair, duration: float = 12.0, overlap: float = 5.0, least: int = 1) -> Chunks:
    """Chunks of `duration` s, starting every `duration - overlap` s; the incomplete tail is dropped.

    Chunks whose wet side peaks at or below -60 dBFS after the first `overlap` s are dropped. `least` is the number of
    samples after the overlap that the loss needs; durations that an error message suggests respect it.
    UsageError unless 0 <= overlap < duration, where the pair is shorter than one chunk, and where no chunk is left.
    """
    length, warm_up = round(duration * pair.sr), round(overlap * pair.sr)
    if not 0 <= warm_up < length:
        raise UsageError(f"chunk_overlap={overlap:g} s must be at least 0 and below chunk_duration={duration:g} s")
    total = pair.dry.shape[-1]
    if total < length:
        raise UsageError(f"{pair.name} is {total / pair.sr:.2f} s long, {_advice(total, least, pair.sr, duration)}")
    starts = range(0, total - length + 1, length - warm_up)
    loud = tuple(s for s in starts if pair.wet[:, s + warm_up : s + length].abs().max() > SILENCE)
    if not loud:
        raise UsageError(f"{pair.name} has nothing to fit: wet stays at or below -60 dBFS in all {len(starts)} chunks")
    dry, wet = (torch.stack([x[:, s : s + length] for s in loud]) for x in (pair.dry, pair.wet))
    return Chunks(dry, wet, warm_up, loud)


def _advice(total: int, least: int, sr: int, duration: float) -> str:
    """What to do with a pair of `total` samples that is shorter than a chunk of `duration` s, for an error message."""
    fits = 100 * total // sr / 100  # rounded down, so that the advice works
    spare = round(fits * sr) - least
    if spare < 0:
        return f"too short for the loss, which needs at least {least / sr:.2f} s: use a longer pair"
    overlap = min(100 * spare // sr / 100, fits / 2)
    return f"a chunk {duration:g} s: set chunk_duration={fits:g} or less, and chunk_overlap={overlap:g} or less"
