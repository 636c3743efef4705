"""Audio as the browser gets it: at one loudness, as a file in memory."""

import io

import numpy as np
import soundfile
from torch import Tensor

from reknob.data.audio import loudness, loudness_gain
from reknob.runtime.errors import UsageError

PLAYER_LUFS = -20.0


def level_matched(x: Tensor, sr: int) -> Tensor:
    """Audio (C, T) at PLAYER_LUFS and below full scale, for players that switch between recordings."""
    try:
        x = x * loudness_gain(loudness(x[:2], sr), PLAYER_LUFS)
    except UsageError:  # silent, or too short to be measured
        return x
    return x / max(1.0, float(x.abs().max()))


def wav(x: Tensor, sr: int, *, exact: bool = False) -> bytes:
    """A wav file of audio (C, T): 16 bit to be played, or float32 to be kept, which holds any level."""
    file = io.BytesIO()
    samples = np.ascontiguousarray(x.detach().cpu().float().numpy().T)
    soundfile.write(file, samples, sr, format="WAV", subtype="FLOAT" if exact else "PCM_16")
    return file.getvalue()
