"""Scores every preset of a set on the track that it was fitted to.

    python loss_eval.py selected-runs/medley_vox scores.csv
    python loss_eval.py presets/medleydb scores.csv --root /data/medley1=/mnt/medleydb --subset 0-9
    python loss_eval.py presets/medleydb dry.csv --no-process

Each dry file is loaded as for a fit, aligned by the shift that the set records, rendered over its whole length with its
preset, and compared with its wet file by the four terms of the vocal loss, or by another --loss. A row of OUT.csv is
written as soon as it is computed; the mean over all rows is printed. Tracks that cannot be read, or whose render is not
finite, are listed and left out.
"""

from reknob.runtime.program import MISTAKE, print_error, program

import argparse
import logging
import sys

from reknob.fitting.evaluation import MOST_Q, Scorer, mean_terms, score_presets, write_scores
from reknob.fitting.settings import VOCAL, fit_losses
from reknob.formats.preset_set import open_set
from reknob.formats.presets import read_info, read_rows
from reknob.losses import build_loss
from reknob.losses.metrics import LossMetrics, VocalMetrics
from reknob.losses.mldr import ROWS
from reknob.runtime.arguments import Parser, file_path, level
from reknob.runtime.device import pick_device
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output
from reknob.runtime.output import counted, result


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    # Notes on every pair would hide the scores.
    logging.getLogger().setLevel(logging.WARNING)
    check_output(args.output, [args.presets, args.fx_config])
    device = pick_device("cpu" if args.cpu else "auto")
    own = open_set(args.presets, args.fx_config)
    chain, sr, presets = own.effect.to(device), own.effect.sr, own.presets
    is_vocal = args.loss == VOCAL
    metrics = (
        VocalMetrics(sr, args.mldr_rows) if is_vocal else LossMetrics(build_loss({"name": args.loss}, sr), args.loss)
    )
    scorer = Scorer(
        chain,
        metrics,
        device,
        args.lufs,
        roots=[read_root(text) for text in args.root],
        process=not args.no_process,
        clip_q=args.clip_Q,
        # The release shifted recordings circularly, and its sets do not record it.
        wrap=read_info(args.presets)["alignment"] != "crop",
    )
    if args.subset is not None:
        presets = [presets[row] for row in read_rows(args.subset, presets)]
    print(f"{counted(len(presets), 'preset')}, {device}, chain of {own.chain_file}")
    rows, left_out = [], []
    # Not written atomically: the rows of an interrupted scoring are of use. Names may hold bytes that are not UTF-8.
    with open(args.output, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        for count, score in enumerate(write_scores(file, score_presets(presets, scorer), metrics.term_names), 1):
            name = f"{score.preset.track} {score.preset.stem}"
            if score.terms is None:
                print_error(f"left out: {name}: {score.problem}")
                left_out.append({"name": name, "reason": score.problem})
                continue
            rows.append(score.terms)
            print(f"{count}/{len(presets)} {name}: {cells(score.terms, 4)}", flush=True)
    text = f"mean of {len(rows)}: {cells(mean_terms(rows), 5)}" if rows else ""
    result(text, scores=args.output, scored=len(rows), mean=mean_terms(rows), left_out=left_out)
    if left_out:
        moved = "; where recordings have moved, give --root OLD=NEW" if not (rows or args.root) else ""
        print_error(f"loss_eval.py: {len(left_out)} of {counted(len(presets), 'track')} left out{moved}")
    return MISTAKE if left_out else 0


def cells(terms: dict[str, float], digits: int) -> str:
    """Terms by name as text."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in terms.items())


def read_root(text: str) -> tuple[str, str]:
    """OLD=NEW as two folders that paths begin with."""
    old, equals, new = text.partition("=")
    if not (old and equals):
        raise UsageError(f"--root {text}: give it as OLD=NEW, two folders that paths begin with")
    return old, new


def parser() -> argparse.ArgumentParser:
    """The program's options."""
    p = Parser(__doc__)
    p.add_argument("presets", type=file_path, metavar="PRESETS", help="folder of the preset set")
    p.add_argument("output", type=file_path, metavar="OUT.csv", help="file of the scores")
    p.add_argument("--fx-config", type=file_path, metavar="YAML", help="chain of the set (default: the set's)")
    p.add_argument("--cpu", action="store_true", help="do not use a GPU")
    p.add_argument("--clip-Q", action="store_true", help=f"limit the Q of the delay's low-pass to {MOST_Q}")
    p.add_argument("--no-process", action="store_true", help="score the dry recording, copied to both channels")
    p.add_argument("--subset", metavar="ROWS", help="rows to score: 0,5-9, names of tracks, or a file of them")
    p.add_argument(
        "--root", metavar="OLD=NEW", action="append", default=[], help="folder OLD of the set is NEW here; repeatable"
    )
    text = "loudness of dry and wet, or off to keep their levels (default -18)"
    p.add_argument("--lufs", type=level, default=-18.0, help=text)
    losses = fit_losses()
    p.add_argument("--loss", choices=losses, default=VOCAL, help=f"{', '.join(losses)} (default {VOCAL})")
    p.add_argument("--mldr-rows", choices=ROWS, default=ROWS[0], help="rolled: as the published release, for parity")
    return p


if __name__ == "__main__":
    sys.exit(main())
