"""The preset document of a fit, `preset.json` in its run folder."""

import logging
import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from reknob.data.pairs import Pair
from reknob.fitting.recipe import Recipe
from reknob.fitting.track import TrackState
from reknob.formats.as_document import document_of
from reknob.formats.certainty import CERTAINTY
from reknob.formats.preset_document import DOCUMENT, LICENCE_OF_A_FIT, PresetDocument, write_document
from reknob.formats.provenance import provenance
from reknob.runtime.errors import UsageError
from reknob.runtime.files import read_json

log = logging.getLogger(__name__)


def fit_document(pair: Pair, track: TrackState, recipe: Recipe, certainty: dict | None = None) -> PresetDocument:
    """The values of lowest loss as a preset document."""
    settings = recipe.settings
    best: dict[str, Tensor] = track.best.raws or track.columns.split(track.state.raws)
    document = document_of(settings.chain, settings.build_chain(), best, pair.name, LICENCE_OF_A_FIT)
    losses = {"first": track.losses[0], "lowest": track.best.loss} if track.losses else {}
    return replace(
        document,
        lufs=settings.lufs,
        certainty={name: entry for name, entry in (certainty or {}).items() if name in document.values},
        alignment={"shift": pair.alignment_shift, "polarity": list(pair.check.polarity)},
        losses={**{name: loss for name, loss in losses.items() if math.isfinite(loss)}, "steps": track.step_count},
        provenance=provenance(
            {"dry": pair.dry_path, "wet": pair.wet_path},
            device=recipe.device.type,
            seed=settings.seed,
            loss=settings.loss.name,
            method=settings.optimiser.method,
        ),
    )


def write_run_preset(folder: Path, pair: Pair, track: TrackState, recipe: Recipe) -> None:
    """Writes the preset document of a fit into its run folder, with the folder's certainty.json where there is one.

    A chain whose values do not fit into a document is told as a warning: the run is complete without it.
    """
    path = folder / CERTAINTY
    try:
        certainty = read_json(path) if path.exists() else None
        write_document(folder / DOCUMENT, fit_document(pair, track, recipe, certainty))
    except UsageError as error:
        log.warning("%s: no %s: %s", folder, DOCUMENT, error)
