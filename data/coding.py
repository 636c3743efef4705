"""Sound as it comes back from lossy files: mp3, Vorbis and Opus, written and read in memory by libsndfile."""

import io

import soundfile
import torch
from torch import Tensor

from reknob.data.audio import resample

#: Formats by name: libsndfile's settings of them, and the sample rate in Hz where only one is possible.
CODECS: dict[str, tuple[dict[str, str], int | None]] = {
    "mp3": ({"format": "MP3", "subtype": "MPEG_LAYER_III"}, None),
    "vorbis": ({"format": "OGG", "subtype": "VORBIS"}, None),
    "opus": ({"format": "OGG", "subtype": "OPUS"}, 48000),
}
MOST = 0.9  # compression: one channel takes 130 to 40 kbit/s as mp3, 220 to 65 as Vorbis, 260 to 33 as Opus
PEAK = 0.97


def lossy_round_trip(x: Tensor, sr: int, codec: str, compression: float = 0.2) -> Tensor:
    """x (1, N) at `sr` Hz, written to a file of a codec with libsndfile's compression of 0 to 1 and read again.

    At the same level and time, float32 on the CPU.
    """
    kind, only = CODECS[codec]
    rate = only or sr
    peak = x.abs().max().clamp(min=1e-9).cpu() / PEAK
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, compression_level=compression, **kind) as written:
        written.write(resample(x.cpu().float() / peak, sr, rate)[0].numpy())
    file.seek(0)
    heard = resample(torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None], rate, sr)
    return heard[:, : x.shape[-1]] * peak


def random_lossy_round_trip(x: Tensor, sr: int, share: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """x (B, 1, N) at `sr` Hz, about a `share` of its items from files of a random codec and compression.

    There a clipped waveform has lost its flat tops: an estimator for files has to hear such as well.
    """
    chosen, codecs, compressions = torch.rand(3, len(x), generator=generator).tolist()
    names = list(CODECS)
    y = x.clone()
    for i in range(len(x)):
        if chosen[i] < share:
            y[i] = lossy_round_trip(x[i], sr, names[int(codecs[i] * len(names))], compressions[i] * MOST).to(x)
    return y
