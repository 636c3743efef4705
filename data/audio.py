"""Audio files read and written, resampling, and loudness (ITU-R BS.1770-4)."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy  # which loads its parts where they are first used: `signal` takes a third as long as torch
import torch
from torch import Tensor

from reknob.data.audio_output import FORMATS, audio_writer, bits_like, check_audio_output, output_format, write_audio
from reknob.data.decoding import AUDIO_FILES, AUDIO_SUFFIXES, open_audio
from reknob.data.resampling import resample
from reknob.runtime.errors import UsageError
from reknob.runtime.memory import free_bytes

#: What the rest of the project reads and writes audio with.
__all__ = [
    "AUDIO_FILES",
    "AUDIO_SUFFIXES",
    "FORMATS",
    "LoudnessError",
    "audio_writer",
    "bits_like",
    "check_audio_output",
    "duration",
    "loudness",
    "loudness_gain",
    "loudness_of_blocks",
    "normalise_loudness",
    "output_format",
    "read_audio",
    "read_bits",
    "read_blocks",
    "read_rate",
    "resample",
    "write_audio",
]

READ_BLOCK = 2**18  # frames; memory is allocated block by block, as the length in a header may be wrong


def duration(path: str | Path) -> float:
    """Length of an audio file in s according to its header, 0 where it is unknown or the file cannot be read."""
    try:
        with open_audio(path) as file:
            return file.seconds()
    except (UsageError, OSError):
        return 0.0


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """Samples `(C, T)` float32 and sample rate in Hz of an audio file, of any format that libsndfile or FFmpeg decodes.

    UsageError where the file is missing, no regular file, not audio, damaged or empty, where it holds NaN or infinite
    samples, and where it does not fit into memory.
    """
    blocks = list(_within_memory(read_blocks(path, READ_BLOCK), path))
    return torch.cat(blocks, dim=1), read_rate(path)


def read_rate(path: str | Path) -> int:
    """The sample rate of an audio file in Hz; UsageError as for `read_audio`."""
    with open_audio(path) as file:
        return file.sr


def read_bits(path: str | Path) -> int | None:
    """Bits per sample that a copy of an audio file needs: 16, 24, or 32 for floats; None for a lossy one.

    UsageError as for `read_audio`.
    """
    with open_audio(path) as file:
        return file.bits


def read_blocks(path: str | Path, size: int) -> Iterator[Tensor]:
    """An audio file in blocks `(C, T)` of at most `size` samples; UsageError as for `read_audio`."""
    start = 0
    with open_audio(path) as file:
        for samples in file.blocks(size):
            yield _finite(samples, path, start, file.sr)
            start += len(samples)
    if not start:
        raise UsageError(f"{path} is empty: it holds no samples")


def _within_memory(blocks: Iterable[Tensor], path: str | Path) -> Iterator[Tensor]:
    """The blocks; UsageError as soon as all of them and a copy no longer fit into memory."""
    room = free_bytes(torch.device("cpu")) / 2
    for x in blocks:
        room -= x.nbytes
        if room < 0:
            raise UsageError(f"{path} is too long for the memory of this machine: cut it into parts")
        yield x


def _finite(samples: np.ndarray, path: str | Path, start: int, sr: int) -> Tensor:
    """Samples `(T, C)`, which begin at frame `start` of the file, as `(C, T)`; UsageError if any is not finite."""
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        first = (start + finite.argmin()) / sr
        raise UsageError(f"{path} holds NaN or infinite samples, the first at {first:.3f} s: export it again")
    return torch.from_numpy(samples.T.copy())


class LoudnessError(UsageError):
    """Audio whose loudness cannot be measured, or is that of silence."""


def _k_weighting(sr: int) -> np.ndarray:
    """The two K-weighting filters at any sample rate, as second-order sections `(2, 6)` (De Man 2014)."""
    k, q = math.tan(math.pi * 1681.974450955533 / sr), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    b = np.array([high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]) / a0
    shelf = [*b, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    k, q = math.tan(math.pi * 38.13547087602444 / sr), 0.5003270373238773
    a0 = 1 + k / q + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
    return np.array([shelf, high_pass])


def loudness(x: Tensor, sr: int) -> float:
    """Integrated loudness of `x` `(C, T)`, mono or stereo, in LUFS; -inf where no block lies above -70 LUFS.

    -0.691 + 10 log10 of the mean over blocks of 0.4 s, 75 % overlapping, of the K-weighted power summed over channels;
    blocks below -70 LUFS are left out, then those 10 LU below the mean of the rest (ITU-R BS.1770-4).
    LoudnessError, a UsageError, for more than two channels or less than 0.4 s.
    """
    return loudness_of_blocks([x], sr)


def loudness_of_blocks(blocks: Iterable[Tensor], sr: int) -> float:
    """Integrated loudness as `loudness`, of audio given in blocks `(C, T)` of any size."""
    sections, hop = _k_weighting(sr), round(0.1 * sr)
    # A block of the standard is four hops: the energy is summed per hop, so that only less than a hop is kept.
    state, rest, energy = None, np.zeros(0), []
    length = 0
    for x in blocks:
        if len(x) > 2:
            raise LoudnessError(f"loudness of {len(x)} channels: only mono and stereo can be measured")
        state = np.zeros((len(sections), len(x), 2)) if state is None else state
        weighted, state = scipy.signal.sosfilt(sections, x.detach().cpu().double().numpy(), zi=state)
        rest = np.concatenate([rest, (weighted**2).sum(axis=0)])
        ready = len(rest) // hop * hop
        energy += rest[:ready].reshape(-1, hop).sum(1).tolist()
        rest, length = rest[ready:], length + x.shape[1]
    if len(energy) < 4:
        raise LoudnessError(f"{length / sr:.3f} s is too short to measure loudness: 0.4 s are needed")
    power = np.convolve(energy, np.ones(4), "valid") / (4 * hop)
    power = power[power > 10 ** ((-70 + 0.691) / 10)]
    if not len(power):
        return -math.inf
    power = power[power > 0.1 * power.mean()]
    return float(-0.691 + 10 * np.log10(power.mean()))


def normalise_loudness(x: Tensor, sr: int, lufs: float) -> Tensor:
    """`x` `(C, T)` scaled to an integrated loudness of `lufs` LUFS; UsageError where it is silent or under 0.4 s."""
    return x * loudness_gain(loudness(x, sr), lufs)


def loudness_gain(level: float, lufs: float) -> float:
    """The factor that scales audio of `level` LUFS to `lufs` LUFS; LoudnessError, a UsageError, where it is silent."""
    if level == -math.inf:
        raise LoudnessError("silent (nothing above -70 LUFS): its loudness cannot be normalised")
    return 10 ** ((lufs - level) / 20)
