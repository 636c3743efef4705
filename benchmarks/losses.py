"""Time the vocal loss against auraloss and torchcomp: python -m benchmarks.losses [--batch 1 4] [--repeats 5]

Forward and backward in float32 on chunks of 7 s, both sides in turn. Printed are the medians in ms, the median of the
ratios of the pairs, in wall and in CPU time, and by how much value and gradient differ (relative; RMS). The target is
prepared once, as a fit does; the last line of a part says how long that takes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from auraloss.freq import MultiResolutionSTFTLoss, SumAndDifferenceSTFTLoss
from torch import Tensor
from torchcomp import avg

from losses.mldr import MLDR
from losses.stft import MultiResolutionSTFT
from losses.vocal import FFT_SIZES

SR, SAMPLES = 44100, 7 * 44100
HOPS = [n // 4 for n in FFT_SIZES]


def main() -> None:
    """Run every part on every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="numbers of chunks")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--seconds", type=float, default=SAMPLES / SR, help="length of a chunk")
    args = parser.parse_args()
    for batch in args.batch:
        torch.manual_seed(0)
        target = music(batch, int(args.seconds * SR))
        pred = 0.7 * target.flip(1) + 0.3 * music(batch, target.shape[-1])
        for part in (stft_pair, mldr_pair):
            compare(part, pred, target, args.repeats)


def music(batch: int, samples: int) -> Tensor:
    """Noise (batch, 2, samples) that falls off towards high frequencies and changes in level, down to silence."""
    spectrum = torch.fft.rfft(torch.randn(batch, 2, samples)) / torch.linspace(1, 200, samples // 2 + 1)
    noise = torch.fft.irfft(spectrum, samples)
    level = torch.sin(torch.linspace(0, 20, samples)).clamp(min=0)
    return 0.1 * noise / noise.std() * level


def stft_pair(target: Tensor) -> tuple[Callable, Callable, Callable]:
    """Prepare, ours and auraloss's STFT losses of left/right and half of mid/side."""
    settings = dict(perceptual_weighting=True, sample_rate=SR)
    channels = MultiResolutionSTFTLoss(FFT_SIZES, HOPS, FFT_SIZES, **settings)
    sum_difference = SumAndDifferenceSTFTLoss(FFT_SIZES, HOPS, FFT_SIZES, **settings)
    loss = MultiResolutionSTFT(SR, FFT_SIZES, HOPS, FFT_SIZES, perceptual_weighting=True, stereo="both")
    prepared = loss.prepare(target)

    def ours(pred: Tensor) -> Tensor:
        left_right, mid, side = loss.distances(pred, prepared)
        return left_right + (mid + side) / 4

    def theirs(pred: Tensor) -> Tensor:
        return channels(pred, target) + 0.5 * sum_difference(pred, target)

    return loss.prepare, ours, theirs


def mldr_pair(target: Tensor) -> tuple[Callable, Callable, Callable]:
    """Prepare, ours and a plain composition of the loudness dynamic range of left/right and half of mid/side."""
    loss = MLDR(SR, mid_side=True)
    prepared = loss.prepare(target)

    def ours(pred: Tensor) -> Tensor:
        rows = loss.distances(pred, prepared)
        return rows[:, :2].mean() + rows[:, 2:].mean() / 2

    def ranges(x: Tensor) -> list[Tensor]:
        power = x.flatten(0, 1).square().clamp(min=1e-8)
        pairs = zip(loss.coefs.float(), loss.shifts.tolist(), strict=True)
        return [
            avg(power, short)[:, : x.shape[-1] - shift].log() - avg(power, long)[:, shift:].log()
            for (short, long), shift in pairs
        ]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return sum((a - b).abs().mean() for a, b in zip(ranges(x), ranges(y), strict=True))

    def mid_side(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], 1) * 0.5**0.5

    def theirs(pred: Tensor) -> Tensor:
        return distance(pred, target) + distance(mid_side(pred), mid_side(target)) / 2

    return loss.prepare, ours, theirs


def compare(part: Callable, pred: Tensor, target: Tensor, repeats: int) -> None:
    """Run both sides of a part in turn and print what came out."""
    prepare, *sides = part(target)
    results = [measure(side, pred) for side in sides]  # the first run compiles
    errors = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(*(r[1:] for r in results), strict=True)]
    times = [[measure(side, pred)[0] for side in sides] for _ in range(repeats)]
    print(f"{part.__name__.removesuffix('_pair')} of {tuple(pred.shape)}")
    for i, clock in enumerate(("wall", "CPU")):
        ours, theirs = ([1000 * pair[side][i] for pair in times] for side in range(2))
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        print(f"  {clock:4} ours {statistics.median(ours):8.1f} ms  plain {statistics.median(theirs):8.1f} ms  {ratio:6.1f} x")
    print(f"  relative difference: value {errors[0]:.1e}, gradient {errors[1]:.1e}")
    start = time.perf_counter()
    prepare(target)
    print(f"  preparing the target: {1000 * (time.perf_counter() - start):.1f} ms")


def measure(loss: Callable, pred: Tensor) -> tuple[tuple[float, float], Tensor, Tensor]:
    """Wall and CPU seconds of one forward and backward pass, the value and the gradient."""
    pred = pred.clone().requires_grad_()
    wall, cpu = time.perf_counter(), time.process_time()
    value = loss(pred)
    value.backward()
    return (time.perf_counter() - wall, time.process_time() - cpu), value.detach(), pred.grad


if __name__ == "__main__":
    main()
