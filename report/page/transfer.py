"""The page of a style transfer: the report of a run, with a reference of another performance in the place of wet."""

from datetime import datetime
from pathlib import Path

from torch import Tensor

from reknob.data.audio import normalise_loudness
from reknob.data.pairs import Pair
from reknob.fitting.settings import FitSettings
from reknob.formats.preset_document import DOCUMENT, read_document
from reknob.formats.runs import Run
from reknob.report.page import REPORT, write_page
from reknob.report.page.measure import measure
from reknob.report.page.source import FittedRun


def write_transfer_report(folder: Path, raw: Tensor, reference: Tensor) -> Path:
    """Writes report.html into the folder of a transfer, which has a preset document; its path.

    Args:
        folder: of the transfer.
        raw: the passage (1, T) of the raw recording that is heard.
        reference: that of the reference, (2, T').
    """
    document = read_document(folder / DOCUMENT)
    if not isinstance(document.chain, dict) or document.lufs is None:
        raise AssertionError("a transfer has a chain with a configuration, and a level of its input")
    settings = FitSettings(sr=document.sr, chain=document.chain, lufs=document.lufs)
    length, sr = min(raw.shape[1], reference.shape[1]), document.sr
    dry, wet = (normalise_loudness(x[:, :length], sr, document.lufs) for x in (raw, reference))
    pair = Pair(document.name, dry, wet, sr, folder, folder, 0)
    meta = {"losses": [], "created": datetime.now(), "terminated_by": None, "alignment_shift": None}
    run = FittedRun(folder, Run(document.chain, sr, dict(document.raws)), settings, meta, [], pair, is_fit=False)
    content = measure(run, length / sr)
    content |= {"name": document.name, "run": folder.name, "names": ("raw", "output", "reference")}
    inputs = document.provenance.get("inputs", {})
    content["about"] = {
        "figures": [(document.provenance["prior"], "presets that the settings are estimated from")],
        "remarks": [],
        "heard": "The reference is another performance: it shows what the settings aim at, not what they must give.",
        "facts": [(name, inputs.get(name, {}).get("file")) for name in ("raw", "reference")],
    }
    content["about"]["facts"].append(("method", document.provenance.get("method")))
    for track, name in zip(content["tracks"], content["names"], strict=False):
        track["label"] = name
    content["repeat"] = f"python scripts/transfer.py RAW REFERENCE --prior {document.provenance['prior']}"
    return write_page(folder, folder / REPORT, content)
