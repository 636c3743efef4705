"""The table of formats that presets are exported to, and the writing of an export."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from reknob.afx.registry import lookup
from reknob.data.audio import write_audio
from reknob.formats.exporters import camilladsp, easyeffects, filters, impulse, jsfx, lv2, pedalboard_script, tables
from reknob.formats.exporters.parts import Export, Rig
from reknob.formats.preset_document import PresetDocument
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, write_text


@dataclass(frozen=True)
class Exporter:
    """One format: what it holds, in words; the suffix of its file; and the function that makes it of a preset."""

    what: str
    suffix: str
    make: Callable[[Rig], Export]


EXPORTERS: dict[str, Exporter] = {
    "equalizer-apo": Exporter("equaliser, for Equalizer APO and Peace", ".txt", filters.equalizer_apo),
    "rew": Exporter("equaliser, as filter settings of REW", ".txt", filters.rew),
    "csv": Exporter("every number with unit and certainty", ".csv", tables.csv_table),
    "camilladsp": Exporter("the chain, for CamillaDSP", ".yml", camilladsp.camilladsp),
    "easyeffects": Exporter("the chain, for EasyEffects", ".json", easyeffects.easyeffects),
    "lv2": Exporter("the chain, as LV2 presets of LSP Plugins, for Ardour", ".ttl", lv2.lv2),
    "ir-eq": Exporter("impulse response of the equaliser, mono", ".wav", impulse.equaliser),
    "ir-space": Exporter("impulse response of delay, reverb and pan, mono to stereo", ".wav", impulse.space),
    "ir-true-stereo": Exporter("the same in four channels, LL LR RL RR", ".wav", impulse.true_stereo),
    "ir": Exporter("impulse response of all linear parts, mono to stereo", ".wav", impulse.linear),
    "pedalboard": Exporter("the chain, as a Python script with pedalboard", ".py", pedalboard_script.pedalboard_script),
    "recall": Exporter("recall sheet, Markdown", ".md", tables.recall_sheet),
    "jsfx": Exporter("equaliser, compressor/expander and pan, as a plug-in of REAPER", ".jsfx", jsfx.jsfx),
    "json": Exporter("preset document, with the changes", ".json", tables.json_document),
}


def export(document: PresetDocument, to: str, stem: str = "preset") -> Export:
    """A preset in another format; UsageError for an unknown one, and one that has nothing of the preset.

    Args:
        document: the preset.
        to: a key of EXPORTERS.
        stem: the beginning of the names of further files.
    """
    return lookup(EXPORTERS, to, "format").make(Rig(document, stem))


def write_export(document: PresetDocument, to: str, path: Path) -> tuple[list[Path], list[str]]:
    """Writes a preset in another format, with the further files that it needs beside it.

    Returns the files, and a line on each part of the preset that the format lacks. UsageError as `export`, and for a
    path of another suffix.
    """
    suffix = lookup(EXPORTERS, to, "format").suffix
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path}: --to {to} writes a {suffix} file; give such a name")
    made = export(document, to, path.stem)
    paths = [check_output(path), *(check_output(path.with_name(path.stem + end)) for end in made.files)]
    for place, content in zip(paths, (made.content, *made.files.values()), strict=True):
        if isinstance(content, Tensor):
            write_audio(place, content, document.sr)
        else:
            write_text(place, content)
    return paths, made.lacking
