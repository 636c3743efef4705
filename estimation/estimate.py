"""The controls of a chain estimated from one recording, with intervals, and which of them cannot be estimated."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reknob.afx.effect import Effect, flatten
from reknob.afx.equaliser import Band, FixedBand
from reknob.afx.functional import biquad
from reknob.afx.param import Bounded
from reknob.data.audio import resample
from reknob.data.bandwidth import band_edge
from reknob.estimation.estimator import STEADY, Estimator, temporal_flatness, to_mono

SECONDS = 10.0  # of a window, and of the excerpts that estimators are trained with
CENTRAL = torch.tensor([0.16, 0.84])  # shares at one standard deviation about the mean of a normal distribution
#: A high shelf is estimated where the recording reaches this factor above its corner. Four recordings low-passed at
#: 12 kHz and below were given shelves of -10 to -15 dB, with corners up to 1.2 times the edge; from 16 kHz on none was.
SHELF_ROOM = 1.5
# Closer to an end of its range, the true value may well lie beyond it.
MARGIN = 0.02


@dataclass(frozen=True)
class Estimate:
    """Controls of a chain, estimated from one recording."""

    q: Tensor  # (1, P), the median over windows; a band that is not estimated has a gain of 0 dB
    interval: Tensor | None  # (2, P), ends of the central 68 % of the windows; None of a single window
    windows: int
    reasons: dict[str, str]  # why a control is not estimated, by name
    remarks: list[str]  # on the whole estimate, a sentence each


@torch.no_grad()
def estimate_recording(estimator: Estimator, x: Tensor, sr: int) -> Estimate:
    """The controls estimated from a recording `x` (C, T) at `sr` Hz, any rate.

    Raises UsageError as `Estimator.estimate_windows` does.
    """
    mono, remark = to_mono(x)
    remarks = [remark] if remark else []
    # Measured before resampling, which would move the edge.
    edge, duration = band_edge(mono[None], sr), mono.shape[-1] / sr
    x = resample(mono[None], sr, estimator.settings["sr"])
    windows = estimator.estimate_windows(x, SECONDS)
    if len(windows) == 1:
        remarks.append(
            f"{duration:.2f} s are one window: too short for an interval, and the estimate is unreliable; "
            f"estimators are trained with {SECONDS:g} s, give 15 s or more"
        )
    if temporal_flatness(x) > STEADY:
        remarks.append("this is steady noise, not music: the estimate is not meaningful")
    # The median, which a few atypical windows do not move.
    q, reasons = windows.quantile(0.5, dim=0, keepdim=True), {}
    if edge < estimator.settings["sr"] / 2:
        remarks.append(f"the recording ends at {edge / 1000:.1f} kHz, above which nothing can be estimated")
        q, reasons = _without_unseen_bands(estimator, q, edge)
    return Estimate(q, windows.quantile(CENTRAL, dim=0) if len(windows) > 1 else None, len(windows), reasons, remarks)


def as_record(estimator: Estimator, estimate: Estimate) -> dict[str, dict]:
    """Each control in physical units, by name: value, low, high, unit and note.

    Low and high are the ends of the interval, None without one. Of a control that is not estimated all three are None.
    """
    units = {name: p.unit for name, p in estimator.analysis.walk()}
    q = estimate.q if estimate.interval is None else torch.cat([estimate.q, estimate.interval])
    values = flatten(estimator.analysis.from_unit(q)).values()
    # Columns in the order of `controls`: (1 or 3, P).
    columns = torch.cat([value.reshape(len(q), -1) for value in values], 1)
    record = {}
    for i, name in enumerate(estimator.analysis.controls()):
        # One row without an interval: low and high are then None.
        numbers = [None] * 3 if name in estimate.reasons else (columns[:, i].tolist() + [None] * 2)[:3]
        at_end = not MARGIN < estimate.q[0, i].item() < 1 - MARGIN
        note = estimate.reasons.get(name, "at the end of its range" if at_end else "")
        value, low, high = numbers
        record[name] = {"value": value, "low": low, "high": high, "unit": units.get(name, ""), "note": note}
    return record


def _without_unseen_bands(estimator: Estimator, q: Tensor, edge: float) -> tuple[Tensor, dict[str, str]]:
    """Controls (1, P) with a gain of 0 dB for bands above the recording's band edge in Hz, and why, by control."""
    chain = estimator.analysis
    values, controls = flatten(chain.from_unit(q)), chain.controls()
    q, reasons = q.clone(), {}
    for name, band in _bands(chain):
        freq = float(band.freq if isinstance(band, FixedBand) else values[f"{name}.freq"])
        room = SHELF_ROOM if band.design is biquad.high_shelf else 1.0
        if freq * room <= edge:
            continue
        for p in band.params:
            reasons[f"{name}.{p.name}"] = "not estimated: above the recording's highest frequency"
            # At 0 dB a band passes everything: its frequency and Q have no effect and may stay as they are.
            if p.name == "gain" and isinstance(p.mapping, Bounded):
                q[0, controls.index(f"{name}.gain")] = p.mapping.to_unit(torch.tensor(0.0))
    return q, reasons


def _bands(effect: Effect, prefix: str = "") -> Iterator[tuple[str, Band | FixedBand]]:
    """The bands of an effect's equalisers, by name."""
    for name, part in effect.parts():
        if isinstance(part, Band | FixedBand):
            yield prefix + name, part
        else:
            yield from _bands(part, f"{prefix}{name}.")
