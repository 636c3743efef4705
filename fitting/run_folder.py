"""The run folder of a fit, updated while it runs: settings, checkpoints, record, values, audio."""

import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from reknob.afx.effect import Values, flatten, nest
from reknob.afx.stream import render
from reknob.data.pairs import Pair
from reknob.fitting.certainty import certainty
from reknob.fitting.recipe import Recipe
from reknob.fitting.run_preset import write_run_preset
from reknob.fitting.settings import FitSettings
from reknob.fitting.track import TrackState
from reknob.formats import runs
from reknob.formats.certainty import Certainty, write_certainty
from reknob.formats.effects import EFFECTS, write_effects
from reknob.formats.preset_document import is_document
from reknob.formats.provenance import environment, hashes
from reknob.formats.run_audio import KEPT, write_run_audio
from reknob.runtime.errors import UsageError
from reknob.runtime.files import absolute, input_path, remove_temporary, write_text
from reknob.runtime.locks import FolderLock
from reknob.runtime.settings import read_yaml

ERRORS = "error.log"


class RunFolder:
    """The run folder of one track.

    Args:
        path: the folder, which exists.
        pair: the recordings.
        track: the state of their fit.
        recipe: the settings of the fit, its chain, and the device on which the result is rendered.
        lock: of the folder, so that only this process writes it; released by `close`.
    """

    def __init__(self, path: Path, pair: Pair, track: TrackState, recipe: Recipe, lock: FolderLock) -> None:
        self.path, self.pair, self.track, self._lock = path, pair, track, lock
        self.chain, self.device, self._recipe = recipe.chain, recipe.device, recipe
        self.values: Values = {}  # of the lowest loss, after `close`
        self.fitted: Tensor | None = None  # (2, T), dry rendered with them, after `close` and a step
        self._loss = recipe.loss if recipe.settings.certainty else None
        self.certainty: dict[str, Certainty] = {}  # of the values, after `close` of a fit that took all its steps

    @classmethod
    def open(cls, log_dir: Path, before: Path | None, pair: Pair, track: TrackState, recipe: Recipe) -> "RunFolder":
        """A new run folder in `log_dir`, or that of the run `before`, to resume it.

        UsageError where the folder cannot be written, and where the checkpoint of the run before is damaged or of
        another fit.
        """
        path = before or runs.new_run(log_dir, pair.name)
        lock = runs.lock(path)
        try:
            if before:
                cls._resume(before, track)
                runs.add_resumption(before, {"step": track.step_count} | environment(recipe.device))
            else:
                begin_run(path, pair, recipe)
                # So that a resumed fit has the start, which may have taken a while to find.
                runs.save_checkpoint(path, track.state_dict())
        except BaseException:
            lock.release()
            raise
        return cls(path, pair, track, recipe, lock)

    @staticmethod
    def _resume(before: Path, track: TrackState) -> None:
        """Restores the state in which the run before stopped."""
        state = runs.load_checkpoint(before)
        try:
            track.load_state_dict(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"{before}: its checkpoint is of another fit; use resume=false for a new run") from error
        runs.update_settings(before, epochs=track.epochs)
        (before / EFFECTS).unlink(missing_ok=True)
        remove_temporary(before)

    @property
    def sounds(self) -> dict[str, Tensor]:
        """The recordings (C, T) by name that the settings keep; none before `close`, or without a step."""
        if self.fitted is None:
            return {}
        sounds = {"dry": self.pair.dry, "wet": self.pair.wet, "fitted": self.fitted}
        return {name: sounds[name] for name in KEPT[self._recipe.settings.keep_audio]}

    def save(self) -> None:
        """Writes the checkpoint that a later run resumes from."""
        runs.save_checkpoint(self.path, self.track.state_dict())

    def close(self, ended: str | None, stopped: Callable[[], bool] | None = None) -> None:
        """Writes checkpoint, record, best values and the audio rendered with them.

        `ended` is the reason why the fit ended early: "interrupted" or "error"; None where all steps were taken. Then
        effects are removed if the settings say so, until `stopped()`, and the certainty of what is left is computed.
        """
        try:
            if ended or stopped is None or not self._recipe.prunes(self.track):
                self._close(ended)
                return
            self._close(None, certain=False)
            # Only now, as the run is complete without it.
            self._recipe.prune(self.track, stopped)
            self._close(None)
        finally:
            self._lock.release()

    def _close(self, ended: str | None, *, certain: bool = True) -> None:
        track, pair = self.track, self.pair
        self.save()
        self.values = track.best_values(self.chain)
        flat = flatten(self.values)
        record = {
            "alignment_shift": pair.alignment_shift,
            "losses": track.losses,
            "terminated_by": ended,
            "undone": track.undone,
            "raws": runs.record_of(track.best.raws),
        }
        if track.losses:
            moved = nest({name: value.to(self.device) for name, value in flat.items()})
            self.fitted = render(self.chain.eval(), moved, pair.dry.to(self.device)).cpu()
            record["audio_gain_db"] = write_run_audio(self.path, self.sounds, pair.sr)
            if self._loss and certain and not ended:
                self.certainty = certainty(self.chain, track.chunks, self._loss, moved)
                write_certainty(self.path, self.certainty)
            write_run_preset(self.path, pair, track, self._recipe)
        # The record comes last: a run whose record says that it ended is complete.
        runs.finish(self.path, flat, record)
        if track.effects:
            write_effects(self.path, track.effects)


def begin_run(path: Path, pair: Pair, recipe: Recipe) -> None:
    """Writes settings and record of a new run, with all that it takes to repeat it (`fitting.reproduce`)."""
    files = {"dry": pair.dry_path, "wet": pair.wet_path}
    start = recipe.settings.start
    inputs = files | ({"start": input_path(start)} if is_document(start) else {})
    record = environment(recipe.device) | {"seed": recipe.settings.seed, "inputs": hashes(inputs)}
    paths = {"input_path": absolute(pair.dry_path), "target_path": absolute(pair.wet_path)}
    runs.begin(path, recipe.tree, **paths, pair_check=pair.check.record(), reproduce=record)


def check_resumable(folder: Path, recipe: Recipe) -> None:
    """Refuses to resume a run with other settings; UsageError that names them.

    The number of epochs may differ, except where the learning rate is annealed over them: the steps taken so far would
    have had other sizes.
    """
    runs.check_same_fit(folder, recipe.tree, asdict(FitSettings()))
    planned = read_yaml(folder / runs.CONFIG).get("epochs")
    if not recipe.is_annealed or planned in (None, recipe.epochs):
        return
    anew = f"begin anew with resume=false epochs={recipe.epochs}"
    if runs.has_ended(folder, planned):
        raise UsageError(f"{folder}: its annealed schedule ended at {planned} epochs and cannot be extended; {anew}")
    raise UsageError(
        f"{folder}: its learning rate is annealed over {planned} epochs; resume with epochs={planned}, or {anew}"
    )


def write_error(folder: Path, error: BaseException) -> Path | None:
    """Writes an error's traceback to error.log in a folder, created if missing; None where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ERRORS, "".join(traceback.format_exception(error)))
    except OSError:
        return None
    return folder / ERRORS
