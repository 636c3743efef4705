"""Lossy coding round trips: mp3, Vorbis and Opus, encoded and decoded in memory by libsndfile."""

import io
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from reknob.data.audio import resample
from reknob.data.excerpts import ALONE, Share


class Codec(NamedTuple):
    """libsndfile's names of a lossy format, and the sample rate in Hz where it supports only one."""

    format: str
    subtype: str
    sr: int | None


CODECS = {
    "mp3": Codec("MP3", "MPEG_LAYER_III", None),
    "vorbis": Codec("OGG", "VORBIS", None),
    "opus": Codec("OGG", "OPUS", 48000),
}
#: Largest random compression level. From 0 to it, one channel takes 130 to 40 kbit/s as mp3, 220 to 65 as Vorbis, 260
#: to 33 as Opus.
MOST = 0.9
PEAK = 0.97  # of the audio that is encoded: levels below full scale do not affect the result


def lossy_round_trip(x: Tensor, sr: int, codec: str, compression: float = 0.2) -> Tensor:
    """`x` `(1, N)` at `sr` Hz, encoded with libsndfile's compression level in [0, 1] and decoded, float32 on the CPU.

    Level, delay and length are those of `x`.
    """
    format, subtype, only_rate = CODECS[codec]
    rate = only_rate or sr
    peak = x.abs().max().clamp(min=1e-9).cpu() / PEAK
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, 1, subtype=subtype, format=format, compression_level=compression
    ) as encoded:
        encoded.write(resample(x.cpu().float() / peak, sr, rate)[0].numpy())
    file.seek(0)
    decoded = resample(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None], rate, sr)
    return decoded[:, : x.shape[-1]] * peak


def random_lossy_round_trip(
    x: Tensor, sr: int, probability: float = 1.0, generator: torch.Generator | None = None, share: Share = ALONE
) -> Tensor:
    """`x` `(B, 1, N)` at `sr` Hz, each item with some probability after a round trip with random codec and compression.

    Lossy coding removes the flat tops of a clipped waveform; an estimator for such files must be trained with them.
    """
    # Of several processes each draws for the whole batch, so that all draw the same numbers.
    drawn = torch.rand(3, share.count * len(x), generator=generator)[:, share.rank :: share.count]
    chosen, codecs, compressions = drawn.tolist()
    names = list(CODECS)
    y = x.clone()
    for i in range(len(x)):
        if chosen[i] < probability:
            y[i] = lossy_round_trip(x[i], sr, names[int(codecs[i] * len(names))], compressions[i] * MOST).to(x)
    return y
