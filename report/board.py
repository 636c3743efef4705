"""TensorBoard of a fit: loss terms, values in physical units, curves, settings, and loudness-matched excerpts."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from reknob.afx.effect import Values, flatten
from reknob.data.audio import normalise_loudness
from reknob.fitting.fit import Fit, Terms
from reknob.fitting.session import Observer, Song
from reknob.report.tables import markdown_table
from reknob.report.values import certainty_rows, value_rows
from reknob.runtime.errors import UsageError

# Steps between two records of the values; the loss terms are recorded at every step.
PARAMETERS_EVERY = 20
# Curves and arrays are drawn after so many steps, after CURVES_FACTOR times as many and so on, and at the end: a figure
# takes as long as a step of some chains.
CURVES_FIRST, CURVES_FACTOR = 20, 5
CELL = 16  # pixels of an element of a matrix
LOUDNESS = -18.0  # LUFS
EXCERPT = 8.0  # s of each recording; whole songs would be most of the run folder, which has them as flac
#: The settings by which runs are compared (under HParams).
COMPARED = (
    *("model", "epochs", "optimiser.method", "optimiser.lr", "loss.name", "start", "step_chunks", "prune", "seed"),
)


class TensorBoardWriter(Observer):
    """An observer of a session that writes every song's scalars, figures and audio into its run folder.

    A resumed run continues the curves of the earlier one. As a context manager it closes the open files at exit.

    Args:
        settings: of the fit, as groups in dicts; those of COMPARED are written with the lowest loss.
    """

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        self._settings = settings or {}
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

    def step(self, song: Song, fit: Fit, terms: Terms) -> None:
        """Writes the loss terms of a step, every PARAMETERS_EVERY steps the values, and at some steps the curves."""
        track = song.open_run.track
        # From 0: the terms are those of the parameters that the step started from.
        step = track.step_count - 1
        writer = self._writer(song, step)
        for name, value in terms.items():
            writer.add_scalar(f"loss/{name}", value, step)
        if step % PARAMETERS_EVERY == 0:
            _write_values(writer, song, fit.values(track.raws), step)
        if _has_curves(step):
            _write_curves(writer, song, fit.values(track.raws), step)

    def end(self, song: Song) -> None:
        """Writes values, curves, settings and intervals, and the loudest excerpt of the recordings that are kept.

        All at the same loudness, mixed to mono, as SummaryWriter expects.
        """
        run = song.run
        # A song that failed before its first step has no file, and gets none.
        if run is None or (run.fitted is None and song not in self._writers):
            return
        writer = self._writer(song, run.track.step_count)
        try:
            self._write_result(writer, song, run.track.step_count)
            excerpt = loudest(run.pair.wet, round(EXCERPT * run.pair.sr))
            for name, sound in run.sounds.items():
                normalised = _normalised(sound, run.pair.sr)[:, excerpt]
                # Out of range SummaryWriter clips too, but prints a warning across the progress bar.
                writer.add_audio(name, normalised.mean(0).clamp(-1, 1), sample_rate=run.pair.sr)
            if run.certainty:
                table = markdown_table(*certainty_rows(run.chain, run.values, run.certainty))
                writer.add_text("certainty", table)
        finally:
            self._writers.pop(song).close()

    def _write_result(self, writer: SummaryWriter, song: Song, step: int) -> None:
        """Writes the values of the lowest loss as those after the last step, with that loss and the settings."""
        run = song.open_run
        if not step:
            return
        _write_values(writer, song, run.values, step)
        if step > CURVES_FIRST:
            _write_curves(writer, song, run.values, step)
        chosen = {name: value for name in COMPARED if (value := _setting(self._settings, name)) is not None}
        lowest = {"loss/lowest": run.track.best.loss}
        writer.add_scalar("loss/lowest", run.track.best.loss, step)
        assert writer.file_writer is not None, "open since its first scalar"
        # Not `add_hparams`, which writes into a folder of its own.
        for summary in hparams(chosen, lowest) if chosen else ():
            writer.file_writer.add_summary(summary)

    def _writer(self, song: Song, step: int) -> SummaryWriter:
        """A song's writer, opened at `step` if it is not open; hides what an earlier run wrote for later steps."""
        if song not in self._writers:
            # A resumed run starts at its checkpoint, and the file may hold steps after it.
            self._writers[song] = SummaryWriter(song.open_run.path, purge_step=step or None)
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


def _has_curves(step: int) -> bool:
    """Whether a step is CURVES_FIRST, or CURVES_FACTOR times such a step."""
    while step > CURVES_FIRST and step % CURVES_FACTOR == 0:
        step //= CURVES_FACTOR
    return step == CURVES_FIRST


def _tag(song: Song, name: str) -> str:
    """The tag of a parameter, grouped by effect in the order of the chain: "values 07 comp/attack"."""
    effects = dict.fromkeys(name.rpartition(".")[0] for name, _ in song.open_run.chain.walk())
    effect, _, parameter = name.rpartition(".")
    return f"values {list(effects).index(effect) + 1:02d} {effect}/{parameter}"


def _write_values(writer: SummaryWriter, song: Song, values: Values, step: int) -> None:
    """Writes the scalars of a chain, with their units in the tags: "values 07 comp/attack (ms)"."""
    for row in value_rows(song.open_run.chain, values):
        unit = f" ({row.unit})" if row.unit else ""
        writer.add_scalar(_tag(song, row.name) + unit, row.value, step)


def _write_curves(writer: SummaryWriter, song: Song, values: Values, step: int) -> None:
    """Writes the curves of a chain as figures, its matrices as images and its other arrays as histograms."""
    from reknob.report.curves import curve_figures  # loads matplotlib, which a short fit does without

    # "response" stands between "loss" and "values".
    for title, figure in curve_figures(song.open_run.chain, values).items():
        writer.add_figure(f"response/{title}", figure, step)
    for name, value in flatten(values).items():
        value = value.detach().cpu()
        if value.dim() == 2 and len(set(value.shape)) == 1:
            grey = 0.5 + 0.5 * value / value.abs().max().clamp(min=1e-8)
            writer.add_image(_tag(song, name), grey.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)[None], step)
        elif value.numel() > 1:
            writer.add_histogram(_tag(song, name), value, step)


def _setting(tree: object, name: str) -> str | float | None:
    """A setting by its dotted name; None where there is none."""
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, (str, int, float)) else None


def _normalised(sound: Tensor, sr: int) -> Tensor:
    """Audio (C, T) normalised to LOUDNESS; unchanged where it is too quiet or too short to be measured."""
    try:
        return normalise_loudness(sound, sr, LOUDNESS)
    except UsageError:
        return sound
