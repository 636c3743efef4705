"""The page of an estimate: its effects, how certain they are, and what they sound like on a recording."""

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from reknob import __version__
from reknob.afx.effect import flatten, nest
from reknob.estimation.comparison import render_at_rms
from reknob.estimation.estimate import Estimate, as_record, response_range
from reknob.estimation.estimator import Estimator
from reknob.formats.preset_document import PresetDocument, document_text
from reknob.report.page import SECONDS, fill_page
from reknob.report.page.curves import Spectra, equaliser, others, rounded
from reknob.report.page.tracks import Track, loudest_excerpt, record
from reknob.report.tables import number

#: Names of what is heard, and what is said of it, by what was given besides the input.
NAMES = {
    "dry": ("dry", "estimate", "input"),
    "apply": ("other", "other with the estimate", "input"),
    "": ("", "effect once more", "input"),
}
REMARKS = {
    "dry": "Estimate is the dry recording with the estimated effect: the closer to the input, the better.",
    "apply": "Input is another performance: it shows what the effect aims at, not what it must give.",
    "": "The input before it was processed cannot be heard, as nothing undoes an effect exactly. “Effect once more” is "
    "the input with the estimated effect applied again: it lets the effect be heard, not whether the estimate is "
    "right. For that, give the unprocessed recording (--dry); to hear the effect on another one, give that (--apply).",
}
UNCALIBRATED = "Intervals are the central 68 % of the windows of the recording; they are no confidence intervals."
CALIBRATED = (
    "An interval holds the setting that was used for 68 of 100 recordings like those of the estimator's tests. The "
    "values are one setting that sounds like the recording, of many that do, and may lie outside the intervals. Thin "
    "lines about an equaliser's curve are the central 68 % of the responses that the sound allows."
)


class Heard(NamedTuple):
    """The input (C, T) of a page, and what was given besides: its dry recording, aligned and of its length, or another.

    All are at the estimator's rate.
    """

    wet: Tensor
    given: Literal["dry", "apply", ""] = ""
    x: Tensor | None = None


def write_estimate_page(
    path: Path,
    estimator: Estimator,
    estimate: Estimate,
    document: PresetDocument,
    heard: Heard,
    scores: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Writes the page of an estimate as one HTML file; its path.

    Args:
        document: the estimate.
        scores: metrics by "dry" and "dry with the estimate" (`score_estimate`).
    """
    sr, chain = estimator.settings["sr"], estimator.analysis.eval()
    values = nest({name: value[0] for name, value in flatten(chain.from_unit(estimate.q)).items()})
    tracks, excerpt = _tracks(estimator, estimate, heard)
    inputs: Any = document.provenance["inputs"]
    content = {
        "name": document.name,
        "names": NAMES[heard.given],
        "about": {
            "figures": _figures(estimator, estimate, scores),
            "remarks": [remark[0].upper() + remark[1:] + "." for remark in estimate.remarks],
            "facts": [("input", inputs["wet"]["file"]), ("estimator", inputs["estimator"]["file"])],
            "heard": REMARKS[heard.given],
            "note": "" if estimate.interval is None else UNCALIBRATED if estimate.wide is None else CALIBRATED,
        },
        "written": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "version": __version__,
        "parameters": _parameters(estimator, estimate),
        "files": {"sr": sr},
        "provenance": document.provenance,
        "licence": document.licence,
        "repeat": f"python scripts/estimate.py {inputs['wet']['file']} --report {path.name}",
        "curves": {"equaliser": equaliser(chain, values), "others": others(chain, values)},
        "tracks": record(tracks, sr),
        "excerpt": excerpt,
        "preset": document_text(document),
        "beside": {},
    }
    if content["curves"]["equaliser"] and (ends := response_range(estimate)) is not None:
        content["curves"]["equaliser"]["range"] = [rounded(end[::2].numpy()) for end in ends]
    content["curves"]["spectra"] = Spectra({track.key: track.x for track in tracks}, sr).long_term()
    return fill_page(path, content)


def _tracks(estimator: Estimator, estimate: Estimate, heard: Heard) -> tuple[list[Track], dict[str, float]]:
    """What is heard, (2, T) each, and which part of the input it is."""
    sr = estimator.settings["sr"]
    x = heard.wet if heard.x is None else heard.x
    # Whole, as the chain's effects scale their input by its peak.
    fitted = render_at_rms(estimator, estimate.q, x, math.inf if heard.given == "apply" else estimate.edge)
    part = loudest_excerpt(heard.wet, sr, SECONDS)
    of_x = loudest_excerpt(x, sr, SECONDS) if heard.given == "apply" else part
    length = min(part.end - part.begin, of_x.end - of_x.begin)
    sounds = {"fitted": (fitted, of_x.begin), "wet": (heard.wet, part.begin)}
    if heard.given:
        sounds = {"dry": (x, of_x.begin)} | sounds
    labels: dict[str, str] = dict(zip(("dry", "fitted", "wet"), NAMES[heard.given], strict=True))
    tracks = [Track(key, labels[key], _stereo(y[:, first : first + length])) for key, (y, first) in sounds.items()]
    excerpt = {"begin": part.begin / sr, "seconds": length / sr, "whole": heard.wet.shape[-1] / sr}
    return tracks, {name: round(value, 3) for name, value in excerpt.items()}


def _stereo(x: Tensor) -> Tensor:
    return x if len(x) == 2 else x.mean(0, keepdim=True).expand(2, -1)


def _figures(
    estimator: Estimator, estimate: Estimate, scores: Mapping[str, Mapping[str, float]] | None
) -> list[tuple[str, str]]:
    """Values with what they are, for the top of the page."""
    figures = [("kept" if estimate.kept else "left out", "the estimated effect, by its certainty")]
    if scores:
        before, after = (each["mel"] for each in scores.values())
        figures.append((f"{before:.3f} → {after:.3f}", "Mel distance to the input: dry, and dry with the estimate"))
    count = len(estimator.analysis.controls())
    known = count - len(estimate.reasons.keys() | estimate.notes.keys())
    figures.append((f"{known} of {count}", "parameters that the sound determines"))
    return [*figures, (str(estimate.windows), "windows of 10 s, which overlap by half")]


def _parameters(estimator: Estimator, estimate: Estimate) -> list[dict[str, Any]]:
    """The parameters by effect, as the table of the page takes them."""
    groups: dict[str, dict[str, Any]] = {}
    for name, each in as_record(estimator, estimate).items():
        effect, _, label = name.rpartition(".")
        group = groups.setdefault(effect, {"effect": effect, "rows": [], "arrays": []})
        shown = {key: "" if each[key] is None else number(each[key]) for key in ("value", "low", "high")}
        row = {"name": name, "label": label.replace("_", " "), "number": each["value"], "unit": each["unit"]}
        group["rows"].append(row | shown | {"value": shown["value"] or "–", "word": each["note"]})
    return list(groups.values())
