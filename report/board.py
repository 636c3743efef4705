"""TensorBoard of a fit: loss terms, every parameter in physical units, and level-matched audio."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from afx.effect import Values, flatten
from data.audio import normalise_loudness

# Steps between two records of the parameters; the loss terms are recorded at every step.
PARAMETERS_EVERY = 20
LOUDNESS = -18.0  # LUFS


class Board:
    """Writes one run's scalars and audio beside its other files; `step` continues where an earlier run stopped."""

    def __init__(self, folder: Path, step: int = 0):
        self.writer = SummaryWriter(folder, purge_step=step or None)

    def scalars(self, step: int, terms: dict[str, float], values: Callable[[], Values]) -> None:
        """The terms of a step, and now and then the values that gave them."""
        for name, value in terms.items():
            self.writer.add_scalar(f"loss/{name}", value, step)
        if step % PARAMETERS_EVERY == 0:
            for name, value in flatten(values()).items():
                for place, number in enumerate(value.detach().reshape(-1).tolist()):
                    tag = name.replace(".", "/")
                    self.writer.add_scalar(f"{tag}/{place:02d}" if value.dim() else tag, number, step)

    def audio(self, sounds: dict[str, Tensor], sr: int) -> None:
        """Sounds (C, T) by name, all at one loudness, mixed to mono as TensorBoard plays it."""
        for name, sound in sounds.items():
            level = normalise_loudness(sound, sr, LOUDNESS)
            self.writer.add_audio(name, level.mean(0).clamp(-1, 1), sample_rate=sr)

    def close(self) -> None:
        self.writer.close()
