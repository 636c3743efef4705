"""Scores of a trained estimator on processed excerpts: by item, by parameter, and of what estimate.py keeps."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reknob.data.excerpts import Excerpts
from reknob.estimation.controls import in_order
from reknob.estimation.estimate import estimate_recording
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.estimation.judgement import distance, whole_estimates
from reknob.losses import build_metrics
from reknob.runtime.bars import progress_bar

# By system and metric, one number an item.
Scores = dict[str, dict[str, list[float]]]


class Scored(NamedTuple):
    """Scores of M excerpts, the controls of the synthesis that processed them, and the estimated ones."""

    scores: Scores
    true: Tensor  # (M, P)
    estimate: Tensor  # (M, P); another P where the chains have other controls
    source: Tensor | None = None  # (M,), number of the data set, of batches that have it


class ControlError(NamedTuple):
    """Mean squared error of a control, whose range is [0, 1]: of the estimates, and of guessing the middle."""

    name: str
    error: float
    middle: float


@torch.no_grad()
def score(
    estimator: Estimator, batches: Iterable[Batch], seed: int = 0, file: Callable[[Tensor], Tensor] | None = None
) -> Scored:
    """Scores of every item by system ("no effect", "random parameters", "estimate") and metric.

    Where `file` is given, the estimator's input is `file` of the processed audio (B, 1, T), as a lossy round trip.
    The metrics are mrstft, mse and mel, and where both chains have the same controls, params: the mean squared error
    of the controls, whose range is [0, 1]. `seed` is of the random parameters.
    """
    sr, device = estimator.settings["sr"], next(estimator.parameters()).device
    metrics = build_metrics({"name": "blind"}, sr)
    # On the CPU, so that the random parameters are the same on every device.
    generator = torch.Generator().manual_seed(seed)
    estimator.eval()
    scores: Scores = {}
    true, estimates, numbers = [], [], []
    for batch in batches:
        batch = {name: content.to(device) for name, content in batch.items()}
        dry, wet = batch["dry"], synthesise(estimator, batch)
        q, _ = whole_estimates(estimator, estimator.controller.encoder(file(wet) if file else wet).split(1))
        true.append(batch["q"].cpu())
        estimates.append(q.cpu())
        numbers += [batch["source"].cpu()] if "source" in batch else []
        guesses = {"random parameters": torch.rand(q.shape, generator=generator).to(q), "estimate": q}
        sounds = {"no effect": dry} | {system: estimator.render(dry, guess) for system, guess in guesses.items()}
        for system, sound in sounds.items():
            items = metrics(sound, wet)
            if estimator.same_controls and system in guesses:
                items["params"] = F.mse_loss(guesses[system], batch["q"], reduction="none").mean(1)
            columns = scores.setdefault(system, {})
            for name, values in items.items():
                columns.setdefault(name, []).extend(values.tolist())
    return Scored(scores, torch.cat(true), torch.cat(estimates), torch.cat(numbers) if numbers else None)


def control_errors(estimator: Estimator, scored: Scored) -> list[ControlError]:
    """The error of every control, with peaks in order of frequency; none where the chains have other controls."""
    if not estimator.same_controls:
        return []
    true, estimate = (in_order(estimator.synthesis, q) for q in (scored.true, scored.estimate))
    errors, middles = ((guess - true).square().mean(0).tolist() for guess in (estimate, torch.tensor(0.5)))
    return list(map(ControlError, estimator.synthesis.controls(), errors, middles))


@dataclass(frozen=True)
class Kept:
    """Scores of estimates as estimate.py keeps them, lists by item."""

    none: list[float] = field(default_factory=list)  # Mel up to the band edge of processed excerpts without an effect
    estimate: list[float] = field(default_factory=list)  # and with the estimate
    untouched: list[float] = field(default_factory=list)  # Mel of unprocessed excerpts with their estimate
    touched: list[bool] = field(default_factory=list)  # whether it changes them
    #: By level of `LEVELS` and control: whether the interval held the true value; empty without a calibration.
    held: list[list[list[bool]]] = field(default_factory=list)
    error: list[list[float]] = field(default_factory=list)  # squared, by control
    known: list[list[bool]] = field(default_factory=list)  # whether the sound determines the control


@torch.no_grad()
def score_kept(estimator: Estimator, excerpts: Excerpts) -> Kept:
    """Scores of what estimate.py estimates of excerpts, processed with their random controls and as they are."""
    sr, kept = estimator.settings["sr"], Kept()
    for index in progress_bar(range(len(excerpts)), "test: estimates", unit="excerpt"):
        item = {key: value[None] for key, value in excerpts[index].items()}
        wet, truth = synthesise(estimator, item), in_order(estimator.synthesis, item["q"])[0]
        found, left = (estimate_recording(estimator, x[0], sr) for x in (wet, item["dry"]))
        dry = item["dry"]
        kept.none.append(float(distance(estimator, dry, wet, [found.edge])))
        kept.estimate.append(float(distance(estimator, estimator.render(dry, found.q), wet, [found.edge])))
        kept.untouched.append(float(distance(estimator, estimator.render(dry, left.q), dry, [left.edge])))
        kept.touched.append(left.kept)
        kept.error.append((found.q[0] - truth).square().tolist())
        kept.known.append([control not in found.notes for control in estimator.analysis.controls()])
        if found.ends is not None:
            kept.held.append(((found.ends[:, 0] <= truth) & (truth <= found.ends[:, 1])).tolist())
    return kept
