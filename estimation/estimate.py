"""The controls of a chain estimated from one recording, with intervals, and which of them cannot be estimated."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reknob.afx.curve import FREQUENCIES
from reknob.data.audio import resample
from reknob.data.bandwidth import band_edge
from reknob.estimation.controls import physical, units
from reknob.estimation.estimator import STEADY, Estimator, temporal_flatness, to_mono
from reknob.estimation.judgement import Judged, judge, whole_estimates, without_unseen_bands

SECONDS = 10.0  # of a window, and of the excerpts that estimators are trained with
#: Lowest band edge in Hz of recordings that anything is estimated of. Telephone speech ends below it: up to 8 of 20
#: excerpts became worse by their estimates, for a gain in Mel of 0.03 at most.
NARROWEST = 5000.0
# Closer to an end of its range, the true value may well lie beyond it.
MARGIN = 0.02


@dataclass(frozen=True, kw_only=True)
class Estimate(Judged):
    """Controls of a chain, estimated from one recording."""

    windows: int
    edge: float  # Hz, the highest frequency of the recording
    reasons: dict[str, str]  # why a control is not estimated, by name


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
    if len(features) == 1:
        is_short = duration < 1.25 * SECONDS  # of two windows, the second begins a quarter later at least
        amount = f"{duration:.2f} s are one window" if is_short else "all windows but one are silent"
        without = "" if estimator.calibration else "too little for an interval, and "
        remarks.append(f"{amount}: {without}the estimate is less reliable than that of 15 s or more")
    noise = temporal_flatness(x) > STEADY
    if noise:
        remarks.append("this is steady noise, not music: the estimate is not meaningful")
    if edge < estimator.settings["sr"] / 2:
        remarks.append(f"the recording ends at {edge / 1000:.1f} kHz, above which nothing can be estimated")
    estimated, posteriors = whole_estimates(estimator, [features])
    q, reasons = without_unseen_bands(estimator, estimated, edge)
    posterior, unlike = next(iter(posteriors), None), noise or edge < NARROWEST
    judged = judge(estimator, features, q, posterior, x, edge, unlike=unlike, whole=whole)
    judged = replace(judged, remarks=remarks + judged.remarks)
    return Estimate(**vars(judged), windows=len(features), edge=edge, reasons=reasons)


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
    values, names = physical(estimator.analysis, estimate.posterior.sample(count)), estimator.analysis.controls()
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def as_record(estimator: Estimator, estimate: Estimate) -> dict[str, dict]:
    """Each control in physical units, by name: value, low, high, low_95, high_95, unit and note.

    Low and high are the ends of the 68 % interval, None without one, as are those of the 95 % interval. Of a control
    that is not estimated all five are None.
    """
    chain, rows = estimator.analysis, (estimate.q, estimate.interval, estimate.wide)
    columns = physical(chain, torch.cat([row for row in rows if row is not None]))  # (1, 3 or 5, P)
    record = {}
    for i, (name, unit) in enumerate(zip(chain.controls(), units(chain), strict=True)):
        # Fewer rows without intervals, which are then None.
        numbers = [None] * 5 if name in estimate.reasons else (columns[:, i].tolist() + [None] * 4)[:5]
        at_end = estimate.kept and not MARGIN < estimate.q[0, i].item() < 1 - MARGIN
        note = estimate.reasons.get(name) or estimate.notes.get(name, "at the end of its range" if at_end else "")
        named = dict(zip(("value", "low", "high", "low_95", "high_95"), numbers, strict=True))
        record[name] = named | {"unit": unit, "note": note}
    return record
