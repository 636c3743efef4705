"""A preset as CSV, and as the recall sheet that an engineer keeps, in Markdown."""

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from reknob.afx.chain import Sends
from reknob.afx.delay import PingPongDelay
from reknob.afx.effect import Effect, Values, flatten, own_values, part_values
from reknob.afx.reverb import FDN
from reknob.afx.stereo import Panning
from reknob.formats.exporters.parts import Band, Dynamics, Export, Rig, Step, band_of, dynamics_of
from reknob.formats.preset_document import document_text

#: Frequencies in Hz at which the recall sheet gives reverberation times.
OCTAVES = (125, 250, 500, 1000, 2000, 4000, 8000)


def json_document(rig: Rig) -> Export:
    """The preset document itself, with the changes of `--set` and `--amount` in it."""
    return Export(document_text(rig.document), [])


def csv_table(rig: Rig) -> Export:
    """A row for every number: parameter, value, unit, interval, certainty; elements of a matrix as U[0,1]."""
    document, out = rig.document, io.StringIO()
    values = flatten(document.tensors())
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["parameter", "value", "unit", "low", "high", "certainty"])
    for name, p in document.effect.walk():
        if not p.preset:
            continue
        known = document.certainty.get(name, {})
        for index in np.ndindex(*p.shape):
            place = f"{name}[{','.join(map(str, index))}]" if index else name
            cells = [_at(known.get(key), index) for key in ("low", "high", "word")]
            writer.writerow([place, repr(float(values[name][index])), p.unit, *cells])
    return Export(out.getvalue(), [])


def _at(column: object, index: tuple[int, ...]) -> object:
    """An element of nested lists, or of one value for all; "" where there is none."""
    for i in index:
        column = column[i] if isinstance(column, list) and i < len(column) else column
    return "" if column is None or isinstance(column, list) else column


def recall_sheet(rig: Rig) -> Export:
    """The preset on one page, rounded as it is set by hand."""
    document = rig.document
    lines = [f"# Recall sheet: {_plain(document.name) or rig.stem}", ""]
    lines += [f"- {line}" for line in _origin(rig)]
    bands = [(step, band) for step in rig.steps if (band := band_of(step))]
    if bands:
        lines += ["", "## Equaliser", "", *_table(rig, ["band", "type", "frequency", "gain", "Q"])]
        lines += [_row(rig, _band_cells(step, band), _doubts(rig, step)) for step, band in bands]
    for step in rig.steps:
        if not band_of(step):
            dynamics = dynamics_of(step)
            settings = _dynamics_rows(step, dynamics) if dynamics else _rows(step.effect, step.values)
            lines += ["", f"## {step}", "", *_table(rig, ["setting", "value"])]
            lines += [_row(rig, [label, value], _word(rig, f"{step.name}.{key}")) for key, label, value in settings]
    if document.licence:
        lines += ["", _plain(document.licence)]
    return Export("\n".join(lines) + "\n", [])


def _origin(rig: Rig) -> list[str]:
    document = rig.document
    about = document.provenance
    order = " → ".join(step.name for step in rig.steps)
    lines = [f"sample rate {rig.sr} Hz; signal flow: {order}", *rig.remarks()]
    for role, file in about.get("inputs", {}).items():
        lines.append(f"{role}: {_plain(file['file'])}")
    if document.losses.get("lowest") is not None:
        lines.append(f"loss {document.losses['lowest']:.3f}")
    if "created" in about:
        lines.append(f"made {_plain(str(about['created']))}")
    return lines


def _plain(text: str) -> str:
    """Text of a document as one line without Markdown's and HTML's signs, as a document may come from anybody."""
    return " ".join("".join(" " if sign in "<>|`[]*#" else sign for sign in text).split())


def _table(rig: Rig, header: list[str]) -> list[str]:
    """The first two lines of a table, with a column of certainty where the preset has any."""
    header = [*header, "certainty"] if rig.document.certainty else header
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]


def _row(rig: Rig, cells: list[str], certainty: str) -> str:
    return f"| {' | '.join([*cells, certainty] if rig.document.certainty else cells)} |"


def _word(rig: Rig, name: str) -> str:
    word = rig.document.certainty.get(name, {}).get("word", "")
    return word if isinstance(word, str) else "see the document"


