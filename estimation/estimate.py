"""The controls of a chain estimated from one recording, with intervals, and which of them cannot be estimated."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reknob.afx.curve import FREQUENCIES
from reknob.afx.effect import flatten
from reknob.data.audio import resample
from reknob.data.bandwidth import band_edge
from reknob.estimation.estimator import STEADY, Estimator, temporal_flatness, to_mono
from reknob.estimation.judgement import judge, point, without_unseen_bands
from reknob.estimation.posterior import Posterior

SECONDS = 10.0  # of a window, and of the excerpts that estimators are trained with
#: Lowest band edge in Hz of recordings that anything is estimated of. Telephone speech ends below it: up to 8 of 20
#: excerpts became worse by their estimates, for a gain in Mel of 0.03 at most.
NARROWEST = 5000.0
# Closer to an end of its range, the true value may well lie beyond it.
MARGIN = 0.02


@dataclass(frozen=True)
class Estimate:
    """Controls of a chain, estimated from one recording."""

    q: Tensor  # (1, P); a band that is not estimated has a gain of 0 dB
    #: (2, P), ends of the 68 % intervals; of an estimator without a calibration those of the central 68 % of the
    #: windows, None of a single window.
    interval: Tensor | None
    windows: int
    reasons: dict[str, str]  # why a control is not estimated, by name
    remarks: list[str]  # on the whole estimate, a sentence each
    wide: Tensor | None = None  # (2, P), ends of the 95 % intervals of an estimator with a calibration
    ends: Tensor | None = None  # (len(LEVELS), 2, P), of the intervals of all levels
    kept: bool = True  # whether the estimated effect is; otherwise the controls are those of no effect
    notes: dict[str, str] = field(default_factory=dict)  # on estimated controls, by name
    posterior: Posterior | None = None  # of all controls together, of an estimator with a calibration


@torch.no_grad()
def estimate_recording(estimator: Estimator, x: Tensor, sr: int, *, whole: bool = False) -> Estimate:
    """The controls estimated from a recording `x` (C, T) at `sr` Hz, any rate; `whole` however uncertain they are.

    Raises UsageError as `Estimator.estimate_windows` does.
    """
    mono, remark = to_mono(x)
    remarks = [remark] if remark else []
    # Measured before resampling, which would move the edge.
    edge, duration = band_edge(mono[None], sr), mono.shape[-1] / sr
    x = resample(mono[None], sr, estimator.settings["sr"])
    features = estimator.window_features(x, SECONDS)
    calibrated = estimator.calibration is not None
    if len(features) == 1:
        without = "" if calibrated else "too short for an interval, and "
        remarks.append(
            f"{duration:.2f} s are one window: {without}the estimate is unreliable; "
            f"estimators are trained with {SECONDS:g} s, give 15 s or more"
        )
    noise = temporal_flatness(x) > STEADY
    if noise:
        remarks.append("this is steady noise, not music: the estimate is not meaningful")
    if edge < estimator.settings["sr"] / 2:
        remarks.append(f"the recording ends at {edge / 1000:.1f} kHz, above which nothing can be estimated")
    q, reasons = without_unseen_bands(estimator, point(estimator, [features]), edge)
    judged = judge(estimator, features, q, x, unlike=noise or edge < NARROWEST, whole=whole)
    if judged.remark:
        remarks.append(judged.remark)
    kept = (judged.wide, judged.ends, judged.kept, judged.notes, judged.posterior)
    return Estimate(judged.q, judged.interval, len(features), reasons, remarks, *kept)


def response_range(estimate: Estimate) -> Tensor | None:
    """The central 68 % (2, F) in dB of the responses that the sound allows, at `FREQUENCIES`.

    None without a calibration or an equaliser.
    """
    if estimate.posterior is None:
        return None
    return estimate.posterior.response_range(estimate.q, torch.from_numpy(FREQUENCIES).float())


def alternatives(estimator: Estimator, estimate: Estimate, count: int) -> list[dict[str, float]]:
    """Settings in physical units, by name, that the sound allows as well; none without a calibration."""
    if estimate.posterior is None:
        return []
    values = flatten(estimator.analysis.from_unit(estimate.posterior.sample(count)))
    return [{name: float(value[i]) for name, value in values.items()} for i in range(count)]


def as_record(estimator: Estimator, estimate: Estimate) -> dict[str, dict]:
    """Each control in physical units, by name: value, low, high, low_95, high_95, unit and note.

    Low and high are the ends of the 68 % interval, None without one, as are those of the 95 % interval. Of a control
    that is not estimated all five are None.
    """
    units = {name: p.unit for name, p in estimator.analysis.walk()}
    rows = (estimate.q, estimate.interval, estimate.wide)
    q = torch.cat([row for row in rows if row is not None])
    values = flatten(estimator.analysis.from_unit(q)).values()
    # Columns in the order of `controls`: (1, 3 or 5, P).
    columns = torch.cat([value.reshape(len(q), -1) for value in values], 1)
    record = {}
    for i, name in enumerate(estimator.analysis.controls()):
        # Fewer rows without intervals, which are then None.
        numbers = [None] * 5 if name in estimate.reasons else (columns[:, i].tolist() + [None] * 4)[:5]
        at_end = estimate.kept and not MARGIN < estimate.q[0, i].item() < 1 - MARGIN
        note = estimate.reasons.get(name) or estimate.notes.get(name, "at the end of its range" if at_end else "")
        named = dict(zip(("value", "low", "high", "low_95", "high_95"), numbers, strict=True))
        record[name] = named | {"unit": units.get(name, ""), "note": note}
    return record
