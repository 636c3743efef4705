"""Any preset as a preset document: a document itself, a run folder, a row of a preset set."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from reknob.afx.effect import Effect, flatten, values_at
from reknob.afx.registry import build
from reknob.formats.applied import LUFS
from reknob.formats.preset_document import (
    DOCUMENT,
    LICENCE_OF_A_FIT,
    LICENCE_OF_A_SET,
    PresetDocument,
    is_document,
    read_document,
)
from reknob.formats.preset_set import open_set, refuse_row
from reknob.formats.presets import VECTORS, Preset
from reknob.formats.runs import load_run
from reknob.runtime.errors import UsageError
from reknob.runtime.files import input_path, printable


def open_preset(path: str | Path, row: int = 0) -> PresetDocument:
    """The preset at a path; UsageError where nothing there is one.

    Args:
        path: a document (.json), a run folder, ours or published, or the folder of a preset set.
        row: of the preset set.
    """
    path = input_path(path)
    if (path / VECTORS).exists() and not (path / DOCUMENT).exists():
        own = open_set(path)
        return row_document(own.preset(row), own.config, own.effect)
    refuse_row(path, row)
    if is_document(path):
        return read_document(path)
    if not path.is_dir():
        raise UsageError(f"{path}: is no preset; give a preset.json, a run folder or the folder of a preset set")
    if (path / DOCUMENT).exists():
        return read_document(path / DOCUMENT)
    run = load_run(path)
    return document_of(run.config, build(run.config, run.sr), run.raws, path.name, LICENCE_OF_A_FIT)


def row_document(preset: Preset, config: dict, effect: Effect) -> PresetDocument:
    """A row of a preset set, whose chain has the configuration `config`, as a document."""
    files = {"dry": preset.dry_file, "wet": preset.wet_file}
    inputs = {role: {"file": printable(Path(file).name)} for role, file in files.items()}
    document = document_of(config, effect, preset.raws, f"{preset.track} {preset.stem}".strip(), LICENCE_OF_A_SET)
    provenance = {"row": preset.row, "inputs": inputs}
    return replace(document, alignment={"shift": preset.alignment_shift}, provenance=provenance)


def document_of(config: dict, effect: Effect, raws: Mapping[str, Tensor], name: str, licence: str) -> PresetDocument:
    """The raw parameters of a chain, whose configuration is `config`, as a document for an input at LUFS."""
    values, stored = flatten(values_at(effect, raws)), [name for name, p in effect.walk() if p.preset]
    return PresetDocument(
        config,
        effect.sr,
        LUFS,
        {key: values[key] for key in stored},
        {key: raws[key].detach().float() for key in stored},
        printable(name)[:200],
        licence=licence,
    )
