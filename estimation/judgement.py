"""What of an estimate is kept: its intervals, the share of its effect by certainty, nothing for unlike recordings."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reknob.estimation.controls import less, strengths
from reknob.estimation.distribution import LEVELS, Calibration, divergence, mean, pooled
from reknob.estimation.estimator import Estimator

CENTRAL = torch.tensor([0.16, 0.84])  # shares at one standard deviation about the mean of a normal distribution
INNER, OUTER = LEVELS.index(0.68), LEVELS.index(0.95)
#: Divergence in nats from the uniform distribution below which a control counts as not determined: that of a
#: distribution whose 68 % interval is 0.6 of the range wide, where that of the uniform one is 0.68 wide.
KNOWN = 0.03
UNDETERMINED = "hardly determined by the sound"  # note on such a control


@dataclass(frozen=True)
class Judged:
    """Controls of a recording and how far they are to be trusted; fields as of `Estimate`."""

    q: Tensor  # (1, P)
    interval: Tensor | None = None  # (2, P)
    wide: Tensor | None = None  # (2, P)
    ends: Tensor | None = None  # (len(LEVELS), 2, P)
    amount: float = 1.0
    remark: str = ""
    notes: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def judge(estimator: Estimator, features: Tensor, *, noise: bool = False) -> Judged:
    """The controls of a recording from the features (W, F) of its windows; `noise` is as strange as can be.

    Without a calibration the median over the windows, which a few atypical ones do not move, with the central 68 % of
    the windows as interval. With one, only strengths, as gains and thresholds, are such medians; other controls, as
    frequencies and times, are moved halfway to the means of their distributions. Intervals are calibrated, the
    estimated effect is reduced by certainty, and a recording unlike the training music has the prior: no effect, and
    intervals as wide as without a recording.
    """
    windows, hidden = estimator.from_features(features)
    q = windows.quantile(0.5, dim=0, keepdim=True)
    if estimator.certainty is None or estimator.calibration is None:
        return Judged(q, windows.quantile(CENTRAL, dim=0) if len(windows) > 1 else None)
    calibration = estimator.calibration
    information, processed = evidence(estimator, hidden, calibration)
    strangeness = float(calibration.strangeness(features).median())
    strange = noise or strangeness > float(calibration.strange)
    if strange:
        information = torch.zeros_like(information)
    amount = 0.0 if strange else calibration.amount(processed, strangeness)
    ends = calibration.interval(information)
    known = divergence(information) >= KNOWN
    notes = {
        name: UNDETERMINED for name, one in zip(estimator.analysis.controls(), known.tolist(), strict=True) if not one
    }
    # Halfway, 35 held-out excerpts that are kept whole had the response, 0.445 nepers from the true one, of the values
    # trained for it, 0.444, at an error of 0.086 instead of 0.104; with the means alone 0.474 and 0.082.
    q = torch.where(torch.tensor(strengths(estimator.analysis)), q, (q + mean(information)) / 2)
    kept = less(estimator.analysis, q, amount)
    return Judged(kept, ends[INNER], ends[OUTER], ends, amount, _remark(strange, amount), notes)


def evidence(estimator: Estimator, hidden: Tensor, calibration: Calibration) -> tuple[Tensor, float]:
    """Pooled information (P, 2) of windows with hidden values (W, H), and the mean logit that they were processed."""
    assert estimator.certainty is not None
    information, processed = estimator.certainty(hidden)
    return pooled(information, float(calibration.exponent), float(calibration.scale)), float(processed.mean())


def _remark(strange: bool, amount: float) -> str:
    """The sentence on what was kept of an estimate."""
    if strange:
        return "this is unlike the recordings that the estimator was trained with: it returns no effect"
    if amount == 0:
        return "no effect is certain enough: the estimate is no effect"
    return "" if amount == 1 else f"reduced to {100 * amount:.0f} % of the estimated effect, as it is uncertain"
