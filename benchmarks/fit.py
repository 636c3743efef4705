"""Times and peak memory of a whole step of the vocal-chain fit, ours and the peer's.

    python -m benchmarks.fit [--repeats 3] [--chunks 1,4]

A step renders 12 s chunks, computes the loss of their last 7 s, its gradients, and one update of the parameters.
"""

from reknob.runtime.program import program

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, Task, Worker, clock, compared, peak_memory, table
from benchmarks.peer import SR, PeerChain
from benchmarks.peer_loss import PeerLoss
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState
from reknob.formats.published import from_published
from reknob.losses import VocalLoss
from reknob.runtime.arguments import Parser, positive_int
from reknob.runtime.memory import keep_freed_memory
from reknob.runtime.settings import read_yaml

CHAIN = Path(__file__).parents[1] / "cfg" / "model" / "diffvox.yaml"
SECONDS, WARM_UP = 12, 5 * SR
LENGTH = SECONDS * SR
LR = 0.01


@dataclass(frozen=True)
class Memory:
    """Peak resident memory in GB of two steps in a process of their own, imports included."""

    name: str
    ours: float
    peer: float


def chunks(count: int, seconds: float = SECONDS) -> Chunks:
    """Make dry and wet noise whose level swings between silence and full scale twice a second."""
    generator, samples = torch.Generator().manual_seed(0), int(seconds * SR)
    swing = 0.3 * torch.sin(2 * torch.pi * torch.arange(samples) / SR).square()
    dry, wet = (swing * torch.randn(count, channels, samples, generator=generator) for channels in (1, 2))
    return Chunks(dry, wet, WARM_UP, tuple(range(count)))


def start(delay_ms: float = 400.0) -> PeerChain:
    """Make the chain both sides start from: the published defaults, but for the delay where it is given."""
    torch.manual_seed(0)
    chain = PeerChain()
    chain[-1].effects[0].params.delay = torch.tensor(delay_ms)
    return chain


def peer_step(
    count: int, onednn: bool = True, seconds: float = SECONDS, delay_ms: float = 400.0, device: str = "cpu"
) -> Task:
    """Make the peer's step on `count` chunks; `onednn` as in `PeerLoss`."""
    chain, loss, batch = start(delay_ms).train().to(device), PeerLoss(onednn).to(device), chunks(count, seconds)
    dry, wet = batch.dry.to(device), batch.wet[..., WARM_UP:].to(device)
    first = {name: p.clone() for name, p in raws(chain).items()}
    optimiser = torch.optim.Adam(chain.parameters(), lr=LR)

    def step() -> None:
        # The release's float32 delay gives NaN within a few steps: each starts from the first values, at the same cost.
        chain.load(first)
        optimiser.zero_grad()
        (loss(chain(dry)[..., WARM_UP:], wet) + chain.penalty()).backward()
        optimiser.step()

    return step


def our_step(count: int, seconds: float = SECONDS, delay_ms: float = 400.0) -> Task:
    """Make our step on `count` chunks, in a process that keeps its memory as main.py does."""
    keep_freed_memory()
    fit = our_fit(count, seconds, delay_ms)

    def step() -> None:
        fit.step()
        fit.read_reports()

    return step


def our_fit(
    count: int,
    seconds: float = SECONDS,
    delay_ms: float = 400.0,
    *,
    tracks: int = 1,
    device: str = "cpu",
    graphed: bool = False,
) -> Fit:
    """Make our fit of `count` chunks, or of as many of each of several tracks."""
    chain = build(read_yaml(CHAIN), SR).to(device)
    first, batch = from_published(raws(start(delay_ms)), chain), chunks(count, seconds)
    begun = [TrackState(chain, batch, raws=first) for _ in range(tracks)]
    return Fit(chain, begun, VocalLoss(SR), lr=LR, batch_size=count, device=device, graphed=graphed)


def raws(chain: PeerChain) -> dict[str, Tensor]:
    """Raw parameters of a peer chain under the published names."""
    return {name: p.detach() for name, p in chain.named_parameters()}


def quicker_peer(count: int, **options: float) -> Task:
    """Make the peer's step with the A-weighting convolution that is quicker here, in CPU seconds."""
    tasks = [peer_step(count, onednn, **options) for onednn in (True, False)]
    for task in tasks:
        task()
    return min(tasks, key=clock_cpu)


def clock_cpu(task: Task) -> float:
    """CPU seconds of one run."""
    return clock(task)[1]


def rows(repeats: int, counts: tuple[int, ...] = (1, 4)) -> list[Comparison]:
    """Compare the steps on so many chunks, each side in a process of its own."""
    compared_steps = []
    for n in counts:
        with Worker(our_step, n) as ours, Worker(quicker_peer, n) as peer:
            compared_steps.append(compared(f"{n} × 12 s", ours.run, peer.run, repeats))
    return compared_steps


def memory_rows(counts: tuple[int, ...] = (1, 4)) -> list[Memory]:
    """Compare peak memory."""
    return [Memory(f"{n} × 12 s", peak_memory(our_step, n), peak_memory(peer_step, n)) for n in counts]


def memory_table(memories: list[Memory]) -> str:
    """Lay peak memory out as a Markdown table."""
    lines = ["| | GB | peer |", "|---|---|---|"]
    return "\n".join(lines + [f"| {m.name} | {m.ours:.2f} | {m.peer:.2f} |" for m in memories])


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between."""
    return tuple(positive_int(number) for number in text.split(","))


@program
def main(argv: list[str]) -> int:
    """Measure and print both tables."""
    parser = Parser(__doc__, has_result=False)
    parser.add_argument("--repeats", type=positive_int, default=3, help="interleaved pairs of steps")
    parser.add_argument("--chunks", type=counts, default="1,4", help="numbers of chunks, with commas between")
    args = parser.parse_args(argv)
    print(table(rows(args.repeats, args.chunks)), memory_table(memory_rows(args.chunks)), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
