"""Scores every preset of a set on the track that it was fitted to.

    python loss_eval.py selected-runs/medley_vox scores.csv
    python loss_eval.py presets/medleydb scores.csv --root /data/medley1=/mnt/medleydb --subset 0-9
    python loss_eval.py presets/medleydb dry.csv --no-process

Each dry file is loaded as for a fit, but whole, aligned by the set's own shift, rendered with its preset and compared
with its wet file by the four terms of the vocal loss. A row of OUT.csv is written as soon as it is computed; the mean
over all rows is printed. Tracks whose render is not finite, or that cannot be read, are named and left out.
"""

import argparse
import csv
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from afx.delay import PingPongDelay
from afx.effect import Effect, Values
from afx.registry import build
from afx.stream import render
from data.pairs import PairFiles, load_pair
from formats.presets import Preset, load_presets, read_chain, read_info, read_rows
from losses.metrics import VocalMetrics
from losses.mldr import ROWS
from losses.vocal import TERMS
from runtime.device import pick_device
from runtime.errors import UsageError

MOST_Q = 0.707


@dataclass(frozen=True)
class Scorer:
    """How the presets of a set are scored."""

    chain: Effect
    metrics: VocalMetrics
    device: torch.device
    lufs: float | None  # of dry and wet; None keeps their levels
    roots: list[tuple[str, str]]  # (old, new) beginnings of paths
    process: bool  # or score the dry recording
    clip_q: bool
    rolled: bool  # whether the set's shifts roll dry around its end, as those of the release

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
            clip_delay_q(self.chain, values)
        return render(self.chain, values, dry)

    def _here(self, path: str) -> Path:
        """A path of the set on this machine."""
        for old, new in self.roots:
            if path.startswith(old):
                return Path(new + path.removeprefix(old)).expanduser()
        return Path(path).expanduser()


def clip_delay_q(effect: Effect, values: Values) -> None:
    """Caps the Q of every delay's filter at 0.707, above which a loop may be unstable."""
    if isinstance(effect, PingPongDelay) and "Q" in values.get("eq", {}):
        values["eq"]["Q"] = values["eq"]["Q"].clamp(max=MOST_Q)
    for name, part in effect.parts():
        clip_delay_q(part, values[name])


def main(argv: list[str] | None = None) -> int:
    """Runs the program; its exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        config, sr, source = read_chain(args.presets, args.fx_config)
        device = pick_device("cpu" if args.cpu else "auto")
        chain = build(config, sr).eval().to(device)
        metrics, roots = VocalMetrics(sr, args.mldr_rows), [read_root(text) for text in args.root]
        rolled = read_info(args.presets).get("alignment") != "crop"
        lufs, process = read_lufs(args.lufs), not args.no_process
        scorer = Scorer(chain, metrics, device, lufs, roots, process, args.clip_Q, rolled)
        presets = load_presets(args.presets, chain)
        if args.subset is not None:
            presets = [presets[row] for row in read_rows(args.subset, presets)]
        print(f"{len(presets)} presets, {device}, chain of {source}")
        with open(args.output, "w", newline="", encoding="utf-8") as file:
            scores = list(write_scores(file, presets, scorer))
    except (ValueError, OSError) as error:
        print(f"loss_eval.py: {error}", file=sys.stderr)
        return 2
    if scores:
        mean = torch.tensor([list(terms.values()) for terms in scores], dtype=torch.float64).mean(0)
        cells = ", ".join(f"{name} {value:.5f}" for name, value in zip(TERMS, mean.tolist(), strict=True))
        print(f"mean of {len(scores)}: {cells}")
    left_out = len(presets) - len(scores)
    if left_out:
        print(f"loss_eval.py: {left_out} of {len(presets)} tracks left out", file=sys.stderr)
    return 2 if left_out else 0


def write_scores(file: object, presets: list[Preset], scorer: Scorer) -> Iterator[dict[str, float]]:
    """Scores the presets one by one and writes each one's row at once; names those that are left out."""
    writer = csv.writer(file)
    writer.writerow(["track_id", "stem_id", *TERMS])
    for count, preset in enumerate(presets, 1):
        try:
            terms = scorer(preset)
        except ValueError as error:
            print(f"left out: {preset.track} {preset.stem}: {error}", file=sys.stderr)
            continue
        writer.writerow([preset.track, preset.stem, *terms.values()])
        file.flush()
        cells = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        print(f"{count}/{len(presets)} {preset.track} {preset.stem}: {cells}", flush=True)
        yield terms


def read_root(text: str) -> tuple[str, str]:
    """OLD=NEW as two beginnings of paths."""
    old, equals, new = text.partition("=")
    if not (old and equals):
        raise UsageError(f"--root {text}: give it as OLD=NEW, two beginnings of paths")
    return old, new


def read_lufs(text: str) -> float | None:
    """A number of LUFS, or None for "off"."""
    try:
        return None if text == "off" else float(text)
    except ValueError:
        raise UsageError(f"--lufs {text}: give a number of LUFS, or off") from None


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("presets", metavar="PRESETS", help="folder of the preset set")
    p.add_argument("output", metavar="OUT.csv", help="file of the scores")
    p.add_argument("--fx-config", metavar="YAML", help="chain of the set (default: what the set or its first run says)")
    p.add_argument("--cpu", action="store_true", help="use no GPU")
    p.add_argument("--clip-Q", action="store_true", help=f"cap the Q of the delay's low-pass at {MOST_Q}")
    p.add_argument("--no-process", action="store_true", help="score the dry recording, copied to both sides")
    p.add_argument("--subset", metavar="ROWS", help="rows to score: 0,5-9, names of tracks, or a file of them")
    p.add_argument(
        "--root", metavar="OLD=NEW", action="append", default=[], help="where paths begin otherwise here; repeatable"
    )
    p.add_argument("--lufs", default="-18", help="loudness of dry and wet, or off to keep their levels (default -18)")
    p.add_argument("--mldr-rows", choices=ROWS, default=ROWS[0], help="rolled: as the published release, for parity")
    return p


if __name__ == "__main__":
    sys.exit(main())