def _doubts(rig: Rig, step: Step) -> str:
    """The certainty of a band: the parameters that are not found, as those are looked at."""
    words = [(key, _word(rig, f"{step.name}.{key}")) for key in ("freq", "gain", "Q")]
    doubtful = ", ".join(f"{key} {word}" for key, word in words if word not in ("", "found"))
    return doubtful or ("found" if any(word for _, word in words) else "")


def _band_cells(step: Step, band: Band) -> list[str]:
    gain = "" if band.gain_db is None else f"{band.gain_db:+.1f} dB"
    return [step.name, band.kind.replace("_", " "), _hertz(band.freq), gain, f"{band.Q:.2f}"]


def _hertz(freq: float) -> str:
    return f"{freq / 1000:.2f} kHz" if freq >= 1000 else f"{freq:.0f} Hz"


def _dynamics_rows(step: Step, dynamics: Dynamics) -> list[tuple[str, str, str]]:
    """Parameter, label and value of a compressor."""
    short = "cmp_" if "cmp_ratio" in step.values else ""
    times = ("time_constant", "time_constant") if "time_constant" in step.values else ("attack", "release")
    rows = [
        (f"{short}threshold", "threshold", f"{dynamics.threshold:.1f} dB"),
        (f"{short}ratio", "ratio", f"{dynamics.ratio:.2f} : 1"),
        ("knee", "knee", f"{dynamics.knee:.1f} dB"),
        (times[0], "attack (63 %)", f"{dynamics.attack_tau:.1f} ms"),
        (times[1], "release (63 %)", f"{dynamics.release_tau:.1f} ms"),
        ("makeup", "make-up gain", f"{dynamics.makeup:+.1f} dB"),
    ]
    if dynamics.lookahead:
        rows.append(("lookahead", "lookahead", f"{dynamics.lookahead:.2f} ms"))
    if dynamics.expands:
        rows.append(("exp_threshold", "expander threshold", f"{dynamics.exp_threshold:.1f} dB"))
        rows.append(("exp_ratio", "expander ratio", f"1 : {dynamics.exp_ratio:.2f}"))
    return rows


def _rows(effect: Effect, values: Values, prefix: str = "") -> list[tuple[str, str, str]]:
    """Parameter, label and value of any effect, in the words of a console."""
    own = own_values(values)
    if isinstance(effect, FDN):
        rows = [("gamma", f"{prefix}reverberation time (60 dB)", _reverberation(effect, values))]
    elif isinstance(effect, Panning):
        rows = [("pan", f"{prefix}pan", _pan(float(own["pan"])))]
    else:
        rows = [
            (p.name, f"{prefix}{'time' if p.name == 'delay' else p.name}", _value(effect, p.name, own[p.name], p.unit))
            for p in effect.params
            if p.preset
        ]
    for name, part in effect.parts():
        inner = _rows(part, part_values(values, name), f"{prefix}{name} ")
        rows += [(f"{name}.{key}", label, value) for key, label, value in inner]
    return rows


def _value(effect: Effect, name: str, value: Tensor, unit: str) -> str:
    if value.numel() > 1:
        return f"{value.numel()} numbers, in the document"
    x = float(value)
    if unit == "Hz":
        return _hertz(x)
    if unit == "dB":
        return f"{x:+.1f} dB"
    if isinstance(effect, PingPongDelay) and name == "delay":
        return f"{x:.1f} ms (a quarter note at {60000 / x:.1f} BPM, an eighth at {30000 / x:.1f} BPM)"
    if isinstance(effect, Sends) or (isinstance(effect, PingPongDelay) and name in ("gain", "feedback")):
        return f"{20 * math.log10(x):.1f} dB ({100 * x:.0f} %)" if x > 0 else "off"
    return f"{x:.3g} {unit}".strip()


def _pan(pan: float) -> str:
    """A position as on a console: L100 … C … R100."""
    side = round(200 * (pan - 0.5))
    return "C" if side == 0 else f"{'L' if side < 0 else 'R'}{abs(side)}"


def _reverberation(effect: FDN, values: Values) -> str:
    curve = effect.curves(values)[0]  # pyright: ignore[reportArgumentType] - a TypedDict of the same
    times = np.interp(OCTAVES, curve.x, curve.y)
    shown: Sequence[str] = [f"{_hertz(f)}: {t:.2f} s" for f, t in zip(OCTAVES, times, strict=True)]
    return ", ".join(shown)
