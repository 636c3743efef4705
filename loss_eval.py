"""Scores every preset of a set on the track that it was fitted to.

    python loss_eval.py selected-runs/medley_vox scores.csv
    python loss_eval.py presets/medleydb scores.csv --root /data/medley1=/mnt/medleydb --subset 0-9
    python loss_eval.py presets/medleydb dry.csv --no-process

Each dry file is loaded as for a fit, but whole, aligned by the set's own shift, rendered with its preset and compared
with its wet file by the four terms of the vocal loss. A row of OUT.csv is written as soon as it is computed; the mean
over all rows is printed. Tracks whose render is not finite, or that cannot be read, are named and left out.
"""

from reknob.runtime.program import MISTAKE, print_error, program, reason

import argparse
import csv
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.registry import build
from reknob.afx.stream import render
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import load_pair
from reknob.formats.presets import Preset, load_presets, read_chain, read_info, read_rows
from reknob.losses.metrics import VocalMetrics
from reknob.losses.mldr import ROWS
from reknob.losses.vocal import TERMS
from reknob.runtime.arguments import Parser, file_path, level
from reknob.runtime.device import pick_device
from reknob.runtime.errors import UsageError
from reknob.runtime.files import check_output, user_path

MOST_Q = 0.707


@dataclass(frozen=True)
class Scorer:
    """How the presets of a set are scored."""

    chain: Effect
    metrics: VocalMetrics
    device: torch.device
    lufs: float | None  # of dry and wet; None keeps their levels
    roots: list[tuple[str, str]]  # (old, new) folders that paths begin with
    process: bool  # or score the dry recording
    clip_q: bool
    rolled: bool = False  # whether the set's shifts roll dry around its end, as those of the release

    @torch.no_grad()
    def __call__(self, preset: Preset) -> dict[str, float]:
        """The four terms of a preset; UsageError where its files cannot be read or its render is not finite."""
        files = PairFiles(self._here(preset.dry_file), self._here(preset.wet_file), preset.stem)
        pair = load_pair(files, self.chain.sr, self.lufs, shift=preset.alignment_shift, wrap=self.rolled, check=False)
        dry, wet = pair.dry.to(self.device), pair.wet.to(self.device)
        y = self.render(dry, preset) if self.process else dry.expand(2, -1)
        if not y.isfinite().all():
            raise UsageError(f"the render is not finite from {y.isfinite().all(0).int().argmin() / pair.sr:.3f} s on")
        return {name: term.item() for name, term in self.metrics(y[None], wet[None]).items()}

    def render(self, dry: Tensor, preset: Preset) -> Tensor:
        """A dry recording (1, T) through a preset, (2, T)."""
        values = preset.values(self.chain, self.device)
        if self.clip_q:
            values = self.chain.limit_loop_q(values, MOST_Q)
        return render(self.chain, values, dry)

    def _here(self, path: str) -> Path:
        """A path of the set on this machine."""
        for old, new in self.roots:
            if PurePath(path).is_relative_to(old):
                return user_path(Path(new) / PurePath(path).relative_to(old))
        return user_path(path)


@program
def main(argv: list[str]) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    check_output(args.output, [args.presets, args.fx_config])
    config, sr, source = read_chain(args.presets, args.fx_config)
    device = pick_device("cpu" if args.cpu else "auto")
    chain = build(config, sr).eval().to(device)
    metrics, roots = VocalMetrics(sr, args.mldr_rows), [read_root(text) for text in args.root]
    rolled = read_info(args.presets)["alignment"] != "crop"
    scorer = Scorer(chain, metrics, device, args.lufs, roots, not args.no_process, args.clip_Q, rolled)
    presets = load_presets(args.presets, chain)
    if args.subset is not None:
        presets = [presets[row] for row in read_rows(args.subset, presets)]
    print(f"{len(presets)} presets, {device}, chain of {source}")
    with open(args.output, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        scores = list(write_scores(file, presets, scorer))
    if scores:
        mean = torch.tensor([list(terms.values()) for terms in scores], dtype=torch.float64).mean(0)
        cells = ", ".join(f"{name} {value:.5f}" for name, value in zip(TERMS, mean.tolist(), strict=True))
        print(f"mean of {len(scores)}: {cells}")
    left_out = len(presets) - len(scores)
    if left_out:
        print_error(f"loss_eval.py: {left_out} of {len(presets)} tracks left out")
    return MISTAKE if left_out else 0


def write_scores(file: object, presets: list[Preset], scorer: Scorer) -> Iterator[dict[str, float]]:
    """Scores the presets one by one and writes each one's row at once; names those that are left out."""
    writer = csv.writer(file)
    writer.writerow(["track_id", "stem_id", *TERMS])
    for count, preset in enumerate(presets, 1):
        try:
            terms = scorer(preset)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            print_error(f"left out: {preset.track} {preset.stem}: {reason(error)}")
            continue
        writer.writerow([preset.track, preset.stem, *terms.values()])
        file.flush()
        cells = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        print(f"{count}/{len(presets)} {preset.track} {preset.stem}: {cells}", flush=True)
        yield terms


def read_root(text: str) -> tuple[str, str]:
    """OLD=NEW as two folders that paths begin with."""
    old, equals, new = text.partition("=")
    if not (old and equals):
        raise UsageError(f"--root {text}: give it as OLD=NEW, two folders that paths begin with")
    return old, new


def parser() -> argparse.ArgumentParser:
    p = Parser(__doc__)
    p.add_argument("presets", type=file_path, metavar="PRESETS", help="folder of the preset set")
    p.add_argument("output", type=file_path, metavar="OUT.csv", help="file of the scores")
    p.add_argument("--fx-config", type=file_path, metavar="YAML", help="chain of the set (default: its own)")
    p.add_argument("--cpu", action="store_true", help="use no GPU")
    p.add_argument("--clip-Q", action="store_true", help=f"cap the Q of the delay's low-pass at {MOST_Q}")
    p.add_argument("--no-process", action="store_true", help="score the dry recording, copied to both sides")
    p.add_argument("--subset", metavar="ROWS", help="rows to score: 0,5-9, names of tracks, or a file of them")
    p.add_argument(
        "--root", metavar="OLD=NEW", action="append", default=[], help="folder OLD of the set is NEW here; repeatable"
    )
    text = "loudness of dry and wet, or off to keep their levels (default -18)"
    p.add_argument("--lufs", type=level, default=-18.0, help=text)
    p.add_argument("--mldr-rows", choices=ROWS, default=ROWS[0], help="rolled: as the published release, for parity")
    return p


if __name__ == "__main__":
    sys.exit(main())
