"""The preset document of an estimate."""

from pathlib import Path

from torch import Tensor

from reknob.afx.effect import flatten
from reknob.estimation.estimate import Estimate, as_record
from reknob.estimation.estimator import Estimator
from reknob.estimation.judgement import UNDETERMINED
from reknob.formats.preset_document import PresetDocument
from reknob.formats.provenance import provenance
from reknob.runtime.files import printable

LICENCE = "Numbers estimated from a recording, which is not part of this file and keeps its own licence."


def estimate_document(estimator: Estimator, estimate: Estimate, recording: Path, checkpoint: Path) -> PresetDocument:
    """An estimate as a preset document.

    Its input has no loudness, as chains of blind estimation scale the input of each effect. A control that is not
    estimated, or not determined by the sound, is "not identifiable"; the others have their 68 % interval.

    Args:
        recording: the file that was analysed.
        checkpoint: the file of the estimator.
    """
    values: dict[str, Tensor] = {name: v[0] for name, v in flatten(estimator.analysis.from_unit(estimate.q)).items()}
    return PresetDocument(
        estimator.settings["afx"],
        estimator.settings["sr"],
        None,
        {name: values[name] for name, _ in estimator.analysis.walk()},
        {},
        printable(recording.stem)[:200],
        _certainty(estimator, estimate),
        provenance=provenance({"wet": recording, "estimator": checkpoint}, windows=estimate.windows),
        licence=LICENCE,
    )


def _certainty(estimator: Estimator, estimate: Estimate) -> dict[str, dict]:
    """Interval and word by parameter; lists of them for a parameter of several numbers."""
    record, certainty = as_record(estimator, estimate), {}
    for name, p in estimator.analysis.walk():
        entries = [record[control] for control in record if control == name or control.startswith(f"{name}.")]
        known = [entry["low"] is not None and entry["note"] != UNDETERMINED for entry in entries]
        if all(entry["low"] is None and entry["value"] is not None for entry in entries):
            continue  # a single window has no interval
        columns = {
            "low": [entry["low"] for entry in entries],
            "high": [entry["high"] for entry in entries],
            "word": ["bounded" if one else "not identifiable" for one in known],
        }
        note = f"68 % interval, calibrated on test recordings; from {estimate.windows} windows of the recording"
        if estimate.wide is None:
            note = f"central 68 % of {estimate.windows} windows of the recording; not a confidence interval"
        reason = next((entry["note"] for entry in entries if entry["value"] is None), note)
        certainty[name] = {key: column if p.shape else column[0] for key, column in columns.items()} | {"note": reason}
    return certainty
