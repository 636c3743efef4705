"""TensorBoard of a fit: loss terms, every parameter in physical units, and level-matched audio."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from reknob.afx.effect import flatten
from reknob.data.audio import normalise_loudness
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Song
from reknob.runtime.errors import UsageError

# Steps between two records of the parameters; the loss terms are recorded at every step.
PARAMETERS_EVERY = 20
LOUDNESS = -18.0  # LUFS


class TensorBoardWriter:
    """Writes every song's scalars and audio into its run folder, on from an earlier run; an observer of a session.

    Used as a context, it closes what is open when the block is left early.
    """

    def __init__(self):
        self._writers: dict[Song, SummaryWriter] = {}
        self._quiet = quiet_writer_threads()

    def __enter__(self) -> "TensorBoardWriter":
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            with suppress(OSError):
                writer.close()
        self._quiet.__exit__(None, None, None)

    def begin(self, song: Song) -> None:
        """Nothing to do: the file is opened where there is something to write."""

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """The terms of a step, and now and then the values that gave them."""
        track = song.run.track
        step = track.step_count - 1
        writer = self._writer(song, step)
        for name, value in terms.items():
            writer.add_scalar(f"loss/{name}", value, step)
        if step % PARAMETERS_EVERY == 0:
            for name, value in flatten(fit.values(track.raws)).items():
                for place, number in enumerate(value.detach().reshape(-1).tolist()):
                    tag = name.replace(".", "/")
                    writer.add_scalar(f"{tag}/{place:02d}" if value.dim() else tag, number, step)

    def pause(self, song: Song) -> None:
        """Nothing to do: the file is written as it goes."""

    def end(self, song: Song) -> None:
        """Dry, wet and what was fitted, all at one loudness, mixed to mono as TensorBoard plays it."""
        run = song.run
        if run is None or (run.fitted is None and song not in self._writers):
            return
        writer = self._writer(song, run.track.step_count)
        try:
            if run.fitted is not None:
                for name, sound in {"dry": run.pair.dry, "wet": run.pair.wet, "fitted": run.fitted}.items():
                    level = _levelled(sound, run.pair.sr)
                    writer.add_audio(name, level.mean(0).clamp(-1, 1), sample_rate=run.pair.sr)
        finally:
            self._writers.pop(song).close()

    def _writer(self, song: Song, step: int) -> SummaryWriter:
        """A song's writer, whose first step is this; what an earlier run wrote of later ones is not shown."""
        if song not in self._writers:
            self._writers[song] = SummaryWriter(song.run.path, purge_step=step or None)
        return self._writers[song]


@contextmanager
def quiet_writer_threads() -> Iterator[None]:
    """Within it what breaks a TensorBoard writer's own thread is raised by the next call alone, and not printed."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _levelled(sound: Tensor, sr: int) -> Tensor:
    """A sound (C, T) at the common loudness, or as it is where it is too quiet or too short to have one."""
    try:
        return normalise_loudness(sound, sr, LOUDNESS)
    except UsageError:
        return sound
