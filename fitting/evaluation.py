"""Scores of fitted presets: each rendered from its dry recording and compared with its wet one."""

from reknob.runtime.program import reason

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TextIO

import torch
from torch import Tensor

from reknob.afx.effect import Effect
from reknob.afx.stream import render
from reknob.data.pair_files import PairFiles
from reknob.data.pairs import load_pair
from reknob.formats.presets import Preset
from reknob.losses.metrics import LossMetrics, VocalMetrics
from reknob.losses.vocal import TERMS
from reknob.runtime.errors import UsageError
from reknob.runtime.files import user_path

MOST_Q = 0.707


@dataclass(frozen=True)
class Scorer:
    """Computes the terms of a loss of a preset, over the whole recording.

    Args:
        chain: the effects of the presets, on the device to render on.
        metrics: the terms, those of the vocal loss or of another.
        lufs: loudness that dry and wet are brought to, in LUFS; None keeps their levels.
        roots: (old, new) folders; a file of the set below `old` is read below `new`, the first match counts.
        process: whether the preset is rendered; otherwise the dry recording is scored, on both channels.
        clip_q: whether the Q of the delay's low-pass is limited to `MOST_Q`.
        wrap: whether the set's alignment shifts are circular, as in the published sets.
    """

    chain: Effect
    metrics: VocalMetrics | LossMetrics
    device: torch.device
    lufs: float | None
    roots: Sequence[tuple[str, str]] = ()
    process: bool = True
    clip_q: bool = False
    wrap: bool = False

    @torch.no_grad()
    def __call__(self, preset: Preset) -> dict[str, float]:
        """The terms of a preset, by name.

        Raises UsageError where its files cannot be read or its render is not finite.
        """
        files = PairFiles(self.locate(preset.dry_file), self.locate(preset.wet_file), preset.stem)
        pair = load_pair(files, self.chain.sr, self.lufs, shift=preset.alignment_shift, wrap=self.wrap, check=False)
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

    def locate(self, path: str) -> Path:
        """Where a file of the set is on this machine."""
        for old, new in self.roots:
            if PurePath(path).is_relative_to(old):
                return user_path(Path(new) / PurePath(path).relative_to(old))
        return user_path(path)


@dataclass(frozen=True)
class PresetScore:
    """The scores of one preset, or why it has none."""

    preset: Preset
    terms: dict[str, float] | None  # by name, in the order of the loss's
    problem: str = ""  # one line, where `terms` is None


def score_presets(presets: Iterable[Preset], scorer: Callable[[Preset], dict[str, float]]) -> Iterator[PresetScore]:
    """Scores presets one by one; one whose recordings or render cannot be used yields the reason instead of terms."""
    for preset in presets:
        try:
            score = PresetScore(preset, scorer(preset))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            score = PresetScore(preset, None, reason(error))
        yield score


def write_scores(
    file: TextIO, scores: Iterable[PresetScore], term_names: Sequence[str] = TERMS
) -> Iterator[PresetScore]:
    """Writes scores as CSV, each row to the disk before the next is computed, and passes all of them on.

    Columns are track_id, stem_id and the terms. A preset without terms gets no row.
    """
    writer = csv.writer(file)
    writer.writerow(["track_id", "stem_id", *term_names])
    for score in scores:
        if score.terms is not None:
            writer.writerow([score.preset.track, score.preset.stem, *score.terms.values()])
            # A scoring of hours that is interrupted keeps its rows.
            file.flush()
        yield score


def mean_terms(scores: Iterable[dict[str, float]]) -> dict[str, float]:
    """Every term's mean over presets, in float64; empty without any."""
    rows = list(scores)
    if not rows:
        return {}
    table = torch.tensor([list(terms.values()) for terms in rows], dtype=torch.float64)
    return dict(zip(rows[0], table.mean(0).tolist(), strict=True))
