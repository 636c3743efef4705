"""An estimate compared with the recording that it was made from, by way of the dry recording."""

import math

import torch
from torch import Tensor

from reknob.data.align import RELATED, gcc_phat_peak
from reknob.data.bandwidth import band_edge, within_edges
from reknob.estimation.estimator import Estimator, to_mono
from reknob.losses import build_metrics
from reknob.runtime.errors import UsageError

COPY = 1e-6  # 1 - squared correlation of two recordings, below which they differ in level alone


def check_dry(dry: Tensor, wet: Tensor, sr: int, names: tuple[str, str] = ("dry", "the input")) -> None:
    """Raises UsageError where dry and wet (C, T) are the same recording, at any level, or unrelated ones."""
    x, y = to_mono(dry)[0], to_mono(wet)[0]
    length = min(len(x), len(y))
    x, y = x[None, :length], y[None, :length]
    # Summed in float64: over millions of samples the rounding of float32 approaches COPY.
    common = (x.double() * y).sum().square() / (x.double().square().sum() * y.double().square().sum()).clamp(min=1e-30)
    # Before the correlation, in which a copy scores highest and would pass.
    if common > 1 - COPY:
        raise UsageError(f"{names[0]} holds the same sound as {names[1]}: give the recording before it was processed")
    peak = gcc_phat_peak(x, y, sr)
    if peak < RELATED:
        raise UsageError(
            f"{names[0]} and {names[1]} seem unrelated: their whitened correlation is {peak:.3f}, at least {RELATED:g} "
            "is allowed; give the recording before it was processed"
        )


@torch.no_grad()
def render_at_rms(estimator: Estimator, q: Tensor, x: Tensor, edge: float = math.inf) -> Tensor:
    """A recording (C, T) through the analysis chain at controls q (1, P), scaled back to the recording's RMS.

    With a band edge in Hz it ends there, as the recording does that it is compared with.
    """
    y = within_edges(estimator.render(x[None], q), estimator.settings["sr"], [edge])[0]
    # Encoders normalise the peak of their input, so that an estimate does not determine the overall gain.
    return y * (x.square().mean() / y.square().mean().clamp(min=1e-12)).sqrt()


def score_estimate(estimator: Estimator, q: Tensor, dry: Tensor, wet: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of the dry recording, and of its render with the estimate, against the wet one; all level-matched.

    Recordings are (C, T) at the estimator's rate, are mixed to mono and compared up to the band edge of the wet one. By
    "dry" and "dry with the estimate", and by metric; lower is better.
    """
    x, y = to_mono(dry)[0][None], to_mono(wet)[0][None]
    length, sr = min(x.shape[-1], y.shape[-1]), estimator.settings["sr"]
    metrics, edges = build_metrics({"name": "blind"}, sr), [band_edge(y, sr)]
    target = within_edges(y[None, :, :length], sr, edges)
    scores = {}
    for name, sound in {"dry": x, "dry with the estimate": render_at_rms(estimator, q, x)}.items():
        items = metrics(within_edges(sound[None, :, :length], sr, edges), target)
        scores[name] = {key: score.item() for key, score in items.items()}
    return scores
