"""The settings of a chain estimated from one recording: which controls, how sure, and what cannot be estimated."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.afx.effect import Effect, flatten
from reknob.afx.eq import Biquad
from reknob.afx.functional import biquad
from reknob.data.audio import resample
from reknob.data.bandwidth import band_edge
from reknob.estimation.estimator import STEADY, Estimator, temporal_flatness, to_mono

SECONDS = 10.0  # of a window, and of the excerpts that estimators are trained with
CENTRAL = torch.tensor([0.16, 0.84])
#: A high shelf is seen where the recording goes on so much above its corner. Low-passed at 12 kHz and below, four
#: recordings were given shelves of -10 to -15 dB with corners of up to 1.2 times the edge; from 16 kHz on none was.
SHELF_ROOM = 1.5
# Closer to an end of its range, the truth may well lie beyond it.
MARGIN = 0.02


@dataclass(frozen=True)
class Estimate:
    """Controls of a chain, estimated from one recording."""

    q: Tensor  # (1, P), the median over windows; a band that is not estimated has a gain of 0 dB
    interval: Tensor | None  # (2, P), in which the middle 68 % of the windows lie; None of a single window
    windows: int
    reasons: dict[str, str]  # of controls that are not estimated
    remarks: list[str]  # what to know about the whole, a sentence each


@torch.no_grad()
def estimate_recording(estimator: Estimator, x: Tensor, sr: int) -> Estimate:
    """The controls estimated from a recording `x` `(C, T)` at its own `sr` Hz.

    UsageError as in `Estimator.estimate_windows`.
    """
    mono, remark = to_mono(x)
    remarks = [remark] if remark else []
    edge, duration = band_edge(mono[None], sr), mono.shape[-1] / sr
    x = resample(mono[None], sr, estimator.settings["sr"])
    windows = estimator.estimate_windows(x, SECONDS)
    if len(windows) == 1:
        remarks.append(
            f"{duration:.2f} s of sound are one window: too short for a spread, and what is printed is a guess; "
            f"estimators are trained with {SECONDS:g} s, give 15 s or more"
        )
    if temporal_flatness(x) > STEADY:
        remarks.append("this is steady noise, not music: what follows says nothing about how it was processed")
    q, reasons = windows.quantile(0.5, dim=0, keepdim=True), {}
    if edge < estimator.settings["sr"] / 2:
        remarks.append(f"the recording ends at {edge / 1000:.1f} kHz, above which nothing can be estimated")
        q, reasons = _without_unseen_bands(estimator, q, edge)
    return Estimate(q, windows.quantile(CENTRAL, dim=0) if len(windows) > 1 else None, len(windows), reasons, remarks)


def as_record(estimator: Estimator, estimate: Estimate) -> dict[str, dict]:
    """Each control in physical units: value, low and high (None where not known), unit, and a note where one is due."""
    units = {name: p.unit for name, p in estimator.analysis.walk()}
    q = estimate.q if estimate.interval is None else torch.cat([estimate.q, estimate.interval])
    values = flatten(estimator.analysis.from_unit(q)).values()
    columns = torch.cat([value.reshape(len(q), -1) for value in values], 1)
    record = {}
    for i, name in enumerate(estimator.analysis.controls()):
        numbers = [None] * 3 if name in estimate.reasons else (columns[:, i].tolist() + [None] * 2)[:3]
        at_end = not MARGIN < estimate.q[0, i].item() < 1 - MARGIN
        note = estimate.reasons.get(name, "at the end of its range" if at_end else "")
        value, low, high = numbers
        record[name] = {"value": value, "low": low, "high": high, "unit": units.get(name, ""), "note": note}
    return record


def _without_unseen_bands(estimator: Estimator, q: Tensor, edge: float) -> tuple[Tensor, dict[str, str]]:
    """Controls with a gain of 0 dB for bands above the edge of a recording in Hz, and why, by control."""
    flat, controls, q, reasons = flatten(estimator.analysis.from_unit(q)), estimator.analysis.controls(), q.clone(), {}
    for name, band in _bands(estimator.analysis):
        freq = float(flat[f"{name}.freq"] if f"{name}.freq" in flat else band.freq)
        room = SHELF_ROOM if band.design is biquad.high_shelf else 1.0
        if freq * room <= edge:
            continue
        gain = next(p for p in band.params if p.name == "gain")
        q[0, controls.index(f"{name}.gain")] = gain.mapping.to_unit(torch.tensor(0.0))
        for p in band.params:
            reasons[f"{name}.{p.name}"] = "not estimated: above what the recording holds"
    return q, reasons


def _bands(effect: Effect, prefix: str = "") -> Iterator[tuple[str, Biquad]]:
    """The bands of an effect's equalisers that have a gain, by name."""
    for name, part in effect.parts():
        if isinstance(part, Biquad) and hasattr(part, "design"):
            yield prefix + name, part
        else:
            yield from _bands(part, f"{prefix}{name}.")
