"""TensorBoard of a fit: loss terms, parameter values in physical units, and loudness-matched excerpts of the audio."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from reknob.afx.effect import flatten
from reknob.data.audio import normalise_loudness
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Song
from reknob.report.tables import certainty_rows
from reknob.runtime.errors import UsageError

# Steps between two records of the parameters, of which a full chain has over a hundred; the loss terms are recorded at
# every step.
PARAMETERS_EVERY = 20
LOUDNESS = -18.0  # LUFS
EXCERPT = 8.0  # s of each recording; whole songs would be most of the run folder, which has them as flac


class TensorBoardWriter:
    """An observer of a session that writes every song's scalars and audio into its run folder.

    A resumed run continues the curves of the earlier one. As a context manager it closes the open files at exit.
    """

    def __init__(self) -> None:
        self._writers: dict[Song, SummaryWriter] = {}
        self._quiet = quiet_writer_threads()

    def __enter__(self) -> "TensorBoardWriter":
        self._quiet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            # A full disk must not keep the other writers from being closed.
            with suppress(OSError):
                writer.close()
        self._quiet.__exit__(None, None, None)

    def begin(self, song: Song) -> None:
        """Nothing to do: the file is opened by the first write."""

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """Writes the loss terms of a step and, every PARAMETERS_EVERY steps, the values."""
        assert song.run is not None
        track = song.run.track
        # From 0: the terms are those of the parameters that the step started from.
        step = track.step_count - 1
        writer = self._writer(song, step)
        for name, value in terms.items():
            writer.add_scalar(f"loss/{name}", value, step)
        if step % PARAMETERS_EVERY == 0:
            for name, value in flatten(fit.values(track.raws)).items():
                tag = name.replace(".", "/")
                for i, number in enumerate(value.detach().reshape(-1).tolist()):
                    writer.add_scalar(f"{tag}/{i:02d}" if value.dim() else tag, number, step)

    def pause(self, song: Song) -> None:
        """Nothing to do: the file is written continuously."""

    def end(self, song: Song) -> None:
        """Writes the loudest excerpt of the recordings that are kept, at the same loudness, mixed to mono, as
        SummaryWriter expects, and the intervals of the parameters.
        """
        run = song.run
        # A song that failed before its first step has no file, and gets none.
        if run is None or (run.fitted is None and song not in self._writers):
            return
        writer = self._writer(song, run.track.step_count)
        try:
            excerpt = loudest(run.pair.wet, round(EXCERPT * run.pair.sr))
            for name, sound in run.sounds.items():
                normalised = _normalised(sound, run.pair.sr)[:, excerpt]
                # Out of range SummaryWriter clips too, but prints a warning across the progress bar.
                writer.add_audio(name, normalised.mean(0).clamp(-1, 1), sample_rate=run.pair.sr)
            if run.certainty:
                header, rows = certainty_rows(run.chain, run.values, run.certainty)
                lines = [header, ["---"] * len(header), *rows]
                writer.add_text("certainty", "\n".join(f"| {' | '.join(line)} |" for line in lines))
        finally:
            self._writers.pop(song).close()

    def _writer(self, song: Song, step: int) -> SummaryWriter:
        """A song's writer, opened at `step` if it is not open; hides what an earlier run wrote for later steps."""
        if song not in self._writers:
            assert song.run is not None
            # A resumed run starts at its checkpoint, and the file may hold steps after it.
            self._writers[song] = SummaryWriter(song.run.path, purge_step=step or None)
        return self._writers[song]


def loudest(x: Tensor, length: int) -> slice:
    """The `length` samples of `x` (C, T) with the largest power; all of it where it is shorter."""
    power = x.double().square().sum(0).cumsum(0)
    if len(power) <= length:
        return slice(0, len(power))
    start = int((power[length:] - power[:-length]).argmax())
    return slice(start + 1, start + 1 + length)


@contextmanager
def quiet_writer_threads() -> Iterator[None]:
    """Suppresses the printed traceback of a TensorBoard writer's thread; its next call raises the error anyway."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _normalised(sound: Tensor, sr: int) -> Tensor:
    """Audio (C, T) normalised to LOUDNESS; unchanged where it is too quiet or too short to be measured."""
    try:
        return normalise_loudness(sound, sr, LOUDNESS)
    except UsageError:
        return sound
