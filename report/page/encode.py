"""Audio for a page: Opus in Ogg, which every current browser decodes at 48 kHz, as text inside the file."""

import base64
import io
from fractions import Fraction

import av
import numpy as np
from torch import Tensor

from reknob.data.audio import resample

RATE = 48_000  # Hz, the only one of Opus in browsers
FRAME = 960  # samples that the encoder takes at once, 20 ms
BITRATES = (32_000, 128_000)  # bit/s of stereo: below, the side channel is lost; above, little is heard
PEAK = 0.9  # of the audio that is encoded, as decoded peaks may be higher


def opus(x: Tensor, sr: int, bitrate: int) -> bytes:
    """Audio (2, T) at `sr` Hz, within full scale, as an Ogg file of about `bitrate` bit/s."""
    samples = resample(x.detach().cpu().float(), sr, RATE).clamp(-1, 1).numpy()
    samples = np.ascontiguousarray(np.pad(samples, ((0, 0), (0, -samples.shape[1] % FRAME))))
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout="stereo", bit_rate=bitrate)
        for start in range(0, samples.shape[1], FRAME):
            block = np.ascontiguousarray(samples[:, start : start + FRAME])
            # Interleaved samples, which the encoder takes: (1, 2 T).
            frame = av.AudioFrame.from_ndarray(block.T.reshape(1, -1), format="flt", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def bitrate_for(total_bytes: float, seconds: float, tracks: int) -> int:
    """The bit rate at which some tracks of equal length take `total_bytes` as base64 text, within BITRATES."""
    lowest, highest = BITRATES
    return round(min(max(8 * total_bytes * 3 / 4 / max(seconds * tracks, 1e-9), lowest), highest))


def as_text(content: bytes) -> str:
    """Bytes as base64 text."""
    return base64.b64encode(content).decode("ascii")
