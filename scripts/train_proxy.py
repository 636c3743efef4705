"""Trains the neural proxy of the compressor against the compressor itself, and measures how close it comes.

    python scripts/train_proxy.py --out my_proxy.pt                                 on generated music
    python scripts/train_proxy.py --data_dir ~/music --out my_proxy.pt              on a folder of recordings
    python scripts/train_proxy.py --out my_proxy.pt --measure a.wav b.wav           measures on recordings of yours too

The loss is L1 + multi-resolution STFT; settings are drawn anew for every excerpt. The network of the step that was
best on held-out pieces is written at the end, or at Ctrl-C, with a card beside it that says what it is.
Use it as ProxyCompressor(sr, weights="my_proxy.pt").
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reknob.runtime.program import INTERRUPTED, program

import argparse
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from reknob.afx.dynamics import Compressor
from reknob.afx.functional.level import centre_and_peak
from reknob.afx.proxy import TRAINED_SR, ProxyCompressor
from reknob.data.audio import read_audio, resample
from reknob.data.music import generate_music
from reknob.data.recordings import find_recordings
from reknob.losses.metrics import FFT_SIZES, BlindMetrics
from reknob.losses.stft import MultiResolutionSTFT
from reknob.runtime.arguments import Parser, file_path, integer, positive_float, positive_int, real
from reknob.runtime.device import pick_device
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, write_tensors, write_text
from reknob.runtime.interrupt import Interrupt
from reknob.runtime.seeds import stream

SECONDS = 10.0  # of a piece
HELD_OUT = 1_000_000  # first seed of the generated pieces that nothing is trained on
SETTINGS_SEED = 50
FIGURES = ("MAE", "ESR", "MRSTFT", "Mel")
#: Of the published network: means on other music, with 50 random settings.
PUBLISHED = (0.0105, 0.0120, 0.202, 0.0738)


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    check_output(args.out, args.measure, overwrite=args.overwrite)
    card_file = args.out.with_suffix(".md")
    if card_file == args.out:
        raise UsageError(f"--out {args.out}: this will be the card's name; give a .pt file")
    check_output(card_file, args.measure, overwrite=args.overwrite)
    args.device = pick_device(args.device)
    measured = [(path, recording(path)) for path in args.measure]
    music = pool(args, "train", args.pieces)
    held_out = pool(args, "valid", args.valid_pieces)
    started = time.perf_counter()
    with Interrupt() as interrupt:
        proxy, steps = train(args, music.to(args.device), held_out.to(args.device), interrupt)
        minutes = (time.perf_counter() - started) / 60
        write_tensors(args.out, {name: value.cpu() for name, value in proxy.network.state_dict().items()})
    tables = [("held-out pieces, each with settings of its own", score(proxy, held_out, settings(len(held_out))))]
    if measured:
        title = f"{len(measured)} recordings, each with the same {args.settings} settings"
        tables.append((title, score_recordings(proxy, [x for _, x in measured], args.settings)))
    text = card(args, steps, minutes, tables)
    write_text(card_file, text)
    print(text)
    return INTERRUPTED if interrupt.asked else 0


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__)
    p.add_argument("--steps", type=positive_int, default=1200, help="of the optimiser (default 1200)")
    p.add_argument("--batch_size", type=positive_int, default=8, help="excerpts per step (default 8)")
    p.add_argument("--seconds", type=real(0.2, SECONDS), default=3.0, help="length of an excerpt (default 3)")
    p.add_argument("--lr", type=positive_float, default=4e-3, help="highest learning rate (default 0.004)")
    p.add_argument("--seed", type=integer(0, 1000), default=0, help="of pieces, settings and weights, 0 to 1000")
    p.add_argument("--data_dir", type=file_path, help="folder of recordings (default: generated music)")
    p.add_argument("--pieces", type=integer(1, 900), default=120, help="of 10 s, to train on (default 120)")
    p.add_argument("--valid_pieces", type=integer(1, 900), default=50, help="of 10 s, held out (default 50)")
    text = "steps between validations (default 250)"
    p.add_argument("--validate_every", type=positive_int, default=250, metavar="STEPS", help=text)
    text = "recordings to measure on as well"
    p.add_argument("--measure", type=file_path, nargs="+", default=[], metavar="FILE", help=text)
    p.add_argument("--settings", type=positive_int, default=50, help="random settings for each of these (default 50)")
    p.add_argument("--out", default="proxy.pt", type=file_path, help="default proxy.pt; the card goes beside it")
    p.add_argument("--overwrite", action="store_true", help="replace weights that are there")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    return p


def pool(args: argparse.Namespace, split: str, count: int) -> Tensor:
    """Pieces of a split, (count, 1, T), centred and at a peak of 1."""
    held_out = HELD_OUT * (split == "valid")
    if args.data_dir is None:
        first = args.seed * count + held_out
        made = (torch.from_numpy(generate_music(first + i, SECONDS, TRAINED_SR)) for i in range(count))
    else:
        found = find_recordings("folder", args.data_dir, split, SECONDS).recordings
        chosen = [found[i % len(found)] for i in range(count)]
        at = torch.rand(count, generator=stream(args.seed, "excerpts", split)).tolist()
        made = (r.read(a * (r.duration - SECONDS), SECONDS, TRAINED_SR)[None] for r, a in zip(chosen, at, strict=True))
    return centre_and_peak(torch.stack(list(tqdm(made, f"{split}: music", count, unit="piece"))))


def recording(path: str) -> Tensor:
    """A whole recording as a chain feeds it to the compressor, (1, 1, T): mono, centred, at a peak of 1."""
    x, sr = read_audio(path)
    return centre_and_peak(resample(x.mean(0, keepdim=True), sr, TRAINED_SR)[None])


def settings(count: int) -> Tensor:
    """Settings q, (count, 6), uniform in [0, 1]; always the same ones."""
    return torch.rand(count, len(Compressor.params), generator=torch.Generator().manual_seed(SETTINGS_SEED))


def train(
    args: argparse.Namespace, music: Tensor, held_out: Tensor, interrupt: Interrupt
) -> tuple[ProxyCompressor, int]:
    """The proxy as it was best on held-out pieces, and the number of steps made until then."""
    torch.manual_seed(args.seed)
    proxy = ProxyCompressor(TRAINED_SR, weights=None).to(args.device)
    network, exact = proxy.network.requires_grad_(True), Compressor(TRAINED_SR)
    optimiser = torch.optim.Adam(network.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps + 1, pct_start=0.05)
    stft = MultiResolutionSTFT(TRAINED_SR, FFT_SIZES, [n // 2 for n in FFT_SIZES], FFT_SIZES)
    best, state, reached = float("inf"), {}, 0
    with tqdm(total=args.steps, desc="training", unit="step") as bar:
        for step, (x, q) in enumerate(excerpts(args, music), start=1):
            # Make-up gain is no part of what the network does, and would weigh the settings unevenly.
            values = exact.from_unit(q) | {"makeup": torch.zeros(len(q), device=x.device)}
            target = exact(x, **values)
            pred = proxy(x, **values)
            loss = (pred - target).abs().mean() + stft(pred, target)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            bar.update()
            last = step == args.steps or interrupt.asked
            if last or step % args.validate_every == 0:
                mean = score(proxy, held_out, settings(len(held_out))).mean(0)
                distance = (mean[0] + mean[2]).item()
                bar.set_postfix(held_out=f"{distance:.4f}")
                if distance < best:
                    best, reached = distance, step
                    state = {name: value.clone() for name, value in network.state_dict().items()}
            if last:
                break
    if not state:
        raise UsageError("the network diverged before it was any good; give a lower --lr")
    network.load_state_dict(state)
    return proxy, reached


def excerpts(args: argparse.Namespace, music: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of excerpts (B, 1, T) at a peak of 1, and of settings q (B, 6)."""
    draw = torch.Generator().manual_seed(args.seed)
    length = round(args.seconds * TRAINED_SR)
    while True:
        rows = torch.randint(len(music), (args.batch_size,), generator=draw).tolist()
        starts = torch.randint(music.shape[-1] - length + 1, (args.batch_size,), generator=draw).tolist()
        x = torch.stack([music[row, :, start : start + length] for row, start in zip(rows, starts, strict=True)])
        q = torch.rand(args.batch_size, len(Compressor.params), generator=draw)
        yield centre_and_peak(x), q.to(x.device)


