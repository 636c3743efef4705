"""Times of a blind-estimation training step, peq and mel loss, beside its plain build's.

A step estimates controls from processed excerpts, renders the equaliser, and computes the gradients of the weights;
processing the excerpts is left out on both sides.
"""

from functools import partial

import torch
from nnAudio.features.cqt import CQT1992v2
from torch import Tensor, nn

from benchmarks.measure import Comparison, Memory, Task, music, paired, peak_memory, relative_rms
from benchmarks.peer_blind import Mel, PlainTraining, equalise
from benchmarks.peer_encoders import PEERS
from reknob.encoders.cqt import CQT
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.estimation.train import Training
from reknob.losses import MelLoss

SR = 44100


def batch_of(size: int = 4, seconds: float = 10.0, device: str = "cpu") -> Batch:
    """Dry excerpts and controls."""
    torch.manual_seed(0)
    return {"dry": music(size, 1, round(seconds * SR)).to(device), "q": torch.rand(size, 15).to(device)}


def our_step(encoder: str, batch: Batch) -> Task:
    """A step of ours."""
    estimator = Estimator(sfx="peq", afx="peq", encoder=encoder).to(batch["dry"].device)
    training, wet = Training(estimator, "mel"), synthesise(estimator, batch)

    def run() -> None:
        training.compute_loss(batch, wet, estimator(wet)).backward()

    return run


def plain_step(encoder: str, batch: Batch) -> Task:
    """The same step of the plain build."""
    device = batch["dry"].device
    training = PlainTraining(encoder).to(device)
    # Only its chain is used, for which any encoder will do.
    wet = synthesise(Estimator(sfx="peq", afx="peq", encoder="percentiles").to(device), batch)

    def run() -> None:
        training(batch["dry"], wet).backward()

    return run


def back_and_forth(function: nn.Module | Task, *inputs: Tensor) -> None:
    """A function of tensors, and the gradients of its mean."""
    function(*inputs).mean().backward()


def parts(batch: Batch, repeats: int) -> list[Comparison]:
    """The equaliser, the loss and the encoders' constant-Q transform by themselves, forward and backward."""
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles")
    dry, q = batch["dry"], batch["q"].clone().requires_grad_()
    # In float64, as the plain build's own float32 response is no reference.
    difference = relative_rms(estimator.render(dry, q), equalise(dry.double(), q.double()))
    sides = (partial(back_and_forth, function, dry, q) for function in (estimator.render, equalise))
    rows = [paired("peq", *sides, repeats, difference)]
    pred, ours, peer = torch.randn_like(dry).requires_grad_(), MelLoss(SR), Mel()
    difference = abs(ours(pred, dry) - peer(pred, dry)).item()
    sides = (partial(back_and_forth, loss, pred, dry) for loss in (ours, peer))
    rows.append(paired("mel loss", *sides, repeats, difference))
    mono = dry[:, 0].clone().requires_grad_()
    ours, peer = CQT(SR), CQT1992v2(sr=SR, n_bins=113, hop_length=512, fmin=32.70, verbose=False)
    sides = (partial(back_and_forth, transform, mono) for transform in (ours, peer))
    return [*rows, paired("CQT", *sides, repeats, relative_rms(ours(mono), peer(mono)))]


def rows(repeats: int) -> list[Comparison]:
    """Compare the parts, and a step with each encoder."""
    batch = batch_of()
    steps = [paired(f"step, {key}", our_step(key, batch), plain_step(key, batch), repeats) for key in PEERS]
    return parts(batch, repeats) + steps


def memory_rows() -> list[Memory]:
    """Compare peak memory of a step with each encoder."""
    return [Memory(key, *(peak_memory(lone_step, plain, key) for plain in (False, True))) for key in PEERS]


def lone_step(plain: bool, encoder: str) -> Task:
    """One side's step alone."""
    return (plain_step if plain else our_step)(encoder, batch_of())
