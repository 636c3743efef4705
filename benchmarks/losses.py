"""Times of the vocal loss beside auraloss's STFT losses and a plain loudness distance over torchcomp.avg.

    python -m benchmarks.losses [--batch 1 4] [--seconds 7] [--repeats 5]

Forward and backward in float32. Our loss prepares the target once, outside the timing, as a fit does.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torchcomp import avg

from benchmarks.measure import Comparison, clock, paired, table
from benchmarks.peer_loss import SR, mid_side, peer_mss
from reknob.losses.mldr import MLDR
from reknob.losses.stft import MultiResolutionSTFT, all_together
from reknob.losses.vocal import FFT_SIZES
from reknob.runtime.arguments import Parser, positive_float, positive_int

Loss = Callable[[Tensor], Tensor]


def music(batch: int, samples: int) -> Tensor:
    """Noise (batch, 2, samples) that falls off towards high frequencies and changes in level, down to silence."""
    spectrum = torch.fft.rfft(torch.randn(batch, 2, samples)) / torch.linspace(1, 200, samples // 2 + 1)
    noise = torch.fft.irfft(spectrum, samples)
    return 0.1 * noise / noise.std() * torch.sin(torch.linspace(0, 20, samples)).clamp(min=0)


def stft_losses(pred: Tensor, target: Tensor) -> tuple[Loss, Loss]:
    """MSS(L,R) + 1/2 MSS(M,S): ours, and auraloss's with the faster A-weighting convolution."""
    loss = MultiResolutionSTFT(
        SR, FFT_SIZES, [n // 4 for n in FFT_SIZES], FFT_SIZES, perceptual_weighting=True, stereo="both"
    )
    prepared = loss.prepare(target)
    channels, sum_difference = peer_mss(sum_and_difference=False), peer_mss(sum_and_difference=True)

    def ours(x: Tensor) -> Tensor:
        left_right, mid, side = loss.distances(x, prepared, all_together(x))[0]
        return left_right + (mid + side) / 4

    def peer(x: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=onednn):
            return channels(x, target) + 0.5 * sum_difference(x, target)

    # The faster of two back ends on this machine, so that the peer is not slower than it can be.
    seconds = {}
    for onednn in (True, False):
        evaluate(peer, pred)
        seconds[onednn] = clock(partial(evaluate, peer, pred))[1]
    onednn = min(seconds, key=seconds.get)
    return ours, peer


def loudness_losses(pred: Tensor, target: Tensor) -> tuple[Loss, Loss]:
    """MLDR(L,R) + 1/2 MLDR(M,S), rows kept separate: ours, and the same from torchcomp's averages."""
    loss = MLDR(SR, mid_side=True)
    prepared = loss.prepare(target)

    def ours(x: Tensor) -> Tensor:
        rows = loss.distances(x, prepared)
        return rows[:, :2].mean() + rows[:, 2:].mean() / 2

    def log_ratio(x: Tensor, coefs: Tensor, shift: int) -> Tensor:
        power = x.flatten(0, 1).square().clamp(min=1e-8)
        short, long = (avg(power, coef) for coef in coefs.float())
        return short[:, : x.shape[-1] - shift].log() - long[:, shift:].log()

    def distance(x: Tensor, y: Tensor) -> Tensor:
        pairs = list(zip(loss.coefs, loss.shifts.tolist(), strict=True))
        return sum((log_ratio(x, *pair) - log_ratio(y, *pair)).abs().mean() for pair in pairs)

    def peer(x: Tensor) -> Tensor:
        return distance(x, target) + distance(mid_side(x), mid_side(target)) / 2

    return ours, peer


def evaluate(loss: Loss, pred: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of pred and its gradient."""
    leaf = pred.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    return value.detach(), leaf.grad


def rows(repeats: int, batches: Sequence[int] = (1, 4), seconds: float = 7.0) -> list[Comparison]:
    """Compare both kinds of loss on batches of chunks; the difference is the larger of the value's and gradient's."""
    comparisons = []
    for batch in batches:
        torch.manual_seed(0)
        target, other = music(batch, int(seconds * SR)), music(batch, int(seconds * SR))
        pred = 0.7 * target.flip(1) + 0.3 * other
        for name, losses in (("STFT", stft_losses), ("loudness", loudness_losses)):
            ours, peer = losses(pred, target)
            results = zip(evaluate(ours, pred), evaluate(peer, pred), strict=True)
            difference = max(float((a - b).norm() / b.norm()) for a, b in results)
            label = f"{name} loss, {batch} x {seconds:g} s"
            runs = [partial(evaluate, loss, pred) for loss in (ours, peer)]
            comparisons.append(paired(label, *runs, repeats, difference))
    return comparisons


@program
def main(argv: list[str]) -> int:
    """Measure both losses and print the table."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--batch", type=positive_int, nargs="+", default=[1, 4], help="numbers of chunks")
    parser.add_argument("--seconds", type=positive_float, default=7.0, help="length of a chunk")
    parser.add_argument("--repeats", type=positive_int, default=5, help="interleaved pairs of runs")
    args = parser.parse_args(argv)
    print(table(rows(args.repeats, args.batch, args.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