@torch.no_grad()
def score(proxy: ProxyCompressor, x: Tensor, q: Tensor) -> Tensor:
    """MAE, ESR, MRSTFT and Mel, (N, 4), of the proxy against the compressor on audio (N, 1, T) with settings (N, 6)."""
    proxy.eval()
    exact, metrics = Compressor(TRAINED_SR), BlindMetrics(TRAINED_SR)
    device = next(proxy.parameters()).device
    rows = []
    for audio, row in zip(x.split(1), q.split(1), strict=True):
        audio, values = audio.to(device), exact.from_unit(row.to(device))
        target, pred = exact(audio, **values), proxy(audio, **values)
        error = pred - target
        scores = metrics(pred, target)
        esr = error.square().sum() / target.square().sum().clamp(min=1e-12)
        rows.append([error.abs().mean(), esr, scores["mrstft"].mean(), scores["mel"].mean()])
    return torch.tensor(rows)


def score_recordings(proxy: ProxyCompressor, recordings: list[Tensor], count: int) -> Tensor:
    """The four figures, (recordings · count, 4), of every recording with each of `count` settings."""
    q = settings(count)
    return torch.cat([score(proxy, x.expand(count, -1, -1), q) for x in recordings])


def card(args: argparse.Namespace, steps: int, minutes: float, tables: list[tuple[str, Tensor]]) -> str:
    """What the weights are, in Markdown."""
    first = args.seed * args.pieces
    source = f"music of `data.music.generate_music`, seeds {first} to {first + args.pieces - 1}; no recording"
    if args.data_dir is not None:
        source = f"the recordings in {Path(args.data_dir).name}, whose rights apply"
    lines = [
        "# Weights of the compressor's neural proxy",
        "",
        f"Trained by `scripts/train_proxy.py` against the compressor at {TRAINED_SR} Hz, on {args.pieces} pieces of",
        f"{SECONDS:g} s: {source}.",
        f"Best at step {steps} of at most {args.steps}; {minutes:.0f} min on {args.device}; seed {args.seed};",
        f"batches of {args.batch_size} excerpts of {args.seconds:g} s; learning rate {args.lr:g};",
        "loss L1 + multi-resolution STFT.",
        "",
        "The figures compare the outputs ŷ of the network and y of the compressor, make-up gain included. Settings",
        "are uniform in [0, 1]⁶ of the declared ranges; audio is mono, centred, at a peak of 1, and whole: silence in",
        "it counts. MAE = mean |ŷ - y|, ESR = Σ(ŷ - y)² / Σy², MRSTFT and Mel as in `losses.metrics.BlindMetrics`;",
        "every signal is scored by itself.",
    ]
    for title, scores in tables:
        lines += ["", f"{title[0].upper()}{title[1:]}:", "", f"| | {' | '.join(FIGURES)} |", "|---|---|---|---|---|"]
        for name, row in (("mean", scores.mean(0)), ("median", scores.median(0)[0]), ("worst", scores.amax(0))):
            lines.append(f"| {name} | {' | '.join(f'{v:.5f}' for v in row.tolist())} |")
        lines.append(f"| published network, mean on other music | {' | '.join(f'{v:.4f}' for v in PUBLISHED)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
