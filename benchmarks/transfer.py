"""Style transfer to references whose settings are known: the vocal loss of each method to the true render.

    python -m benchmarks.transfer KNOWN presets/internal presets/medleydb --methods search mean --outputs mfcc_1 --json

KNOWN has a folder per pair with `anchor` (raw), `ref` (the reference) and `oracle` (the raw recording with the settings
fitted to it), and `truth.csv` with columns pair and dry_stem, what these settings were fitted to. The methods get only
anchor and ref, and presets of other tracks than that of dry_stem, unless --with-truth.
"""

from reknob.runtime.program import program

import csv
import sys
import time
from pathlib import Path
from statistics import median

from torch import Tensor

from reknob.afx.registry import build
from reknob.data.audio import FORMATS, read_audio
from reknob.formats.presets import read_chain
from reknob.losses import VocalLoss
from reknob.report.tables import text_table
from reknob.runtime.arguments import Parser, input_file, integer
from reknob.runtime.errors import UsageError
from reknob.runtime.output import result
from reknob.transfer.published import STEPS
from reknob.transfer.space import Renderer, at_level
from reknob.transfer.task import METHODS, Transfer, TransferOptions, load_candidates


@program
def main(argv: list[str]) -> int:
    """Runs the benchmark; its exit status."""
    args = parser().parse_args(argv)
    config, sr, _ = read_chain(args.priors[0])
    chain = build(config, sr).eval()
    presets = load_candidates(args.priors, chain)
    loss = VocalLoss(sr)
    with (args.known / "truth.csv").open(encoding="utf-8") as file:
        truth = {line["pair"]: line["dry_stem"] for line in csv.DictReader(file)}
    records = []
    for pair in args.pairs or sorted(truth):
        raw, reference, oracle = (read(args.known / pair, name, sr) for name in ("anchor", "ref", "oracle"))
        target = loss.prepare(at_level(oracle, sr)[None])
        track = next((preset.track for preset in presets if preset.stem == truth[pair]), None)
        kept = [preset for preset in presets if args.with_truth or preset.track != track]
        record: dict[str, float | str] = {"pair": pair, "dry": float(loss(at_level(raw, sr)[None], target)[0])}
        for name in args.outputs:
            record[name] = float(loss(at_level(read(args.known / pair, name, sr), sr)[None], target)[0])
        for method in args.methods:
            transfer = Transfer(config, chain, kept, TransferOptions(method, steps=args.steps))
            begun = time.process_time()
            row = transfer(raw, reference)
            record[f"{method} s"] = time.process_time() - begun
            y = Renderer(transfer.space, raw.mean(0, keepdim=True)).at_level(row[None])
            record[method] = float(loss(y, target)[0])
        records.append(record)
        result(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else v for k, v in record.items()))
    medians = [(name, median(float(r[name]) for r in records)) for name in ("dry", *args.outputs, *args.methods)]
    result(text_table(["method", f"median of {len(records)}"], medians), pairs=records)
    return 0


def read(folder: Path, name: str, sr: int) -> Tensor:
    """The recording `name` of a pair's folder in any format, (C, T); UsageError where it is not at `sr` Hz."""
    path = next((p for p in (folder / f"{name}{suffix}" for suffix in FORMATS) if p.exists()), folder / f"{name}.mp3")
    x, rate = read_audio(path)
    if rate != sr:
        raise UsageError(f"{path}: {rate} Hz; the chain's rate is {sr} Hz")
    return x


def parser() -> Parser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("known", type=input_file, metavar="KNOWN", help="folder of the pairs")
    p.add_argument("priors", type=input_file, nargs="+", metavar="PRESETS", help="folders of preset sets of one chain")
    p.add_argument("--methods", nargs="+", choices=METHODS, default=["search"], help="(default search)")
    p.add_argument("--pairs", nargs="+", help="names of pairs (default: all)")
    p.add_argument("--outputs", nargs="+", default=[], help="other outputs in the pairs' folders to score beside")
    p.add_argument("--steps", type=integer(1), default=STEPS, help=f"of Adam, of published (default {STEPS})")
    p.add_argument("--with-truth", action="store_true", help="leave the presets of the true track in")
    return p


if __name__ == "__main__":
    sys.exit(main())
