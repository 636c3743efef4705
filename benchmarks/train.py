"""Times of a blind-estimation training step, peq and mel loss, beside its plain build's.

    python -m benchmarks.train [--batch 4] [--seconds 10] [--repeats 3] [--encoders time_frequency]

A step estimates controls from processed excerpts, renders the equaliser, and computes the gradients of the weights;
processing the excerpts is left out on both sides.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.encoders import music
from benchmarks.measure import Comparison, Task, machine, paired, peak_memory, table
from benchmarks.peer_blind import Mel, PlainTraining, equalise
from benchmarks.peer_encoders import PEERS
from reknob.estimation.estimator import Batch, Estimator, synthesise
from reknob.estimation.train import Training
from reknob.losses import MelLoss
from reknob.runtime.arguments import Parser, positive_float, positive_int

SR = 44100


def batch_of(size: int, seconds: float, device: str = "cpu") -> Batch:
    """Dry excerpts and controls."""
    torch.manual_seed(0)
    return {"dry": music(size, round(seconds * SR)).to(device), "q": torch.rand(size, 15).to(device)}


def our_step(encoder: str, batch: Batch) -> Task:
    """A step of ours."""
    estimator = Estimator(sfx="peq", afx="peq", encoder=encoder).to(batch["dry"].device)
    training, wet = Training(estimator, "mel", 1e-4), synthesise(estimator, batch)

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
    """The equaliser and the loss by themselves, forward and backward."""
    estimator = Estimator(sfx="peq", afx="peq", encoder="percentiles")
    dry, q = batch["dry"], batch["q"].clone().requires_grad_()
    # In float64, as the plain build's own float32 response is no reference.
    exact = equalise(dry.double(), q.double())
    difference = (estimator.render(dry, q) - exact).norm() / exact.norm()
    rows = [
        paired(
            "peq",
            partial(back_and_forth, estimator.render, dry, q),
            partial(back_and_forth, equalise, dry, q),
            repeats,
            difference.item(),
        )
    ]
    pred, ours, peer = torch.randn_like(dry).requires_grad_(), MelLoss(SR), Mel()
    difference = abs(ours(pred, dry) - peer(pred, dry)).item()
    ours, peer = (partial(back_and_forth, loss, pred, dry) for loss in (ours, peer))
    return [*rows, paired("mel loss", ours, peer, repeats, difference)]


def rows(
    repeats: int, encoders: Sequence[str] = tuple(PEERS), size: int = 4, seconds: float = 10.0
) -> list[Comparison]:
    """Compare the parts, and a step with each encoder."""
    batch = batch_of(size, seconds)
    steps = [paired(f"step, {key}", our_step(key, batch), plain_step(key, batch), repeats) for key in encoders]
    return parts(batch, repeats) + steps


def lone_step(plain: bool, encoder: str, size: int, seconds: float) -> Task:
    """One side's step alone, for its peak memory."""
    return (plain_step if plain else our_step)(encoder, batch_of(size, seconds))


@program
def main(argv: list[str]) -> int:
    """Run the comparisons asked for and print them."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--batch", type=positive_int, default=4, help="excerpts a step")
    parser.add_argument("--seconds", type=positive_float, default=10.0, help="length of an excerpt")
    parser.add_argument("--repeats", type=positive_int, default=3, help="interleaved pairs of runs")
    parser.add_argument("--encoders", nargs="*", choices=list(PEERS), default=list(PEERS), help="keys to compare")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each side, in its own process")
    args = parser.parse_args(argv)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    print(table(rows(args.repeats, args.encoders, args.batch, args.seconds)))
    for key in args.encoders if args.memory else ():
        ours, peer = (peak_memory(lone_step, plain, key, args.batch, args.seconds) for plain in (False, True))
        print(f"{key}: peak memory {ours:.2f} GB, plain build {peer:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
