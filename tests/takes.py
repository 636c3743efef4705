"""A short take and its mix, as files, and the settings that fit them in seconds."""

from pathlib import Path

import torch
from torch import Tensor

from reknob.data.audio import write_audio

SR = 44100
SMALL = ["chunk_duration=1.5", "chunk_overlap=0.5", "epochs=3"]
QUICK = [*SMALL, "model=eq_comp"]
SHORT = ["chain.sends.delay.ir_duration=2", "chain.sends.reverb.ir_duration=1", "chain.sends.delay.gain.default=0.4"]
RUN_FILES = {"config.yaml", "meta.json", "checkpoint.ckpt", "parametrised.pth", "preset.json"}
RUN_FILES |= {"dry.flac", "wet.flac", "fitted.flac"}


def take(seconds: float = 3.0, seed: int = 0) -> Tensor:
    """A dry take (1, T): noise that comes and goes."""
    t = torch.arange(round(seconds * SR)) / SR
    phrases = (torch.sin(2 * torch.pi * 1.5 * t) > 0).float() + 0.001
    return (0.1 * torch.randn(len(t), generator=torch.Generator().manual_seed(seed)) * phrases)[None]


def mixed(dry: Tensor) -> Tensor:
    """Its mix (2, T), with an echo on either side."""
    return torch.stack([dry[0] + 0.4 * dry[0].roll(round(side * SR)) for side in (0.17, 0.3)])


def write_pair(folder: Path, dry: Tensor | None = None, wet: Tensor | None = None) -> list[str]:
    """The pair's files, and the arguments that name them."""
    dry = take() if dry is None else dry
    write_audio(folder / "take.wav", dry, SR)
    write_audio(folder / "song.wav", mixed(take()) if wet is None else wet, SR)
    return [f"dry={folder / 'take.wav'}", f"wet={folder / 'song.wav'}", f"log_dir={folder / 'logs'}"]


def write_takes(folder: Path) -> Path:
    """A folder of four recordings of 2 s, as trainings take them."""
    for seed in range(4):
        write_audio(folder / f"take{seed}.wav", take(2.0, seed), SR)
    return folder
