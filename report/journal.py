"""What the fit of a pair leaves behind, kept up to date while it runs: run folder, checkpoints, TensorBoard, sound."""

from functools import partial
from pathlib import Path

import torch

from afx.effect import Effect, flatten, nest
from afx.stream import render
from data.audio import write_audio
from data.pairs import Pair
from fitting.fit import Fit, Terms
from fitting.track import Track
from formats import runs
from report.board import Board
from report.tables import settings_table
from runtime.errors import UsageError


class Journal:
    """The run folder of one track."""

    def __init__(self, folder: Path, pair: Pair, track: Track):
        self.folder, self.pair, self.track = folder, pair, track
        self._board: Board | None = None

    @property
    def board(self) -> Board:
        """The run's TensorBoard, opened where there is something to write."""
        self._board = self._board or Board(self.folder, self.track.step_count)
        return self._board

    @classmethod
    def open(cls, log_dir: Path, before: Path | None, pair: Pair, track: Track, settings: dict) -> "Journal":
        """A new run folder in `log_dir`; or that of the run `before`, from which the track goes on.

        UsageError where the folder cannot be written, and where the run before is of another fit.
        """
        if before is None:
            folder = runs.new_run(log_dir, pair.name)
            paths = {"input_path": str(pair.dry_path), "target_path": str(pair.wet_path)}
            runs.begin(folder, settings, **paths, pair_check=pair.check.record())
            return cls(folder, pair, track)
        runs.check_same_fit(before, settings)
        state = runs.load_checkpoint(before)
        try:
            track.load_state_dict(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"{before}: its checkpoint is of another fit; use resume=false for a new run") from error
        return cls(before, pair, track)

    def note(self, fit: Fit, terms: Terms) -> None:
        """Writes down a step's terms, and the values that gave them."""
        self.board.scalars(self.track.step_count - 1, terms, partial(fit.values, self.track.raws))

    def save(self) -> None:
        """Writes what a later run needs to go on."""
        runs.save_checkpoint(self.folder, self.track.state_dict())

    def close(self, chain: Effect, device: torch.device, ended: str | None) -> str:
        """Writes the checkpoint, the record, and the best as values and as sound; what to tell the user of it."""
        track, pair = self.track, self.pair
        self.save()
        record = {
            "alignment_shift": pair.alignment_shift,
            "losses": track.losses,
            "terminated_by": ended,
            "undone": track.undone,
        }
        values = track.best_values(chain)
        runs.finish(self.folder, flatten(values), record)
        if not track.losses:
            return f"{pair.name}: no step was taken; {self.folder}"
        moved = nest({name: value.to(device) for name, value in flatten(values).items()})
        fitted = render(chain.eval(), moved, pair.dry.to(device)).cpu()
        write_audio(self.folder / "fitted.wav", fitted, pair.sr)
        try:
            self.board.audio({"dry": pair.dry, "wet": pair.wet, "fitted": fitted}, pair.sr)
        finally:
            self.board.close()
        reached = f"loss {track.losses[0]:.3f} -> {track.best.loss:.3f} in {track.step_count} steps"
        return "\n".join([settings_table(chain, values), f"{pair.name}: {reached}; {self.folder}", *track.undone])
