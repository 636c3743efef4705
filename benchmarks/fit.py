"""Times and peak memory of a whole step of the vocal-chain fit, ours and the peer's.

A step renders 12 s chunks, computes the loss of their last 7 s, its gradients, and one update of the parameters.
"""

from pathlib import Path

import torch

from benchmarks import peer
from benchmarks.measure import Comparison, Memory, Task, Worker, compared, peak_memory, quickest
from benchmarks.peer import SR
from benchmarks.peer_loss import PeerLoss
from reknob.afx.effect import Effect, Knobs
from reknob.afx.registry import build
from reknob.data.chunks import Chunks
from reknob.fitting.fit import Fit
from reknob.fitting.track import TrackState
from reknob.losses import VocalLoss
from reknob.runtime.memory import keep_freed_memory
from reknob.runtime.settings import read_yaml

CHAIN = Path(__file__).parents[1] / "cfg" / "model" / "diffvox.yaml"
SECONDS, WARM_UP = 12, 5 * SR
LENGTH = SECONDS * SR
LR = 0.01
COUNTS = (1, 4)  # of chunks


def chunks(count: int, seconds: float = SECONDS) -> Chunks:
    """Make dry and wet noise whose level swings between silence and full scale twice a second."""
    generator, samples = torch.Generator().manual_seed(0), int(seconds * SR)
    swing = 0.3 * torch.sin(2 * torch.pi * torch.arange(samples) / SR).square()
    dry, wet = (swing * torch.randn(count, channels, samples, generator=generator) for channels in (1, 2))
    return Chunks(dry, wet, WARM_UP, tuple(range(count)))


def start(delay_ms: float = 400.0) -> tuple[Effect, Knobs]:
    """Our chain, and the raw parameters that both sides start from: the published defaults, but for the delay."""
    config = read_yaml(CHAIN)
    config["sends"]["delay"]["delay"] = {"default": delay_ms}
    chain = build(config, SR)
    return chain, Knobs(chain, torch.Generator().manual_seed(0))


def peer_step(count: int, onednn: bool = True, seconds: float = SECONDS, device: str = "cpu") -> Task:
    """Make the peer's step on `count` chunks; `onednn` as in `PeerLoss`."""
    chain, knobs = start()
    knobs = knobs.to(device)
    loss, batch = PeerLoss(onednn).to(device), chunks(count, seconds)
    dry, wet = batch.dry.to(device), batch.wet[..., WARM_UP:].to(device)
    first = {name: raw.clone() for name, raw in knobs.state_dict().items()}
    optimiser = torch.optim.Adam(knobs.parameters(), lr=LR)

    def step() -> None:
        # The release's float32 delay gives NaN within a few steps: each starts from the first values, at the same cost.
        knobs.load_state_dict(first)
        optimiser.zero_grad()
        values = knobs()
        (loss(peer.render(dry, values)[..., WARM_UP:], wet) + chain.penalty(values)).backward()
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
    (chain, knobs), batch = start(delay_ms), chunks(count, seconds)
    begun = [TrackState(chain, batch, raws=knobs.state_dict()) for _ in range(tracks)]
    return Fit(chain.to(device), begun, VocalLoss(SR), lr=LR, batch_size=count, device=device, graphed=graphed)


def quicker_peer(count: int) -> Task:
    """Make the peer's step with the A-weighting convolution that is quicker here, in CPU seconds."""
    tasks = [peer_step(count, onednn) for onednn in (True, False)]
    return tasks[quickest(tasks)]


def rows(repeats: int) -> list[Comparison]:
    """Compare the steps, each side in a process of its own."""
    compared_steps = []
    for n in COUNTS:
        with Worker(our_step, n) as ours, Worker(quicker_peer, n) as peer:
            compared_steps.append(compared(f"{n} × 12 s", ours.run, peer.run, repeats))
    return compared_steps


def memory_rows() -> list[Memory]:
    """Compare peak memory."""
    return [Memory(f"{n} × 12 s", peak_memory(our_step, n), peak_memory(peer_step, n)) for n in COUNTS]
