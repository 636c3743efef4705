"""Whether an estimate is kept, by its certainty and never of unlike recordings, and its intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reknob.afx.effect import flatten
from reknob.afx.equaliser import FixedBand
from reknob.afx.functional import biquad
from reknob.afx.param import Bounded
from reknob.data.bandwidth import within_edges
from reknob.estimation.calibration import LEVELS, evidence
from reknob.estimation.controls import bands, no_effect
from reknob.estimation.estimator import Estimator
from reknob.estimation.posterior import CENTRAL, Posterior, settle
from reknob.losses import MelLoss

INNER, OUTER = LEVELS.index(0.68), LEVELS.index(0.95)
#: A high shelf is estimated where the recording reaches this factor above its corner. Four recordings low-passed at
#: 12 kHz and below were given shelves of -10 to -15 dB, with corners up to 1.2 times the edge; from 16 kHz on none was.
SHELF_ROOM = 1.5
SIZED = 30.0  # s, from the middle of a recording, over which the size of its effect is measured
#: Divergence in nats from the uniform distribution below which a control counts as not determined: that of a normal
#: distribution whose 68 % interval is 0.58 of the range wide, where that of the uniform one is 0.68 wide.
KNOWN = 0.03
UNDETERMINED = "hardly determined by the sound"  # note on such a control
#: Remarks on estimates that are left out.
UNLIKE = "this is unlike the recordings that the estimator was trained with: no effect is returned"
UNCERTAIN = "too uncertain: the estimate is reduced to no effect"


@dataclass(frozen=True)
class Judged:
    """Controls of a recording, and how far they are to be trusted."""

    q: Tensor  # (1, P); a band that is not estimated has a gain of 0 dB
    #: (2, P), ends of the 68 % intervals; of an estimator without a calibration those of the central 68 % of the
    #: windows, None of a single window.
    interval: Tensor | None = None
    wide: Tensor | None = None  # (2, P), ends of the 95 % intervals of an estimator with a calibration
    ends: Tensor | None = None  # (len(LEVELS), 2, P), of the intervals of all levels
    kept: bool = True  # whether the estimated effect is; otherwise the controls are those of no effect
    remarks: list[str] = field(default_factory=list)  # on the whole estimate, a sentence each
    notes: dict[str, str] = field(default_factory=dict)  # on estimated controls, by name
    posterior: Posterior | None = None  # of all controls together, of an estimator with a calibration


@torch.no_grad()
def whole_estimates(estimator: Estimator, recordings: Sequence[Tensor]) -> tuple[Tensor, list[Posterior]]:
    """The controls (B, P) of recordings, each from the features (W, F) of its windows, and their posteriors.

    The controls are those of `settle`. Without a calibration they are medians over windows, and there are no
    posteriors.
    """
    if estimator.calibration is None:
        return torch.stack([estimator.controller.mlp(features).quantile(0.5, 0) for features in recordings]), []
    posteriors = [estimator.posterior(features) for features in recordings]
    return settle(posteriors), posteriors


@torch.no_grad()
def distance(estimator: Estimator, a: Tensor, b: Tensor, edges: Sequence[float]) -> Tensor:
    """Mel (B,) between audio a and b (B, 1, T), of each item up to a band edge in Hz.

    Above its edge a recording is all but silent, while a clipper's harmonics are not: as logarithms are compared, they
    would count more than all else.
    """
    sr = estimator.settings["sr"]
    return MelLoss(sr).distances(within_edges(a, sr, edges), within_edges(b, sr, edges))


def weigh(estimator: Estimator, features: Tensor, q: Tensor, posterior: Posterior, x: Tensor, edge: float) -> Tensor:
    """The `evidence` (3,) on whether controls q (1, P) help a recording x (1, T) with windows of features (W, F).

    Of an estimator with a calibration. `edge` is the recording's band edge in Hz.
    """
    assert estimator.calibration
    part = middle(x, round(SIZED * estimator.settings["sr"]))[None]
    size = distance(estimator, estimator.render(part, q), part, [edge])[0]
    strangeness = estimator.calibration.strangeness(features).quantile(0.5)
    return evidence(torch.tensor(posterior.processed), strangeness, size)


@torch.no_grad()
def judge(
    estimator: Estimator,
    features: Tensor,
    q: Tensor,
    posterior: Posterior | None,
    x: Tensor,
    edge: float,
    *,
    unlike: bool = False,
    whole: bool = False,
) -> Judged:
    """What of the controls q (1, P) of a recording x (1, T) is kept: nothing of one that is `unlike` the training, and
    all of a `whole` estimate, with a remark on what would have been kept. `edge` is its band edge in Hz.

    Without a posterior all of it, with the central 68 % of the windows, of features (W, F), as interval. With one,
    intervals are calibrated, an estimate of little certainty is left out, and a recording unlike the training music
    has the prior: no effect, and intervals as wide as without a recording.
    """
    calibration = estimator.calibration
    if posterior is None or calibration is None:
        windows = estimator.controller.mlp(features)
        return Judged(q, windows.quantile(CENTRAL, dim=0) if len(windows) > 1 else None)
    signs = weigh(estimator, features, q, posterior, x, edge)
    strange = unlike or bool(signs[1] > calibration.strange)
    if strange:
        posterior = estimator.prior.without_evidence()
    kept = not strange and bool(calibration.certainty(signs) > calibration.edge)
    ends = calibration.interval(posterior)
    known = posterior.information() >= KNOWN
    notes = {
        name: UNDETERMINED for name, one in zip(estimator.analysis.controls(), known.tolist(), strict=True) if not one
    }
    remarks = [] if kept else [UNLIKE if strange else UNCERTAIN]
    if whole and not kept:
        kept, remarks = True, [f"kept whole; otherwise: {remark}" for remark in remarks]
    q = q if kept else no_effect(estimator.analysis, q)
    return Judged(q, ends[INNER], ends[OUTER], ends, kept, remarks, notes, posterior)


def middle(x: Tensor, length: int) -> Tensor:
    """The middle `length` samples of x (C, T), or all of it."""
    start = max(x.shape[-1] - length, 0) // 2
    return x[..., start : start + length]


def without_unseen_bands(estimator: Estimator, q: Tensor, edge: float) -> tuple[Tensor, dict[str, str]]:
    """Controls (1, P) with a gain of 0 dB for bands above the recording's band edge in Hz, and why, by control.

    At the highest edge, half the estimator's sample rate, nothing is changed.
    """
    chain = estimator.analysis
    values, controls = flatten(chain.from_unit(q)), chain.controls()
    q, reasons = q.clone(), {}
    if edge >= estimator.settings["sr"] / 2:
        return q, reasons
    for name, band in bands(chain):
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
