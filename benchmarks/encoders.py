"""Times of the constant-Q transform beside nnAudio's, and of an encoder's training step beside its plain build.

    python -m benchmarks.encoders [--batch 4] [--seconds 10] [--repeats 5] [--encoders time_frequency] [--memory]

A step is forward and backward in float32. The plain build differentiates into its input as well, as the published
training does (its target requires a gradient). On a machine with other load, OMP_WAIT_POLICY=PASSIVE keeps
the busy-waiting of threads out of the CPU seconds.
"""

from reknob.runtime.program import program

import sys
from collections.abc import Sequence
from functools import partial

import torch
from nnAudio.features.cqt import CQT1992v2
from torch import Tensor, nn

from benchmarks.measure import Comparison, Task, clock, machine, paired, peak_memory, table
from benchmarks.peer_encoders import PEERS
from reknob.encoders import build_encoder
from reknob.encoders.cqt import CQT
from reknob.runtime.arguments import Parser, positive_float, positive_int

SR = 44100


def music(batch: int, samples: int) -> Tensor:
    """Noise (batch, 1, samples) that falls off towards high frequencies and changes in level."""
    spectrum = torch.fft.rfft(torch.randn(batch, 1, samples)) / torch.linspace(1, 200, samples // 2 + 1)
    noise = torch.fft.irfft(spectrum, samples)
    return 0.1 * noise / noise.std() * (0.6 + 0.5 * torch.sin(torch.linspace(0, 20, samples)))


def relative_rms(a: Tensor, b: Tensor) -> float:
    """Relative RMS difference of a from b."""
    return ((a - b).square().mean() / b.square().mean()).sqrt().item()


def step(module: nn.Module, x: Tensor) -> Task:
    """A task: forward, and backward into the weights, and into x where x requires it."""

    def run() -> None:
        module(x).square().mean().backward()

    return run


def transforms(x: Tensor, repeats: int) -> list[Comparison]:
    """The transform forward, and with the gradient into its input."""
    ours, peer = CQT(SR), CQT1992v2(sr=SR, n_bins=113, hop_length=512, fmin=32.70, verbose=False)
    mono = x[:, 0]
    difference = relative_rms(ours(mono), peer(mono))
    forward = paired("CQT, forward", partial(ours, mono), partial(peer, mono), repeats, difference)
    mono = mono.clone().requires_grad_()
    return [forward, paired("CQT, and gradient into x", step(ours, mono), step(peer, mono), repeats)]


def pair(key: str) -> tuple[nn.Module, nn.Module]:
    """Our encoder and its plain build with the same weights."""
    ours, peer = build_encoder(key, SR), PEERS[key]()
    # Without the transform's kernels, both sides have the same weights in the same order under other names.
    names = [name for name in peer.state_dict() if ".cqt." not in name]
    weights = dict(zip(names, ours.state_dict().values(), strict=True))
    peer.load_state_dict(weights, strict=False)
    return ours, peer


def steps(key: str, x: Tensor, repeats: int) -> Comparison:
    """One encoder's training step."""
    ours, peer = pair(key)
    with torch.no_grad():
        difference = relative_rms(ours(x), peer(x))
    return paired(key, step(ours, x), step(peer, x.clone().requires_grad_()), repeats, difference)


def rows(repeats: int, keys: Sequence[str] = tuple(PEERS), batch: int = 4, seconds: float = 10.0) -> list[Comparison]:
    """Compare the transform and every encoder's training step."""
    torch.manual_seed(0)
    x = music(batch, int(seconds * SR))
    return transforms(x, repeats) + [steps(key, x, repeats) for key in keys]


def lone_step(key: str, plain: bool, batch: int, samples: int) -> Task:
    """One side's training step alone, for its peak memory."""
    x = music(batch, samples)
    return step(PEERS[key](), x.requires_grad_()) if plain else step(build_encoder(key, SR), x)


def front_end_share(key: str, x: Tensor, repeats: int) -> float:
    """CPU seconds of the log constant-Q front end over those of our complete step, medians."""
    encoder = build_encoder(key, SR)
    whole = step(encoder, x)
    whole()
    times = torch.tensor([(clock(partial(encoder.cqt, x))[1], clock(whole)[1]) for _ in range(repeats)])
    front, total = times.median(dim=0).values.tolist()
    return front / total


@program
def main(argv: list[str]) -> int:
    """Run the comparisons asked for and print them."""
    parser = Parser(__doc__)
    parser.add_argument("--batch", type=positive_int, default=4, help="excerpts a step")
    parser.add_argument("--seconds", type=positive_float, default=10.0, help="length of an excerpt")
    parser.add_argument("--repeats", type=positive_int, default=5, help="interleaved pairs of runs")
    parser.add_argument("--encoders", nargs="*", choices=list(PEERS), default=list(PEERS), help="keys to compare")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of each side, in its own process")
    args = parser.parse_args(argv)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    print(table(rows(args.repeats, args.encoders, args.batch, args.seconds)))
    samples = int(args.seconds * SR)
    for key in args.encoders:
        if key != "mee":
            share = front_end_share(key, music(args.batch, samples), args.repeats)
            print(f"{key}: the constant-Q front end takes {share:.0%} of our step")
        if args.memory:
            ours, peer = (peak_memory(lone_step, key, plain, args.batch, samples) for plain in (False, True))
            print(f"{key}: peak memory {ours:.2f} GB, plain build {peer:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
