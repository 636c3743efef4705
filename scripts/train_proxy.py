"""Trains the neural proxy of the compressor against the compressor itself, and measures the difference.

    python scripts/train_proxy.py --out my_proxy.pt                                 on generated music
    python scripts/train_proxy.py --data_dir ~/music --out my_proxy.pt              on a folder of recordings
    python scripts/train_proxy.py --out my_proxy.pt --measure a.wav b.wav           measures on your recordings too

The loss is L1 + multi-resolution STFT; every excerpt has new random parameters. The weights of the step that was best
on held-out pieces are kept, with a card beside them that describes them; --resume continues after Ctrl-C or a kill.
Use them as ProxyCompressor(sr, weights="my_proxy.pt").
"""

from reknob.runtime.program import INTERRUPTED, program

import argparse
import sys
import time

import torch
from torch import Tensor

from reknob.afx.proxy import TRAINED_SR
from reknob.estimation.proxy_training import (
    FIGURES,
    SECONDS,
    ProxySettings,
    load_pieces,
    random_controls,
    read_recording,
    score_proxy,
    score_recordings,
    train_proxy,
)
from reknob.estimation.trainer import check_training
from reknob.runtime.arguments import Parser, file_path, integer, positive_float, positive_int, real
from reknob.runtime.device import pick_device
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, write_text
from reknob.runtime.output import result

#: Of the published network: means on other music, with 50 random parameter sets.
PUBLISHED = (0.0105, 0.0120, 0.202, 0.0738)
# Options that are not settings of the training.
OTHERS = ("measure", "settings", "out", "overwrite", "resume", "device")


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    card_file = args.out.with_suffix(".md")
    if card_file == args.out:
        raise UsageError(f"--out {args.out}: the card has this name; give a .pt file")
    settings = ProxySettings(**{name: value for name, value in vars(args).items() if name not in OTHERS})
    check_training(args.out, args.measure, settings, overwrite=args.overwrite, resume=args.resume)
    check_output(card_file, args.measure, overwrite=args.overwrite or args.resume)
    device = pick_device(args.device)
    # Read before the training, so that one that cannot be read does not end it after all the work.
    recordings = [read_recording(path) for path in args.measure]
    music, held_out = load_pieces(settings, "train"), load_pieces(settings, "valid")
    started = time.perf_counter()
    proxy, trainer = train_proxy(settings, music.to(device), held_out.to(device), args.out, resume=args.resume)
    minutes = (time.perf_counter() - started) / 60
    # After the weights are written: scoring takes a while, and may be interrupted.
    scores = score_proxy(proxy, held_out, random_controls(len(held_out)))
    tables = [("Held-out pieces, each with parameters of its own", scores)]
    if recordings:
        title = f"{len(recordings)} recordings, each with the same {args.settings} parameter sets"
        tables.append((title, score_recordings(proxy, recordings, args.settings)))
    text = card(settings, device, trainer.best_step, minutes, tables)
    write_text(card_file, text)
    if not trainer.stopped:
        trainer.path.unlink()
    means = {title: dict(zip(FIGURES, table.mean(0).tolist(), strict=True)) for title, table in tables}
    result(text, weights=args.out, card=card_file, step=trainer.best_step, means=means)
    return INTERRUPTED if trainer.stopped else 0


def parser() -> argparse.ArgumentParser:
    """The program's options: one for each field of `ProxySettings`, and `OTHERS`."""
    default = ProxySettings()
    p = Parser(__doc__)
    for name, kind, text in (
        ("steps", positive_int, "of the optimiser (default %(default)s)"),
        ("batch_size", positive_int, "excerpts per step (default %(default)s)"),
        ("seconds", real(0.2, SECONDS), "length of an excerpt (default %(default)g)"),
        ("lr", positive_float, "highest learning rate (default %(default)g)"),
        ("seed", integer(0, 1000), "of pieces, parameters and weights, 0 to 1000 (default %(default)s)"),
        ("data_dir", file_path, "folder of recordings (default: generated music)"),
        ("pieces", integer(1, 900), "of 10 s, to train on (default %(default)s)"),
        ("valid_pieces", integer(1, 900), "of 10 s, held out (default %(default)s)"),
        ("validate_every", positive_int, "steps between validations (default %(default)s)"),
    ):
        p.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=text)
    text = "recordings to measure on as well"
    p.add_argument("--measure", type=file_path, nargs="+", default=[], metavar="FILE", help=text)
    text = "random parameter sets for each of these (default %(default)s)"
    p.add_argument("--settings", type=positive_int, default=50, help=text)
    p.add_argument("--out", default="proxy.pt", type=file_path, help="default proxy.pt; the card goes beside it")
    p.add_argument("--overwrite", action="store_true", help="replace existing weights")
    p.add_argument("--resume", action="store_true", help="continue a training that was stopped or killed")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    return p


def card(
    settings: ProxySettings, device: torch.device, step: int, minutes: float, tables: list[tuple[str, Tensor]]
) -> str:
    """What the weights are, in Markdown; `tables` are titles with scores (N, 4)."""
    first = settings.seed * settings.pieces
    source = f"music of `data.music.generate_music`, seeds {first} to {first + settings.pieces - 1}; no recording"
    if settings.data_dir is not None:
        source = f"the recordings in {settings.data_dir.name}, whose rights apply"
    lines = [
        "# Weights of the compressor's neural proxy",
        "",
        f"Trained by `scripts/train_proxy.py` against the compressor at {TRAINED_SR} Hz,",
        f"on {settings.pieces} pieces of {SECONDS:g} s: {source}.",
        f"Best at step {step} of at most {settings.steps}; {minutes:.0f} min on {device}; seed {settings.seed};",
        f"batches of {settings.batch_size} excerpts of {settings.seconds:g} s; learning rate {settings.lr:g};",
        "loss L1 + multi-resolution STFT.",
        "",
        "The figures compare the outputs ŷ of the network and y of the compressor, make-up gain included. Controls",
        "are uniform in [0, 1]⁶, the declared ranges; audio is mono, centred, at a peak of 1, and whole, with its",
        "silence. MAE = mean |ŷ - y|, ESR = Σ(ŷ - y)² / Σy², MRSTFT and Mel as in `losses.metrics.BlindMetrics`;",
        "every signal is scored by itself.",
    ]
    for title, scores in tables:
        lines += ["", f"{title}:", "", f"| | {' | '.join(FIGURES)} |", "|---|---|---|---|---|"]
        for name, row in (("mean", scores.mean(0)), ("median", scores.median(0)[0]), ("worst", scores.amax(0))):
            lines.append(f"| {name} | {' | '.join(f'{v:.5f}' for v in row.tolist())} |")
        lines.append(f"| published network, mean on other music | {' | '.join(f'{v:.4f}' for v in PUBLISHED)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
