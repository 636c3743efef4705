"""Audio files read and written, resampling, and loudness (ITU-R BS.1770-4)."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import sosfilt
from torch import Tensor

from afx.functional.torchaudio_import import torchaudio
from runtime.errors import UsageError
from runtime.files import atomic_path

log = logging.getLogger(__name__)

#: What can be written: suffix -> format and sample type of libsndfile. A wav never clips; a flac may.
FORMATS = {
    ".wav": ("WAV", "FLOAT"),
    ".flac": ("FLAC", "PCM_24"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
}
#: What is looked for in folders.
AUDIO_SUFFIXES = (*FORMATS, ".aif", ".aiff")

#: The filter that resampy calls "kaiser_best", in torchaudio's terms: aliases stay 140 dB down.
KAISER_BEST = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
#: Largest product of the two sides of a ratio of rates: the filter bank has about that many taps.
LARGEST_RATIO = 4_000_000

WRITE_BLOCK = 65536  # libsndfile's Vorbis encoder overflows its stack where a file is written in one call


def duration(path: str | Path) -> float:
    """Length of an audio file in s, 0 where it tells none."""
    try:
        return soundfile.info(path).duration
    except (soundfile.LibsndfileError, OSError):
        return 0.0


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """The whole of an audio file (wav, flac, mp3, ogg, opus, aiff) as float32 `(C, T)`, and its sample rate in Hz.

    UsageError where the file is missing, a folder, not audio, empty, or holds NaN or infinite samples.
    """
    with _opened(path) as file:
        samples, sr = file.read(dtype="float32", always_2d=True), file.samplerate
    if not len(samples):
        raise UsageError(f"{path} is empty: it holds no samples")
    return _finite(samples, path, 0, sr), sr


def read_rate(path: str | Path) -> int:
    """The sample rate of an audio file in Hz; UsageError as for `read_audio`."""
    with _opened(path) as file:
        return file.samplerate


def read_blocks(path: str | Path, size: int) -> Iterator[Tensor]:
    """An audio file in blocks `(C, T)` of `size` samples, the last one shorter; UsageError as for `read_audio`."""
    start = 0
    with _opened(path) as file:
        for samples in file.blocks(size, dtype="float32", always_2d=True):
            yield _finite(samples, path, start, file.samplerate)
            start += len(samples)
    if not start:
        raise UsageError(f"{path} is empty: it holds no samples")


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    path = Path(path).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give an audio file")
    if not path.exists():
        raise UsageError(f"{path} does not exist: give the path of an audio file")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        why = error.error_string.strip().rstrip(".")
        raise UsageError(f"{path} cannot be read as audio ({why}): give wav, flac, mp3, ogg, opus or aiff") from None


def _finite(samples: np.ndarray, path: str | Path, start: int, sr: int) -> Tensor:
    """Samples (T, C) from the frame `start` on, as (C, T)."""
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        first = (start + finite.argmin()) / sr
        raise UsageError(f"{path} holds NaN or infinite samples, the first at {first:.3f} s: export it again")
    return torch.from_numpy(samples.T.copy())


def output_format(path: str | Path) -> tuple[str, str]:
    """Format and sample type that a file's suffix asks for; UsageError for an unknown one."""
    suffix = Path(path).suffix
    if suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: unknown audio suffix {suffix!r}; known: {', '.join(FORMATS)}")
    return FORMATS[suffix.lower()]


def write_audio(path: str | Path, x: Tensor, sr: int) -> None:
    """Write `x` `(C, T)` in the format of the suffix; the file is whole at every instant, and its folder is made.

    UsageError for another suffix and for what a format cannot hold (opus: 8, 12, 16, 24 and 48 kHz only).
    """
    with audio_writer(path, sr, x.shape[0]) as write:
        write(x)


@contextmanager
def audio_writer(path: str | Path, sr: int, channels: int) -> Iterator[Callable[[Tensor], None]]:
    """The same block by block: a function that appends `(channels, T)`; the file is there when the context ends."""
    path = Path(path).expanduser()
    format, subtype = output_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = 0.0

    def write(x: Tensor) -> None:
        nonlocal peak
        samples = x.detach().cpu().float().numpy().T
        peak = max(peak, np.abs(samples).max(initial=0.0))
        for start in range(0, len(samples), WRITE_BLOCK):
            file.write(samples[start : start + WRITE_BLOCK])

    try:
        with atomic_path(path) as part, soundfile.SoundFile(part, "w", sr, channels, subtype, format=format) as file:
            yield write
    except soundfile.LibsndfileError:
        raise UsageError(
            f"{path}: {path.suffix} cannot hold {channels} channels at {sr} Hz: write wav, or resample"
        ) from None
    if subtype.startswith("PCM") and peak > 1.0:
        log.warning("%s: peaks %.1f dB over full scale are clipped; wav would keep them", path, 20 * math.log10(peak))


def resample(x: Tensor, sr_from: int, sr_to: int) -> Tensor:
    """`x` `(C, T)` at `sr_from` Hz brought to `sr_to` Hz, `(C, ceil(T sr_to / sr_from))`, by a windowed sinc.

    UsageError for rates without a small ratio (44056 : 44100 = 11014 : 11025): the filters would take gigabytes.
    """
    common = math.gcd(sr_from, sr_to)
    ratio = sr_from // common, sr_to // common
    if ratio[0] * ratio[1] > LARGEST_RATIO:
        raise UsageError(
            f"sample rates {sr_from} and {sr_to} Hz have no small ratio ({ratio[0]} : {ratio[1]}): "
            f"resample the file first, for example sox in.wav -r {sr_to} out.wav"
        )
    return torchaudio.functional.resample(x, sr_from, sr_to, **KAISER_BEST)


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
    UsageError for more than two channels or less than 0.4 s.
    """
    return loudness_of_blocks([x], sr)


def loudness_of_blocks(blocks: Iterable[Tensor], sr: int) -> float:
    """The same of a sound that comes in blocks `(C, T)` of any size."""
    sections, hop = _k_weighting(sr), round(0.1 * sr)
    state, rest, energy = None, np.zeros(0), []
    length = 0
    for x in blocks:
        if len(x) > 2:
            raise UsageError(f"loudness of {len(x)} channels: only mono and stereo can be measured")
        state = np.zeros((len(sections), len(x), 2)) if state is None else state
        weighted, state = sosfilt(sections, x.detach().cpu().double().numpy(), zi=state)
        rest = np.concatenate([rest, (weighted**2).sum(axis=0)])
        ready = len(rest) // hop * hop
        energy += rest[:ready].reshape(-1, hop).sum(1).tolist()
        rest, length = rest[ready:], length + x.shape[1]
    if len(energy) < 4:
        raise UsageError(f"{length / sr:.3f} s is too short to measure loudness: 0.4 s are needed")
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
    """The factor that brings a sound of `level` LUFS to `lufs` LUFS; UsageError where it is silent."""
    if level == -math.inf:
        raise UsageError("silent (nothing above -70 LUFS): its loudness cannot be normalised")
    return 10 ** ((lufs - level) / 20)
