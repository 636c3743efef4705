"""An estimate compared with the recording that it was made from, by way of the dry recording."""

import torch
from torch import Tensor

from reknob.data.align import RELATED, gcc_phat_peak
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
def render_at_rms(estimator: Estimator, q: Tensor, x: Tensor) -> Tensor:
    """A recording (C, T) through the analysis chain at controls q (1, P), scaled back to the recording's RMS."""
    y = estimator.render(x[None], q)[0]
    # Encoders normalise the peak of their input, so that an estimate does not determine the overall gain.
    return y * (x.square().mean() / y.square().mean().clamp(min=1e-12)).sqrt()


def score_estimate(estimator: Estimator, q: Tensor, dry: Tensor, wet: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of the dry recording, and of its render with the estimate, against the wet one; all level-matched.

    Recordings are (C, T) at the estimator's rate and are mixed to mono. By "dry" and "dry with the estimate", and by
    metric; lower is better.
    """
    x, y = to_mono(dry)[0][None], to_mono(wet)[0][None]
    length = min(x.shape[-1], y.shape[-1])
    metrics = build_metrics({"name": "blind"}, estimator.settings["sr"])
    sounds = {"dry": x, "dry with the estimate": render_at_rms(estimator, q, x)}
    return {
        name: {key: score.item() for key, score in metrics(sound[None, :, :length], y[None, :, :length]).items()}
        for name, sound in sounds.items()
    }
