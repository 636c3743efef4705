"""Audio files read and written, resampling, and loudness (ITU-R BS.1770-4)."""

import logging
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import sosfilt
from torch import Tensor

from afx.functional.torchaudio_import import torchaudio
from data.files import whole

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


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """The whole of an audio file (wav, flac, mp3, ogg, opus, aiff) as float32 `(C, T)`, and its sample rate in Hz.

    ValueError where the file is missing, a folder, not audio, empty, or holds NaN or infinite samples.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give an audio file")
    if not path.exists():
        raise ValueError(f"{path} does not exist: give the path of an audio file")
    try:
        samples, sr = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        why = error.error_string.strip().rstrip(".")
        raise ValueError(f"{path} cannot be read as audio ({why}): give wav, flac, mp3, ogg, opus or aiff") from None
    if not len(samples):
        raise ValueError(f"{path} is empty: it holds no samples")
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        start = finite.argmin() / sr
        raise ValueError(f"{path} holds NaN or infinite samples, the first at {start:.3f} s: export it again")
    return torch.from_numpy(samples.T.copy()), sr


def write_audio(path: str | Path, x: Tensor, sr: int) -> None:
    """Write `x` `(C, T)` in the format of the suffix; the file is whole at every instant, and its folder is made.

    ValueError for another suffix and for what a format cannot hold (opus: 8, 12, 16, 24 and 48 kHz only).
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: unknown audio suffix {path.suffix!r}; known: {', '.join(FORMATS)}")
    format, subtype = FORMATS[path.suffix.lower()]
    samples = x.detach().cpu().float().numpy().T
    peak = np.abs(samples).max(initial=0.0)
    if subtype.startswith("PCM") and peak > 1.0:
        log.warning("%s: peaks %.1f dB over full scale are clipped; wav would keep them", path, 20 * math.log10(peak))
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = samples.shape[1]
    try:
        with whole(path) as part, soundfile.SoundFile(part, "w", sr, channels, subtype, format=format) as file:
            for start in range(0, len(samples), WRITE_BLOCK):
                file.write(samples[start : start + WRITE_BLOCK])
    except soundfile.LibsndfileError:
        raise ValueError(
            f"{path}: {path.suffix} cannot hold {channels} channels at {sr} Hz: write wav, or resample"
        ) from None


def resample(x: Tensor, sr_from: int, sr_to: int) -> Tensor:
    """`x` `(C, T)` at `sr_from` Hz brought to `sr_to` Hz, `(C, ceil(T sr_to / sr_from))`, by a windowed sinc.

    ValueError for rates without a small ratio (44056 : 44100 = 11014 : 11025): the filters would take gigabytes.
    """
    common = math.gcd(sr_from, sr_to)
    ratio = sr_from // common, sr_to // common
    if ratio[0] * ratio[1] > LARGEST_RATIO:
        raise ValueError(
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
    ValueError for more than two channels or less than 0.4 s.
    """
    channels, length = x.shape
    block, hop = round(0.4 * sr), round(0.1 * sr)
    if channels > 2:
        raise ValueError(f"loudness of {channels} channels: only mono and stereo can be measured")
    if length < block:
        raise ValueError(f"{length / sr:.3f} s is too short to measure loudness: 0.4 s are needed")
    weighted = sosfilt(_k_weighting(sr), x.detach().cpu().double().numpy())
    energy = np.concatenate([[0.0], np.cumsum((weighted**2).sum(axis=0))])
    power = (energy[block::hop] - energy[:-block:hop]) / block
    power = power[power > 10 ** ((-70 + 0.691) / 10)]
    if not len(power):
        return -math.inf
    power = power[power > 0.1 * power.mean()]
    return float(-0.691 + 10 * np.log10(power.mean()))


def normalise_loudness(x: Tensor, sr: int, lufs: float) -> Tensor:
    """`x` `(C, T)` scaled to an integrated loudness of `lufs` LUFS; ValueError where it is silent or under 0.4 s."""
    level = loudness(x, sr)
    if level == -math.inf:
        raise ValueError("silent (nothing above -70 LUFS): its loudness cannot be normalised")
    return x * 10 ** ((lufs - level) / 20)
