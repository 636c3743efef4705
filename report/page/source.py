"""What a report is computed from: the fitted chain of a run folder, its settings, its record and its recordings."""

from reknob.runtime.program import explain

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reknob.afx.effect import Effect, Knobs, Values
from reknob.afx.registry import build
from reknob.data.audio import read_audio
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import Pair
from reknob.fitting.recipe import Recipe
from reknob.fitting.settings import FitSettings
from reknob.formats import runs
from reknob.formats.preset_document import DOCUMENT
from reknob.formats.run_audio import run_audio
from reknob.losses import FitLoss
from reknob.runtime.errors import UsageError
from reknob.runtime.files import input_path, printable, read_json
from reknob.runtime.output import unlogged
from reknob.runtime.settings import read_yaml, settings_from

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedRun:
    """A run folder with its chain and, where they can be read, its recordings.

    Args:
        folder: the run folder.
        run: its chain and raw parameters.
        settings: of the fit; the defaults, with its chain, for a run of the published release.
        meta: its record.
        findings: what the check of the pair found, as in the record.
        pair: the recordings; None where they cannot be read.
        problem: why they cannot, in one line.
        is_fit: whether wet is what the chain was fitted to, and not the reference of a transfer.
    """

    folder: Path
    run: runs.Run
    settings: FitSettings
    meta: dict[str, Any] = field(repr=False)
    findings: list[dict[str, str]] = field(repr=False)
    pair: Pair | None = field(repr=False, default=None)
    problem: str = ""
    is_fit: bool = True

    @cached_property
    def chain(self) -> Effect:
        """The effects, in evaluation mode."""
        return build(self.run.config, self.run.sr).eval()

    @cached_property
    def raws(self) -> dict[str, Tensor]:
        """All raw parameters, those that no preset stores included."""
        return Knobs(self.chain, torch.Generator().manual_seed(0)).state_dict() | self.run.raws

    @cached_property
    def values(self) -> Values:
        """The fitted values."""
        return self.values_of(self.raws)

    @cached_property
    def loss(self) -> FitLoss:
        """What the fit minimised."""
        return self.settings.build_loss()

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON of its preset document; empty without one."""
        path = self.folder / DOCUMENT
        return read_json(path) if path.exists() else {}

    @property
    def name(self) -> str:
        """The name of the song."""
        return printable(self.folder.parent.name)

    def values_of(self, raws: dict[str, Tensor]) -> Values:
        """The values of raw parameters."""
        knobs = Knobs(self.chain).requires_grad_(False)
        knobs.load_state_dict(raws)
        return knobs()


def open_run(folder: str | Path, pair: Pair | None = None, *, listen: bool = True) -> FittedRun:
    """A run folder with its recordings: `pair` where they are loaded already, none where not `listen`.

    UsageError for a folder that is no run folder; recordings that cannot be read are a `problem`.
    """
    folder = input_path(folder)
    run, meta = runs.load_run(folder), runs.read_meta(folder)
    settings = read_settings(folder) or FitSettings(sr=run.sr, chain=run.config)
    problem = ""
    if pair is None and listen:
        try:
            pair = _read_pair(folder, run, settings, meta)
        except (ValueError, TypeError, OSError) as error:
            problem = explain(error) or str(error)
    return FittedRun(folder, run, settings, meta, read_findings(folder, pair), pair, problem)


def read_settings(folder: Path) -> FitSettings | None:
    """The settings of a run of ours; None where they are of another version or of the published release."""
    try:
        return settings_from(FitSettings, read_yaml(folder / runs.CONFIG))
    except UsageError as error:
        log.debug("%s: %s", folder, error)
        return None


def read_findings(folder: Path, pair: Pair | None = None) -> list[dict[str, str]]:
    """The findings of the check of a run's pair; those of `pair` where the run has none recorded."""
    record = read_json(folder / runs.META) if (folder / runs.META).exists() else {}
    check = record.get("pair_check") or (pair.check.record() if pair else {})
    found = check.get("findings") if isinstance(check, dict) else []
    keys = ("code", "severity", "text", "remedy")
    items = found if isinstance(found, list) else []
    return [{key: str(item.get(key, "")) for key in keys} for item in items if isinstance(item, dict)]


def _read_pair(folder: Path, run: runs.Run, settings: FitSettings, meta: dict[str, Any]) -> Pair:
    """The recordings: those in the run folder, or the files of its record, aligned as for the fit."""
    if not meta["input_path"] or not meta["target_path"]:
        raise UsageError("its record names no recordings")
    files = PairFiles(Path(meta["input_path"]), Path(meta["target_path"]), folder.parent.name)
    own = run_audio(folder)
    if "dry" in own and "wet" in own:
        # All recordings of a folder share a gain, where one of them would be over full scale.
        gain = 10 ** (-float(read_json(folder / runs.META).get("audio_gain_db", 0.0)) / 20)
        dry, wet = (gain * read_audio(own[name])[0] for name in ("dry", "wet"))
        return Pair(files.name, dry, wet, run.sr, files.dry_path, files.wet_path, meta["alignment_shift"] or 0)
    # On the CPU, and without the check that would refuse: the fit has passed it.
    recipe = Recipe(replace(settings, device="cpu", check_pair=False))
    with unlogged("reknob.data.pairs"):  # its findings are part of the report
        return recipe.load(files)
